#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

#include "daemon/audit_watch.h"
#include "daemon/journal.h"
#include "tests/lib/journald.h"
#include "tests/lib/unit.h"

#define CHAIN "00112233445566778899aabbccddeeff"
#define HEAD "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_HEAD "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static struct loop *loop;
static struct worker *worker;
static struct audit_watch *watch;
static struct journal *journal;
static struct event *give_up;
static unsigned n_results;
static struct audit_watch_result result;

/* ---- A disk that does not answer ---- */

static atomic_bool disk_hangs;
static sem_t disk_answers;
static int misses; /* times that the files are not seen */

int __real_sd_journal_open(sd_journal **ret, int flags);
int __wrap_sd_journal_open(sd_journal **ret, int flags);
int __wrap_sd_journal_open(sd_journal **ret, int flags)
{
	if (atomic_load(&disk_hangs))
		sem_wait(&disk_answers);
	return __real_sd_journal_open(ret, flags);
}

int __real_sd_journal_open_directory(sd_journal **ret, const char *path, int flags);
int __wrap_sd_journal_open_directory(sd_journal **ret, const char *path, int flags);
int __wrap_sd_journal_open_directory(sd_journal **ret, const char *path, int flags)
{
	if (atomic_load(&disk_hangs))
		sem_wait(&disk_answers);
	if (misses > 0) {
		misses--;
		path = "/run/systemd";
	}
	return __real_sd_journal_open_directory(ret, path, flags);
}

/* ---- A file that is cut short while it is read ---- */

static const char *cut_file;
static int cut_after;
static useconds_t slow_us; /* each record takes that long */

int __real_sd_journal_next(sd_journal *j);
int __wrap_sd_journal_next(sd_journal *j);
int __wrap_sd_journal_next(sd_journal *j)
{
	if (cut_file && --cut_after == 0 && truncate(cut_file, 8192) < 0)
		perror(cut_file);
	if (slow_us)
		usleep(slow_us);
	return __real_sd_journal_next(j);
}

/* ---- */

static void on_result(void *user, const struct audit_watch_result *r)
{
	ck_assert_ptr_eq(user, &result);
	n_results++;
	result = *r;
	ck_assert_int_eq(r->ok, r->state == AUDIT_WATCH_WHOLE);
	ck_assert_int_eq(r->ok, r->cause == NULL);
	if (r->cause)
		ck_assert_str_eq(r->cause, audit_watch_cause(r->state));
	ck_assert_int_eq(r->ok, r->detail[0] == '\0');
	loop_stop(loop);
}

static void on_give_up(evutil_socket_t fd, short what, void *user)
{
	ck_abort_msg("no result");
}

static void setup_loop(void)
{
	ck_assert_int_eq(sem_init(&disk_answers, 0, 0), 0);
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 2, &worker), 0);
	ck_assert_int_eq(journal_new(NULL, &journal), 0);
	ck_assert_int_eq(loop_every(loop, 60000, on_give_up, NULL, &give_up), 0);
}

static void setup_watch(bool need_disk, uint64_t every_ms)
{
	const struct audit_watch_config cfg = {
		.chain_id = CHAIN,
		.need_disk = need_disk,
		.on_result = on_result,
		.user = &result,
		.first_ms = 20,
		.every_ms = every_ms,
		.retry_ms = 50,
		.settle_ms = 10,
		.stuck_ms = 1000,
	};

	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
}

static bool setup(const char *disk, const char *conf)
{
	if (!journald_enter(disk) || !journald_start(conf)) {
		printf("# no such journald here: not tested\n");
		return false;
	}
	setup_loop();
	setup_watch(true, 50);
	return true;
}

static void teardown(void)
{
	watch = audit_watch_free(watch);
	worker = worker_free(worker);
	event_free(give_up);
	journal = journal_free(journal);
	loop = loop_free(loop);
	journald_kill();
}

