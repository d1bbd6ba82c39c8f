#include "daemon/dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/resolve.h"

enum {
	DIAL_MAGIC = 0x4449414c,
	NEXT_ATTEMPT_MS = 250, /* RFC 8305, section 8: Connection Attempt Delay */
	UNIX_RETRY_MS = 50,    /* the listener's queue is full */
	DETAIL_BYTES = 512,
};

struct attempt {
	int fd;
	struct event *event;
	struct dial *dial;
	const struct resolve_addr *addr;
};

struct dial {
	unsigned magic;
	struct loop *loop;
	dial_fn *fn;
	void *user;
	bool (*allow)(void *user, const struct sockaddr *sa);
	void *allow_user;
	char *host; /* or the path */
	uint64_t timeout_ms;
	struct resolve *resolve;
	struct loop_task task;
	struct event *next_timer;
	struct event *timer;
	struct resolve_addr addrs[RESOLVE_ADDRS]; /* in the order of trying */
	size_t n_addrs;
	size_t next;
	struct attempt attempts[RESOLVE_ADDRS];
	size_t n_attempts; /* slots used */
	size_t n_live;
	int last_error;
	const struct resolve_addr *last_addr;
};

static void dial_free(void *p)
{
	struct dial *d = p;

	CHECK_OBJ(d, DIAL_MAGIC);
	free(d->host);
	d->magic = 0;
	free(d);
}

