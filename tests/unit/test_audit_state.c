#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/state_case.h"

START_TEST(heads_and_calls)
{
	uint32_t slot;

	setup();
	open_it();
	ck_assert(!old.found && !old.clean && old.n_open == 0 && old.n_damaged == 0);
	close_it(false);
	open_it();
	ck_assert(!old.found);
	for (uint64_t seq = 0; seq < 7; seq++) {
		put_head(seq);
		slot = put_call((unsigned)seq);
		if (seq % 2)
			audit_state_call_done(state, slot);
		close_it(false);
		open_it();
		expect_head(seq);
		ck_assert(!old.clean);
		ck_assert_uint_eq(old.n_open, (seq + 2) / 2);
	}
	ck_assert(is_open(0) && !is_open(1) && is_open(2) && !is_open(3) && is_open(6));
	teardown();
}
END_TEST

START_TEST(a_clean_stop)
{
	uint32_t slot;

	setup();
	open_it();
	close_it(true); /* nothing was recorded: nothing is known */
	open_it();
	ck_assert(!old.found && !old.clean);
	put_head(5);
	close_it(true);
	open_it();
	expect_head(5);
	ck_assert(old.clean);
	/* A process that recorded nothing changes nothing. */
	close_it(false);
	open_it();
	ck_assert(old.clean);
	put_head(6);
	close_it(false);
	open_it();
	expect_head(6);
	ck_assert(!old.clean);
	/* An open call is never clean. */
	slot = put_call(1);
	put_head(7);
	close_it(true);
	open_it();
	expect_head(7);
	ck_assert(!old.clean);
	ck_assert(is_open(1));
	ck_assert_uint_eq(slot, 0);
	teardown();
}
END_TEST

START_TEST(old_calls_stay_until_told)
{
	uint32_t slots[4];

	setup();
	open_it();
	for (unsigned i = 0; i < 4; i++)
		slots[i] = put_call(i);
	audit_state_call_done(state, slots[1]);
	close_it(false);
	for (int round = 0; round < 3; round++) {
		open_it();
		ck_assert_uint_eq(old.n_open, 3);
		ck_assert(is_open(0) && is_open(2) && is_open(3));
		audit_state_call_done(state, put_call(10));
		close_it(false);
	}
	open_it();
	put_call(20);
	audit_state_old_told(state);
	audit_state_old_told(state);
	put_call(21);
	close_it(false);
	open_it();
	ck_assert_uint_eq(old.n_open, 2);
	ck_assert(is_open(20) && is_open(21));
	teardown();
}
END_TEST

/* A look from outside changes nothing, and sees what a new process would. */
START_TEST(looked_at_while_in_use)
{
	struct audit_state_old seen;
	char other[100];

	setup();
	open_it();
	ck_assert_int_eq(audit_state_peek(file, &seen), -EINVAL);
	for (uint64_t seq = 0; seq < 5; seq++) {
		put_head(seq);
		put_call((unsigned)seq);
		ck_assert_int_eq(audit_state_peek(file, &seen), 0);
		ck_assert_str_eq(seen.chain_id, CHAIN_A);
		ck_assert_str_eq(seen.head, hex_of(seq));
		ck_assert(seen.seq == seq && seen.n_open == seq + 1 && !seen.clean);
		audit_state_old_done(&seen);
	}
	close_it(false);
	open_it();
	expect_head(4);
	ck_assert_uint_eq(old.n_open, 5);
	snprintf(other, sizeof(other), "%s/none", dir);
	ck_assert_int_eq(audit_state_peek(other, &seen), -ENOENT);
	ck_assert_int_eq(audit_state_peek(dir, &seen), -EINVAL);
	ck_assert_int_eq(audit_state_peek("/dev/null", &seen), -EINVAL);
	teardown();
}
END_TEST