static int try_send(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head)
{
	char number[24] = "", id[48] = "";
	struct journal_field f[] = {
		{ "MESSAGE", SPAN("MCPAUDIT v=1 ev=call.request call=0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a agent=\"alice\"") },
		{ "MESSAGE_ID", SPAN("b841c1811f564dbba297bc18d8dee8aa") },
		{ "PRIORITY", span_of(priority) },
		{ "SYSLOG_IDENTIFIER", SPAN("mcp-tunnel-gateway") },
		{ "MCP_SCHEMA", SPAN("1") },
		{ "MCP_EVENT", span_of(event) },
		{ "MCP_CHAIN_ID", span_of(chain) },
		{ "MCP_CHAIN", span_of(head) },
		{ "MCP_SEQ", span_of(number) },
		{ "MCP_CALL_ID", span_of(id) },
		{ "MCP_METHOD", SPAN("tools/call") },
		{ "MCP_AGENT_ID", SPAN("alice@example.com") },
	};

	snprintf(number, sizeof(number), "%lu", (unsigned long)seq);
	snprintf(id, sizeof(id), "0190b5a4-7f3b-7c3e-8a51-%012lx", (unsigned long)seq);
	f[8].value = span_of(number);
	f[9].value = span_of(id);
	return journal_send(journal, f, ARRAY_LEN(f));
}

static void send_as(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head)
{
	int r = -EAGAIN;

	for (int i = 0; i < 50000 && (r = try_send(chain, seq, priority, event, head)) == -EAGAIN; i++)
		usleep(200);
	ck_assert_int_eq(r, 0);
}

static void send_range(uint64_t first, uint64_t end)
{
	for (uint64_t seq = first; seq < end; seq++)
		send_as(CHAIN, seq, "6", "call.request", HEAD);
}

static void next_result(void)
{
	ck_assert_int_eq(loop_run(loop), 0);
}

static void expect(enum audit_watch_state state, uint64_t missing)
{
	next_result();
	ck_assert_msg(result.state == state && result.missing == missing, "%s (%s), %lu missing, %lu to %lu; expected %s, %lu",
		      audit_watch_cause(result.state), result.detail, (unsigned long)result.missing,
		      (unsigned long)result.first_missing, (unsigned long)result.last_missing, audit_watch_cause(state),
		      (unsigned long)missing);
}

/* Until a result of that state; what was missing up to it, and in it. */
static uint64_t wait_for(enum audit_watch_state state)
{
	uint64_t missing = 0;

	for (int i = 0; i < 1000; i++) {
		next_result();
		missing += result.missing;
		if (result.state == state)
			return missing;
	}
	ck_abort_msg("never %s", audit_watch_cause(state));
	return missing;
}

