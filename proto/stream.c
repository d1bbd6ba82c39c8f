#include <errno.h>

#include "base/encode.h"
#include "proto/conn_impl.h"

int stream_new(struct tp_conn *c, uint32_t id, struct tp_stream **ret)
{
	struct tp_stream *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->magic = TP_STREAM_MAGIC;
	s->id = id;
	s->conn = c;
	s->credit = c->peer_window;
	buf_init(&s->queue, SEND_MAX);
	window_init(&s->window, c->cfg.window_initial, c->cfg.window_max);
	r = idmap_put(&c->streams, id, s);
	if (r < 0) {
		free(s);
		return r;
	}
	s->in_map = true;
	TAILQ_INSERT_TAIL(&c->all, s, all_link);
	c->open_streams++;
	*ret = s;
	return 0;
}

static void stream_unlink(struct tp_stream *s)
{
	struct tp_conn *c = s->conn;

	if (s->in_ready)
		TAILQ_REMOVE(&c->ready, s, ready_link);
	if (s->in_credit)
		TAILQ_REMOVE(&c->crediting, s, credit_link);
	s->in_ready = s->in_credit = false;
}

void stream_free(struct tp_stream *s)
{
	struct tp_conn *c = s->conn;

	CHECK_OBJ(s, TP_STREAM_MAGIC);
	TAILQ_REMOVE(&c->all, s, all_link);
	stream_unlink(s);
	if (s->in_events)
		TAILQ_REMOVE(&c->events, s, event_link);
	/* A stream of an abandoned session took its growth from that one. */
	if (s->in_map) {
		idmap_take(&c->streams, s->id);
		c->windows.extra_left += window_extra(&s->window);
	}
	if (!s->closed)
		c->open_streams--;
	buf_done(&s->queue);
	s->magic = 0;
	free(s);
}

static void update_stalled(struct tp_stream *s)
{
	bool stalled = !s->closed && !s->end_sent && buf_len(&s->queue) && !s->credit;

	s->conn->stalls += stalled && !s->stalled;
	s->stalled = stalled;
}

void stream_update_ready(struct tp_stream *s)
{
	struct tp_conn *c = s->conn;
	bool ready = !s->closed && !s->end_sent &&
		     ((buf_len(&s->queue) && s->credit) || (!buf_len(&s->queue) && s->end_queued));

	update_stalled(s);
	if (ready == s->in_ready)
		return;
	s->in_ready = ready;
	if (ready)
		TAILQ_INSERT_TAIL(&c->ready, s, ready_link);
	else
		TAILQ_REMOVE(&c->ready, s, ready_link);
}

void stream_close(struct tp_stream *s)
{
	if (!s->closed) {
		s->closed = true;
		s->conn->open_streams--;
	}
	stream_unlink(s);
	if (s->in_events && !s->tell_reset) {
		TAILQ_REMOVE(&s->conn->events, s, event_link);
		s->in_events = s->tell_writable = false;
	}
	buf_clear(&s->queue);
	if (s->released)
		stream_free(s);
}

void stream_maybe_close(struct tp_stream *s)
{
	if (!s->end_sent)
		return;
	if (s->end_received)
		stream_close(s);
	else if (s->released)
		tp_stream_reset(s, TP_REASON_NONE, "answered without the rest");
}

void stream_tell_reset(struct tp_stream *s, uint32_t reason)
{
	if (s->released) {
		stream_close(s);
		return;
	}
	s->reset_reason = reason;
	s->tell_reset = true;
	s->tell_writable = false;
	conn_queue_event(s);
	stream_close(s);
}

int tp_stream_open(struct tp_conn *c, const struct tp_field *fields, size_t n, bool end, void *user,
		   struct tp_stream **ret)
{
	struct tp_stream *s;
	int r;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	assert(c->cfg.role == TP_RELAY && c->has_session);
	if (c->goaway_received || c->goaway_sent || c->last_id == TP_STREAM_ID_MAX)
		return TP_OPEN_GOING_AWAY;
	/* DATA alone keeps as much as replay_max: a new call has room of its own above it. */
	if (c->open_streams >= MIN(c->cfg.max_streams, c->peer_max_streams) || !conn_may_keep(c, 2))
		return TP_OPEN_BUSY;
	r = stream_new(c, c->last_id + 1, &s);
	if (r < 0)
		return r;
	r = conn_send_fields(c, TP_OPEN, end ? TP_FLAG_END : 0, s->id, fields, n);
	if (r < 0) {
		stream_free(s);
		return r;
	}
	c->last_id++;
	s->is_pipe = span_is(tp_field_get(fields, n, ":kind"), "pipe");
	s->end_queued = s->end_sent = end;
	s->user = user;
	*ret = s;
	return 0;
}

