#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/watch_case.h"

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

UNIT_MAIN("audit_last", ADD(the_last_head) ADD(the_last_head_of_a_unit) ADD(no_last_head))
