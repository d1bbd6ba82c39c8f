/* What the core does with what the watch over the journal tells. The watch and the journal's socket are the test's own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/audit_watch.h"
#include "daemon/journal.h"
#include "daemon/state_dir.h"
#include "tests/lib/audit_case.h"

enum { GAP_FROM_US = 1000000 };

static struct audit_watch_config watch;
static struct audit_watch_result latest;
static struct audit_watch_head last;
static uint64_t told;
static int last_r, n_watches;
static struct worker *worker;
static int fd;

int __wrap_journal_new(const char *at, struct journal **ret);
int __real_journal_new(const char *at, struct journal **ret);
int __wrap_audit_watch_new(struct loop *l, struct worker *w, const struct audit_watch_config *cfg,
			   struct audit_watch **ret);
struct audit_watch *__wrap_audit_watch_free(struct audit_watch *w);
void __wrap_audit_watch_told(struct audit_watch *w, uint64_t seq);
const struct audit_watch_result *__wrap_audit_watch_latest(const struct audit_watch *w);
int __wrap_audit_watch_last(const char *identifier, const char *directory, unsigned max_ms,
			    struct audit_watch_head *ret);

int __wrap_journal_new(const char *at, struct journal **ret)
{
	ck_assert_ptr_null(at);
	return __real_journal_new(path, ret);
}

int __wrap_audit_watch_new(struct loop *l, struct worker *w, const struct audit_watch_config *cfg,
			   struct audit_watch **ret)
{
	ck_assert_ptr_eq(w, worker);
	watch = *cfg;
	n_watches++;
	*ret = (struct audit_watch *)&watch;
	return 0;
}

struct audit_watch *__wrap_audit_watch_free(struct audit_watch *w)
{
	n_watches -= w != NULL;
	return NULL;
}

void __wrap_audit_watch_told(struct audit_watch *w, uint64_t seq)
{
	ck_assert_ptr_eq(w, &watch);
	told = seq;
}

const struct audit_watch_result *__wrap_audit_watch_latest(const struct audit_watch *w)
{
	return &latest;
}

int __wrap_audit_watch_last(const char *identifier, const char *directory, unsigned max_ms,
			    struct audit_watch_head *ret)
{
	ck_assert_str_eq(identifier, "mcp-tunnel-gateway");
	ck_assert_uint_ge(max_ms, 1000);
	*ret = last;
	return last_r;
}

static void setup(enum audit_read_back read_back, bool allow)
{
	if (!dir[0] || access(dir, F_OK) < 0)
		make_dir();
	config.read_back = read_back;
	config.allow_on_failure = allow;
	fd = serve();
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 1, &worker), 0);
	config.worker = worker;
	config.sink = AUDIT_JOURNALD;
	config.path = NULL;
	ck_assert_int_eq(audit_new(loop, &config, err, sizeof(err), &audit), 0);
	ck_assert_int_eq(n_watches, read_back != AUDIT_READ_BACK_OFF);
	told = UINT64_MAX;
}

static void end(void)
{
	end_calls();
	audit = audit_free(audit);
	ck_assert_int_eq(n_watches, 0);
	worker = worker_free(worker);
	close(fd);
	unlink(path);
	loop = loop_free(loop);
}

/* What the next tell() answers. */
static uint64_t answered_to, lost, from_us = GAP_FROM_US;
static size_t n_lost;

static void tell(enum audit_watch_state state, uint64_t missing)
{
	latest = (struct audit_watch_result){
		.ok = state == AUDIT_WATCH_WHOLE,
		.answered_to = answered_to,
		.n_lost = n_lost,
		.lost = { lost },
		.state = state,
		.cause = state == AUDIT_WATCH_WHOLE ? NULL : audit_watch_cause(state),
		.missing = missing,
		.from_us = from_us,
		.to_us = 2500000,
	};
	if (!latest.ok)
		snprintf(latest.detail, sizeof(latest.detail), "why it is so");
	watch.on_result(watch.user, &latest);
	turn();
}

