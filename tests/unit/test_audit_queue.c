#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

static bool is_well(void)
{
	return !audit_counters(audit)->failing;
}

static void deny_one(void)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	audit_denied(audit, &call, TP_REASON_POLICY, "x");
}

/* ---- Verdicts ---- */

START_TEST(order)
{
	enum { N = 300 };
	struct audit_open *open[N];

	setup_file();
	for (int i = 0; i < N; i++) {
		open[i] = request();
		if (i % 3 == 0)
			deny_one();
	}
	ck_assert_uint_eq(n_verdicts, 0);
	ck_assert_uint_eq(count_lines(path), 0);
	turn();
	ck_assert_uint_eq(n_verdicts, N);
	ck_assert_uint_eq(count_lines(path), N + N / 3);
	for (int i = 0; i < N; i++) {
		ck_assert_int_eq(verdicts[i].r, 0);
		ck_assert(i == 0 || (void **)verdicts[i].user == (void **)verdicts[i - 1].user + 1);
		end_call(open[i], &complete);
	}
	teardown();
}
END_TEST

/* What ends before it is sent was never there; what ends between the sink and its verdict is completed. */
START_TEST(withdrawn)
{
	struct audit_open *a, *b, *c;

	setup_file();
	a = request();
	b = request();
	c = request();
	end_call(b, &complete);
	ck_assert_uint_eq(audit_counters(audit)->queued, 2);
	turn();
	ck_assert_uint_eq(n_verdicts, 2);
	ck_assert_uint_eq(count_lines(path), 2);
	ck_assert_str_eq(value_at(1, "mcp_seq"), "1");
	end_call(a, &complete);
	end_call(c, &complete);
	turn();
	a = request();
	end_call(a, &complete);
	turn();
	ck_assert_uint_eq(n_verdicts, 2);
	ck_assert_uint_eq(count_lines(path), 4);
	ck_assert_uint_eq(audit_counters(audit)->queued + audit_counters(audit)->queued_bytes, 0);
	teardown();
}
END_TEST

static struct audit_open *others[3];
static int depth;

/* Ends another call, whose verdict is due; asks for a new one; denies; tells; ends itself. */
static void on_busy_verdict(void *user, int r)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	const struct audit_note note = { .reason = "x" };
	size_t before = audit_counters(audit)->written;

	on_verdict(user, r);
	end_call(others[1], &complete);
	if (depth++ == 0)
		ck_assert_int_eq(audit_request(audit, &call, on_busy_verdict, user, &others[1]), 0);
	else
		others[1] = NULL;
	deny_one();
	audit_event(audit, AUDIT_SESSION_OPEN, &note);
	end_call(others[0], &complete);
	others[0] = NULL;
	ck_assert_uint_eq(audit_counters(audit)->written, before);
}

START_TEST(callbacks)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	setup_file();
	ck_assert_int_eq(audit_request(audit, &call, on_busy_verdict, &others[0], &others[0]), 0);
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, &others[1], &others[1]), 0);
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, &others[2], &others[2]), 0);
	turn();
	/* The first, the third (the second ended), the one that was asked for. */
	ck_assert_uint_eq(n_verdicts, 3);
	ck_assert_ptr_eq(verdicts[0].user, &others[0]);
	ck_assert_ptr_eq(verdicts[1].user, &others[2]);
	ck_assert_ptr_eq(verdicts[2].user, &others[0]);
	respond(others[2]);
	ck_assert_uint_eq(check_chain(path, NULL), 12);
	teardown();
}
END_TEST

/* ---- Flow control ---- */

static int fd;

static bool is_blocked(void)
{
	return audit_counters(audit)->queued > 0;
}

static bool is_failing(void)
{
	return audit_counters(audit)->failing;
}

/* A journal that does not read, full to the brim; at least one call is open. */
static struct audit_open *setup_full(uint64_t refuse_after_ms, bool allow)
{
	struct audit_open *first;

	make_dir();
	config.refuse_after_ms = refuse_after_ms;
	config.allow_on_failure = allow;
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	first = request();
	turn();
	for (int i = 0; i < 100000 && !is_blocked(); i++) {
		deny_one();
		turn();
	}
	ck_assert(is_blocked());
	n_verdicts = 0;
	return first;
}

/* The newest datagrams, bytes of 0 shown as dots. */
static char kept[8][4096];
static size_t n_got;

