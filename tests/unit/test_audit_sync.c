/* fdatasync is the test's own: slow, failing, counted. */
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/worker.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

static atomic_int n_syncs, n_running, fail_with;
static atomic_bool held;
static sem_t go_on;
static atomic_ulong inodes[64];
static struct worker *worker;

int __wrap_fdatasync(int fd);

int __wrap_fdatasync(int fd)
{
	struct stat st;

	fstat(fd, &st);
	n_running++;
	if (held)
		sem_wait(&go_on);
	n_running--;
	inodes[n_syncs % 64] = st.st_ino;
	n_syncs++;
	errno = fail_with;
	return fail_with ? -1 : 0;
}

static void setup(enum audit_sync sync, bool allow)
{
	make_dir();
	n_syncs = n_running = fail_with = 0;
	held = false;
	sem_init(&go_on, 0, 0);
	config.sync = sync;
	config.allow_on_failure = allow;
	config.sink = AUDIT_FILE;
	config.path = path;
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 1, &worker), 0);
	config.worker = worker;
	ck_assert_int_eq(audit_new(loop, &config, err, sizeof(err), &audit), 0);
}

static void end(void)
{
	end_calls();
	check_chain(path, NULL);
	audit = audit_free(audit);
	worker = worker_free(worker);
	teardown();
}

static bool is_running(void)
{
	return n_running > 0;
}

static bool is_well(void)
{
	return !audit_counters(audit)->failing;
}

static bool is_failing(void)
{
	return !is_well();
}

static size_t expected;

static bool has_verdicts(void)
{
	return n_verdicts >= expected;
}

static void wait_verdicts(size_t n)
{
	expected = n;
	run_until(has_verdicts);
	ck_assert_uint_eq(n_verdicts, n);
}

/* Accepted only when it is on disk; those that come meanwhile share the next one. */
START_TEST(each)
{
	struct audit_open *open[5];

	setup(AUDIT_SYNC_EACH, false);
	held = true;
	open[0] = request();
	turn();
	run_until(is_running);
	for (int i = 1; i < 5; i++) {
		open[i] = request();
		turn();
	}
	ck_assert_uint_eq(count_lines(path), 5);
	ck_assert_uint_eq(n_verdicts, 0);
	ck_assert_str_eq(audit_head(audit), "");
	sem_post(&go_on);
	wait_verdicts(1);
	assert_has(audit_head(audit), ":0:");
	run_until(is_running);
	ck_assert_uint_eq(n_verdicts, 1);
	/* Over before its verdict: the pair is completed, and no verdict comes. */
	end_call(open[3], &complete);
	held = false;
	sem_post(&go_on);
	wait_verdicts(4);
	run_ms(20);
	ck_assert_int_eq(n_syncs, 3);
	assert_has(audit_head(audit), ":5:");
	for (int i = 0; i < 5; i++)
		if (i != 3)
			end_call(open[i], &complete);
	run_ms(20);
	ck_assert_uint_eq(n_verdicts, 4);
	ck_assert_uint_eq(check_chain(path, NULL), 10);
	end();
}
END_TEST

/* On disk or not: the call is refused, its pair completed, and what was written since the last is told missing. */
START_TEST(each_fails)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o, *before;
	const char *detail = "";

	setup(AUDIT_SYNC_EACH, false);
	before = request();
	wait_verdicts(1);
	fail_with = EIO;
	request();
	request();
	turn();
	wait_verdicts(3);
	ck_assert_int_eq(verdicts[1].r, -EIO);
	ck_assert_int_eq(verdicts[2].r, -EIO);
	ck_assert(is_failing());
	ck_assert(!audit_healthy(audit, &detail));
	assert_has(detail, "Input/output error");
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &o), -EIO);
	end_call(before, &complete);
	run_ms(350);
	ck_assert(is_failing());
	/* Tried now and then, and nothing is written meanwhile. */
	ck_assert_int_ge(n_syncs, 3);
	ck_assert_int_le(n_syncs, 6);
	ck_assert_uint_eq(count_lines(path), 3);
	fail_with = 0;
	run_until(is_well);
	ck_assert_uint_eq(check_chain(path, NULL), 7);
	ck_assert_str_eq(value_at(3, "mcp_reason"), "audit-unavailable");
	ck_assert_str_eq(value_at(3, "mcp_status"), "http_error");
	ck_assert_str_eq(value_at(5, "mcp_event"), "call.response");
	ck_assert_str_eq(value_at(6, "mcp_event"), "audit.gap");
	ck_assert_str_eq(value_at(6, "mcp_gap_cause"), "sink-unreachable");
	ck_assert_str_eq(value_at(6, "mcp_gap_count"), "2");
	ck_assert_uint_eq(audit_counters(audit)->refused, 3);
	o = request();
	wait_verdicts(4);
	ck_assert_int_eq(verdicts[3].r, 0);
	end_call(o, &complete);
	run_ms(10);
	end();
}
END_TEST

