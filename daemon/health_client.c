#include "daemon/health_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { TIMEOUT_S = 10, PIECE = 16 * 1024 };

static int make_address(const struct url *u, struct sockaddr_storage *sa, socklen_t *len)
{
	struct sockaddr_in *in = (void *)sa;
	struct sockaddr_in6 *in6 = (void *)sa;
	struct sockaddr_un *un = (void *)sa;

	memset(sa, 0, sizeof(*sa));
	if (url_is_unix(u)) {
		un->sun_family = AF_UNIX;
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", u->socket);
		*len = sizeof(*un);
	} else if (u->is_ipv6) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(u->port);
		*len = sizeof(*in6);
		return inet_pton(AF_INET6, u->host, &in6->sin6_addr) == 1 ? 0 : -EINVAL;
	} else {
		in->sin_family = AF_INET;
		in->sin_port = htons(u->port);
		*len = sizeof(*in);
		return inet_pton(AF_INET, u->host, &in->sin_addr) == 1 ? 0 : -EINVAL;
	}
	return 0;
}

static int dial(const struct url *u)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_S };
	struct sockaddr_storage sa;
	socklen_t len;
	int fd, r = make_address(u, &sa, &len);

	if (r < 0)
		return r;
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    connect(fd, (struct sockaddr *)&sa, len) < 0) {
		r = errno == EINPROGRESS || errno == EAGAIN ? -ETIMEDOUT : -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int exchange(int fd, const char *request, struct buf *answer)
{
	size_t len = strlen(request), done = 0;
	uint8_t *room;
	ssize_t n = 1;
	int r;

	while (done < len) {
		n = send(fd, request + done, len - done, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		done += (size_t)n;
	}
	while (n > 0) {
		size_t want = MIN(buf_room(answer), (size_t)PIECE);

		r = want ? buf_reserve(answer, want, &room) : -ENOBUFS;
		if (r < 0)
			return r;
		n = recv(fd, room, want, 0);
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		buf_commit(answer, (size_t)n);
	}
	return 0;
}

int health_ask(const struct url *addr, const char *request, struct buf *answer, bool *ret_connected)
{
	int fd = dial(addr), r;

	*ret_connected = fd >= 0;
	if (fd < 0)
		return fd;
	r = exchange(fd, request, answer);
	close(fd);
	return r;
}

unsigned health_answer(struct span answer, struct span *ret_body)
{
	static const char *const starts[] = { "HTTP/1.1 ", "HTTP/1.0 " };
	const char *end = answer.len ? memmem(answer.p, answer.len, "\r\n\r\n", 4) : NULL;
	uint64_t status = 0;

	if (!end || answer.len < 12)
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(starts); i++)
		if (span_starts(answer, starts[i]))
			(void)span_u64(span_make(answer.p + 9, 3), &status);
	*ret_body = span_make(end + 4, answer.len - (size_t)(end + 4 - answer.p));
	return (unsigned)status;
}