START_TEST(ids_of_any_length)
{
	static const char *const ids[] = { "", "x", "0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a-and-more", "\xff\n\"" };
	uint32_t slot;

	setup();
	open_it();
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		ck_assert_int_eq(audit_state_call_open(state, ids[i], &slot), 0);
	audit_state_call_done(state, AUDIT_STATE_NO_SLOT);
	close_it(false);
	open_it();
	ck_assert_uint_eq(old.n_open, ARRAY_LEN(ids));
	ck_assert_uint_eq(old.n_damaged, 0);
	ck_assert_str_eq(old.open[0], "");
	ck_assert_str_eq(old.open[2], "0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a");
	ck_assert_str_eq(old.open[3], ids[3]);
	teardown();
}
END_TEST

START_TEST(the_table_grows)
{
	static uint32_t slots[AUDIT_STATE_CALLS_MAX];
	static uint8_t seen[AUDIT_STATE_CALLS_MAX];
	uint32_t slot = 1;

	setup();
	open_it();
	for (unsigned i = 0; i < AUDIT_STATE_CALLS_MAX; i++) {
		slots[i] = put_call(i);
		ck_assert_uint_lt(slots[i], AUDIT_STATE_CALLS_MAX);
		ck_assert(!seen[slots[i]]++);
	}
	put_head(9);
	ck_assert_int_eq(audit_state_call_open(state, "one more", &slot), -ENOSPC);
	ck_assert_uint_eq(slot, AUDIT_STATE_NO_SLOT);
	audit_state_call_done(state, slots[77]);
	ck_assert_uint_eq(put_call(100000), slots[77]);
	close_it(false);

	open_it();
	expect_head(9);
	ck_assert_uint_eq(old.n_open, AUDIT_STATE_CALLS_MAX);
	ck_assert_uint_eq(old.n_damaged, 0);
	ck_assert_int_eq(audit_state_call_open(state, "one more", &slot), -ENOSPC);
	audit_state_old_told(state);
	put_call(1);
	close_it(false);
	open_it();
	ck_assert_uint_eq(old.n_open, 1);
	expect_head(9);
	teardown();
}
END_TEST

/* ---- Killed at any moment ---- */

/* What the child does, told before and after each step. */
struct diary {
	uint64_t head_begun, head_done;
	unsigned call_begun, call_done; /* opened in order: 1, 2, 3, ... */
	unsigned close_begun, close_done; /* closed in the same order */
};

static struct diary *diary_new(void)
{
	struct diary *d = mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(d, MAP_FAILED);
	return d;
}

#define NOTE(where, value) __atomic_store_n(&(where), value, __ATOMIC_SEQ_CST)

static void work(volatile struct diary *d, unsigned steps, unsigned most_open)
{
	static uint32_t slots[AUDIT_STATE_CALLS_MAX];

	for (unsigned i = 1; i <= steps; i++) {
		NOTE(d->head_begun, i);
		put_head(i);
		NOTE(d->head_done, i);
		NOTE(d->call_begun, i);
		must(audit_state_call_open(state, id_of(i), &slots[i % AUDIT_STATE_CALLS_MAX]) == 0);
		NOTE(d->call_done, i);
		if (i <= most_open)
			continue;
		NOTE(d->close_begun, i - most_open);
		audit_state_call_done(state, slots[(i - most_open) % AUDIT_STATE_CALLS_MAX]);
		NOTE(d->close_done, i - most_open);
	}
}

static void expect_as_in(const struct diary *d)
{
	static uint8_t seen[AUDIT_STATE_CALLS_MAX];

	ck_assert_uint_eq(old.n_damaged, 0);
	if (d->head_done) {
		ck_assert(old.found);
		ck_assert_uint_ge(old.seq, d->head_done);
		ck_assert_uint_le(old.seq, d->head_begun);
	}
	if (old.found)
		expect_head(old.seq);
	memset(seen, 0, sizeof(seen));
	for (size_t i = 0; i < old.n_open; i++) {
		unsigned n = (unsigned)strtoul(old.open[i] + 24, NULL, 16);

		ck_assert(n > d->close_done && n <= d->call_begun && n < ARRAY_LEN(seen));
		ck_assert(!seen[n]++);
	}
	for (unsigned n = d->close_begun + 1; n <= d->call_done; n++)
		ck_assert_msg(seen[n], "%u of %u to %u", n, d->close_begun + 1, d->call_done);
}