/* The field of the next datagram; NULL when there is none. */
static char got[8192];
static size_t n_got;

static bool next(void)
{
	ssize_t n = recv(fd, got, sizeof(got), 0);

	n_got = n > 0 ? (size_t)n : 0;
	return n > 0;
}

static const char *field(const char *name)
{
	static char value[1100];
	char pattern[64];
	const char *at;
	int n = snprintf(pattern, sizeof(pattern), "\n%s\n", name);
	uint64_t len;

	at = memmem(got, n_got, pattern, (size_t)n);
	if (!at)
		return NULL;
	memcpy(&len, at + n, sizeof(len));
	snprintf(value, sizeof(value), "%.*s", (int)len, at + n + 8);
	return value;
}

static int try_request(void)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o;

	return audit_request(audit, &call, on_verdict, NULL, &o);
}

/* The name, the word, the count and the times of the next record, a gap. */
static void expect_gap(const char *cause, const char *count, bool times)
{
	ck_assert(next());
	ck_assert_str_eq(field("MCP_EVENT"), "audit.gap");
	ck_assert_str_eq(field("MCP_GAP_CAUSE"), cause);
	ck_assert_str_eq(field("MCP_GAP_COUNT"), count);
	ck_assert_str_eq(field("MCP_DETAIL"), "why it is so");
	if (!times)
		return;
	ck_assert_str_eq(field("MCP_GAP_FROM"), "1970-01-01T00:00:01.000000Z");
	ck_assert_str_eq(field("MCP_GAP_TO"), "1970-01-01T00:00:02.500000Z");
}

START_TEST(missing)
{
	struct audit_open *o;
	const char *detail = "";

	setup(AUDIT_READ_BACK_DISK, false);
	ck_assert(watch.need_disk);
	ck_assert_ptr_null(watch.directory);
	o = request();
	turn();
	ck_assert_uint_eq(told, 0);
	ck_assert(next());
	ck_assert_str_eq(field("MCP_CHAIN_ID"), watch.chain_id);
	tell(AUDIT_WATCH_WHOLE, 0);
	ck_assert(!next());
	tell(AUDIT_WATCH_MISSING, 3);
	expect_gap("read-back-missing", "3", true);
	/* Something new to look for. */
	ck_assert(next());
	ck_assert_str_eq(field("MCP_EVENT"), "audit.checkpoint");
	ck_assert_int_eq(try_request(), -EIO);
	ck_assert(!audit_healthy(audit, &detail));
	ck_assert_str_eq(detail, "why it is so");
	ck_assert_str_eq(audit_counters(audit)->cause, "read-back-missing");
	ck_assert_int_eq(n_errors, 1);
	/* No more of them, but still not there. What happened is written all the same. */
	tell(AUDIT_WATCH_MISSING, 0);
	ck_assert(next());
	ck_assert_str_eq(field("MCP_EVENT"), "audit.checkpoint");
	respond(o);
	ck_assert(next());
	tell(AUDIT_WATCH_MISSING, 1);
	expect_gap("read-back-missing", "1", true);
	ck_assert(next());
	ck_assert(!next());
	tell(AUDIT_WATCH_WHOLE, 0);
	ck_assert(!next());
	ck_assert_int_eq(try_request(), 0);
	ck_assert(audit_healthy(audit, &detail));
	ck_assert_str_eq(audit_counters(audit)->cause, "");
	ck_assert_uint_eq(audit_counters(audit)->gaps, 2);
	ck_assert_int_eq(n_errors + n_notices, 2);
	end();
	rmdir(dir);
}
END_TEST

/* Where nothing was seen before the hole, it may be as old as the process, and no older. */
START_TEST(missing_since_the_start)
{
	char started[40];

	setup(AUDIT_READ_BACK_DISK, false);
	last_r = -ENOENT;
	audit_start(audit);
	ck_assert(next());
	snprintf(started, sizeof(started), "%s", field("MCP_TIME"));
	ck_assert(next());
	from_us = 0;
	tell(AUDIT_WATCH_MISSING, 2);
	expect_gap("read-back-missing", "2", false);
	ck_assert_str_ge(field("MCP_GAP_FROM"), started);
	from_us = GAP_FROM_US;
	end();
	rmdir(dir);
}
END_TEST

