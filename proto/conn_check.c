#include "proto/conn_impl.h"

static void check_stream(const struct tp_stream *s)
{
	CHECK_OBJ(s, TP_STREAM_MAGIC);
	assert(!s->closed || (!s->in_ready && !s->in_credit && buf_len(&s->queue) == 0));
	assert(!s->end_sent || s->end_queued);
	assert(!s->end_sent || buf_len(&s->queue) == 0);
	assert(s->closed || !(s->end_sent && s->end_received));
	assert(!(s->released && s->closed) && !(s->released && s->in_events));
	assert(s->credit <= INT32_MAX);
	assert(s->window.consumed <= s->window.received && s->window.received <= s->window.granted);
	assert(s->window.granted - s->window.consumed <= s->window.size);
	assert(s->in_map || s->closed);
	if (!s->closed && !s->end_sent && buf_len(&s->queue))
		assert(s->in_ready == (s->credit > 0));
}

static void check_carrier(const struct tp_conn *c)
{
	const struct tp_carrier *k = &c->carrier;

	assert(k->up || (!k->ready && !k->msg_active && buf_len(&k->urgent) == 0 && buf_len(&k->note) == 0));
	assert(!buf_len(&k->note) || (k->ready && c->cfg.role == TP_GATEWAY));
	assert(!k->ready || k->hello_done);
	assert(!k->unproven || k->ready);
	assert(!k->msg_active || k->head_at < k->head_len || k->msg_at < k->msg_len);
}

void tp_conn_check(const struct tp_conn *c)
{
	const struct tp_stream *s;
	size_t open = 0, mapped = 0, growth = 0;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	check_carrier(c);
	TAILQ_FOREACH(s, &c->all, all_link) {
		check_stream(s);
		open += !s->closed;
		mapped += s->in_map;
		if (s->in_map)
			growth += window_extra(&s->window);
	}
	assert(open == c->open_streams);
	assert(mapped == c->streams.used);
	assert(growth + c->windows.extra_left <= c->cfg.window_extra_max);
	assert(c->replay.acked <= c->replay.sent && c->replay.sent <= c->replay.count);
	assert(c->replay.unsent_bytes <= c->replay.bytes);
	assert(c->rx_acked <= c->rx_count);
}
