#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/state_dir.h"
#include "tests/lib/unit.h"

static char dir[64], state[80], err[300];

static void setup(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test_state_dir.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(state, sizeof(state), "%s/state", dir);
}

static void teardown(void)
{
	char command[120];

	snprintf(command, sizeof(command), "rm -r '%s'", dir);
	ck_assert_int_eq(system(command), 0);
}

static struct state_dir *open_it(void)
{
	struct state_dir *d = NULL;

	ck_assert_msg(state_dir_open(state, err, sizeof(err), &d) == 0, "%s", err);
	return d;
}

static unsigned mode_of(const char *name)
{
	char path[200];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", state, name);
	ck_assert_int_eq(lstat(path, &st), 0);
	return st.st_mode & 07777;
}

START_TEST(made_and_private)
{
	struct state_dir *d;

	setup();
	umask(0);
	d = open_it();
	ck_assert_uint_eq(mode_of("."), 0700);
	ck_assert_uint_eq(mode_of("pid"), 0600);
	ck_assert_str_eq(state_dir_path(d), state);
	ck_assert_int_eq(faccessat(state_dir_fd(d), "pid", F_OK, 0), 0);
	ck_assert_int_eq(state_dir_write(d, "a", "1", 1), 0);
	ck_assert_uint_eq(mode_of("a"), 0600);
	state_dir_close(d);
	/* One that is there keeps its mode. */
	ck_assert_int_eq(chmod(state, 0750), 0);
	state_dir_close(open_it());
	ck_assert_uint_eq(mode_of("."), 0750);
	ck_assert_ptr_null(state_dir_close(NULL));
	teardown();
}
END_TEST

/* By hand as root first, as a service then: what root made is its parent's owner's. */
START_TEST(made_by_root)
{
	static const char *const names[] = { ".", "pid", "a" };
	char path[200];
	struct stat st;
	struct state_dir *d;

	if (geteuid() != 0)
		return;
	setup();
	ck_assert_int_eq(chown(dir, 12345, 54321), 0);
	d = open_it();
	ck_assert_int_eq(state_dir_write(d, "a", "1", 1), 0);
	state_dir_close(d);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", state, names[i]);
		ck_assert_int_eq(stat(path, &st), 0);
		ck_assert_msg(st.st_uid == 12345 && st.st_gid == 54321, "%s: %u:%u", path, st.st_uid, st.st_gid);
	}
	/* A directory that was there stays whose it is. */
	ck_assert_int_eq(chown(state, 0, 0), 0);
	state_dir_close(open_it());
	ck_assert_int_eq(stat(state, &st), 0);
	ck_assert_uint_eq(st.st_uid, 0);
	teardown();
}
END_TEST