static void expect_asked(size_t n, uint64_t first)
{
	uint64_t seqs[AUDIT_WATCH_ASKED_MAX];

	ck_assert_uint_eq(watch.on_ask(watch.user, seqs), n);
	if (n)
		ck_assert_uint_eq(seqs[0], first);
}

static void answer(uint64_t to, size_t n, uint64_t seq)
{
	answered_to = to;
	n_lost = n;
	lost = seq;
}

/* A restart of journald takes records with it, and the next one the record that told so: it is written until it was
 * seen. */
START_TEST(a_gap_is_lost_itself)
{
	char time[40];

	setup(AUDIT_READ_BACK_DISK, false);
	request();
	turn();
	ck_assert(next());
	expect_asked(0, 0);
	tell(AUDIT_WATCH_MISSING, 3);
	expect_gap("read-back-missing", "3", true);
	snprintf(time, sizeof(time), "%s", field("MCP_TIME"));
	ck_assert(next());
	expect_asked(1, 1);
	/* Seen or not: that is not known yet. */
	answer(1, 0, 0);
	tell(AUDIT_WATCH_WHOLE, 0);
	ck_assert(!next());
	expect_asked(1, 1);
	for (int i = 0; i < 3; i++) {
		uint64_t seq;

		expect_asked(1, i ? told : 1);
		answer(told + 1, 1, i ? told : 1);
		tell(AUDIT_WATCH_WHOLE, 0);
		expect_gap("read-back-missing", "3", true);
		ck_assert_int_eq(span_u64(span_of(field("MCP_SEQ")), &seq), 0);
		ck_assert_uint_eq(seq, told);
		/* It says when it was written, not when that was first tried. */
		ck_assert_str_gt(field("MCP_TIME"), time);
		ck_assert(!next());
	}
	/* And a hole that has the gap record in it is told for itself. */
	answer(told + 1, 1, told);
	tell(AUDIT_WATCH_MISSING, 2);
	expect_gap("read-back-missing", "3", true);
	expect_gap("read-back-missing", "2", true);
	ck_assert(next());
	expect_asked(2, told - 2);
	answer(told, 0, 0);
	tell(AUDIT_WATCH_WHOLE, 0);
	expect_asked(0, 0);
	ck_assert(!next());
	ck_assert_int_gt(n_warnings, 0);
	answer(0, 0, 0);
	end();
	rmdir(dir);
}
END_TEST

/* Nobody is asked about more than so many, be they never answered; and nobody at all where nothing is read back. */
START_TEST(gaps_without_an_answer)
{
	uint64_t seqs[AUDIT_WATCH_ASKED_MAX];

	setup(AUDIT_READ_BACK_DISK, false);
	for (int i = 0; i < AUDIT_WATCH_ASKED_MAX + 10; i++) {
		tell(AUDIT_WATCH_MISSING, 1);
		while (next())
			;
	}
	ck_assert_uint_eq(watch.on_ask(watch.user, seqs), AUDIT_WATCH_ASKED_MAX);
	ck_assert_uint_eq(seqs[AUDIT_WATCH_ASKED_MAX - 1], told - 1);
	end();
	setup(AUDIT_READ_BACK_OFF, false);
	last_r = -ENOENT;
	audit_start(audit);
	ck_assert_uint_eq(audit_counters(audit)->gaps, 1);
	end();
	rmdir(dir);
}
END_TEST

START_TEST(not_on_disk)
{
	setup(AUDIT_READ_BACK_DISK, false);
	for (int i = 0; i < 3; i++)
		tell(AUDIT_WATCH_VOLATILE, 0);
	expect_gap("volatile-storage", "0", false);
	ck_assert(!next());
	ck_assert_int_eq(try_request(), -EIO);
	tell(AUDIT_WATCH_WHOLE, 0);
	ck_assert_int_eq(try_request(), 0);
	end();
	rmdir(dir);
}
END_TEST

