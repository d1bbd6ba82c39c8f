#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/audit_state.h"
#include "tests/lib/unit.h"

#define CHAIN_A "00112233445566778899aabbccddeeff"
#define CHAIN_B "ffeeddccbbaa99887766554433221100"

static char dir[64], file[80], err[300];
static struct state_dir *state_dir;
static struct audit_state *state;
static struct audit_state_old old;
static int n_warnings;

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	n_warnings += level == LOG_LEVEL_WARNING;
}

/* In memory: the many rounds below write no disk. */
static void setup(void)
{
	bool memory = access("/dev/shm", W_OK) == 0;

	snprintf(dir, sizeof(dir), "%s/test_audit_state.XXXXXX", memory ? "/dev/shm" : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/audit", dir);
	ck_assert_msg(state_dir_open(dir, err, sizeof(err), &state_dir) == 0, "%s", err);
	log_set_sink(on_log, NULL);
}

static void open_it(void)
{
	audit_state_old_done(&old);
	ck_assert_int_eq(audit_state_open(state_dir, &state, &old), 0);
}

static void close_it(bool clean)
{
	state = audit_state_close(state, clean);
}

static void teardown(void)
{
	char command[100];

	state = audit_state_close(state, false);
	audit_state_old_done(&old);
	state_dir = state_dir_close(state_dir);
	log_set_sink(NULL, NULL);
	snprintf(command, sizeof(command), "rm -r '%s'", dir);
	ck_assert_int_eq(system(command), 0);
}

static const char *hex_of(uint64_t seq)
{
	static char text[65];

	for (size_t i = 0; i < 4; i++)
		snprintf(text + 16 * i, 17, "%016lx", (unsigned long)(seq * 0x9e3779b97f4a7c15 + i));
	return text;
}

static const char *id_of(unsigned n)
{
	static char text[40];

	snprintf(text, sizeof(text), "0190b5a4-7f3b-7c3e-8a51-%012x", n);
	return text;
}

static void put_head(uint64_t seq)
{
	audit_state_head(state, CHAIN_A, seq, hex_of(seq), 1000 * seq);
}

static uint32_t put_call(unsigned n)
{
	uint32_t slot = 0;

	ck_assert_int_eq(audit_state_call_open(state, id_of(n), &slot), 0);
	return slot;
}

static void expect_head(uint64_t seq)
{
	ck_assert(old.found);
	ck_assert_str_eq(old.chain_id, CHAIN_A);
	ck_assert_uint_eq(old.seq, seq);
	ck_assert_str_eq(old.head, hex_of(seq));
	ck_assert_uint_eq(old.time_us, 1000 * seq);
}

static bool is_open(unsigned n)
{
	for (size_t i = 0; i < old.n_open; i++)
		if (strcmp(old.open[i], id_of(n)) == 0)
			return true;
	return false;
}

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
	unsigned call_begun, call_done;   /* opened in order: 1, 2, 3, ... */
	unsigned close_begun, close_done; /* closed in the same order */
};

static struct diary *diary_new(void)
{
	struct diary *d = mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(d, MAP_FAILED);
	return d;
}

/* In the child: check's own asserts write to a pipe that both processes have. */
static void must(bool so)
{
	if (!so)
		_exit(99);
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
		/* Making the text of an id takes most instructions; every one is too many where sanitizers add theirs. */
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

/* ---- Damage ---- */

static uint8_t good[300000];
static size_t good_len;

static void make_good(void)
{
	int fd;
	ssize_t n;

	open_it();
	put_head(41);
	for (unsigned i = 0; i < 5; i++)
		put_call(i);
	put_head(42);
	close_it(false);
	fd = open(file, O_RDONLY);
	n = read(fd, good, sizeof(good));
	ck_assert(n > 4096 && n < (ssize_t)sizeof(good));
	good_len = (size_t)n;
	close(fd);
}

static void write_file(const uint8_t *bytes, size_t len)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ck_assert_int_eq(write(fd, bytes, len), (ssize_t)len);
	close(fd);
}

/* Nothing else may ever be read than what was written once. */
static void expect_sane(void)
{
	if (old.found)
		expect_head(old.seq == 41 ? 41 : 42);
	ck_assert_uint_le(old.n_open, 5);
	for (size_t i = 0; i < old.n_open; i++) {
		unsigned n = (unsigned)strtoul(old.open[i] + 24, NULL, 16);

		ck_assert_uint_lt(n, 5);
		ck_assert_str_eq(old.open[i], id_of(n));
		for (size_t k = 0; k < i; k++)
			ck_assert_str_ne(old.open[i], old.open[k]);
	}
}