/* From the newest, which is 0. */
static const char *newest(size_t back)
{
	return kept[(n_got - 1 - back) % 8];
}

static size_t drain(void)
{
	size_t before = n_got;
	ssize_t len;

	while ((len = recv(fd, kept[n_got % 8], sizeof(kept[0]) - 1, 0)) > 0) {
		for (ssize_t i = 0; i < len; i++)
			if (!kept[n_got % 8][i])
				kept[n_got % 8][i] = '.';
		kept[n_got++ % 8][len] = '\0';
	}
	return n_got - before;
}

static size_t drain_all(void)
{
	size_t n = 0, more;

	do {
		n += more = drain();
		run_ms(5);
	} while (more || is_blocked());
	return n;
}

START_TEST(refused_in_time)
{
	struct audit_open *first = setup_full(300, false), *o = NULL;
	uint64_t before = clock_now_us(), waited;
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	size_t queued, n, seq = audit_counters(audit)->written;

	request();
	run_ms(100);
	request();
	end_call(first, &complete);
	queued = audit_counters(audit)->queued;
	ck_assert(is_well());
	run_until(is_failing);
	waited = clock_now_us() - before;
	ck_assert_uint_ge(waited, 295000);
	ck_assert_uint_lt(waited, 600000);
	ck_assert_uint_eq(n_verdicts, 2);
	ck_assert_int_eq(verdicts[0].r, -EAGAIN);
	ck_assert_int_eq(verdicts[1].r, -EAGAIN);
	ck_assert_str_eq(audit_counters(audit)->cause, "sink-stalled");
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &o), -EAGAIN);
	ck_assert_uint_eq(audit_counters(audit)->queued, queued - 2);
	ck_assert_uint_eq(audit_counters(audit)->refused, 3);
	/* The ending was kept, nothing else is missing. */
	n = drain_all();
	run_until(is_well);
	ck_assert_uint_eq(n, audit_counters(audit)->written);
	ck_assert_uint_eq(audit_counters(audit)->written, seq + queued - 2);
	ck_assert_uint_eq(audit_counters(audit)->gaps, 0);
	assert_has(newest(0), "ev=call.response");
	assert_has(last_notice, "3 calls were refused, 0 calls");
	close(fd);
	teardown();
}
END_TEST

/* One that would have waited too long, but was in time. */
START_TEST(in_time)
{
	struct audit_open *first = setup_full(5000, false);

	request();
	run_ms(300);
	ck_assert_uint_eq(n_verdicts, 0);
	drain_all();
	ck_assert_uint_eq(n_verdicts, 1);
	ck_assert_int_eq(verdicts[0].r, 0);
	ck_assert_int_eq(n_warnings + n_notices, 0);
	end_call(first, &complete);
	close(fd);
	teardown();
}
END_TEST

/* The time of a gap, as it is in a record. */
static void time_of(const char *record, const char *name, char out[40])
{
	const char *at = strstr(record, name);

	ck_assert_ptr_nonnull(at);
	snprintf(out, 28, "%s", at + strlen(name) + 1 + 8);
}

START_TEST(goes_on)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *first = setup_full(100, true), *o, *none = first;
	char from[40], to[40];
	size_t n;

	o = request();
	run_until(is_failing);
	ck_assert_uint_eq(n_verdicts, 1);
	ck_assert_int_eq(verdicts[0].r, 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &none), AUDIT_AT_ONCE);
	ck_assert_ptr_null(none);
	/* Nothing about it: its request is not there either. */
	end_call(o, &complete);
	end_call(first, &complete);
	ck_assert_uint_eq(audit_counters(audit)->unrecorded, 5);
	ck_assert_uint_eq(audit_counters(audit)->refused, 0);
	n = drain_all();
	run_until(is_well);
	n += drain();
	ck_assert_uint_eq(n, audit_counters(audit)->written);
	ck_assert_uint_eq(n_verdicts, 1);
	assert_has(newest(0), "ev=audit.gap");
	assert_has(newest(0), "count=5 cause=sink-stalled chain=");
	assert_has(newest(0), "MESSAGE_ID\n .......fd51e8e536664291b0b99ef985095b0a\n");
	assert_has(newest(0), "PRIORITY\n\x01" ".......2\n");
	assert_has(newest(1), "ev=call.response");
	time_of(newest(0), "MCP_GAP_FROM", from);
	time_of(newest(0), "MCP_GAP_TO", to);
	ck_assert_int_lt(strcmp(from, to), 0);
	ck_assert_uint_eq(audit_counters(audit)->gaps, 1);
	assert_has(last_notice, "0 calls were refused, 5 calls were made without a record");
	assert_has(last_warning, "calls are made without a record until records are taken again");
	/* And once told, it is over. */
	end_call(request_ok(&call), &complete);
	turn();
	ck_assert_uint_eq(drain(), 2);
	close(fd);
	teardown();
}
END_TEST

