#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "daemon/channel_private.h"

static ssize_t receive(struct channel *c, uint8_t *dst, size_t size)
{
	ssize_t n;

	do {
		n = recv(c->fd, dst, size, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n;
}

static void nothing_read(struct channel *c, ssize_t n, int error)
{
	if (n < 0 && (error == EAGAIN || error == EWOULDBLOCK)) {
		/* The peer takes nothing any more, and what it had sent has been handed over. */
		if (c->tx_error)
			channel_end_errno(c, c->tx_error);
	} else if (n < 0) {
		channel_end_errno(c, error);
	} else if (c->state == CHANNEL_HANDSHAKE) {
		channel_end(c, CHANNEL_TLS, 0, "the peer closed the connection during the TLS handshake");
	} else if (c->pump.ssl) {
		channel_end(c, CHANNEL_RESET, 0, "the connection was cut: the peer did not end TLS before closing");
	} else if (c->tx_error) {
		channel_end_errno(c, c->tx_error);
	} else {
		channel_end(c, CHANNEL_EOF, 0, "the peer closed the connection");
	}
}

void channel_handshake(struct channel *c)
{
	enum tls_result r = tls_pump_handshake(&c->pump);
	char detail[256];

	if (r == TLS_FAILED)
		tls_pump_error(&c->pump, detail, sizeof(detail));
	/* An alert, too, is worth sending. */
	channel_send_pumped(c);
	if (r == TLS_DONE)
		channel_opened(c);
	else if (r == TLS_FAILED)
		channel_end(c, CHANNEL_TLS, 0, detail);
	else if (r == TLS_EOF)
		channel_end(c, CHANNEL_TLS, 0, "the peer ended the TLS handshake");
}

static void hand_over(struct channel *c, uint8_t *data, size_t len)
{
	int r;

	if (!c->paused) {
		c->ops->on_data(c->user, data, len);
		return;
	}
	r = buf_add(&c->held, data, len);
	if (r < 0)
		channel_fault(c, -r);
}

static void read_tls(struct channel *c)
{
	uint8_t *raw = loop_rx_raw(c->loop);
	ssize_t got = receive(c, raw, CHANNEL_TLS_RECV_BYTES);
	char detail[256];
	enum tls_result r;
	size_t len;

	if (got <= 0) {
		nothing_read(c, got, errno);
		return;
	}
	c->pump.in = raw;
	c->pump.in_len = (size_t)got;
	if (c->state == CHANNEL_HANDSHAKE)
		channel_handshake(c);
	if (c->state != CHANNEL_OPEN)
		return;
	r = tls_pump_read(&c->pump, loop_rx(c->loop), LOOP_RX_BYTES, &len);
	if (r == TLS_FAILED)
		tls_pump_error(&c->pump, detail, sizeof(detail));
	channel_send_pumped(c);
	if (len)
		hand_over(c, loop_rx(c->loop), len);
	if (c->state != CHANNEL_OPEN)
		return;
	if (r == TLS_FAILED)
		channel_end(c, CHANNEL_TLS, 0, detail);
	else if (r == TLS_EOF && buf_len(&c->held))
		c->held_eof = true;
	else if (r == TLS_EOF)
		channel_end(c, CHANNEL_EOF, 0, "the peer closed the connection");
}

static void read_plain(struct channel *c)
{
	ssize_t n = receive(c, loop_rx(c->loop), LOOP_RX_BYTES);

	if (n > 0)
		hand_over(c, loop_rx(c->loop), (size_t)n);
	else
		nothing_read(c, n, errno);
}

void channel_deliver_held(struct channel *c)
{
	struct buf held = c->held;

	buf_init(&c->held, held.max);
	c->ops->on_data(c->user, buf_bytes(&held), buf_len(&held));
	buf_done(&held);
	if (c->state == CHANNEL_OPEN && c->held_eof)
		channel_end(c, CHANNEL_EOF, 0, "the peer closed the connection");
}

void channel_read(struct channel *c)
{
	if (c->state == CHANNEL_OPEN && c->paused) {
		channel_set_watch(c, WATCH_GONE);
		return;
	}
	if (buf_len(&c->held)) {
		channel_deliver_held(c);
		return;
	}
	if (c->pump.ssl)
		read_tls(c);
	else
		read_plain(c);
	if (c->state < CHANNEL_CLOSING && c->tx_error)
		loop_task_queue_next(c->loop, &c->task);
}

/* A close_notify is not to be seen without decrypting what is before it. */
static void check_gone_tls(struct channel *c)
{
	int unread = 0;

	if (buf_len(&c->held) || ioctl(c->fd, FIONREAD, &unread) < 0 || unread > CHANNEL_TLS_RECV_BYTES)
		return;
	/* The data, then the FIN. */
	for (int i = 0; i < 2 && c->state == CHANNEL_OPEN && !c->held_eof; i++)
		read_tls(c);
}

static void check_gone_plain(struct channel *c)
{
	char byte;
	ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n <= 0)
		nothing_read(c, n, errno);
}

void channel_check_gone(struct channel *c, bool closed)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (!error)
		error = c->tx_error;
	if (error)
		channel_end_errno(c, error);
	else if (closed && c->pump.ssl)
		check_gone_tls(c);
	else if (closed)
		check_gone_plain(c);
}