START_TEST(all_is_there)
{
	if (!setup("64m", ""))
		return;
	ck_assert(audit_watch_latest(watch)->ok && !audit_watch_latest(watch)->any);
	send_range(0, 1);
	audit_watch_told(watch, 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert(result.any);
	ck_assert_uint_eq(result.newest_seq, 0);
	for (uint64_t n = 1; n < 1000; n = 3 * n) {
		send_range(n, 3 * n);
		audit_watch_told(watch, 3 * n - 1);
		expect(AUDIT_WATCH_WHOLE, 0);
		ck_assert_uint_eq(result.newest_seq, 3 * n - 1);
		ck_assert_uint_eq(result.late, 0);
		ck_assert_uint_gt(result.took_us, 0);
	}
	/* Nobody is told that nothing is new. */
	n_results = 0;
	for (int i = 0; i < 40; i++) {
		event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
		usleep(10000);
	}
	ck_assert_uint_eq(n_results, 0);
	ck_assert(audit_watch_latest(watch)->ok);
	teardown();
}
END_TEST

/* The real times: gateway.start is seen within two seconds, what comes then within some twelve. */
START_TEST(as_it_runs)
{
	struct audit_watch_config cfg = { .chain_id = CHAIN, .need_disk = true, .on_result = on_result, .user = &result };
	uint64_t start;

	if (!setup("64m", ""))
		return;
	watch = audit_watch_free(watch);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
	start = clock_now_us();
	send_range(0, 1);
	audit_watch_told(watch, 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_uint_lt(clock_now_us() - start, 2000000);
	send_range(1, 2);
	audit_watch_told(watch, 1);
	start = clock_now_us();
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_uint_eq(result.newest_seq, 1);
	printf("# the second check after %.1f s\n", (double)(clock_now_us() - start) / 1e6);
	ck_assert_uint_lt(clock_now_us() - start, 14000000);
	teardown();
}
END_TEST

START_TEST(fifty_thousand)
{
	uint64_t start;

	if (!setup("400m", ""))
		return;
	start = clock_now_us();
	send_range(0, 50000);
	journald_sync();
	printf("# 50,000 sent and stored in %.2f s\n", (double)(clock_now_us() - start) / 1e6);
	audit_watch_told(watch, 49999);
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_uint_eq(result.newest_seq, 49999);
	printf("# 50,000 counted in %.0f ms\n", (double)result.took_us / 1e3);
	/* One more costs no second count. */
	send_range(50000, 50001);
	audit_watch_told(watch, 50000);
	expect(AUDIT_WATCH_WHOLE, 0);
	printf("# one more: %.2f ms\n", (double)result.took_us / 1e3);
	send_range(50002, 50003);
	audit_watch_told(watch, 50002);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 50001);
	teardown();
}
END_TEST

START_TEST(holes)
{
	uint64_t before = clock_wall_us();

	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	send_range(13, 20);
	send_range(21, 30);
	audit_watch_told(watch, 29);
	expect(AUDIT_WATCH_MISSING, 4);
	ck_assert_uint_eq(result.first_missing, 10);
	ck_assert_uint_eq(result.last_missing, 20);
	ck_assert_uint_eq(result.newest_seq, 29);
	ck_assert_uint_le(result.to_us, clock_wall_us());
	ck_assert_uint_gt(result.to_us, before);
	/* Told once; then all is well again. */
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(the_very_first)
{
	if (!setup("64m", ""))
		return;
	send_range(2, 4);
	audit_watch_told(watch, 3);
	expect(AUDIT_WATCH_MISSING, 2);
	ck_assert_uint_eq(result.first_missing, 0);
	ck_assert_uint_eq(result.last_missing, 1);
	ck_assert_uint_eq(result.from_us, 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(a_tail_that_comes_late)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 5);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_MISSING, 5);
	ck_assert_uint_eq(result.first_missing, 5);
	ck_assert_uint_eq(result.last_missing, 9);
	expect(AUDIT_WATCH_MISSING, 0);
	audit_watch_told(watch, 11);
	usleep(20000);
	expect(AUDIT_WATCH_MISSING, 2);
	ck_assert_uint_eq(result.first_missing, 10);
	/* Part of it comes, and then something newer. */
	send_range(5, 8);
	send_range(12, 13);
	audit_watch_told(watch, 12);
	(void)wait_for(AUDIT_WATCH_WHOLE);
	ck_assert_uint_eq(result.late, 3);
	ck_assert_uint_eq(result.newest_seq, 12);
	send_range(14, 15);
	audit_watch_told(watch, 14);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 13);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(other_chains)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 3);
	for (uint64_t seq = 0; seq < 10; seq++)
		send_as("ffffffffffffffffffffffffffffffff", seq, "6", "call.request", HEAD);
	/* The same number again, and an older one, are nobody's loss and nobody's gain. */
	send_range(2, 3);
	send_range(0, 1);
	audit_watch_told(watch, 3);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 3);
	teardown();
}
END_TEST

