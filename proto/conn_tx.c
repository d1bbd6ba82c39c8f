#include <errno.h>

#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"

enum { ITEM_HEADER = 5 }; /* of an urgent item: opcode, payload length */

/* One buffer for both: session frames (binary messages that are not counted) and WebSocket control frames. */
int conn_send_urgent(struct tp_conn *c, enum ws_opcode op, const void *head, size_t head_len, const void *p, size_t len)
{
	struct buf *b = &c->carrier.urgent;
	uint8_t *at;
	int r;

	if (!c->carrier.up || c->carrier.closing)
		return 0;
	r = buf_reserve(b, ITEM_HEADER + head_len + len, &at);
	if (r < 0)
		return r;
	at[0] = (uint8_t)op;
	put_be32(at + 1, (uint32_t)(head_len + len));
	if (head_len)
		memcpy(at + ITEM_HEADER, head, head_len);
	if (len)
		memcpy(at + ITEM_HEADER + head_len, p, len);
	buf_commit(b, ITEM_HEADER + head_len + len);
	return 0;
}

int conn_send_session_frame(struct tp_conn *c, uint8_t type, const void *payload, size_t len)
{
	uint8_t header[TP_FRAME_HEADER];

	frame_put_header(header, type, 0, 0);
	return conn_send_urgent(c, WS_BINARY, header, sizeof(header), payload, len);
}

int conn_send_session_fields(struct tp_conn *c, uint8_t type, const struct tp_field *fields, size_t n)
{
	size_t size = fields_size(fields, n);
	_cleanup_(freep) uint8_t *payload = NULL;

	if (!size)
		return -EINVAL;
	payload = malloc(size);
	if (!payload)
		return -ENOMEM;
	fields_encode(payload, fields, n);
	return conn_send_session_frame(c, type, payload, size);
}

/* Room for the payload of a counted frame. */
static int append_frame(struct tp_conn *c, uint8_t type, uint8_t flags, uint32_t id, size_t len, uint8_t **ret)
{
	uint8_t *at;
	int r = replay_append(&c->replay, TP_FRAME_HEADER + len, &at);

	if (r < 0)
		return r;
	frame_put_header(at, type, flags, id);
	if (type == TP_HEAD || type == TP_DATA)
		c->answer_count = c->replay.count;
	*ret = at + TP_FRAME_HEADER;
	return 0;
}

int conn_send_frame(struct tp_conn *c, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t len)
{
	uint8_t *at;
	int r = append_frame(c, type, flags, id, len, &at);

	if (r < 0)
		return r;
	if (len)
		memcpy(at, payload, len);
	return 0;
}

int conn_send_fields(struct tp_conn *c, uint8_t type, uint8_t flags, uint32_t id, const struct tp_field *fields, size_t n)
{
	size_t size = fields_size(fields, n);
	uint8_t *at;
	int r;

	if (!size && n)
		return -E2BIG;
	r = append_frame(c, type, flags, id, size, &at);
	if (r < 0)
		return r;
	fields_encode(at, fields, n);
	return 0;
}

int conn_send_coded(struct tp_conn *c, uint8_t type, uint32_t id, const uint32_t *words, size_t n_words, const char *detail)
{
	size_t detail_len = detail ? strnlen(detail, TP_DETAIL_MAX) : 0;
	uint8_t *at;
	int r = append_frame(c, type, 0, id, 4 * n_words + detail_len, &at);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n_words; i++)
		put_be32(at + 4 * i, words[i]);
	if (detail_len)
		memcpy(at + 4 * n_words, detail, detail_len);
	return 0;
}

int conn_send_ping(struct tp_conn *c, uint64_t now_us)
{
	uint8_t payload[16];
	int r;

	r = conn_random(c, c->ping_token, sizeof(c->ping_token));
	if (r < 0)
		return r;
	memcpy(payload, c->ping_token, 8);
	put_be64(payload + 8, c->rx_count);
	c->ping_open = true;
	c->ping_sent_us = now_us;
	c->carrier.last_ping_ms = now_us / 1000;
	return conn_send_session_frame(c, TP_PING, payload, sizeof(payload));
}

