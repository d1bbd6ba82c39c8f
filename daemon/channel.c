#include "daemon/channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/channel_private.h"
#include "daemon/tls.h"

static void channel_free(void *p)
{
	struct channel *c = p;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	tls_pump_done(&c->pump);
	buf_done(&c->pending);
	buf_done(&c->held);
	c->magic = 0;
	free(c);
}

void channel_destroy(struct channel *c, bool reset)
{
	const struct linger hard = { .l_onoff = 1 };

	if (c->state == CHANNEL_CLOSED)
		return;
	c->state = CHANNEL_CLOSED;
	c->ops = NULL;
	event_del(&c->io);
	event_del(&c->write);
	event_del(&c->timer);
	loop_task_cancel(c->loop, &c->task);
	loop_task_cancel(c->loop, &c->abandoned);
	if (reset)
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(c->fd);
	c->fd = -1;
	if (c->on_gone)
		c->on_gone(c->gone_user);
	loop_free_later(c->loop, channel_free, c);
}

void channel_end(struct channel *c, enum channel_end end, int error, const char *detail)
{
	const struct channel_ops *ops = c->ops;
	void *user = c->user;

	assert(c->state < CHANNEL_CLOSING);
	if (end == CHANNEL_EOF && c->pump.ssl) {
		tls_pump_shutdown(&c->pump);
		channel_send_pumped(c);
	}
	channel_destroy(c, false);
	ops->on_closed(user, end, error, detail);
}

void channel_end_errno(struct channel *c, int error)
{
	bool gone = error == ECONNRESET || error == EPIPE || error == ETIMEDOUT || error == ECONNABORTED;

	channel_end(c, gone ? CHANNEL_RESET : CHANNEL_ERROR, error, strerror(error));
}

void channel_fault(struct channel *c, int error)
{
	c->fault = error;
	loop_task_queue(c->loop, &c->task);
}

void channel_set_timer(struct channel *c, uint64_t ms)
{
	const struct timeval tv = loop_timeval(ms);

	if (event_add(&c->timer, &tv) < 0)
		channel_fault(c, ENOMEM);
}

void channel_watch_write(struct channel *c)
{
	bool wanted = c->watch != WATCH_GONE && (c->blocked || c->state == CHANNEL_CONNECTING);

	if (wanted == (bool)event_pending(&c->write, EV_WRITE, NULL))
		return;
	if (!wanted)
		event_del(&c->write);
	else if (event_add(&c->write, NULL) < 0)
		channel_fault(c, ENOMEM);
}

static void on_io(evutil_socket_t fd, short what, void *user)
{
	struct channel *c = user;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING) {
		channel_discard(c);
	} else if (c->watch == WATCH_READ) {
		channel_read(c);
	} else {
		if (what & EV_WRITE && c->blocked)
			channel_flush(c);
		if (c->state == CHANNEL_OPEN && c->watch == WATCH_GONE)
			channel_check_gone(c, what & EV_CLOSED);
	}
}

void channel_set_watch(struct channel *c, enum channel_watch watch)
{
	static const short events[] = {
		[WATCH_READ] = EV_READ | EV_PERSIST,
		[WATCH_GONE] = EV_CLOSED | EV_WRITE | EV_ET | EV_PERSIST,
	};

	if (watch == c->watch)
		return;
	event_del(&c->io);
	c->watch = watch;
	/* libevent does not allow edges and levels side by side on one descriptor. */
	if (watch == WATCH_GONE)
		channel_watch_write(c);
	if (watch != WATCH_NOTHING) {
		event_assign(&c->io, loop_base(c->loop), c->fd, events[watch], on_io, c);
		if (event_add(&c->io, NULL) < 0)
			channel_fault(c, ENOMEM);
	}
	channel_watch_write(c);
}

void channel_opened(struct channel *c)
{
	c->state = CHANNEL_OPEN;
	event_del(&c->timer);
	if (c->ops->on_open)
		c->ops->on_open(c->user);
	if (c->state == CHANNEL_OPEN && c->want)
		loop_task_queue(c->loop, &c->task);
}

static void connected(struct channel *c)
{
	socklen_t len = sizeof(c->peer);

	/* A peer that has gone meanwhile shows in the first read. A UNIX name is cut off: only its family is used. */
	getpeername(c->fd, (struct sockaddr *)&c->peer, &len);
	c->state = CHANNEL_HANDSHAKE;
	channel_set_watch(c, WATCH_READ);
	channel_watch_write(c);
	if (c->pump.ssl)
		channel_handshake(c);
	else
		channel_opened(c);
}

static void on_writable(evutil_socket_t fd, short what, void *user)
{
	struct channel *c = user;
	int error = 0;
	socklen_t len = sizeof(error);
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof(peer);

	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state != CHANNEL_CONNECTING) {
		channel_flush(c);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ||
	    (!error && getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0))
		error = errno;
	if (error)
		channel_end(c, CHANNEL_CONNECT, error, strerror(error));
	else
		connected(c);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct channel *c = user;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING)
		channel_destroy(c, buf_len(&c->pending));
	else if (c->state == CHANNEL_CONNECTING)
		channel_end(c, CHANNEL_TIMEOUT, ETIMEDOUT, "no connection within the time allowed");
	else
		channel_end(c, CHANNEL_TIMEOUT, ETIMEDOUT, "no TLS handshake within the time allowed");
}