START_TEST(killed_at_any_time)
{
	struct diary *d = diary_new();

	setup();
	for (int round = 0; round < 150; round++) {
		pid_t child;

		memset(d, 0, sizeof(*d));
		unlink(file);
		child = fork();
		if (child == 0) {
			must(audit_state_open(state_dir, &state, &old) == 0);
			work(d, 60000, round % 3 ? 20 : 12000);
			_exit(0);
		}
		usleep((useconds_t)(500 + random() % 8000));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		open_it();
		expect_as_in(d);
		close_it(false);
	}
	teardown();
}
END_TEST

static void copy_file(const char *from, const char *to)
{
	static char bytes[1 << 20];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n = in < 0 ? -1 : read(in, bytes, sizeof(bytes));

	ck_assert_int_ge(out, 0);
	if (n > 0)
		ck_assert_int_eq(write(out, bytes, (size_t)n), n);
	close(out);
	if (in >= 0)
		close(in);
}

/* A process that stands still between two instructions left what it would have left if it had been killed there. */
static void look_at(struct diary *d, const char *child_dir)
{
	char from[100];

	snprintf(from, sizeof(from), "%s/audit", child_dir);
	copy_file(from, file);
	open_it();
	expect_as_in(d);
	close_it(false);
}

START_TEST(killed_after_each_instruction)
{
	struct diary *d = diary_new();
	char child_dir[100];
	unsigned n = 0, looked = 0;
	int status = 0;
	pid_t child;

	setup();
	snprintf(child_dir, sizeof(child_dir), "%s/child", dir);
	child = fork();
	if (child == 0) {
		struct state_dir *own = NULL;
		uint32_t slot = 0;

		must(state_dir_open(child_dir, err, sizeof(err), &own) == 0);
		must(audit_state_open(own, &state, &old) == 0);
		/* Everything is bound and mapped before it counts. */
		work(d, 3, 1);
		memset(d, 0, sizeof(*d));
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		NOTE(d->call_begun, 4);
		NOTE(d->head_begun, 4);
		put_head(4);
		NOTE(d->head_done, 4);
		must(audit_state_call_open(state, id_of(4), &slot) == 0);
		NOTE(d->call_done, 4);
		_exit(0);
	}
	waitpid(child, &status, 0);
	ck_assert(WIFSTOPPED(status));
	d->head_begun = d->head_done = d->call_begun = d->call_done = 3;
	d->close_begun = d->close_done = 2;
	for (n = 0; n < 2000000 && WIFSTOPPED(status); n++) {
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
		waitpid(child, &status, 0);
		/* Making the text of an id takes most instructions; every one is too many where sanitizers add theirs.
		 */
		if (WIFSTOPPED(status) && (n < 4000 || n % 8 == 0)) {
			look_at(d, child_dir);
			looked++;
		}
	}
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	printf("# %u instructions, looked after %u\n", n, looked);
	ck_assert_uint_gt(looked, 500);
	look_at(d, child_dir);
	expect_head(4);
	ck_assert(is_open(4) && is_open(3) && old.n_open == 2);
	teardown();
}
END_TEST

/* ---- How long it takes ---- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

START_TEST(speed)
{
	enum { ROUNDS = 200000 };
	uint64_t start, before, worst = 0;

	setup();
	open_it();
	start = before = now_ns();
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t now;

		audit_state_head(state, CHAIN_B, i, hex_of(1), i);
		audit_state_call_done(state, put_call(i));
		audit_state_head(state, CHAIN_B, i, hex_of(1), i);
		now = now_ns();
		worst = MAX(worst, now - before);
		before = now;
	}
	printf("# %.2f us a call (two heads, and making the texts), at most %.0f us\n",
	       (double)(before - start) / ROUNDS / 1e3, (double)worst / 1e3);
	teardown();
}
END_TEST

UNIT_MAIN("audit_state", ADD(heads_and_calls) ADD(a_clean_stop) ADD(old_calls_stay_until_told)
				 ADD(looked_at_while_in_use) ADD(ids_of_any_length) ADD(the_table_grows)
					 ADD(killed_at_any_time) ADD(killed_after_each_instruction) ADD(speed))