bool conn_may_keep(const struct tp_conn *c, size_t times)
{
	const struct tp_config *cfg = &c->cfg;

	if (c->replay.bytes >= times * cfg->replay_max)
		return false;
	/* What is below this the peer need not have acknowledged, so that nothing would say when to go on. */
	return !cfg->kept || c->replay.bytes < ACK_AFTER_BYTES || *cfg->kept < times * cfg->kept_max;
}

bool conn_may_send_data(const struct tp_conn *c)
{
	return conn_may_keep(c, 1);
}

int conn_send_data(struct tp_stream *s, const void *p, size_t len, bool end)
{
	int r = conn_send_frame(s->conn, TP_DATA, end ? TP_FLAG_END : 0, s->id, p, len);

	if (r < 0)
		return r;
	assert(len <= s->credit);
	s->credit -= len;
	s->end_sent = end;
	return 0;
}

/* CREDIT frames owed, coalesced per stream, as long as kept frames have room. */
static int schedule_credit(struct tp_conn *c)
{
	struct tp_stream *s;
	uint8_t payload[4];
	int r;

	while ((s = TAILQ_FIRST(&c->crediting)) && conn_may_keep(c, 2)) {
		put_be32(payload, s->credit_owed);
		r = conn_send_frame(c, TP_CREDIT, 0, s->id, payload, sizeof(payload));
		if (r < 0)
			return r;
		TAILQ_REMOVE(&c->crediting, s, credit_link);
		s->in_credit = false;
		s->credit_owed = 0;
	}
	return 0;
}

/* The next stream's turn: one DATA frame. */
static int schedule_data(struct tp_conn *c)
{
	struct tp_stream *s = TAILQ_FIRST(&c->ready);
	size_t len = MIN(MIN(buf_len(&s->queue), s->credit), c->max_payload);
	bool end = s->end_queued && len == buf_len(&s->queue);
	int r = conn_send_data(s, buf_bytes(&s->queue), len, end);

	if (r < 0)
		return r;
	buf_drop(&s->queue, len);
	TAILQ_REMOVE(&c->ready, s, ready_link);
	s->in_ready = false;
	stream_update_ready(s);
	if (s->was_full && buf_len(&s->queue) <= TP_SEND_QUEUE / 2) {
		s->was_full = false;
		if (!s->end_queued) {
			s->tell_writable = true;
			conn_queue_event(s);
		}
	}
	stream_maybe_close(s);
	return 0;
}

static int send_ack_if_due(struct tp_conn *c)
{
	uint8_t payload[8];

	if (c->rx_count - c->rx_acked < ACK_AFTER_FRAMES && c->rx_bytes_unacked < ACK_AFTER_BYTES)
		return 0;
	put_be64(payload, c->rx_count);
	c->rx_acked = c->rx_count;
	c->rx_bytes_unacked = 0;
	return conn_send_session_frame(c, TP_ACK, payload, sizeof(payload));
}

static bool ack_is_due(const struct tp_conn *c)
{
	return c->rx_count - c->rx_acked >= ACK_AFTER_FRAMES || c->rx_bytes_unacked >= ACK_AFTER_BYTES;
}

bool tp_conn_wants_write(const struct tp_conn *c)
{
	const struct tp_carrier *k = &c->carrier;

	if (!k->up)
		return false;
	if (k->msg_active || buf_len(&k->urgent))
		return true;
	if (!k->ready || k->failed || k->closing)
		return false;
	return c->replay.sent < c->replay.count || ack_is_due(c) || buf_len(&k->note) ||
	       (!TAILQ_EMPTY(&c->crediting) && conn_may_keep(c, 2)) ||
	       (!TAILQ_EMPTY(&c->ready) && conn_may_send_data(c));
}