int tp_stream_head(struct tp_stream *s, const struct tp_field *fields, size_t n, bool end)
{
	int r;

	CHECK_OBJ(s, TP_STREAM_MAGIC);
	assert(s->conn->cfg.role == TP_GATEWAY && !s->head_done);
	if (s->closed)
		return 0;
	r = conn_send_fields(s->conn, TP_HEAD, end ? TP_FLAG_END : 0, s->id, fields, n);
	if (r < 0)
		return r;
	s->head_done = true;
	if (end) {
		s->end_queued = s->end_sent = true;
		stream_maybe_close(s);
	}
	return 0;
}

/* Nothing waits before these bytes and everything fits: one copy less, and the frame goes out in this turn. */
static bool may_send_directly(const struct tp_stream *s, size_t len)
{
	const struct tp_conn *c = s->conn;

	return !buf_len(&s->queue) && TAILQ_EMPTY(&c->ready) && s->credit >= len && len <= c->max_payload &&
	       c->replay.unsent_bytes < TP_PAYLOAD_DEFAULT && conn_may_send_data(c);
}

int tp_stream_send(struct tp_stream *s, const void *p, size_t len, bool end)
{
	int r;

	CHECK_OBJ(s, TP_STREAM_MAGIC);
	assert(!s->end_queued && !s->released);
	if (s->closed || (len == 0 && !end))
		return 0;
	if (may_send_directly(s, len)) {
		r = conn_send_data(s, p, len, end);
		if (r < 0)
			return r;
		s->end_queued = end;
		stream_maybe_close(s);
		return 0;
	}
	r = buf_add(&s->queue, p, len);
	if (r < 0)
		return r;
	s->end_queued = end;
	if (!tp_stream_wants_data(s))
		s->was_full = true;
	stream_update_ready(s);
	return 0;
}

bool tp_stream_wants_data(const struct tp_stream *s)
{
	return buf_len(&s->queue) < TP_SEND_QUEUE;
}

void tp_stream_consumed(struct tp_stream *s, size_t len, uint64_t now_us)
{
	struct tp_conn *c = s->conn;

	CHECK_OBJ(s, TP_STREAM_MAGIC);
	if (s->closed)
		return;
	s->credit_owed += window_consume(&s->window, len, now_us, &c->windows);
	if (!s->credit_owed || s->in_credit || s->end_received)
		return;
	s->in_credit = true;
	TAILQ_INSERT_TAIL(&c->crediting, s, credit_link);
}

void tp_stream_reset(struct tp_stream *s, uint32_t reason, const char *detail)
{
	CHECK_OBJ(s, TP_STREAM_MAGIC);
	if (s->closed)
		return;
	if (conn_send_coded(s->conn, TP_RESET, s->id, &reason, 1, detail) < 0)
		conn_fail(s->conn, TP_REASON_INTERNAL, true, "out of memory");
	stream_close(s);
}

/* What is queued is a whole answer, so it is delivered although nobody looks at the stream any more. */
static bool is_answered(const struct tp_stream *s)
{
	return s->end_queued && (s->end_received || s->conn->cfg.role == TP_GATEWAY);
}

struct tp_stream *tp_stream_release(struct tp_stream *s)
{
	struct tp_conn *c;

	if (!s)
		return NULL;
	CHECK_OBJ(s, TP_STREAM_MAGIC);
	assert(!s->released);
	c = s->conn;
	if (s->in_events) {
		TAILQ_REMOVE(&c->events, s, event_link);
		s->in_events = false;
	}
	if (!s->closed && !is_answered(s))
		tp_stream_reset(s, TP_REASON_CANCELLED, NULL);
	s->released = true;
	if (s->closed)
		stream_free(s);
	else
		stream_maybe_close(s);
	return NULL;
}

void tp_stream_set_user(struct tp_stream *s, void *user)
{
	s->user = user;
}

void *tp_stream_user(const struct tp_stream *s)
{
	return s->user;
}

uint32_t tp_stream_id(const struct tp_stream *s)
{
	return s->id;
}
