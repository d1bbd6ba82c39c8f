#include "daemon/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log_limit.h"

enum {
	LISTENER_MAGIC = 0x4c49534e,
	ACCEPTS_PER_TURN = 64,
	STARVED_PAUSE_MS = 100,
};

struct listener {
	unsigned magic;
	struct loop *loop;
	listen_fn *fn;
	void *user;
	int fd;
	bool tcp;
	uint16_t port;
	struct event *event;
	struct event *retry;
	struct log_limit starved;
	char *path;
	dev_t dev;
	ino_t ino;
};

static void listener_release(void *p)
{
	struct listener *ln = p;

	CHECK_OBJ(ln, LISTENER_MAGIC);
	free(ln->path);
	ln->magic = 0;
	free(ln);
}

struct listener *listener_free(struct listener *ln)
{
	struct stat st;

	if (!ln)
		return NULL;
	CHECK_OBJ(ln, LISTENER_MAGIC);
	if (ln->event)
		event_free(ln->event);
	if (ln->retry)
		event_free(ln->retry);
	ln->event = ln->retry = NULL;
	log_limit_done(&ln->starved);
	if (ln->path && lstat(ln->path, &st) == 0 && st.st_dev == ln->dev && st.st_ino == ln->ino)
		unlink(ln->path);
	if (ln->fd >= 0)
		close(ln->fd);
	ln->fd = -1;
	loop_free_later(ln->loop, listener_release, ln);
	return NULL;
}

static void starved(struct listener *ln, int error)
{
	const struct timeval tv = { .tv_usec = STARVED_PAUSE_MS * 1000 };

	event_del(ln->event);
	event_add(ln->retry, &tv);
	log_limited(&ln->starved, LOG_LEVEL_ERROR, NULL, 0, "cannot accept connections: %s; trying again every %d ms", strerror(error),
		    STARVED_PAUSE_MS);
}

static void on_accept(evutil_socket_t fd, short what, void *user)
{
	struct listener *ln = user;
	int one = 1;
	int conn;

	CHECK_OBJ(ln, LISTENER_MAGIC);
	for (int i = 0; i < ACCEPTS_PER_TURN && ln->fd >= 0; i++) {
		conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (conn >= 0) {
			if (ln->tcp)
				setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			ln->fn(ln->user, conn);
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			return;
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			starved(ln, errno);
			return;
		}
		/* Anything else concerns the one connection (accept(2)): on to the next. */
	}
}

static void on_retry(evutil_socket_t fd, short what, void *user)
{
	struct listener *ln = user;

	CHECK_OBJ(ln, LISTENER_MAGIC);
	event_add(ln->event, NULL);
}

static int listener_new(struct loop *l, listen_fn *fn, void *user, struct listener **ret)
{
	struct listener *ln = calloc(1, sizeof(*ln));

	if (!ln)
		return -ENOMEM;
	*ln = (struct listener){ .magic = LISTENER_MAGIC, .loop = l, .fn = fn, .user = user, .fd = -1, .starved.lines = 1 };
	*ret = ln;
	return 0;
}

static int listener_start(struct listener *ln)
{
	if (listen(ln->fd, SOMAXCONN) < 0)
		return -errno;
	ln->event = event_new(loop_base(ln->loop), ln->fd, EV_READ | EV_PERSIST, on_accept, ln);
	ln->retry = event_new(loop_base(ln->loop), -1, 0, on_retry, ln);
	if (!ln->event || !ln->retry || event_add(ln->event, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static int bind_tcp(struct listener *ln, const struct addrinfo *ai)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);
	int one = 1;

	ln->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ln->fd < 0)
		return -errno;
	setsockopt(ln->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(ln->fd, ai->ai_addr, ai->ai_addrlen) < 0 || getsockname(ln->fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	ln->tcp = true;
	/* At the same place in both families. */
	/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): getsockname() has written it. */
	ln->port = ntohs(((struct sockaddr_in *)(void *)&sa)->sin_port);
	return listener_start(ln);
}

int listen_tcp(struct loop *l, const char *addr, uint16_t port, listen_fn *fn, void *user, struct listener **ret)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *ai = NULL;
	struct listener *ln;
	char service[8];
	int r;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(addr, service, &hints, &ai) != 0)
		return -EINVAL;
	r = listener_new(l, fn, user, &ln);
	if (r == 0) {
		r = bind_tcp(ln, ai);
		if (r < 0)
			listener_free(ln);
	}
	freeaddrinfo(ai);
	if (r == 0)
		*ret = ln;
	return r;
}

/* Two that are bound and may be reused are not in each other's way; one that listens is. */
int listen_try_tcp(const char *addr, uint16_t port)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *ai = NULL;
	char service[8];
	int fd, one = 1, r = 0;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(addr, service, &hints, &ai) != 0)
		return -EINVAL;
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	freeaddrinfo(ai);
	return r;
}

/* 0: the way is free, or (remove) has been made so. -EADDRINUSE: somebody listens there, or it is not a socket. */
static int remove_stale(const struct sockaddr_un *un, bool remove)
{
	struct stat st;
	int fd, r = -EADDRINUSE;

	if (lstat(un->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EADDRINUSE;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 && errno == ECONNREFUSED)
		r = remove && unlink(un->sun_path) < 0 && errno != ENOENT ? -errno : 0;
	close(fd);
	return r;
}

int listen_try_unix(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (!*path || strlen(path) >= sizeof(un.sun_path))
		return *path ? -ENAMETOOLONG : -EINVAL;
	memcpy(un.sun_path, path, strlen(path) + 1);
	if (!copy)
		return -ENOMEM;
	if (faccessat(AT_FDCWD, dirname(copy), W_OK | X_OK, AT_EACCESS) < 0)
		return -errno;
	return remove_stale(&un, false);
}

static int bind_unix(struct listener *ln, const struct sockaddr_un *un)
{
	const mode_t mode = 0660;
	struct stat st;
	int r;

	r = remove_stale(un, true);
	if (r < 0)
		return r;
	ln->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ln->fd < 0)
		return -errno;
	/* bind() takes the file's mode from the socket, less the umask: never wider than wanted, then exactly that. */
	if (fchmod(ln->fd, mode) < 0 || bind(ln->fd, (const struct sockaddr *)un, sizeof(*un)) < 0)
		return -errno;
	ln->path = strdup(un->sun_path);
	if (lstat(un->sun_path, &st) < 0)
		return -errno;
	ln->dev = st.st_dev;
	ln->ino = st.st_ino;
	if (!ln->path || chmod(un->sun_path, mode) < 0)
		return ln->path ? -errno : -ENOMEM;
	return listener_start(ln);
}

int listen_unix(struct loop *l, const char *path, listen_fn *fn, void *user, struct listener **ret)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct listener *ln;
	int r;

	if (!*path)
		return -EINVAL;
	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path) + 1);
	r = listener_new(l, fn, user, &ln);
	if (r < 0)
		return r;
	r = bind_unix(ln, &un);
	if (r < 0) {
		listener_free(ln);
		return r;
	}
	*ret = ln;
	return 0;
}

uint16_t listener_port(const struct listener *ln)
{
	CHECK_OBJ(ln, LISTENER_MAGIC);
	return ln->port;
}