/* It is told, and nobody is refused for it. */
START_TEST(cannot_tell)
{
	const char *detail = "";

	setup(AUDIT_READ_BACK_ANY, false);
	ck_assert(!watch.need_disk);
	for (int i = 0; i < 3; i++)
		tell(AUDIT_WATCH_UNREADABLE, 0);
	expect_gap("read-back-unreadable", "0", false);
	ck_assert(!next());
	ck_assert_int_eq(n_warnings, 1);
	ck_assert(audit_healthy(audit, &detail));
	ck_assert_int_eq(try_request(), 0);
	end();
	rmdir(dir);
}
END_TEST

/* The sink takes records; whether calls wait for that is the operator's to say. */
START_TEST(goes_on)
{
	setup(AUDIT_READ_BACK_DISK, true);
	tell(AUDIT_WATCH_MISSING, 1);
	request();
	turn();
	ck_assert_uint_eq(n_verdicts, 1);
	ck_assert_uint_eq(audit_counters(audit)->unrecorded, 0);
	end();
	setup(AUDIT_READ_BACK_OFF, false);
	respond(request());
	end();
	rmdir(dir);
}
END_TEST

static void expect_prev(const char *head, bool gap)
{
	audit_start(audit);
	ck_assert(next());
	ck_assert_str_eq(field("MCP_EVENT"), "gateway.start");
	ck_assert_str_eq(field("MCP_CHAIN_PREV"), head);
	ck_assert(next() == gap);
	if (gap)
		ck_assert_str_eq(field("MCP_GAP_CAUSE"), "state-missing");
}

/* The journal's last record, or the state's, whichever is newer. */
START_TEST(last_record)
{
	char head[65] = ZEROS, state_path[120], ours[65], command[200];

	setup(AUDIT_READ_BACK_DISK, false);
	last_r = -ENOENT;
	expect_prev(ZEROS, true);
	end();
	last_r = -EACCES;
	setup(AUDIT_READ_BACK_DISK, false);
	expect_prev(ZEROS, true);
	ck_assert_int_eq(n_warnings, 1);
	end();
	last_r = 0;
	memset(head, 'a', 64);
	memcpy(last.head, head, 65);
	memset(last.chain_id, 'b', 32);
	setup(AUDIT_READ_BACK_DISK, false);
	expect_prev(head, false);
	end();
	/* A state that is newer than the journal's last, of another process and of the same. */
	snprintf(state_path, sizeof(state_path), "%s/state", dir);
	ck_assert_int_eq(state_dir_open(state_path, err, sizeof(err), &config.state_dir), 0);
	last.time_us = 1;
	setup(AUDIT_READ_BACK_DISK, false);
	expect_prev(head, false);
	end();
	setup(AUDIT_READ_BACK_DISK, false);
	audit_start(audit);
	ck_assert(next());
	ck_assert_str_ne(field("MCP_CHAIN_PREV"), head);
	snprintf(ours, sizeof(ours), "%s", field("MCP_CHAIN"));
	snprintf(last.chain_id, sizeof(last.chain_id), "%s", field("MCP_CHAIN_ID"));
	end();
	setup(AUDIT_READ_BACK_DISK, false);
	expect_prev(ours, false);
	end();
	/* A journal that is newer than the state. */
	last.time_us = UINT64_MAX;
	memset(last.chain_id, 'b', 32);
	setup(AUDIT_READ_BACK_DISK, false);
	expect_prev(head, false);
	end();
	config.state_dir = state_dir_close(config.state_dir);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

UNIT_MAIN("audit_readback", ADD(missing) ADD(missing_since_the_start) ADD(a_gap_is_lost_itself) ADD(gaps_without_an_answer) ADD(not_on_disk) ADD(cannot_tell) ADD(goes_on) ADD(last_record))
