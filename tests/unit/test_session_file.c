#include "gateway/session_file.h"

#include "tests/lib/unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[] = "/tmp/mcp-session-file-XXXXXX";
static struct state_dir *dir;

static void setup(void)
{
	char err[256];

	memcpy(path + strlen(path) - 6, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(path));
	ck_assert_int_eq(state_dir_open(path, err, sizeof(err), &dir), 0);
}

static void teardown(void)
{
	unlinkat(state_dir_fd(dir), "session", 0);
	unlinkat(state_dir_fd(dir), "pid", 0);
	dir = state_dir_close(dir);
	ck_assert_int_eq(rmdir(path), 0);
}

static void put(const char *text)
{
	int fd = openat(state_dir_fd(dir), "session", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const uint8_t one[TP_SESSION_ID_BYTES] = { 0x01, 0xfe, 3 }, two[TP_SESSION_ID_BYTES] = { 9, 8 };

START_TEST(is_kept)
{
	uint8_t id[TP_SESSION_ID_BYTES];
	struct stat st;

	ck_assert(!session_file_read(dir, id));
	ck_assert_int_eq(session_file_write(dir, one), 0);
	ck_assert(session_file_read(dir, id));
	ck_assert_mem_eq(id, one, sizeof(id));
	ck_assert_int_eq(session_file_write(dir, two), 0);
	ck_assert(session_file_read(dir, id));
	ck_assert_mem_eq(id, two, sizeof(id));
	ck_assert_int_eq(fstatat(state_dir_fd(dir), "session", &st, 0), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	session_file_remove(dir);
	ck_assert(!session_file_read(dir, id));
	session_file_remove(dir);
}
END_TEST

START_TEST(what_makes_no_sense_is_none)
{
	static const char *const texts[] = {
		"",
		"\n",
		"01fe03000000000000000000000000\n",
		"01fe0300000000000000000000000000",
		"01fe03000000000000000000000000000\n",
		"01fe0300000000000000000000000000\n\n",
		"01fe03000000000000000000000000zz\n",
	};
	uint8_t id[TP_SESSION_ID_BYTES];

	put("01fe0300000000000000000000000000\n");
	ck_assert(session_file_read(dir, id));
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		put(texts[i]);
		ck_assert_msg(!session_file_read(dir, id), "%s", texts[i]);
		ck_assert_int_eq(session_file_write(dir, one), 0);
		ck_assert(session_file_read(dir, id));
	}
}
END_TEST

START_TEST(a_link_is_not_followed)
{
	uint8_t id[TP_SESSION_ID_BYTES];

	ck_assert_int_eq(symlinkat("pid", state_dir_fd(dir), "session"), 0);
	ck_assert(!session_file_read(dir, id));
	ck_assert_int_lt(session_file_write(dir, one), 0);
}
END_TEST

START_TEST(without_a_directory_nothing_is_kept)
{
	uint8_t id[TP_SESSION_ID_BYTES];

	ck_assert_int_eq(session_file_write(NULL, one), 0);
	ck_assert(!session_file_read(NULL, id));
	session_file_remove(NULL);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);

UNIT_MAIN("session_file", FIXTURE ADD(is_kept) ADD(what_makes_no_sense_is_none) ADD(a_link_is_not_followed)
	  ADD(without_a_directory_nothing_is_kept))
