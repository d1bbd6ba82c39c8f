#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/state_case.h"

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
	ck_assert_msg(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) % 99 != 0, "%x",
		      (unsigned)status);
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

UNIT_MAIN("audit_state_damage", ADD(single_bytes) ADD(a_million_bytes) ADD(cut_at_any_length) ADD(no_file_at_all)
					tcase_add_loop_test(tc, cut_while_mapped, 0, 2);
	  ADD(only_this_file) ADD(the_disk_is_full))