START_TEST(volatile_storage)
{
	if (!setup("64m", "Storage=volatile\n"))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_VOLATILE, 0);
	ck_assert_uint_eq(result.newest_seq, 9);
	expect(AUDIT_WATCH_VOLATILE, 0);
	send_range(11, 12);
	audit_watch_told(watch, 11);
	ck_assert_uint_eq(wait_for(AUDIT_WATCH_MISSING), 1);
	expect(AUDIT_WATCH_VOLATILE, 0);
	/* Whoever is content with that. */
	watch = audit_watch_free(watch);
	setup_watch(false, 50);
	audit_watch_told(watch, 11);
	expect(AUDIT_WATCH_MISSING, 1);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

/* As at boot, before the journal in memory is moved to the disk. */
START_TEST(moved_to_the_disk_later)
{
	if (!setup("64m", ""))
		return;
	journald_stop();
	journald_early();
	ck_assert_int_eq(system("rm -rf /var/log/journal/*"), 0);
	ck_assert(journald_start(""));
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_VOLATILE, 0);
	ck_assert_int_eq(journald_ctl("--flush"), 0);
	ck_assert_uint_eq(wait_for(AUDIT_WATCH_WHOLE), 0);
	send_range(10, 20);
	audit_watch_told(watch, 19);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(a_full_disk)
{
	static char text[40000];

	if (!setup("24m", ""))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_int_eq(system("cat /dev/zero >/var/log/journal/filler 2>/dev/null"), 256);
	srandom(1);
	for (int i = 0; i < 1000; i++) {
		struct journal_field f = { "MESSAGE", { text, sizeof(text) } };
		int r = -EAGAIN;

		for (size_t k = 0; k < sizeof(text); k++)
			text[k] = (char)random();
		while ((r = journal_send(journal, &f, 1)) == -EAGAIN)
			usleep(500);
		ck_assert_int_eq(r, 0);
	}
	send_range(10, 20);
	journald_sync();
	audit_watch_told(watch, 19);
	expect(AUDIT_WATCH_VOLATILE, 0);
	teardown();
}
END_TEST

START_TEST(storage_none)
{
	if (!setup("64m", "Storage=none\n"))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_MISSING, 10);
	ck_assert(!result.any);
	expect(AUDIT_WATCH_MISSING, 0);
	teardown();
}
END_TEST

START_TEST(a_journald_that_stands_still)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_WHOLE, 0);
	journald_pause();
	for (uint64_t seq = 10; seq < 15; seq++)
		ck_assert_int_eq(try_send(CHAIN, seq, "6", "call.request", HEAD), 0);
	audit_watch_told(watch, 14);
	expect(AUDIT_WATCH_MISSING, 5);
	expect(AUDIT_WATCH_MISSING, 0);
	journald_resume();
	(void)wait_for(AUDIT_WATCH_WHOLE);
	ck_assert_uint_eq(result.late, 5);
	ck_assert_uint_eq(result.newest_seq, 14);
	teardown();
}
END_TEST

START_TEST(a_journald_that_is_killed)
{
	if (!setup("64m", ""))
		return;
	for (uint64_t n = 0; n < 500; n += 100) {
		send_range(n, n + 100);
		journald_sync();
		journald_kill();
		ck_assert(journald_start(""));
		audit_watch_told(watch, n + 99);
		expect(AUDIT_WATCH_WHOLE, 0);
	}
	teardown();
}
END_TEST