START_TEST(one_process_at_a_time)
{
	struct state_dir *d, *other = NULL;
	char pid[24] = "", expect[24];
	size_t len = 0;
	int pipes[2];
	pid_t child;

	setup();
	ck_assert_int_eq(pipe(pipes), 0);
	child = fork();
	if (child == 0) {
		/* Without check's asserts: they write to a pipe that both processes have. */
		if (state_dir_open(state, err, sizeof(err), &d) < 0 || write(pipes[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	ck_assert_int_eq(read(pipes[0], pid, 1), 1);
	ck_assert_int_eq(state_dir_open(state, err, sizeof(err), &other), -EBUSY);
	ck_assert_ptr_null(other);
	ck_assert_msg(strstr(err, state) && strstr(err, "in use by another process"), "%s", err);
	/* A killed process has it no more. */
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	d = open_it();
	ck_assert_int_eq(state_dir_open(state, err, sizeof(err), &other), -EBUSY);
	ck_assert_int_eq(state_dir_read(d, "pid", pid, sizeof(pid) - 1, &len), 0);
	pid[len] = '\0';
	snprintf(expect, sizeof(expect), "%d\n", getpid());
	ck_assert_str_eq(pid, expect);
	state_dir_close(d);
	state_dir_close(open_it());
	teardown();
}
END_TEST

START_TEST(what_cannot_be_opened)
{
	struct state_dir *d = NULL;
	char path[200];

	setup();
	snprintf(path, sizeof(path), "%s/none/state", dir);
	ck_assert_int_eq(state_dir_open(path, err, sizeof(err), &d), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, path));
	snprintf(path, sizeof(path), "%s/file", dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(state_dir_open(path, err, sizeof(err), &d), -ENOTDIR);
	/* A lock that leads elsewhere. */
	ck_assert_int_eq(mkdir(state, 0700), 0);
	snprintf(path, sizeof(path), "%s/pid", state);
	ck_assert_int_eq(symlink("/etc/passwd", path), 0);
	ck_assert_int_eq(state_dir_open(state, err, sizeof(err), &d), -ELOOP);
	ck_assert_ptr_nonnull(strstr(err, "cannot lock"));
	ck_assert_ptr_null(d);
	teardown();
}
END_TEST

START_TEST(small_files)
{
	char got[10] = "unchanged";
	struct state_dir *d;
	size_t len = 77;

	setup();
	d = open_it();
	ck_assert_int_eq(state_dir_read(d, "head", got, sizeof(got), &len), -ENOENT);
	ck_assert_int_eq(state_dir_write(d, "head", "0123456789", 10), 0);
	ck_assert_int_eq(state_dir_read(d, "head", got, 9, &len), -EFBIG);
	ck_assert_uint_eq(len, 77);
	ck_assert_int_eq(state_dir_read(d, "head", got, 10, &len), 0);
	ck_assert_uint_eq(len, 10);
	ck_assert_mem_eq(got, "0123456789", 10);
	ck_assert_int_eq(state_dir_write(d, "head", "", 0), 0);
	ck_assert_int_eq(state_dir_read(d, "head", got, 0, &len), 0);
	ck_assert_uint_eq(len, 0);
	ck_assert_int_eq(state_dir_remove(d, "head"), 0);
	ck_assert_int_eq(state_dir_remove(d, "head"), 0);
	ck_assert_int_eq(state_dir_read(d, "head", got, sizeof(got), &len), -ENOENT);
	state_dir_close(d);
	teardown();
}
END_TEST

START_TEST(bad_names)
{
	static const char *const names[] = { "", ".", "..", ".hidden", "a/b", "/a", "../a",
					     "0123456789012345678901234567890123456789012345678901234567890123x" };
	struct state_dir *d;
	char got[10];
	size_t len;

	setup();
	d = open_it();
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		ck_assert_int_eq(state_dir_write(d, names[i], "x", 1), -EINVAL);
		ck_assert_int_eq(state_dir_read(d, names[i], got, sizeof(got), &len), -EINVAL);
		ck_assert_int_eq(state_dir_remove(d, names[i]), -EINVAL);
	}
	state_dir_close(d);
	teardown();
}
END_TEST

/* What is left of a process that was killed in the middle, or put there: not followed, not in the way. */
START_TEST(left_behind)
{
	char path[200], got[10];
	struct state_dir *d;
	size_t len = 0;

	setup();
	d = open_it();
	snprintf(path, sizeof(path), "%s/head.new", state);
	ck_assert_int_eq(symlink("/tmp/nowhere-at-all", path), 0);
	ck_assert_int_eq(state_dir_write(d, "head", "new", 3), 0);
	ck_assert_int_eq(access(path, F_OK), -1);
	ck_assert_int_eq(state_dir_read(d, "head", got, sizeof(got), &len), 0);
	ck_assert_uint_eq(len, 3);
	/* No new one can be made: the old one stays. */
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_lt(state_dir_write(d, "head", "newer", 5), 0);
	ck_assert_int_eq(state_dir_read(d, "head", got, sizeof(got), &len), 0);
	ck_assert_uint_eq(len, 3);
	ck_assert_mem_eq(got, "new", 3);
	state_dir_close(d);
	teardown();
}
END_TEST

/* Killed at any moment, the file is whole: all of one version. */
START_TEST(replaced_whole_or_not)
{
	static char version[40000], got[sizeof(version) + 1];
	size_t len = 0;

	setup();
	for (int round = 0; round < 40; round++) {
		struct state_dir *d;
		pid_t child = fork();

		if (child == 0) {
			if (state_dir_open(state, err, sizeof(err), &d) < 0)
				_exit(1);
			for (unsigned i = 0; i < 100000; i++) {
				memset(version, (int)(i % 251), sizeof(version));
				if (state_dir_write(d, "head", version, sizeof(version)) < 0)
					_exit(1);
			}
			_exit(0);
		}
		usleep((useconds_t)(3000 + round * 700));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		d = open_it();
		if (state_dir_read(d, "head", got, sizeof(got), &len) == 0) {
			ck_assert_uint_eq(len, sizeof(version));
			for (size_t i = 1; i < len; i++)
				ck_assert_int_eq(got[i], got[0]);
		}
		state_dir_close(d);
	}
	teardown();
}
END_TEST

/* Whoever only looks is in nobody's way, and leaves nothing. */
START_TEST(looked_at_from_outside)
{
	struct state_dir_view v;
	struct state_dir *d;

	setup();
	ck_assert_int_eq(state_dir_look(state, err, sizeof(err), &v), 0);
	ck_assert(v.missing && !v.in_use);
	ck_assert_int_eq(access(state, F_OK), -1);
	d = open_it();
	ck_assert_int_eq(state_dir_look(state, err, sizeof(err), &v), 0);
	ck_assert(!v.missing && v.in_use && v.pid == getpid() && !v.foreign[0]);
	state_dir_close(d);
	ck_assert_int_eq(state_dir_look(state, err, sizeof(err), &v), 0);
	ck_assert(!v.missing && !v.in_use && v.pid == 0);
	d = open_it();
	if (geteuid() == 0) {
		ck_assert_int_eq(state_dir_write(d, "a", "1", 1), 0);
		ck_assert_int_eq(fchownat(state_dir_fd(d), "a", 1, 1, 0), 0);
		ck_assert_int_eq(state_dir_look(state, err, sizeof(err), &v), 0);
		ck_assert_str_eq(v.foreign, "a");
	}
	state_dir_close(d);
	ck_assert_int_eq(state_dir_look("/nowhere/at/all", err, sizeof(err), &v), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "cannot be made"));
	ck_assert_int_eq(state_dir_look("/dev/null", err, sizeof(err), &v), -ENOTDIR);
	teardown();
}
END_TEST

UNIT_MAIN("state_dir", ADD(made_and_private) ADD(made_by_root) ADD(one_process_at_a_time) ADD(what_cannot_be_opened) ADD(small_files)
	  ADD(bad_names) ADD(looked_at_from_outside) ADD(left_behind) ADD(replaced_whole_or_not))