/* ---- Bounds ---- */

START_TEST(bounds)
{
	enum { ALL = 30000 };
	uint64_t written;
	char expect[80];
	size_t n;

	setup_full(60000, false);
	written = audit_counters(audit)->written;
	for (int i = 0; i < ALL; i++)
		deny_one();
	ck_assert_uint_le(audit_counters(audit)->queued, 20000);
	ck_assert_uint_le(audit_counters(audit)->queued_bytes, 4 << 20);
	ck_assert_uint_ge(audit_counters(audit)->queued_bytes, (4 << 20) - 8192);
	ck_assert_uint_eq(audit_counters(audit)->queued + audit_counters(audit)->lost, ALL + 1);
	ck_assert(is_well());
	/* A request finds no room either. */
	{
		struct mcp_view view = tool_view();
		struct audit_call call = tool_call(&view);
		struct audit_open *o;

		ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &o), -ENOBUFS);
		ck_assert_ptr_null(o);
	}
	snprintf(expect, sizeof(expect), "count=%zu cause=queue-full", (size_t)audit_counters(audit)->lost);
	n = drain_all();
	ck_assert_uint_gt(audit_counters(audit)->written, written);
	ck_assert_uint_eq(n, audit_counters(audit)->written);
	ck_assert_uint_eq(audit_counters(audit)->gaps, 1);
	assert_has(newest(0), expect);
	ck_assert_uint_eq(audit_counters(audit)->queued_bytes, 0);
	close(fd);
	teardown();
}
END_TEST

/* ---- Checkpoints ---- */

static char heads[10][AUDIT_HEAD_MAX];
static int n_heads;

static void on_checkpoint(void *user, const char *head)
{
	ck_assert_ptr_eq(user, heads);
	ck_assert_str_eq(head, audit_head(audit));
	snprintf(heads[n_heads++], AUDIT_HEAD_MAX, "%s", head);
}

START_TEST(checkpoints)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o;
	char expect[AUDIT_HEAD_MAX];

	make_dir();
	config.checkpoint_records = 7;
	config.checkpoint_ms = 150;
	config.on_checkpoint = on_checkpoint;
	config.user = heads;
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
	o = request_ok(&call);
	for (int i = 0; i < 5; i++)
		deny_one();
	turn();
	ck_assert_int_eq(n_heads, 0);
	deny_one();
	turn();
	ck_assert_int_eq(n_heads, 1);
	ck_assert_str_eq(value_at(7, "mcp_event"), "audit.checkpoint");
	ck_assert_str_eq(value_at(7, "mcp_records"), "7");
	ck_assert_str_eq(value_at(7, "mcp_calls_open"), "1");
	snprintf(expect, sizeof(expect), "%s:7:", value_at(7, "mcp_chain_id"));
	snprintf(expect + strlen(expect), sizeof(expect) - strlen(expect), "%s", value_at(7, "mcp_chain"));
	ck_assert_str_eq(heads[0], expect);
	/* Not while nothing happens; and after something did, in time. */
	run_ms(400);
	ck_assert_int_eq(n_heads, 1);
	respond(o);
	run_ms(100);
	ck_assert_int_eq(n_heads, 1);
	run_ms(100);
	ck_assert_int_eq(n_heads, 2);
	run_ms(300);
	ck_assert_int_eq(n_heads, 2);
	ck_assert_uint_eq(audit_counters(audit)->checkpoints, 2);
	audit_event(audit, AUDIT_CANARY, &(const struct audit_note){ .nonce = SPAN("n") });
	turn();
	ck_assert_int_eq(n_heads, 3);
	teardown();
}
END_TEST

/* ---- Start and stop ---- */