START_TEST(a_level_that_is_not_stored)
{
	if (!setup("64m", "MaxLevelStore=notice\n"))
		return;
	send_as(CHAIN, 0, "5", "gateway.start", HEAD);
	send_range(1, 8);
	send_as(CHAIN, 8, "4", "call.denied", HEAD);
	audit_watch_told(watch, 8);
	expect(AUDIT_WATCH_MISSING, 7);
	ck_assert_uint_eq(result.first_missing, 1);
	ck_assert_uint_eq(result.last_missing, 7);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

static uint64_t count_stored(void)
{
	FILE *p = popen("journalctl -q -o cat MCP_CHAIN_ID=" CHAIN " | wc -l", "r");
	unsigned long n = 0;

	ck_assert_int_eq(fscanf(p, "%lu", &n), 1);
	pclose(p);
	return n;
}

START_TEST(a_rate_limit)
{
	uint64_t missing;

	if (!setup("64m", "RateLimitIntervalSec=600s\nRateLimitBurst=100\n"))
		return;
	if (!journald_unit("mcp-tunnel-gateway.service")) {
		printf("# no cgroups here: not tested\n");
		teardown();
		return;
	}
	send_range(0, 3000);
	/* It has a limit of its own. */
	send_as(CHAIN, 3000, "2", "audit.gap", HEAD);
	journald_sync();
	audit_watch_told(watch, 3000);
	next_result();
	missing = 3001 - count_stored();
	printf("# %lu of 3,001 stored\n", (unsigned long)(3001 - missing));
	ck_assert_uint_gt(missing, 1000);
	ck_assert_int_eq(result.state, AUDIT_WATCH_MISSING);
	ck_assert_uint_eq(result.missing, missing);
	ck_assert_uint_eq(result.newest_seq, 3000);
	expect(AUDIT_WATCH_WHOLE, 0);
	journald_unit_leave();
	teardown();
}
END_TEST

START_TEST(the_oldest_are_given_up)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 100);
	audit_watch_told(watch, 99);
	expect(AUDIT_WATCH_WHOLE, 0);
	/* All that was seen, and half of what was not. */
	send_range(100, 150);
	journald_sync();
	ck_assert_int_eq(journald_ctl("--rotate"), 0);
	send_range(150, 200);
	journald_sync();
	ck_assert_int_eq(journald_ctl("--vacuum-size=1"), 0);
	audit_watch_told(watch, 199);
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_uint_eq(result.newest_seq, 199);
	/* After that a hole is a hole again. */
	send_range(201, 202);
	audit_watch_told(watch, 201);
	expect(AUDIT_WATCH_MISSING, 1);
	expect(AUDIT_WATCH_WHOLE, 0);
	/* Everything, while nothing new is written. */
	ck_assert_int_eq(journald_ctl("--rotate"), 0);
	ck_assert_int_eq(journald_ctl("--vacuum-size=1"), 0);
	ck_assert_uint_eq(count_stored(), 0);
	send_range(202, 210);
	audit_watch_told(watch, 209);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

/* journald turns to new files as fast as it can: no false alarm. */
START_TEST(many_new_files)
{
	enum { ROUNDS = 60 };
	uint64_t seq = 0, checks = 0;
	pid_t rotator;

	if (!setup("400m", "SystemMaxFileSize=1M\nSystemMaxFiles=60\n"))
		return;
	watch = audit_watch_free(watch);
	setup_watch(true, 5);
	rotator = fork();
	if (rotator == 0) {
		for (int i = 0; i < 400; i++)
			(void)journald_ctl("--rotate");
		_exit(0);
	}
	for (int i = 0; i < ROUNDS || waitpid(rotator, NULL, WNOHANG) == 0; i++, checks++) {
		send_range(seq, seq + 50);
		seq += 50;
		journald_sync();
		audit_watch_told(watch, seq - 1);
		next_result();
		ck_assert_msg(result.ok, "%s: %lu missing, %lu to %lu", result.detail, (unsigned long)result.missing,
			      (unsigned long)result.first_missing, (unsigned long)result.last_missing);
	}
	printf("# %lu checks\n", (unsigned long)checks);
	teardown();
}
END_TEST

/* The same, made sure of. */
START_TEST(a_file_that_is_not_seen)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	misses = 1;
	expect(AUDIT_WATCH_WHOLE, 0);
	send_range(10, 20);
	audit_watch_told(watch, 19);
	misses = 2;
	expect(AUDIT_WATCH_WHOLE, 0);
	ck_assert_int_eq(misses, 0);
	teardown();
}
END_TEST