/* The message being written: the front item of `urgent`, or the next unsent frame of `replay`. */
static const uint8_t *message_bytes(const struct tp_conn *c)
{
	if (c->carrier.msg_urgent)
		return buf_bytes(&c->carrier.urgent) + ITEM_HEADER;
	return (const uint8_t *)replay_peek(&c->replay).p;
}

static int begin_message(struct tp_conn *c, bool urgent, enum ws_opcode op, size_t len)
{
	struct tp_carrier *k = &c->carrier;
	bool masked = c->cfg.role == TP_GATEWAY;
	int r;

	if (masked) {
		r = conn_random(c, k->mask, sizeof(k->mask));
		if (r < 0)
			return r;
	}
	k->head_len = ws_header(k->head, op, len, masked ? k->mask : NULL);
	k->head_at = k->msg_at = 0;
	k->msg_len = len;
	k->msg_urgent = urgent;
	k->msg_active = true;
	return 0;
}

/* It becomes a frame when the wire has room for it: until then a newer one replaces it. */
static int send_note(struct tp_conn *c)
{
	struct buf *note = &c->carrier.note;
	int r;

	if (!buf_len(note) || buf_len(&c->carrier.urgent))
		return 0;
	r = conn_send_session_frame(c, TP_NOTE, buf_bytes(note), buf_len(note));
	buf_clear(note);
	return r;
}

/* Chooses what goes out next. 0 with msg_active false: nothing. */
static int next_message(struct tp_conn *c)
{
	struct tp_carrier *k = &c->carrier;
	struct span frame;
	int r;

	if (k->ready && !k->failed) {
		r = send_ack_if_due(c);
		if (r < 0)
			return r;
		r = send_note(c);
		if (r < 0)
			return r;
	}
	if (buf_len(&k->urgent)) {
		const uint8_t *item = buf_bytes(&k->urgent);

		return begin_message(c, true, item[0], get_be32(item + 1));
	}
	if (!k->ready || k->failed || k->closing)
		return 0;
	r = schedule_credit(c);
	if (r < 0)
		return r;
	if (c->replay.sent == c->replay.count && !TAILQ_EMPTY(&c->ready) && conn_may_send_data(c)) {
		r = schedule_data(c);
		if (r < 0)
			return r;
	}
	frame = replay_peek(&c->replay);
	return frame.p ? begin_message(c, false, WS_BINARY, frame.len) : 0;
}

static void end_message(struct tp_conn *c)
{
	struct tp_carrier *k = &c->carrier;

	if (k->msg_urgent)
		buf_drop(&k->urgent, ITEM_HEADER + k->msg_len);
	else
		replay_advance(&c->replay);
	k->msg_active = false;
}

/* Writes as much of the message as fits. */
static size_t write_message(struct tp_conn *c, uint8_t *dst, size_t room)
{
	struct tp_carrier *k = &c->carrier;
	size_t head = MIN(room, k->head_len - k->head_at), body;

	memcpy(dst, k->head + k->head_at, head);
	k->head_at += head;
	body = MIN(room - head, k->msg_len - k->msg_at);
	ws_mask_copy(dst + head, message_bytes(c) + k->msg_at, body, c->cfg.role == TP_GATEWAY ? k->mask : NULL, k->msg_at);
	k->msg_at += body;
	if (k->head_at == k->head_len && k->msg_at == k->msg_len)
		end_message(c);
	return head + body;
}

size_t tp_conn_pull(struct tp_conn *c, uint8_t *dst, size_t room)
{
	size_t n = 0;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	while (n < room && c->carrier.up) {
		if (!c->carrier.msg_active && next_message(c) < 0) {
			conn_fail(c, TP_REASON_INTERNAL, true, "out of memory or entropy");
			break;
		}
		if (!c->carrier.msg_active)
			break;
		n += write_message(c, dst + n, room - n);
	}
	return n;
}
