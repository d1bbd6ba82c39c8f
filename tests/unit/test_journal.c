#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "tests/lib/journald.h"
#include "tests/lib/unit.h"

static char dir[] = "/tmp/test_journal.XXXXXX";
static char path[100];

static int serve(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/socket", dir);
}

static void teardown(void)
{
	unlink(path);
	rmdir(dir);
}

START_TEST(encoding)
{
	static const struct journal_field fields[] = {
		{ "MESSAGE", { "a\nPRIORITY=0", 12 } },
		{ "EMPTY", { NULL, 0 } },
		{ "BYTES_2", { "\0\xff=", 3 } },
	};
	static const char expect[] = "MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n"
				     "EMPTY\n\0\0\0\0\0\0\0\0\n"
				     "BYTES_2\n\x03\0\0\0\0\0\0\0\0\xff=\n";
	struct journal *j = NULL;
	char got[200];
	int fd;

	setup();
	fd = serve();
	ck_assert_int_eq(journal_new(path, &j), 0);
	ck_assert_int_eq(journal_fd(j), -1);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(journal_send(j, fields, ARRAY_LEN(fields)), 0);
		ck_assert_int_eq(recv(fd, got, sizeof(got), 0), (ssize_t)sizeof(expect) - 1);
		ck_assert_mem_eq(got, expect, sizeof(expect) - 1);
	}
	ck_assert_int_ge(journal_fd(j), 0);
	journal_free(j);
	close(fd);
	teardown();
}
END_TEST

START_TEST(bad_names)
{
	static const char *const names[] = { "", "a", "_X", "1X", "X Y", "X=Y", "X\nY",
					     "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" };
	struct journal *j = NULL;
	char got[200];
	int fd;

	setup();
	fd = serve();
	ck_assert_int_eq(journal_new(path, &j), 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct journal_field fields[] = { { "MESSAGE", SPAN("x") }, { names[i], SPAN("y") } };

		ck_assert_int_eq(journal_send(j, fields, 2), -EINVAL);
	}
	ck_assert_int_eq(recv(fd, got, sizeof(got), 0), -1);
	journal_free(j);
	close(fd);
	teardown();
}
END_TEST

START_TEST(nobody_there)
{
	struct journal_field f = { "MESSAGE", SPAN("x") };
	struct journal *j = NULL;
	char got[200], *huge;
	int fd;

	setup();
	ck_assert_int_eq(journal_new(path, &j), 0);
	ck_assert_int_eq(journal_connect(j), -ENOENT);
	ck_assert_int_eq(journal_send(j, &f, 1), -ENOENT);
	fd = serve();
	ck_assert_int_eq(journal_send(j, &f, 1), 0);
	/* The receiver dies: its file stays, then goes, then a new one is there. */
	close(fd);
	ck_assert_int_eq(journal_send(j, &f, 1), -ECONNREFUSED);
	ck_assert_int_eq(journal_fd(j), -1);
	unlink(path);
	ck_assert_int_eq(journal_send(j, &f, 1), -ENOENT);
	fd = serve();
	ck_assert_int_eq(journal_send(j, &f, 1), 0);
	/* A restart between two records costs nothing. */
	close(fd);
	unlink(path);
	fd = serve();
	ck_assert_int_eq(journal_send(j, &f, 1), 0);
	ck_assert_int_gt(recv(fd, got, sizeof(got), 0), 0);

	huge = calloc(1, JOURNAL_RECORD_MAX);
	f.value = span_make(huge, JOURNAL_RECORD_MAX);
	ck_assert_int_eq(journal_send(j, &f, 1), -ENOBUFS);
	free(huge);
	journal_free(j);
	ck_assert_int_eq(
	    journal_new(
		"/tmp/"
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
		"xxxxxxxxxxxxxxx",
		&j),
	    -ENAMETOOLONG);
	close(fd);
	teardown();
}
END_TEST

START_TEST(full_queue_does_not_block)
{
	struct journal_field f = { "MESSAGE", SPAN("x") };
	struct journal *j = NULL;
	char got[200];
	int fd, r = 0, sent = 0;

	setup();
	fd = serve();
	ck_assert_int_eq(journal_new(path, &j), 0);
	while (sent < 100000 && (r = journal_send(j, &f, 1)) == 0)
		sent++;
	ck_assert_int_eq(r, -EAGAIN);
	ck_assert_int_gt(recv(fd, got, sizeof(got), 0), 0);
	ck_assert_int_eq(journal_send(j, &f, 1), 0);
	journal_free(j);
	close(fd);
	teardown();
}
END_TEST

