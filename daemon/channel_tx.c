#include <errno.h>
#include <string.h>

#include "daemon/channel_private.h"

enum {
	PULLS_PER_TURN = 4,
	DISCARDS_PER_TURN = 8,
	CLOSE_PULL_BYTES = 16 * 1024, /* one TLS record */
};

static void send_failed(struct channel *c, int error)
{
	c->tx_error = error;
	c->blocked = false;
	buf_clear(&c->pending);
	/* The task reads what the peer may have said before it went. */
	loop_task_queue_next(c->loop, &c->task);
}

/* How much is dealt with: sent, or of no use any more. */
static size_t send_some(struct channel *c, const uint8_t *p, size_t len)
{
	ssize_t n;

	if (c->tx_error)
		return len;
	do {
		n = send(c->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
		send_failed(c, errno);
		return len;
	}
	c->blocked = n < (ssize_t)len;
	return n < 0 ? 0 : (size_t)n;
}

static void send_pending(struct channel *c)
{
	size_t len = buf_len(&c->pending);
	size_t n;

	if (!len)
		return;
	n = send_some(c, buf_bytes(&c->pending), len);
	if (!c->tx_error)
		buf_drop(&c->pending, n);
}

void channel_send(struct channel *c, const uint8_t *p, size_t len)
{
	size_t n = 0;
	int r;

	if (!c->blocked)
		send_pending(c);
	if (!c->blocked)
		n = send_some(c, p, len);
	r = c->tx_error ? 0 : buf_add(&c->pending, p + n, len - n);
	if (r < 0) {
		send_failed(c, -r);
		channel_fault(c, -r);
	}
	channel_watch_write(c);
}

void channel_send_pumped(struct channel *c)
{
	size_t len = c->pump.out_len;

	c->pump.out_len = 0;
	if (len)
		channel_send(c, c->pump.out, len);
}

static void push(struct channel *c, const uint8_t *p, size_t len)
{
	c->dirty = true;
	if (!c->pump.ssl) {
		channel_send(c, p, len);
		return;
	}
	if (tls_pump_write(&c->pump, p, len) != TLS_DONE)
		channel_fault(c, ENOBUFS);
	channel_send_pumped(c);
}

static size_t pull(struct channel *c, uint8_t *dst, size_t room)
{
	size_t n;

	c->want = false;
	c->pulling = true;
	n = c->ops->on_pull(c->user, dst, room);
	c->pulling = false;
	assert(n <= room);
	return c->state == CHANNEL_CLOSED ? 0 : n;
}

static void close_begin(struct channel *c)
{
	c->ops = NULL;
	c->want = false;
	c->state = CHANNEL_CLOSING;
	loop_task_queue_at_free(c->loop, &c->abandoned);
	if (c->pump.ssl) {
		tls_pump_shutdown(&c->pump);
		channel_send_pumped(c);
	}
	channel_set_watch(c, WATCH_READ);
	channel_set_timer(c, c->linger_ms);
	channel_close_advance(c);
}

static bool can_pull(const struct channel *c)
{
	return c->state == CHANNEL_OPEN && c->want && !c->blocked && !c->tx_error && !c->fault;
}

static void pull_and_push(struct channel *c)
{
	uint8_t *room = loop_tx(c->loop);
	size_t n = pull(c, room, LOOP_TX_BYTES);

	if (n)
		push(c, room, n);
	if (n == LOOP_TX_BYTES)
		c->want = true;
	if (c->closing && c->state == CHANNEL_OPEN)
		close_begin(c);
}

void channel_flush(struct channel *c)
{
	send_pending(c);
	channel_watch_write(c);
	if (c->state >= CHANNEL_CLOSING) {
		channel_close_advance(c);
		return;
	}
	for (int i = 0; i < PULLS_PER_TURN && can_pull(c); i++)
		pull_and_push(c);
	if (can_pull(c)) {
		loop_task_cancel(c->loop, &c->task);
		loop_task_queue_next(c->loop, &c->task);
	} else if (c->state == CHANNEL_OPEN && c->dirty && !c->blocked && !c->tx_error && !c->fault) {
		c->dirty = false;
		if (c->ops->on_flushed)
			c->ops->on_flushed(c->user);
	}
}

void channel_want_write(struct channel *c)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING)
		return;
	c->want = true;
	if (can_pull(c) && !c->pulling)
		loop_task_queue(c->loop, &c->task);
}

/* Not into the loop's scratch: another channel may be pulling into it further up the stack. */
static void close_drain(struct channel *c)
{
	uint8_t room[CLOSE_PULL_BYTES];
	size_t n, total = 0;

	do {
		n = pull(c, room, sizeof(room));
		total += n;
		if (total > CHANNEL_CLOSE_BYTES) {
			channel_destroy(c, true);
			return;
		}
		if (n)
			push(c, room, n);
	} while (n && !c->tx_error && !c->fault);
}

void channel_close(struct channel *c, uint64_t linger_ms)
{
	CHECK_OBJ(c, CHANNEL_MAGIC);
	if (c->state >= CHANNEL_CLOSING || c->closing)
		return;
	if (c->state != CHANNEL_OPEN) {
		channel_destroy(c, false);
		return;
	}
	c->linger_ms = linger_ms;
	c->closing = true;
	if (c->pulling)
		return;
	close_drain(c);
	if (c->state == CHANNEL_OPEN)
		close_begin(c);
}

void channel_close_advance(struct channel *c)
{
	if (c->tx_error || c->fault) {
		channel_destroy(c, c->fault);
		return;
	}
	if (c->state == CHANNEL_CLOSING && !buf_len(&c->pending)) {
		shutdown(c->fd, SHUT_WR);
		c->state = CHANNEL_LINGERING;
	}
	if (!c->linger_ms || (c->state == CHANNEL_LINGERING && c->peer_eof))
		channel_destroy(c, buf_len(&c->pending));
}

void channel_discard(struct channel *c)
{
	ssize_t n = 1;

	for (int i = 0; i < DISCARDS_PER_TURN && n > 0; i++)
		n = recv(c->fd, loop_rx(c->loop), LOOP_RX_BYTES, MSG_DONTWAIT);
	if (n == 0) {
		/* It may still be reading. */
		c->peer_eof = true;
		channel_set_watch(c, WATCH_NOTHING);
		channel_close_advance(c);
	} else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
		channel_destroy(c, false);
	}
}