START_TEST(start_stop)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o;

	setup_file();
	audit_start(audit);
	ck_assert_uint_eq(count_lines(path), 2);
	respond(request_ok(&call));
	deny_one();
	audit_stop(audit, "SIGTERM");
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &o), -ESHUTDOWN);
	deny_one();
	audit_stop(audit, "again");
	ck_assert_uint_eq(check_chain(path, ZEROS), 6);
	ck_assert_str_eq(value_at(0, "mcp_event"), "gateway.start");
	ck_assert_str_eq(value_at(0, "message_id"), "ed2ace8591ec4094af2e0b47d22092cd");
	ck_assert_str_eq(value_at(0, "priority"), "5");
	ck_assert_str_eq(value_at(1, "mcp_event"), "audit.gap");
	ck_assert_str_eq(value_at(1, "mcp_gap_cause"), "state-missing");
	ck_assert_str_eq(value_at(1, "mcp_gap_count"), "0");
	ck_assert_str_eq(value_at(5, "mcp_event"), "gateway.stop");
	ck_assert_str_eq(value_at(5, "message_id"), "3703804856074a25b701b602aa4dbd13");
	ck_assert_str_eq(value_at(5, "priority"), "5");
	ck_assert_str_eq(value_at(5, "mcp_reason"), "SIGTERM");
	teardown();
}
END_TEST

/* The next process goes on from the last whole record of the file, whatever a torn one behind it says. */
START_TEST(next_process)
{
	static const char *const torn[] = { "", "{\"message\":\"MCPAUDIT v=1", "\n\n", "{\"mcp_chain\":\"x\"}\n",
					    "\xff\n{" };
	char head[65];
	FILE *f;

	for (size_t i = 0; i < ARRAY_LEN(torn); i++) {
		setup_file();
		audit_start(audit);
		audit_stop(audit, "x");
		snprintf(head, sizeof(head), "%s", value_at(2, "mcp_chain"));
		audit = audit_free(audit);
		loop_free(loop);
		f = fopen(path, "a");
		fputs(torn[i], f);
		fclose(f);
		ck_assert_int_eq(start(AUDIT_FILE, path), 0);
		audit_start(audit);
		assert_has(read_file(path), "seq=2 ");
		ck_assert_ptr_nonnull(strrchr(text, '{'));
		ck_assert_str_eq(value_of(strtok(strrchr(text, '{'), "\n"), "mcp_chain_prev"), head);
		ck_assert_str_eq(value_of(strrchr(text, '{'), "mcp_event"), "gateway.start");
		ck_assert_uint_eq(audit_counters(audit)->gaps, 0);
		teardown_unchecked();
	}
}
END_TEST

/* Up to a second for a journal that takes its time, no longer for one that is gone. */
START_TEST(slow_stop)
{
	uint64_t before;
	int status;
	pid_t pid;

	setup_full(60000, false);
	pid = fork();
	if (pid == 0) {
		usleep(300000);
		for (int i = 0; i < 200; i++, usleep(10000))
			while (recv(fd, text, sizeof(text), 0) > 0)
				if (memmem(text, 200, "ev=gateway.stop", 15))
					_exit(0);
		_exit(1);
	}
	before = clock_now_us();
	audit_stop(audit, "x");
	ck_assert_uint_ge(clock_now_us() - before, 250000);
	ck_assert_uint_lt(clock_now_us() - before, 1500000);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(n_errors, 0);
	close(fd);
	teardown();

	setup_full(60000, false);
	before = clock_now_us();
	audit_stop(audit, "x");
	ck_assert_uint_lt(clock_now_us() - before, 1500000);
	ck_assert_int_eq(n_errors, 1);
	assert_has(last_warning, "records were not taken before the end");
	close(fd);
	teardown();
}
END_TEST

/* What is owed is said before the end. */
START_TEST(stop_tells)
{
	size_t n = 0;

	setup_full(50, true);
	request();
	run_until(is_failing);
	ck_assert_uint_eq(audit_counters(audit)->unrecorded, 1);
	drain();
	audit_stop(audit, "x");
	n = drain();
	ck_assert_uint_ge(n, 2);
	assert_has(newest(0), "ev=gateway.stop");
	assert_has(newest(1), "ev=audit.gap");
	close(fd);
	teardown();
}
END_TEST

UNIT_MAIN("audit_queue", ADD(order) ADD(withdrawn) ADD(callbacks) ADD(refused_in_time) ADD(in_time) ADD(goes_on)
			 ADD(bounds) ADD(checkpoints) ADD(start_stop) ADD(next_process) ADD(slow_stop) ADD(stop_tells))