/* A disk so slow that a check takes several turns of a thread. */
START_TEST(in_portions)
{
	struct audit_watch_config cfg = { .chain_id = CHAIN, .need_disk = true, .on_result = on_result, .user = &result,
					  .first_ms = 20, .settle_ms = 10, .every_ms = 50, .stuck_ms = 10000 };
	uint64_t start;

	if (!setup("64m", ""))
		return;
	watch = audit_watch_free(watch);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
	send_range(0, 1500);
	send_range(1501, 2500);
	slow_us = 1000;
	audit_watch_told(watch, 2499);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 1500);
	(void)wait_for(AUDIT_WATCH_WHOLE);
	ck_assert_uint_eq(result.newest_seq, 2499);
	/* And an end does not wait for one of them. */
	send_range(2500, 4000);
	audit_watch_told(watch, 3999);
	for (int i = 0; i < 30; i++) {
		event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
		usleep(10000);
	}
	start = clock_now_us();
	watch = audit_watch_free(watch);
	worker = worker_free(worker);
	printf("# the end of a check: %.0f ms\n", (double)(clock_now_us() - start) / 1e3);
	ck_assert_uint_lt(clock_now_us() - start, 500000);
	teardown();
}
END_TEST

/* ---- The loop goes on meanwhile ---- */

static uint64_t last_tick_us, last_cpu_us, longest_us, longest_cpu_us, next_seq, told_us, n_told;
static int ticks_left;

static uint64_t cpu_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void on_tick(evutil_socket_t fd, short what, void *user)
{
	uint64_t now = clock_now_us(), cpu = cpu_us();

	if (last_tick_us) {
		longest_us = MAX(longest_us, now - last_tick_us);
		longest_cpu_us = MAX(longest_cpu_us, cpu - last_cpu_us);
	}
	for (int i = 0; i < 20 && try_send(CHAIN, next_seq, "6", "call.request", HEAD) == 0; i++, n_told++)
		audit_watch_told(watch, next_seq++);
	told_us += clock_now_us() - now;
	last_tick_us = clock_now_us();
	last_cpu_us = cpu_us();
	if (--ticks_left <= 0)
		loop_stop(loop);
}

static void on_result_quietly(void *user, const struct audit_watch_result *r)
{
	result = *r;
	n_results++;
}

START_TEST(the_loop_goes_on)
{
	struct audit_watch_config cfg = { .chain_id = CHAIN, .need_disk = true, .on_result = on_result_quietly, .first_ms = 20,
					  .settle_ms = 50, .every_ms = 20, .retry_ms = 20, .stuck_ms = 200 };
	struct event *tick;
	uint64_t start = clock_now_us();

	if (!setup("400m", ""))
		return;
	watch = audit_watch_free(watch);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
	send_range(0, 50000);
	next_seq = 50000;
	ck_assert_int_eq(loop_every(loop, 1, on_tick, NULL, &tick), 0);
	/* All is well; journald stands still; the disk does not answer either. */
	for (int phase = 0; phase < 3; phase++) {
		ticks_left = 500;
		last_tick_us = longest_us = longest_cpu_us = n_results = 0;
		if (phase == 1)
			journald_pause();
		if (phase == 2)
			disk_hangs = true;
		ck_assert_int_eq(loop_run(loop), 0);
		printf("# phase %d: %u results; at most %.2f ms between two ticks, of which %.3f ms of work\n", phase, n_results,
		       (double)longest_us / 1e3, (double)longest_cpu_us / 1e3);
		ck_assert_uint_gt(n_results, 0);
		ck_assert_int_eq(result.state, phase ? AUDIT_WATCH_MISSING : AUDIT_WATCH_WHOLE);
		ck_assert_uint_lt(longest_cpu_us, 5000);
	}
	printf("# %lu records in %.1f s, %.2f us each with the sending\n", (unsigned long)n_told,
	       (double)(clock_now_us() - start) / 1e6, (double)told_us / (double)n_told);
	disk_hangs = false;
	sem_post(&disk_answers);
	sem_post(&disk_answers);
	event_free(tick);
	teardown();
}
END_TEST

