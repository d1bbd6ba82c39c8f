#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/watch_case.h"

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
	struct audit_watch_config cfg = {
		.chain_id = CHAIN, .need_disk = true, .on_result = on_result, .user = &result
	};
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
	ck_assert_uint_ge(result.to_us, result.from_us);
	ck_assert_uint_gt(result.from_us, before);
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

static void ask(size_t n, uint64_t first, uint64_t second)
{
	asked[0] = first;
	asked[1] = second;
	n_asked = n;
}

static void expect_answer(uint64_t answered_to, size_t n_lost, uint64_t lost)
{
	ck_assert_uint_eq(result.answered_to, answered_to);
	ck_assert_uint_eq(result.n_lost, n_lost);
	if (n_lost)
		ck_assert_uint_eq(result.lost[0], lost);
}

/* Holes are told once; what is asked for is looked for until it must have come. */
START_TEST(asked_for)
{
	if (!setup("64m", ""))
		return;
	send_range(0, 5);
	send_range(6, 8);
	ask(2, 4, 5);
	audit_watch_told(watch, 7);
	expect(AUDIT_WATCH_MISSING, 1);
	expect_answer(6, 1, 5);
	/* Checks go on for it. */
	expect(AUDIT_WATCH_WHOLE, 0);
	expect(AUDIT_WATCH_WHOLE, 0);
	expect_answer(6, 1, 5);
	/* It may still come: not lost. */
	ask(2, 7, 9);
	send_range(8, 9);
	audit_watch_told(watch, 9);
	expect(AUDIT_WATCH_MISSING, 1);
	expect_answer(8, 0, 0);
	/* Nothing is missing but what was told: that it is gone is told all the same. */
	send_range(10, 11);
	audit_watch_told(watch, 10);
	(void)wait_for(AUDIT_WATCH_WHOLE);
	expect_answer(10, 1, 9);
	/* One that came late. */
	send_range(9, 10);
	journald_sync();
	(void)wait_for(AUDIT_WATCH_WHOLE);
	expect(AUDIT_WATCH_WHOLE, 0);
	expect_answer(10, 0, 0);
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

UNIT_MAIN("audit_watch",
	  ADD(all_is_there) ADD(as_it_runs) ADD(fifty_thousand) ADD(holes) ADD(the_very_first)
		  ADD(a_tail_that_comes_late) ADD(asked_for) ADD(other_chains) ADD(volatile_storage) ADD(moved_to_the_disk_later)
			  ADD(a_full_disk) ADD(storage_none) ADD(a_journald_that_stands_still)
				  ADD(a_journald_that_is_killed) ADD(a_level_that_is_not_stored) ADD(a_rate_limit)
					  ADD(the_oldest_are_given_up) ADD(many_new_files))