/* It can be used as if nothing had been: the new head, and what is not told yet. */
static void expect_usable(void)
{
	size_t n_open = old.n_open;
	uint32_t slot;

	put_head(100);
	slot = put_call(50);
	close_it(false);
	open_it();
	expect_head(100);
	ck_assert_uint_eq(old.n_open, n_open + 1);
	ck_assert_uint_eq(old.n_damaged, 0);
	ck_assert(is_open(50));
	ck_assert_uint_ne(slot, AUDIT_STATE_NO_SLOT);
	close_it(false);
}

START_TEST(single_bytes)
{
	setup();
	make_good();
	/* Everything that is written, and some of what is not. */
	for (size_t at = 0; at < 4096 + 6 * 48; at++) {
		good[at] ^= (uint8_t)(1 << at % 8);
		write_file(good, good_len);
		good[at] ^= (uint8_t)(1 << at % 8);
		open_it();
		expect_sane();
		ck_assert(!old.clean);
		/* One head of two, and four calls of five, always survive when the frame is whole. */
		if (at >= 32) {
			ck_assert(old.found);
			ck_assert_uint_ge(old.n_open, 4);
		}
		if (at >= 4096 && at < 4096 + 5 * 48 && (at - 4096) % 48 < 36)
			ck_assert_uint_eq(old.n_damaged, 1);
		close_it(false);
	}
	teardown();
}
END_TEST

START_TEST(a_million_bytes)
{
	unsigned flips = 0, found = 0, whole = 0, rounds = 0;
	uint8_t *bytes = malloc(sizeof(good));

	setup();
	make_good();
	srandom(3);
	while (flips < 1000000) {
		unsigned n = 1 + (unsigned)random() % (rounds % 2 ? 8 : 400);

		memcpy(bytes, good, good_len);
		/* Mostly where there is something. */
		for (unsigned i = 0; i < n; i++, flips++)
			bytes[(size_t)random() % (random() % 4 ? 4096 + 300 : good_len)] = (uint8_t)random();
		write_file(bytes, good_len);
		open_it();
		expect_sane();
		found += old.found;
		whole += old.found && old.n_damaged == 0;
		if (rounds++ % 64 == 0)
			expect_usable();
		else
			close_it(false);
	}
	printf("# %u rounds: a head in %u, nothing amiss in %u\n", rounds, found, whole);
	ck_assert_uint_gt(found, 0);
	ck_assert_uint_lt(whole, rounds);
	free(bytes);
	teardown();
}
END_TEST

START_TEST(cut_at_any_length)
{
	setup();
	make_good();
	for (size_t len = 0; len < good_len; len += len < 4500 ? 3 : 4001) {
		write_file(good, len);
		open_it();
		expect_sane();
		ck_assert(!old.clean);
		if (len < 4096)
			ck_assert(!old.found && old.n_open == 0);
		else
			ck_assert(old.found && old.n_damaged > 0);
		expect_usable();
	}
	/* Killed while it grew: longer than it says. */
	write_file(good, good_len);
	ck_assert_int_eq(truncate(file, (off_t)good_len + 5000), 0);
	open_it();
	expect_head(42);
	ck_assert_uint_eq(old.n_open, 5);
	ck_assert_uint_eq(old.n_damaged, 0);
	close_it(false);
	teardown();
}
END_TEST

START_TEST(no_file_at_all)
{
	struct audit_state *none = NULL;

	setup();
	make_good();
	/* As large as a disk. */
	ck_assert_int_eq(truncate(file, (off_t)1 << 40), 0);
	open_it();
	ck_assert(!old.found && old.n_open == 0);
	expect_usable();
	/* A link, a pipe. */
	ck_assert_int_eq(unlink(file), 0);
	ck_assert_int_eq(symlink("/etc/passwd", file), 0);
	open_it();
	ck_assert(!old.found);
	expect_usable();
	ck_assert_int_eq(unlink(file), 0);
	ck_assert_int_eq(mkfifo(file, 0600), 0);
	open_it();
	ck_assert(!old.found);
	expect_usable();
	/* What cannot be replaced. */
	ck_assert_int_eq(unlink(file), 0);
	ck_assert_int_eq(mkdir(file, 0700), 0);
	ck_assert_int_eq(audit_state_open(state_dir, &none, &old), -EISDIR);
	ck_assert_ptr_null(none);
	teardown();
}
END_TEST

