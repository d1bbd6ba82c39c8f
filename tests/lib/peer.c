#include "tests/lib/peer.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIFE_S = 60, CHUNK = 64 * 1024 };

static int say_fd, wait_fd;
static char chunk[CHUNK];

static int listen_on(const char *path, uint16_t *ret_port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(in);
	int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);

	ck_assert_int_ge(fd, 0);
	if (path) {
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
		ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	} else {
		ck_assert_int_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
		ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&in, &len), 0);
		*ret_port = ntohs(in.sin_port);
	}
	ck_assert_int_eq(listen(fd, 16), 0);
	return fd;
}

void peer_start(struct peer *p, peer_fn *fn, const char *path)
{
	int said[2], told[2], ln = listen_on(path, &p->port);

	ck_assert_int_eq(pipe(said), 0);
	ck_assert_int_eq(pipe(told), 0);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0) {
		alarm(LIFE_S);
		signal(SIGPIPE, SIG_IGN);
		close(said[0]);
		close(told[1]);
		say_fd = said[1];
		wait_fd = told[0];
		fn(ln);
		_exit(0);
	}
	close(ln);
	close(said[1]);
	close(told[0]);
	p->said = said[0];
	p->told = told[1];
}

void peer_finish(struct peer *p)
{
	int status;

	close(p->told);
	ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
	close(p->said);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the peer's script: status 0x%x", (unsigned)status);
}

int peer_has_said(const struct peer *p)
{
	struct pollfd pfd = { .fd = p->said, .events = POLLIN };
	char byte;

	return poll(&pfd, 1, 0) == 1 && read(p->said, &byte, 1) == 1;
}

void peer_tell(const struct peer *p)
{
	ck_assert_int_eq(write(p->told, "x", 1), 1);
}

/* ---- in the child ---- */

void peer_check(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "peer: %s (errno %d)\n", what, errno);
	_exit(1);
}

int peer_accept(int ln)
{
	int fd = accept(ln, NULL, NULL);

	peer_check(fd >= 0, "accept");
	return fd;
}

void peer_expect(int fd, const char *text)
{
	char got[4096];
	size_t len = strlen(text), at = 0;

	peer_check(len < sizeof(got), "a text that is short enough");
	while (at < len) {
		ssize_t n = read(fd, got + at, len - at);

		peer_check(n > 0, text);
		at += (size_t)n;
		if (memcmp(got, text, at) != 0)
			fprintf(stderr, "peer: got %.*s\n", (int)at, got);
		peer_check(memcmp(got, text, at) == 0, text);
	}
}

void peer_expect_until(int fd, const char *text)
{
	size_t len = strlen(text), at = 0;
	char got[8192];

	while (at < len || memcmp(got + at - len, text, len) != 0) {
		peer_check(at < sizeof(got) && read(fd, got + at, 1) == 1, text);
		at++;
	}
}

void peer_take(int fd, uint64_t n)
{
	while (n) {
		ssize_t got = read(fd, chunk, n < CHUNK ? (size_t)n : CHUNK);

		peer_check(got > 0, "more bytes");
		n -= (uint64_t)got;
	}
}

void peer_expect_end(int fd)
{
	char byte;
	ssize_t n = read(fd, &byte, 1);

	peer_check(n == 0 || (n < 0 && errno == ECONNRESET), "the end of the connection");
}

void peer_drop_until_end(int fd)
{
	while (read(fd, chunk, CHUNK) > 0)
		;
}

void peer_send(int fd, const char *text)
{
	size_t len = strlen(text);

	peer_check(send(fd, text, len, 0) == (ssize_t)len, "send");
}

void peer_send_bulk(int fd, uint64_t n)
{
	while (n) {
		ssize_t sent = send(fd, chunk, n < CHUNK ? (size_t)n : CHUNK, 0);

		peer_check(sent > 0, "send of bulk");
		n -= (uint64_t)sent;
	}
}

uint64_t peer_send_what_fits(int fd, uint64_t most, int quiet_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };
	uint64_t sum = 0;

	while (sum < most && poll(&pfd, 1, quiet_ms) == 1) {
		ssize_t n = send(fd, chunk, most - sum < CHUNK ? (size_t)(most - sum) : CHUNK, MSG_DONTWAIT);

		peer_check(n > 0, "send of what fits");
		sum += (uint64_t)n;
	}
	return sum;
}

void peer_close(int fd)
{
	close(fd);
}

void peer_reset(int fd)
{
	const struct linger hard = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(fd);
}

void peer_say(void)
{
	peer_check(write(say_fd, "x", 1) == 1, "say");
}

void peer_wait(void)
{
	char byte;

	peer_check(read(wait_fd, &byte, 1) == 1, "wait");
}