START_TEST(no_permission)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	journald_sync();
	ck_assert_int_eq(setegid(65534), 0);
	ck_assert_int_eq(seteuid(65534), 0);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_UNREADABLE, 0);
	ck_assert(!result.any);
	/* Told once. */
	n_results = 0;
	for (int i = 0; i < 30; i++) {
		event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
		usleep(10000);
	}
	ck_assert_uint_eq(n_results, 0);
	ck_assert_int_eq(audit_watch_latest(watch)->state, AUDIT_WATCH_UNREADABLE);
	/* Given after all; the threads are new, and so are their rights. */
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(setegid(0), 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(no_descriptors)
{
	struct rlimit all, few;

	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	journald_sync();
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &all), 0);
	few = all;
	few.rlim_cur = 4;
	audit_watch_told(watch, 9);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	expect(AUDIT_WATCH_UNREADABLE, 0);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &all), 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(a_disk_that_hangs)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_WHOLE, 0);
	disk_hangs = true;
	send_range(10, 15);
	audit_watch_told(watch, 14);
	expect(AUDIT_WATCH_MISSING, 5);
	ck_assert_ptr_nonnull(strstr(result.detail, "does not answer"));
	ck_assert_uint_eq(result.first_missing, 10);
	expect(AUDIT_WATCH_MISSING, 0);
	disk_hangs = false;
	sem_post(&disk_answers);
	(void)wait_for(AUDIT_WATCH_WHOLE);
	ck_assert_uint_eq(result.late, 5);
	teardown();
}
END_TEST

/* As when the disk has an error: the process goes on. */
START_TEST(a_disk_that_fails)
{
	struct audit_watch_config cfg = {
		.chain_id = CHAIN,
		.directory = "/run/copy",
		.need_disk = true,
		.on_result = on_result,
		.user = &result,
		.first_ms = 20,
		.settle_ms = 10,
		.every_ms = 50,
	};

	if (!setup("64m", ""))
		return;
	send_range(0, 3000);
	journald_sync();
	watch = audit_watch_free(watch);
	ck_assert_int_eq(system("mkdir /run/copy && cp /var/log/journal/*/system.journal /run/copy/"), 0);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
	audit_watch_told(watch, 2999);
	expect(AUDIT_WATCH_WHOLE, 0);
	watch = audit_watch_free(watch);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
	cut_file = "/run/copy/system.journal";
	cut_after = 500;
	audit_watch_told(watch, 2999);
	expect(AUDIT_WATCH_UNREADABLE, 0);
	cut_file = NULL;
	ck_assert_int_eq(system("cp /var/log/journal/*/system.journal /run/copy/"), 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	teardown();
}
END_TEST

START_TEST(freed_while_it_reads)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 10);
	audit_watch_told(watch, 9);
	disk_hangs = true;
	expect(AUDIT_WATCH_MISSING, 10);
	watch = audit_watch_free(watch);
	sem_post(&disk_answers);
	teardown();
}
END_TEST

START_TEST(what_cannot_be_watched)
{
	struct audit_watch_config cfg = { .chain_id = "short", .on_result = on_result };

	setup_loop();
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), -EINVAL);
	ck_assert_ptr_null(audit_watch_free(NULL));
	/* Freed before anything was told, and before anything was read. */
	setup_watch(true, 10000);
	watch = audit_watch_free(watch);
	setup_watch(true, 10000);
	audit_watch_told(watch, 0);
	teardown();
}
END_TEST

/* ---- The newest head ---- */