static void on_task(void *user)
{
	struct channel *c = user;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING) {
		channel_close_advance(c);
		return;
	}
	if (c->fault) {
		channel_end(c, CHANNEL_ERROR, c->fault, strerror(c->fault));
		return;
	}
	if (c->state == CHANNEL_CONNECTING)
		connected(c);
	if (c->state == CHANNEL_OPEN && !c->paused && buf_len(&c->held))
		channel_deliver_held(c);
	if (c->state < CHANNEL_CLOSING && c->tx_error) {
		if (c->paused)
			channel_end_errno(c, c->tx_error);
		else
			channel_read(c);
	}
	if (c->state == CHANNEL_OPEN && c->want)
		channel_flush(c);
}

static void on_abandoned(void *user)
{
	struct channel *c = user;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	channel_destroy(c, buf_len(&c->pending));
}

static int channel_start(struct channel *c, const struct channel_options *opt)
{
	int lowat = (int)MIN(opt->notsent_lowat, (uint32_t)INT32_MAX);
	socklen_t len = sizeof(c->peer);

	event_assign(&c->io, loop_base(c->loop), c->fd, EV_READ | EV_PERSIST, on_io, c);
	event_assign(&c->write, loop_base(c->loop), c->fd, EV_WRITE | EV_PERSIST, on_writable, c);
	event_assign(&c->timer, loop_base(c->loop), -1, 0, on_timer, c);
	/* Not TCP: no harm. */
	if (lowat)
		setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
	if (opt->open_timeout_ms)
		channel_set_timer(c, opt->open_timeout_ms);
	if (opt->server || getpeername(c->fd, (struct sockaddr *)&c->peer, &len) == 0)
		loop_task_queue(c->loop, &c->task);
	else if (errno == ENOTCONN)
		channel_watch_write(c);
	else
		return -errno;
	return c->fault ? -c->fault : 0;
}

int channel_new(struct loop *l, int take_fd, const struct channel_options *opt, const struct channel_ops *ops,
		void *user, struct channel **ret)
{
	struct channel *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c) {
		close(take_fd);
		return -ENOMEM;
	}
	c->magic = CHANNEL_MAGIC;
	c->fd = take_fd;
	c->loop = l;
	c->ops = ops;
	c->user = user;
	buf_init(&c->pending, CHANNEL_PENDING_BYTES);
	buf_init(&c->held, LOOP_RX_BYTES);
	loop_task_init(&c->task, on_task, c);
	loop_task_init(&c->abandoned, on_abandoned, c);
	if (opt->tls)
		r = tls_pump_init(&c->pump, opt->tls, opt->server, opt->server_name, l, &c->pending);
	if (r < 0) {
		close(take_fd);
		channel_free(c);
		return r;
	}
	r = channel_start(c, opt);
	if (r < 0) {
		channel_destroy(c, false);
		return r;
	}
	*ret = c;
	return 0;
}

void channel_set_ops(struct channel *c, const struct channel_ops *ops, void *user)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING)
		return;
	c->ops = ops;
	c->user = user;
}

void channel_when_gone(struct channel *c, void (*on_gone)(void *user), void *user)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	assert(c->state != CHANNEL_CLOSED);
	c->on_gone = on_gone;
	c->gone_user = user;
}

void channel_pause(struct channel *c, bool paused)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	/* The watch changes only when something does arrive: most pauses are over before that. */
	c->paused = paused;
	if (paused || c->state != CHANNEL_OPEN)
		return;
	channel_set_watch(c, WATCH_READ);
	if (buf_len(&c->held))
		loop_task_queue(c->loop, &c->task);
}

void channel_abort(struct channel *c, bool reset)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	channel_destroy(c, reset);
}

bool channel_tls_peer(const struct channel *c, struct tls_peer *ret)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	return c->state == CHANNEL_OPEN && c->pump.ssl && tls_session_peer(c->pump.ssl, ret);
}

bool channel_is_open(const struct channel *c)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	return c->state == CHANNEL_OPEN;
}

int channel_fd(const struct channel *c)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	return c->fd;
}

void channel_peer_addr(const struct channel *c, char *dst, size_t size)
{
	const struct sockaddr_in *in = (const void *)&c->peer;

	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (size)
		*dst = 0;
	if (c->peer.sin6_family == AF_INET)
		inet_ntop(AF_INET, &in->sin_addr, dst, (socklen_t)size);
	else if (c->peer.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&c->peer.sin6_addr))
		inet_ntop(AF_INET, c->peer.sin6_addr.s6_addr + 12, dst, (socklen_t)size);
	else if (c->peer.sin6_family == AF_INET6)
		inet_ntop(AF_INET6, &c->peer.sin6_addr, dst, (socklen_t)size);
	else if (c->peer.sin6_family == AF_UNIX)
		snprintf(dst, size, "unix");
}

void channel_peer(const struct channel *c, char *dst, size_t size)
{
	char addr[INET6_ADDRSTRLEN];

	channel_peer_addr(c, addr, sizeof(addr));
	/* The port is at the same place in both families. */
	if (strchr(addr, ':'))
		snprintf(dst, size, "[%s]:%u", addr, ntohs(c->peer.sin6_port));
	else if (strchr(addr, '.'))
		snprintf(dst, size, "%s:%u", addr, ntohs(c->peer.sin6_port));
	else
		snprintf(dst, size, "%s", addr);
}