/* The descriptor of a memory file from a datagram, or -1. */
static int take_fd(int sock)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr msg = { .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *c;
	int fd = -1;

	if (recvmsg(sock, &msg, 0) != 0)
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

START_TEST(large_goes_as_sealed_memfd)
{
	const size_t len = 900 * 1024;
	struct journal *j = NULL;
	char *value = malloc(len), *got = malloc(len + 100);
	struct journal_field f = { "MESSAGE", { value, len } };
	uint64_t le = htole64(len);
	int fd, mem, small = 4096;

	setup();
	fd = serve();
	memset(value, 'v', len);
	ck_assert_int_eq(journal_new(path, &j), 0);
	ck_assert_int_eq(journal_connect(j), 0);
	/* Some systems let a socket hold a megabyte. */
	ck_assert_int_eq(setsockopt(journal_fd(j), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	ck_assert_int_eq(journal_send(j, &f, 1), 0);
	mem = take_fd(fd);
	ck_assert_int_ge(mem, 0);
	ck_assert_int_eq(fcntl(mem, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	ck_assert_int_eq(pread(mem, got, len + 100, 0), (ssize_t)len + 8 + 8 + 1);
	ck_assert_int_eq(memcmp(got, "MESSAGE\n", 8), 0);
	ck_assert_int_eq(memcmp(got + 8, &le, 8), 0);
	ck_assert_int_eq(memcmp(got + 16, value, len), 0);
	close(mem);
	close(fd);
	journal_free(j);
	free(value);
	free(got);
	teardown();
}
END_TEST

/* --- against a real journald, in a mount namespace of its own --- */

static void expect_stored(sd_journal *sdj, const char *name, struct span value)
{
	const void *data = NULL;
	size_t len = 0;

	ck_assert_int_eq(sd_journal_get_data(sdj, name, &data, &len), 0);
	ck_assert_uint_eq(len, strlen(name) + 1 + value.len);
	ck_assert_mem_eq((const char *)data + strlen(name) + 1, value.p, value.len);
}

static sd_journal *find_record(const char *match)
{
	sd_journal *sdj = NULL;

	for (int i = 0; i < 500; i++) {
		if (sd_journal_open(&sdj, SD_JOURNAL_LOCAL_ONLY) == 0 && sd_journal_add_match(sdj, match, 0) >= 0 &&
		    sd_journal_next(sdj) > 0)
			return sdj;
		sd_journal_close(sdj);
		sdj = NULL;
		usleep(10000);
	}
	return NULL;
}

START_TEST(real_journald)
{
	static char big[600 * 1024];
	struct journal_field fields[] = {
		{ "MESSAGE", SPAN("first\nMCP_EVENT=forged") },
		{ "MESSAGE_ID", SPAN("b841c1811f564dbba297bc18d8dee8aa") },
		{ "PRIORITY", SPAN("6") },
		{ "MCP_EVENT", SPAN("call.request") },
		{ "MCP_BIG", { big, sizeof(big) } },
	};
	struct journal *j = NULL;
	sd_journal *sdj;

	if (!journald_enter(NULL) || !journald_start("Storage=volatile\n")) {
		printf("# no journald of our own here: not tested\n");
		return;
	}
	memset(big, 'b', sizeof(big));
	ck_assert_int_eq(journal_new(NULL, &j), 0);
	ck_assert_int_eq(journal_connect(j), 0);
	ck_assert_int_eq(journal_send(j, fields, 5), 0);
	fields[3].value = SPAN("small.one");
	ck_assert_int_eq(journal_send(j, fields, 4), 0);
	sdj = find_record("MCP_EVENT=call.request");
	ck_assert_ptr_nonnull(sdj);
	expect_stored(sdj, "MESSAGE", fields[0].value);
	expect_stored(sdj, "MESSAGE_ID", fields[1].value);
	expect_stored(sdj, "PRIORITY", fields[2].value);
	sd_journal_set_data_threshold(sdj, 0);
	expect_stored(sdj, "MCP_BIG", fields[4].value);
	sd_journal_close(sdj);
	sdj = find_record("MCP_EVENT=small.one");
	ck_assert_ptr_nonnull(sdj);
	sd_journal_close(sdj);
	journal_free(j);
	journald_kill();
}
END_TEST

UNIT_MAIN("journal", ADD(encoding) ADD(bad_names) ADD(nobody_there) ADD(full_queue_does_not_block)
	  ADD(large_goes_as_sealed_memfd) ADD(real_journald))