/* ---- The disk fails ---- */

START_TEST(cut_while_mapped)
{
	uint32_t slots[3];

	setup();
	open_it();
	put_head(1);
	slots[0] = put_call(1);
	if (_i == 1)
		for (unsigned n = 0; n < 5000; n++)
			put_call(n);
	ck_assert_int_eq(truncate(file, 0), 0);
	n_warnings = 0;
	for (uint64_t seq = 2; seq < 10; seq++)
		put_head(seq);
	ck_assert_int_eq(n_warnings, 1);
	audit_state_call_done(state, put_call(2));
	slots[1] = put_call(3);
	slots[2] = put_call(4);
	audit_state_call_done(state, slots[0]);
	close_it(true);
	open_it();
	ck_assert(!old.found && old.n_open == 0);
	ck_assert_uint_lt(slots[0], slots[1]);
	expect_usable();
	teardown();
}
END_TEST

static void die_of_sigbus(void)
{
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	volatile char *p;

	must(fd >= 0 && ftruncate(fd, 4096) == 0);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(ftruncate(fd, 0) == 0);
	alarm(20);
	p[0] = 1;
	_exit(0);
}

/* Others are not spared. */
START_TEST(only_this_file)
{
	int status = 0;
	pid_t child;

	setup();
	open_it();
	put_head(1);
	child = fork();
	if (child == 0)
		die_of_sigbus();
	waitpid(child, &status, 0);
	/* By the signal, or with a sanitizer's report of it. */
	ck_assert_msg(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) % 99 != 0, "%x", (unsigned)status);
	teardown();
}
END_TEST

static bool small_disk(void)
{
	return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("tmpfs", dir, "tmpfs", 0, "size=512k") == 0;
}

START_TEST(the_disk_is_full)
{
	struct audit_state *none = NULL;
	char filler[120];
	uint32_t slot = 0;
	unsigned n = 0;
	int fd, r = 0;

	setup();
	if (!small_disk()) {
		printf("# no mounts here: not tested\n");
		teardown();
		return;
	}
	state_dir_close(state_dir);
	ck_assert_int_eq(state_dir_open(dir, err, sizeof(err), &state_dir), 0);
	open_it();
	put_head(1);
	/* Room for the first table, not for the third. */
	while (n < AUDIT_STATE_CALLS_MAX && (r = audit_state_call_open(state, id_of(n), &slot)) == 0)
		n++;
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_uint_eq(slot, AUDIT_STATE_NO_SLOT);
	ck_assert(n >= 4096 && n < AUDIT_STATE_CALLS_MAX);
	put_head(2);
	close_it(false);
	open_it();
	expect_head(2);
	ck_assert_uint_eq(old.n_open, n);
	close_it(false);
	/* No room for any. */
	ck_assert_int_eq(unlink(file), 0);
	snprintf(filler, sizeof(filler), "%s/filler", dir);
	fd = open(filler, O_WRONLY | O_CREAT, 0600);
	while (write(fd, good, 4096) > 0)
		;
	close(fd);
	ck_assert_int_eq(audit_state_open(state_dir, &none, &old), -ENOSPC);
	state_dir = state_dir_close(state_dir);
	audit_state_old_done(&old);
	ck_assert_int_eq(umount2(dir, MNT_DETACH), 0);
	rmdir(dir);
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
	printf("# %.2f us a call (two heads, and making the texts), at most %.0f us\n", (double)(before - start) / ROUNDS / 1e3,
	       (double)worst / 1e3);
	teardown();
}
END_TEST

UNIT_MAIN("audit_state", ADD(heads_and_calls) ADD(a_clean_stop) ADD(old_calls_stay_until_told) ADD(looked_at_while_in_use) ADD(ids_of_any_length)
	  ADD(the_table_grows) ADD(killed_at_any_time) ADD(killed_after_each_instruction) ADD(single_bytes)
	  ADD(a_million_bytes) ADD(cut_at_any_length) ADD(no_file_at_all) tcase_add_loop_test(tc, cut_while_mapped, 0, 2); ADD(only_this_file)
	  ADD(the_disk_is_full) ADD(speed))
