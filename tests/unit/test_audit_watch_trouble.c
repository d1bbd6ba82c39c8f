/* Reading back is hard: a slow, hanging or failing disk, no rights, no descriptors; and what the loop notices. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/watch_case.h"

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

/* A watch that does not take a slow check for one that is stuck. */
static void watch_patiently(void)
{
	const struct audit_watch_config cfg = {
		.chain_id = CHAIN,
		.need_disk = true,
		.on_result = on_result,
		.user = &result,
		.first_ms = 20,
		.settle_ms = 10,
		.every_ms = 50,
		.stuck_ms = 10000,
	};

	watch = audit_watch_free(watch);
	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
}

/* A disk so slow that a check takes several turns of a thread. */
START_TEST(in_portions)
{
	uint64_t start;

	if (!setup("64m", ""))
		return;
	watch_patiently();
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

/* The disk has been read to its end, past a hole, and memory not that far yet: the hole is not forgotten. */
START_TEST(in_portions_elsewhere)
{
	if (!setup("64m", ""))
		return;
	watch_patiently();
	send_range(0, 1500);
	send_range(1501, 1600);
	journald_sync();
	slow_elsewhere_us = 1000;
	audit_watch_told(watch, 1599);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 1500);
	(void)wait_for(AUDIT_WATCH_WHOLE);
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
	struct audit_watch_config cfg = { .chain_id = CHAIN,
					  .need_disk = true,
					  .on_result = on_result_quietly,
					  .first_ms = 20,
					  .settle_ms = 50,
					  .every_ms = 20,
					  .retry_ms = 20,
					  .stuck_ms = 200 };
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
		printf("# phase %d: %u results; at most %.2f ms between two ticks, of which %.3f ms of work\n", phase,
		       n_results, (double)longest_us / 1e3, (double)longest_cpu_us / 1e3);
		ck_assert_uint_gt(n_results, 0);
		ck_assert_int_eq(result.state, phase ? AUDIT_WATCH_MISSING : AUDIT_WATCH_WHOLE);
		/* Reading 50,000 records would take hundreds of milliseconds. */
		ck_assert_uint_lt(longest_cpu_us, 50000);
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
	asked[0] = 5;
	n_asked = 1;
	expect(AUDIT_WATCH_UNREADABLE, 0);
	ck_assert(!result.any);
	ck_assert_uint_eq(result.answered_to, 0);
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
	ck_assert_uint_eq(result.answered_to, 6);
	ck_assert_uint_eq(result.n_lost, 0);
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

/* Behind a hole: the hole is not forgotten, wherever records may be. */
static void reading_fails_once(bool need_disk)
{
	if (!setup("64m", ""))
		return;
	watch = audit_watch_free(watch);
	setup_watch(need_disk, 50);
	send_range(0, 10);
	send_range(11, 30);
	journald_sync();
	fail_after = 20;
	audit_watch_told(watch, 29);
	expect(AUDIT_WATCH_UNREADABLE, 0);
	expect(AUDIT_WATCH_MISSING, 1);
	ck_assert_uint_eq(result.first_missing, 10);
	(void)wait_for(AUDIT_WATCH_WHOLE);
	teardown();
}

START_TEST(reading_that_fails_once)
{
	reading_fails_once(true);
}
END_TEST

START_TEST(reading_that_fails_once_in_memory)
{
	reading_fails_once(false);
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

UNIT_MAIN("audit_watch_trouble",
	  ADD(a_file_that_is_not_seen) ADD(in_portions) ADD(in_portions_elsewhere) ADD(the_loop_goes_on) ADD(no_permission)
		  ADD(no_descriptors) ADD(a_disk_that_hangs) ADD(a_disk_that_fails) ADD(reading_that_fails_once)
			  ADD(reading_that_fails_once_in_memory) ADD(freed_while_it_reads)
			  ADD(what_cannot_be_watched))