static void attempt_end(struct attempt *a)
{
	if (a->event)
		event_free(a->event);
	a->event = NULL;
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void dial_end(struct dial *d)
{
	d->fn = NULL;
	resolve_cancel(d->resolve);
	d->resolve = NULL;
	loop_task_cancel(d->loop, &d->task);
	for (size_t i = 0; i < d->n_attempts; i++)
		attempt_end(&d->attempts[i]);
	if (d->timer)
		event_free(d->timer);
	if (d->next_timer)
		event_free(d->next_timer);
	d->timer = d->next_timer = NULL;
	loop_free_later(d->loop, dial_free, d);
}

static void dial_finish(struct dial *d, int fd, enum dial_error err, int error, const char *detail)
{
	dial_fn *fn = d->fn;
	void *user = d->user;

	dial_end(d);
	fn(user, fd, err, error, detail);
}

static void addr_text(const struct resolve_addr *addr, char *dst, size_t size)
{
	const struct sockaddr_in *in = (const void *)&addr->sa;
	const struct sockaddr_in6 *in6 = (const void *)&addr->sa;
	const struct sockaddr_un *un = (const void *)&addr->sa;
	char text[INET6_ADDRSTRLEN] = "";

	switch (addr->sa.ss_family) {
	case AF_INET:
		inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
		snprintf(dst, size, "%s:%u", text, ntohs(in->sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
		snprintf(dst, size, "[%s]:%u", text, ntohs(in6->sin6_port));
		break;
	default:
		snprintf(dst, size, "unix:%s", un->sun_path);
	}
}

static void all_failed(struct dial *d)
{
	char detail[DETAIL_BYTES], addr[160];

	addr_text(d->last_addr, addr, sizeof(addr));
	snprintf(detail, sizeof(detail), "cannot connect to %s: %s", addr, strerror(d->last_error));
	dial_finish(d, -1, DIAL_CONNECT, d->last_error, detail);
}

static void arm(struct event *e, uint64_t ms)
{
	const struct timeval tv = loop_timeval(ms);

	event_add(e, &tv);
}

/* A port of the ephemeral range on this machine can be "connected" to itself, and is then taken from the server that
 * should be there. */
static bool is_self_connected(int fd)
{
	struct sockaddr_storage a = { 0 }, b = { 0 };
	socklen_t a_len = sizeof(a), b_len = sizeof(b);

	if (getsockname(fd, (struct sockaddr *)&a, &a_len) < 0 || getpeername(fd, (struct sockaddr *)&b, &b_len) < 0)
		return false;
	return a.ss_family != AF_UNIX && a_len == b_len && memcmp(&a, &b, a_len) == 0;
}

static void attempt_won(struct dial *d, struct attempt *a)
{
	int fd = a->fd;

	a->fd = -1;
	dial_finish(d, fd, DIAL_OK, 0, "");
}

static void attempt_lost(struct dial *d, struct attempt *a, int error)
{
	d->last_error = error;
	d->last_addr = a->addr;
	attempt_end(a);
}

static void attempt_next(struct dial *d);

static void on_attempt(evutil_socket_t fd, short what, void *user)
{
	struct attempt *a = user;
	struct dial *d = a->dial;
	int error = 0;
	socklen_t len = sizeof(error);

	CHECK_OBJ(d, DIAL_MAGIC);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (!error && is_self_connected(fd))
		error = ECONNREFUSED;
	if (!error) {
		attempt_won(d, a);
		return;
	}
	d->n_live--;
	attempt_lost(d, a, error);
	attempt_next(d);
}

/* 0 connected, EINPROGRESS, or another errno. */
static int attempt_connect(struct dial *d, struct attempt *a)
{
	int one = 1;

	a->fd = socket(a->addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->fd < 0)
		return errno;
	if (a->addr->sa.ss_family != AF_UNIX)
		setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(a->fd, (const struct sockaddr *)&a->addr->sa, a->addr->len) == 0)
		return is_self_connected(a->fd) ? ECONNREFUSED : 0;
	if (errno != EINPROGRESS)
		return errno;
	a->event = event_new(loop_base(d->loop), a->fd, EV_WRITE, on_attempt, a);
	return a->event && event_add(a->event, NULL) == 0 ? EINPROGRESS : ENOMEM;
}

static void attempt_next(struct dial *d)
{
	struct attempt *a;
	int r;

	while (d->next < d->n_addrs) {
		a = &d->attempts[d->n_attempts++];
		*a = (struct attempt){ .fd = -1, .dial = d, .addr = &d->addrs[d->next++] };
		r = attempt_connect(d, a);
		if (r == 0) {
			attempt_won(d, a);
			return;
		}
		if (r == EINPROGRESS) {
			d->n_live++;
			if (d->next < d->n_addrs)
				arm(d->next_timer, NEXT_ATTEMPT_MS);
			return;
		}
		attempt_lost(d, a, r);
		if (r == EAGAIN && a->addr->sa.ss_family == AF_UNIX) {
			d->next = d->n_attempts = 0;
			arm(d->next_timer, UNIX_RETRY_MS);
			return;
		}
	}
	if (!d->n_live)
		all_failed(d);
}

static void on_next(evutil_socket_t fd, short what, void *user)
{
	struct dial *d = user;

	CHECK_OBJ(d, DIAL_MAGIC);
	attempt_next(d);
}

static void on_unix(void *user)
{
	struct dial *d = user;

	CHECK_OBJ(d, DIAL_MAGIC);
	attempt_next(d);
}

/* The resolver's order (RFC 6724), but the families take turns (RFC 8305, section 4). */
static void take_addrs(struct dial *d, const struct resolve_addr *addrs, size_t n)
{
	bool taken[RESOLVE_ADDRS] = { false };
	sa_family_t family = addrs[0].sa.ss_family;

	for (size_t left = n; left; left--) {
		size_t pick = n;

		for (size_t i = n; i-- > 0;) {
			bool worse = pick < n && addrs[pick].sa.ss_family == family && addrs[i].sa.ss_family != family;

			if (!taken[i] && !worse)
				pick = i;
		}
		taken[pick] = true;
		family = addrs[pick].sa.ss_family == AF_INET ? AF_INET6 : AF_INET;
		if (!d->allow || d->allow(d->allow_user, (const struct sockaddr *)&addrs[pick].sa))
			d->addrs[d->n_addrs++] = addrs[pick];
	}
}

static void on_resolved(void *user, int gai_error, const struct resolve_addr *addrs, size_t n)
{
	struct dial *d = user;
	char detail[DETAIL_BYTES];

	CHECK_OBJ(d, DIAL_MAGIC);
	d->resolve = NULL;
	if (gai_error) {
		snprintf(detail, sizeof(detail), "cannot resolve %s: %s", d->host, gai_strerror(gai_error));
		dial_finish(d, -1, DIAL_RESOLVE, gai_error, detail);
		return;
	}
	take_addrs(d, addrs, n);
	if (!d->n_addrs) {
		snprintf(detail, sizeof(detail), "no address of %s is allowed", d->host);
		dial_finish(d, -1, DIAL_REFUSED_BY_POLICY, EACCES, detail);
		return;
	}
	attempt_next(d);
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	struct dial *d = user;
	char detail[DETAIL_BYTES];

	CHECK_OBJ(d, DIAL_MAGIC);
	snprintf(detail, sizeof(detail), "cannot %s %s within %llu ms", d->resolve ? "resolve" : "connect to", d->host,
		 (unsigned long long)d->timeout_ms);
	dial_finish(d, -1, DIAL_TIMEOUT, ETIMEDOUT, detail);
}

static int dial_unix(struct dial *d, const char *path)
{
	struct sockaddr_un *un = (void *)&d->addrs[0].sa;

	if (!*path || strlen(path) >= sizeof(un->sun_path))
		return -EINVAL;
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, strlen(path) + 1);
	d->addrs[0].len = sizeof(*un);
	d->n_addrs = 1;
	loop_task_queue(d->loop, &d->task);
	return 0;
}

static int dial_begin(struct dial *d, const struct dial_target *t)
{
	const char *name = t->unix_path ? t->unix_path : t->host;

	if (!name)
		return -EINVAL;
	d->host = strdup(name);
	d->timer = event_new(loop_base(d->loop), -1, 0, on_timeout, d);
	d->next_timer = event_new(loop_base(d->loop), -1, 0, on_next, d);
	if (!d->host || !d->timer || !d->next_timer)
		return -ENOMEM;
	if (t->timeout_ms)
		arm(d->timer, t->timeout_ms);
	if (t->unix_path)
		return dial_unix(d, t->unix_path);
	return resolve_start(d->loop, t->host, t->port, on_resolved, d, &d->resolve);
}

int dial_start(struct loop *l, const struct dial_target *target, dial_fn *fn, void *user, struct dial **ret)
{
	struct dial *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->magic = DIAL_MAGIC;
	d->loop = l;
	d->fn = fn;
	d->user = user;
	d->allow = target->allow;
	d->allow_user = target->allow_user;
	d->timeout_ms = target->timeout_ms;
	loop_task_init(&d->task, on_unix, d);
	r = dial_begin(d, target);
	if (r < 0) {
		dial_end(d);
		return r;
	}
	*ret = d;
	return 0;
}

void dial_cancel(struct dial *d)
{
	if (!d)
		return;
	CHECK_OBJ(d, DIAL_MAGIC);
	dial_end(d);
}