/* From a process of its own: journald remembers for a while who a process was. */
static void send_from(uid_t uid, uint64_t seq)
{
	pid_t child = fork();

	if (child == 0) {
		if (setgid(uid) < 0 || setuid(uid) < 0)
			_exit(1);
		(void)try_send(CHAIN, seq, "6", "call.request", OTHER_HEAD);
		pause();
	}
	usleep(50000);
	journald_sync();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

START_TEST(the_last_head)
{
	struct audit_watch_head h = { .seq = 77 };
	uint64_t start = clock_wall_us();

	if (!setup("64m", ""))
		return;
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 500, &h), -ENOENT);
	ck_assert_uint_eq(h.seq, 77);
	send_range(0, 10);
	send_as(CHAIN, 10, "6", "call.request", OTHER_HEAD);
	journald_sync();
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), 0);
	ck_assert_str_eq(h.chain_id, CHAIN);
	ck_assert_uint_eq(h.seq, 10);
	ck_assert_str_eq(h.head, OTHER_HEAD);
	ck_assert(!h.stop);
	ck_assert(h.time_us >= start && h.time_us <= clock_wall_us());
	/* Those of others, and what is none, are passed over. */
	send_as("ffffffffffffffffffffffffffffffff", 3, "5", "gateway.stop", HEAD);
	send_as("not a chain", 4, "5", "gateway.stop", HEAD);
	send_as(CHAIN, 11, "5", "gateway.stop", "not a head");
	send_from(65534, 12);
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), 0);
	ck_assert_str_eq(h.chain_id, "ffffffffffffffffffffffffffffffff");
	ck_assert_uint_eq(h.seq, 3);
	ck_assert(h.stop);
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-relay", NULL, 5000, &h), -ENOENT);
	/* In memory as well. */
	journald_stop();
	ck_assert(journald_start("Storage=volatile\n"));
	send_range(20, 21);
	journald_sync();
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), 0);
	ck_assert_uint_eq(h.seq, 20);
	teardown();
}
END_TEST

START_TEST(the_last_head_of_a_unit)
{
	struct audit_watch_head h;

	if (!setup("64m", ""))
		return;
	send_from(0, 4);
	if (!journald_unit("mcp-tunnel-gateway@a.service")) {
		printf("# no cgroups here: not tested\n");
		teardown();
		return;
	}
	/* It is another's. */
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), -ENOENT);
	send_from(0, 7);
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), 0);
	ck_assert_uint_eq(h.seq, 7);
	journald_unit_leave();
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), 0);
	ck_assert_uint_eq(h.seq, 4);
	teardown();
}
END_TEST

START_TEST(no_last_head)
{
	struct audit_watch_head h;
	uint64_t start;

	if (!setup("64m", ""))
		return;
	send_range(0, 5);
	journald_sync();
	disk_hangs = true;
	start = clock_now_us();
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 200, &h), -ETIMEDOUT);
	ck_assert_uint_lt(clock_now_us() - start, 1000000);
	disk_hangs = false;
	sem_post(&disk_answers);
	ck_assert_int_eq(setegid(65534), 0);
	ck_assert_int_eq(seteuid(65534), 0);
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", NULL, 5000, &h), -EACCES);
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(setegid(0), 0);
	ck_assert_int_eq(audit_watch_last("mcp-tunnel-gateway", "/nowhere", 5000, &h), -ENOENT);
	usleep(100000);
	teardown();
}
END_TEST

UNIT_MAIN("audit_watch", ADD(all_is_there) ADD(as_it_runs) ADD(fifty_thousand) ADD(holes) ADD(the_very_first)
	  ADD(a_tail_that_comes_late) ADD(other_chains) ADD(volatile_storage) ADD(moved_to_the_disk_later)
	  ADD(a_full_disk) ADD(storage_none) ADD(a_journald_that_stands_still) ADD(a_journald_that_is_killed)
	  ADD(a_level_that_is_not_stored) ADD(a_rate_limit) ADD(the_oldest_are_given_up) ADD(many_new_files)
	  ADD(a_file_that_is_not_seen) ADD(in_portions) ADD(the_loop_goes_on)
	  ADD(no_permission) ADD(no_descriptors) ADD(a_disk_that_hangs) ADD(a_disk_that_fails) ADD(freed_while_it_reads)
	  ADD(what_cannot_be_watched) ADD(the_last_head) ADD(the_last_head_of_a_unit) ADD(no_last_head))