START_TEST(each_goes_on)
{
	struct audit_open *o;

	setup(AUDIT_SYNC_EACH, true);
	fail_with = EIO;
	o = request();
	wait_verdicts(1);
	ck_assert_int_eq(verdicts[0].r, 0);
	end_call(o, &complete);
	fail_with = 0;
	run_until(is_well);
	ck_assert_uint_eq(check_chain(path, NULL), 3);
	ck_assert_str_eq(value_at(1, "mcp_reason"), "none");
	ck_assert_str_eq(value_at(2, "mcp_gap_count"), "1");
	end();
}
END_TEST

/* A file that fails is opened anew each time: what is at the path by then takes the records. */
START_TEST(opened_anew)
{
	char moved[120];

	setup(AUDIT_SYNC_EACH, false);
	snprintf(moved, sizeof(moved), "%s.1", path);
	fail_with = EIO;
	request();
	wait_verdicts(1);
	ck_assert_int_eq(rename(path, moved), 0);
	fail_with = 0;
	run_until(is_well);
	ck_assert_uint_eq(count_lines(moved), 1);
	ck_assert_str_eq(value_at(0, "mcp_event"), "call.response");
	ck_assert_str_eq(value_at(1, "mcp_event"), "audit.gap");
	end();
}
END_TEST

START_TEST(interval)
{
	setup(AUDIT_SYNC_INTERVAL, false);
	for (int i = 0; i < 30; i++) {
		struct audit_open *o = request();

		turn();
		end_call(o, &complete);
		run_ms(20);
	}
	ck_assert_uint_eq(n_verdicts, 30);
	ck_assert_int_eq(n_syncs, 0);
	run_ms(800);
	ck_assert_int_eq(n_syncs, 1);
	run_ms(1200);
	ck_assert_int_eq(n_syncs, 1);
	/* Once more after something was written; and when it fails, that is told. */
	fail_with = ENOSPC;
	request();
	turn();
	ck_assert_uint_eq(n_verdicts, 31);
	run_until(is_failing);
	fail_with = 0;
	run_until(is_well);
	ck_assert_str_eq(value_at(61, "mcp_gap_count"), "1");
	end();
}
END_TEST

START_TEST(off)
{
	setup(AUDIT_SYNC_OFF, false);
	respond(request());
	audit_stop(audit, "x");
	run_ms(1200);
	ck_assert_int_eq(n_syncs, 0);
	end();
}
END_TEST

/* A file that is opened anew meanwhile leaves nothing behind that is not on disk. */
START_TEST(rotation)
{
	char moved[120];
	struct stat st;

	setup(AUDIT_SYNC_EACH, false);
	snprintf(moved, sizeof(moved), "%s.1", path);
	held = true;
	request();
	turn();
	run_until(is_running);
	request();
	turn();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(rename(path, moved), 0);
	audit_reopen(audit);
	request();
	turn();
	held = false;
	sem_post(&go_on);
	wait_verdicts(3);
	ck_assert_int_eq(n_syncs, 3);
	ck_assert_uint_eq(inodes[0], st.st_ino);
	ck_assert_uint_eq(inodes[1], st.st_ino);
	ck_assert_uint_ne(inodes[2], st.st_ino);
	ck_assert_uint_eq(count_lines(moved), 2);
	end();
}
END_TEST

START_TEST(stop_and_free)
{
	setup(AUDIT_SYNC_INTERVAL, false);
	request();
	turn();
	audit_stop(audit, "x");
	ck_assert_int_eq(n_syncs, 1);
	end();
	/* While a thread is at it. */
	setup(AUDIT_SYNC_EACH, false);
	held = true;
	request();
	turn();
	run_until(is_running);
	end_calls();
	audit = audit_free(audit);
	held = false;
	sem_post(&go_on);
	ck_assert_uint_eq(n_verdicts, 0);
	end();
}
END_TEST

UNIT_MAIN("audit_sync", ADD(each) ADD(each_fails) ADD(each_goes_on) ADD(opened_anew) ADD(interval) ADD(off)
			ADD(rotation) ADD(stop_and_free))
