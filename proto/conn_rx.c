#include <errno.h>
#include <stdio.h>

#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"

enum { RTT_SAMPLE_EVERY_US = 1000 * 1000 };

void tp_conn_feed(struct tp_conn *c, uint8_t *p, size_t len)
{
	struct tp_carrier *k = &c->carrier;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	if (!k->up || k->failed)
		return;
	assert(k->in == k->in_end);
	k->in = p;
	k->in_end = p + len;
}

static void protocol_error(struct tp_conn *c, const char *what)
{
	conn_fail(c, TP_REASON_PROTOCOL, true, what);
}

static int field_u64(const struct tp_event *ev, const char *name, uint64_t max, uint64_t *ret)
{
	uint64_t v;
	int r = span_u64(tp_field_get(ev->fields, ev->n_fields, name), &v);

	if (r < 0 || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

/* What HELLO and WELCOME both say. `received` is a count of our frames. */
static const char *read_greeting(struct tp_conn *c, struct tp_event *ev, uint64_t *ret_received)
{
	uint64_t payload, window, received;
	struct span session = tp_field_get(ev->fields, ev->n_fields, ":session");
	bool may_be_new = c->cfg.role == TP_RELAY;

	if (!span_is(tp_field_get(ev->fields, ev->n_fields, ":version"), "1"))
		return "greeting with another :version than 1";
	if (field_u64(ev, ":received", UINT64_MAX, &received) < 0)
		return "greeting without a valid :received";
	if (field_u64(ev, ":max-payload", UINT32_MAX, &payload) < 0 || payload < TP_PAYLOAD_MIN)
		return "greeting without a valid :max-payload";
	if (field_u64(ev, ":window", INT32_MAX, &window) < 0)
		return "greeting without a valid :window";
	memset(ev->session, 0, sizeof(ev->session));
	if ((session.len || !may_be_new) && hex_decode(session, ev->session, sizeof(ev->session)) < 0)
		return "greeting with a malformed :session";
	if (!c->has_session) {
		c->max_payload = MIN(c->cfg.max_payload, (uint32_t)payload);
		c->peer_window = (uint32_t)window;
	}
	ev->version = tp_field_get(ev->fields, ev->n_fields, ":software");
	ev->region = tp_field_get(ev->fields, ev->n_fields, ":region");
	*ret_received = received;
	return NULL;
}

static bool read_replaces(struct tp_event *ev)
{
	struct span replaces = tp_field_get(ev->fields, ev->n_fields, ":replaces");

	memset(ev->replaces, 0, sizeof(ev->replaces));
	return !replaces.len || hex_decode(replaces, ev->replaces, sizeof(ev->replaces)) == 0;
}

static bool on_hello(struct tp_conn *c, struct tp_event *ev)
{
	uint64_t streams;
	const char *bad;

	if (c->cfg.role != TP_RELAY || c->carrier.hello_done)
		bad = "unexpected HELLO";
	else
		bad = read_greeting(c, ev, &c->hello_received);
	if (!bad && field_u64(ev, ":max-streams", UINT32_MAX, &streams) < 0)
		bad = "HELLO without a valid :max-streams";
	if (!bad && !read_replaces(ev))
		bad = "HELLO with a malformed :replaces";
	if (bad) {
		protocol_error(c, bad);
		return false;
	}
	c->peer_max_streams = (uint32_t)streams;
	c->carrier.hello_done = true;
	ev->type = TP_EV_HELLO;
	return true;
}

static bool on_welcome(struct tp_conn *c, struct tp_event *ev, uint64_t now_us)
{
	uint64_t received = 0, resumed = 0, grace_ms;
	bool had_session = c->has_session;
	const char *bad = NULL;

	if (c->cfg.role != TP_GATEWAY || c->carrier.ready)
		bad = "unexpected WELCOME";
	else if (field_u64(ev, ":resumed", 1, &resumed) < 0)
		bad = "WELCOME without a valid :resumed";
	else if (resumed && !had_session)
		bad = "WELCOME resumes a session that was not asked for";
	else if (field_u64(ev, ":grace-ms", INT64_MAX, &grace_ms) < 0)
		bad = "WELCOME without a valid :grace-ms";
	if (!bad && !resumed && had_session)
		conn_end_session(c, TP_REASON_SESSION_LOST);
	if (!bad)
		bad = read_greeting(c, ev, &received);
	if (!bad && resumed && memcmp(ev->session, c->session, sizeof(c->session)) != 0)
		bad = "WELCOME names another session";
	if (!bad && !replay_rewind(&c->replay, received))
		bad = "WELCOME with an impossible :received";
	if (bad) {
		protocol_error(c, bad);
		return false;
	}
	memcpy(c->session, ev->session, sizeof(c->session));
	c->has_session = true;
	c->grace_ms = MIN(grace_ms, (uint64_t)TP_GRACE_MAX_MS);
	memset(c->replaces, 0, sizeof(c->replaces));
	c->rx_acked = c->rx_count;
	c->rx_bytes_unacked = 0;
	c->carrier.ready = true;
	c->tell_attached = true;
	c->told.resumed = resumed;
	c->told.frames = c->replay.count - c->replay.sent;
	c->told.bytes = c->replay.unsent_bytes;
	if (conn_send_ping(c, now_us) < 0)
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory or entropy");
	return false;
}

static bool take_ack(struct tp_conn *c, const uint8_t *count)
{
	if (replay_ack(&c->replay, get_be64(count)))
		return true;
	protocol_error(c, "acknowledgement of frames that were not sent");
	return false;
}

static void on_ping(struct tp_conn *c, const struct tp_frame *f, uint64_t now_us)
{
	uint8_t payload[16];

	if (!budget_take(&c->carrier.pings, now_us / 1000)) {
		conn_fail(c, TP_REASON_ABUSE, true, "too many PING frames");
		return;
	}
	if (!take_ack(c, f->payload + 8))
		return;
	memcpy(payload, f->payload, 8);
	put_be64(payload + 8, c->rx_count);
	c->rx_acked = c->rx_count;
	c->rx_bytes_unacked = 0;
	if (conn_send_session_frame(c, TP_PONG, payload, sizeof(payload)) < 0)
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory");
}

static void on_pong(struct tp_conn *c, const struct tp_frame *f, uint64_t now_us)
{
	struct window_session *w = &c->windows;
	uint64_t rtt;

	if (!take_ack(c, f->payload + 8) || !c->ping_open || memcmp(f->payload, c->ping_token, 8) != 0)
		return;
	c->ping_open = false;
	rtt = now_us > c->ping_sent_us ? now_us - c->ping_sent_us : 1;
	/* Queues make samples longer, never shorter: follow down at once, up slowly. */
	if (w->rtt_us == 0 || rtt < w->rtt_us)
		w->rtt_us = rtt;
	else
		w->rtt_us += (rtt - w->rtt_us) / 32;
}

static bool on_goaway(struct tp_conn *c, const struct tp_frame *f, struct tp_event *ev)
{
	if (c->goaway_received) {
		protocol_error(c, "GOAWAY twice");
		return false;
	}
	c->goaway_received = true;
	/* In line with the OPENs before it: the gateway sees where they end. */
	if (c->cfg.role == TP_RELAY && tp_conn_goaway(c, get_be32(f->payload + 4), NULL) < 0) {
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory");
		return false;
	}
	if (c->cfg.role == TP_GATEWAY && c->goaway_sent)
		return false;
	ev->type = TP_EV_GOAWAY;
	ev->last_id = get_be32(f->payload);
	ev->reason = get_be32(f->payload + 4);
	ev->detail = span_make(f->payload + 8, f->len - 8);
	return true;
}

static bool on_note(struct tp_conn *c, struct tp_event *ev, uint64_t now_us)
{
	if (c->cfg.role != TP_RELAY) {
		protocol_error(c, "NOTE from a relay");
		return false;
	}
	if (!budget_take(&c->notes, now_us / 1000)) {
		conn_fail(c, TP_REASON_ABUSE, true, "too many NOTE frames");
		return false;
	}
	ev->type = TP_EV_NOTE;
	return true;
}

/* A RESET that the peer's frame calls for. It has to be kept, so a peer that acknowledges nothing is cut off. */
static void answer_reset(struct tp_conn *c, uint32_t id, uint32_t reason, const char *why)
{
	if (c->replay.bytes >= 4 * c->cfg.replay_max)
		conn_fail(c, TP_REASON_ABUSE, true, "too many frames that the peer does not acknowledge");
	else if (conn_send_coded(c, TP_RESET, id, &reason, 1, why) < 0)
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory");
}

/* Why a stream that the relay opens cannot be taken now; NULL: it can. */
static const char *refusal(const struct tp_conn *c)
{
	if (tp_conn_goaway_answered(c))
		return "the gateway is going away";
	if (c->open_streams >= c->cfg.max_streams)
		return "too many open streams";
	if (!conn_may_keep(c, 2))
		return "too much is not acknowledged yet";
	return NULL;
}

static bool on_open(struct tp_conn *c, const struct tp_frame *f, struct tp_event *ev, uint64_t now_us)
{
	const char *why_not;
	struct tp_stream *s;

	if (c->cfg.role != TP_GATEWAY || f->stream_id <= c->last_id) {
		protocol_error(c, c->cfg.role != TP_GATEWAY ? "OPEN from a gateway" : "stream ids do not grow");
		return false;
	}
	c->last_id = f->stream_id;
	why_not = refusal(c);
	if (!why_not && stream_new(c, f->stream_id, &s) < 0)
		why_not = "out of memory";
	if (why_not) {
		if (budget_take(&c->resets, now_us / 1000))
			answer_reset(c, f->stream_id, TP_REASON_REFUSED, why_not);
		else
			conn_fail(c, TP_REASON_ABUSE, true, "too many streams that have to be refused");
		return false;
	}
	s->is_pipe = span_is(tp_field_get(ev->fields, ev->n_fields, ":kind"), "pipe");
	s->end_received = f->flags & TP_FLAG_END;
	ev->type = TP_EV_OPEN;
	ev->stream = s;
	ev->end = s->end_received;
	return true;
}

/* The stream broke a rule: it ends, the session goes on. */
static void stream_fail(struct tp_stream *s, uint32_t reason, const char *detail)
{
	answer_reset(s->conn, s->id, reason, detail);
	stream_tell_reset(s, reason);
}

static bool on_head(struct tp_stream *s, const struct tp_frame *f, struct tp_event *ev)
{
	if (s->conn->cfg.role != TP_RELAY || s->head_done || s->end_received) {
		stream_fail(s, TP_REASON_PROTOCOL, "unexpected HEAD");
		return false;
	}
	s->head_done = true;
	s->end_received = f->flags & TP_FLAG_END;
	ev->type = TP_EV_HEAD;
	ev->stream = s;
	ev->end = s->end_received;
	return true;
}

static bool on_data(struct tp_stream *s, const struct tp_frame *f, struct tp_event *ev, uint64_t now_us)
{
	struct tp_conn *c = s->conn;
	bool end = f->flags & TP_FLAG_END;

	if (s->end_received || (c->cfg.role == TP_RELAY && !s->head_done && !s->is_pipe)) {
		stream_fail(s, TP_REASON_PROTOCOL, s->end_received ? "DATA after END" : "DATA before HEAD");
		return false;
	}
	if (!window_receive(&s->window, f->len)) {
		stream_fail(s, TP_REASON_FLOW_CONTROL, "more DATA than credit");
		return false;
	}
	if (f->len == 0 && !end) {
		if (!budget_take(&c->empties, now_us / 1000))
			conn_fail(c, TP_REASON_ABUSE, true, "too many empty DATA frames");
		return false;
	}
	if (!c->ping_open && now_us - c->ping_sent_us > RTT_SAMPLE_EVERY_US)
		(void)conn_send_ping(c, now_us);
	s->end_received = end;
	ev->type = TP_EV_DATA;
	ev->stream = s;
	ev->data = f->payload;
	ev->len = f->len;
	ev->end = end;
	return true;
}

static void on_credit(struct tp_stream *s, const struct tp_frame *f)
{
	uint32_t more = get_be32(f->payload);

	if (more == 0 || s->credit + more > INT32_MAX) {
		stream_fail(s, TP_REASON_FLOW_CONTROL, more == 0 ? "CREDIT of nothing" : "credit above 2^31 - 1");
		return;
	}
	s->credit += more;
	stream_update_ready(s);
}

static bool on_reset(struct tp_stream *s, const struct tp_frame *f, struct tp_event *ev)
{
	ev->type = TP_EV_RESET;
	ev->stream = s;
	ev->reason = get_be32(f->payload);
	ev->detail = span_make(f->payload + 4, f->len - 4);
	stream_close(s);
	return true;
}

/* A frame for a stream: true when *ev is an event to tell. */
static bool on_stream_frame(struct tp_conn *c, const struct tp_frame *f, struct tp_event *ev, uint64_t now_us)
{
	struct tp_stream *s = idmap_get(&c->streams, f->stream_id);
	bool told = false;

	if (f->stream_id > c->last_id) {
		protocol_error(c, "frame for a stream that was never opened");
		return false;
	}
	if (f->type == TP_RESET && !budget_take(&c->resets, now_us / 1000)) {
		conn_fail(c, TP_REASON_ABUSE, true, "too many RESET frames");
		return false;
	}
	/* What crosses our RESET on its way is late, not wrong. */
	if (!s || s->closed)
		return false;
	switch (f->type) {
	case TP_HEAD:
		told = on_head(s, f, ev);
		break;
	case TP_DATA:
		told = on_data(s, f, ev, now_us);
		break;
	case TP_CREDIT:
		on_credit(s, f);
		return false;
	case TP_RESET:
		/* The user that released it is not told: the stream may be gone after this. */
		told = !s->released;
		return on_reset(s, f, ev) && told;
	}
	if (!told)
		return false;
	told = !s->released;
	stream_maybe_close(s);
	return told;
}

static bool on_frame(struct tp_conn *c, struct tp_frame *f, struct tp_event *ev, uint64_t now_us)
{
	const char *bad;

	if (f->type != TP_HELLO && f->type != TP_WELCOME && !c->carrier.ready) {
		protocol_error(c, "frame before the greeting");
		return false;
	}
	if (c->carrier.unproven) {
		c->carrier.unproven = false;
		c->tell_attached = true;
	}
	if (frame_has_fields(f->type)) {
		bad = fields_decode(f->payload, f->len, ev->fields, &ev->n_fields);
		if (bad) {
			protocol_error(c, bad);
			return false;
		}
	}
	if (frame_is_counted(f->type)) {
		c->rx_count++;
		c->rx_bytes_unacked += TP_FRAME_HEADER + f->len;
	}
	switch (f->type) {
	case TP_HELLO:
		return on_hello(c, ev);
	case TP_WELCOME:
		return on_welcome(c, ev, now_us);
	case TP_PING:
		on_ping(c, f, now_us);
		return false;
	case TP_PONG:
		on_pong(c, f, now_us);
		return false;
	case TP_ACK:
		take_ack(c, f->payload);
		return false;
	case TP_GOAWAY:
		return on_goaway(c, f, ev);
	case TP_NOTE:
		return on_note(c, ev, now_us);
	case TP_OPEN:
		return on_open(c, f, ev, now_us);
	default:
		return on_stream_frame(c, f, ev, now_us);
	}
}

static bool on_message(struct tp_conn *c, uint8_t *msg, size_t len, struct tp_event *ev, uint64_t now_us)
{
	struct tp_frame f;
	const char *bad = frame_decode(msg, len, c->max_payload, &f);

	if (bad) {
		protocol_error(c, bad);
		return false;
	}
	return on_frame(c, &f, ev, now_us);
}

/* A piece of a message. A message that lies whole in the input is used there; others are put together first. */
static bool on_piece(struct tp_conn *c, const struct ws_item *item, struct tp_event *ev, uint64_t now_us)
{
	struct tp_carrier *k = &c->carrier;

	if (item->end && !buf_len(&k->partial))
		return on_message(c, item->data, item->len, ev, now_us);
	if (buf_add(&k->partial, item->data, item->len) < 0) {
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory");
		return false;
	}
	if (!item->end)
		return false;
	k->partial_in_use = true;
	return on_message(c, buf_bytes(&k->partial), buf_len(&k->partial), ev, now_us);
}

static void on_ws_ping(struct tp_conn *c, const struct ws_item *item, uint64_t now_us)
{
	if (!budget_take(&c->carrier.pings, now_us / 1000))
		conn_fail(c, TP_REASON_ABUSE, true, "too many WebSocket pings");
	else if (conn_send_urgent(c, WS_PONG, item->data, item->len, NULL, 0) < 0)
		conn_fail(c, TP_REASON_INTERNAL, true, "out of memory");
}

/* The text of a close frame is "REASON: for people" (tp_conn_close()); other peers may say anything. */
static uint32_t close_reason(struct span *text)
{
	struct span rest = *text, name = span_split(&rest, ':');
	uint32_t reason = tp_reason_find(name);

	if (reason == TP_REASON_INTERNAL || reason == TP_REASON_NONE)
		return TP_REASON_PROTOCOL;
	*text = span_trim(rest);
	return reason;
}

static bool on_ws_close(struct tp_conn *c, const struct ws_item *item, struct tp_event *ev)
{
	struct span text = span_make(item->data, item->len);

	ev->type = TP_EV_CLOSED;
	/* 1000 says that the other end stops, or that our token has: nothing will resume. Anything else is trouble of this connection alone. */
	ev->fatal = item->code == 1000;
	ev->reason = close_reason(&text);
	if (ev->fatal && (c->cfg.role == TP_RELAY || ev->reason != TP_REASON_TOKEN_REVOKED))
		ev->reason = c->cfg.role == TP_RELAY ? TP_REASON_GATEWAY_STOPPED : TP_REASON_RELAY_STOPPED;
	snprintf(c->told.detail, sizeof(c->told.detail), "%.*s", SPAN_FMT(text));
	ev->detail = span_of(c->told.detail);
	tp_conn_close(c, TP_REASON_NONE, NULL);
	c->carrier.failed = true;
	c->carrier.in = c->carrier.in_end = NULL;
	return true;
}

static void event_init(struct tp_event *ev)
{
	/* Not the fields: six kilobytes for each event would be felt. */
	memset(ev, 0, offsetof(struct tp_event, fields));
}

/* Works through the input until an event is there (true) or the input is used up. */
static bool read_input(struct tp_conn *c, uint64_t now_us, struct tp_event *ev)
{
	struct tp_carrier *k = &c->carrier;
	struct ws_item item;
	bool told = false;

	while (!told && !k->failed && !c->tell_attached && TAILQ_EMPTY(&c->events)) {
		/* What an untold frame left there is not the next one's. */
		event_init(ev);
		if (k->partial_in_use) {
			buf_drop(&k->partial, buf_len(&k->partial));
			k->partial_in_use = false;
		}
		if (k->in == k->in_end)
			return false;
		k->last_rx_ms = now_us / 1000;
		ws_decode(&k->ws, &k->in, k->in_end, &item);
		switch (item.type) {
		case WS_ITEM_MORE:
			break;
		case WS_ITEM_DATA:
			told = on_piece(c, &item, ev, now_us);
			break;
		case WS_ITEM_PING:
			on_ws_ping(c, &item, now_us);
			break;
		case WS_ITEM_PONG:
			break;
		case WS_ITEM_CLOSE:
			told = on_ws_close(c, &item, ev);
			break;
		case WS_ITEM_BAD:
			protocol_error(c, item.error);
			break;
		}
	}
	return told;
}

/* Events that are not the direct answer to a frame. */
static bool next_queued(struct tp_conn *c, struct tp_event *ev)
{
	struct tp_stream *s = TAILQ_FIRST(&c->events);

	if (s) {
		TAILQ_REMOVE(&c->events, s, event_link);
		s->in_events = false;
		ev->type = s->tell_reset ? TP_EV_RESET : TP_EV_WRITABLE;
		ev->stream = s;
		ev->reason = s->reset_reason;
		s->tell_reset = s->tell_writable = false;
		return true;
	}
	if (c->tell_attached) {
		c->tell_attached = false;
		ev->type = TP_EV_ATTACHED;
		ev->resumed = c->told.resumed;
		ev->replayed_frames = c->told.frames;
		ev->replayed_bytes = c->told.bytes;
		memcpy(ev->session, c->session, sizeof(ev->session));
		return true;
	}
	if (c->tell_failed) {
		c->tell_failed = false;
		ev->type = TP_EV_FAILED;
		ev->reason = c->told.reason;
		ev->fatal = c->told.fatal;
		ev->detail = span_of(c->told.detail);
		return true;
	}
	return false;
}

bool tp_conn_has_event(const struct tp_conn *c)
{
	return !TAILQ_EMPTY(&c->events) || c->tell_attached || c->tell_failed;
}

bool tp_conn_next(struct tp_conn *c, uint64_t now_us, struct tp_event *ret)
{
	CHECK_OBJ(c, TP_CONN_MAGIC);
	do {
		event_init(ret);
		if (next_queued(c, ret) || read_input(c, now_us, ret))
			return true;
	} while (tp_conn_has_event(c));
	return false;
}
