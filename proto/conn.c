#include <errno.h>
#include <stdio.h>

#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"

void tp_config_init(struct tp_config *cfg, enum tp_role role, int (*random)(void *dst, size_t len))
{
	*cfg = (struct tp_config){
		.role = role,
		.keepalive_ms = 20000,
		.handshake_ms = 10000,
		.grace_ms = 30000,
		.max_streams = 2048,
		.max_payload = TP_PAYLOAD_DEFAULT,
		.window_initial = TP_WINDOW_INITIAL,
		.window_max = TP_WINDOW_CEILING,
		.window_extra_max = 64 * 1024 * 1024,
		.replay_max = 4 * 1024 * 1024,
		.random = random,
	};
}

int tp_conn_new(const struct tp_config *cfg, struct tp_conn **ret)
{
	struct tp_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->magic = TP_CONN_MAGIC;
	c->cfg = *cfg;
	c->cfg.max_payload = MIN(MAX(c->cfg.max_payload, (uint32_t)TP_PAYLOAD_MIN), (uint32_t)TP_PAYLOAD_CEILING);
	c->cfg.window_initial = MIN(c->cfg.window_initial, (uint32_t)TP_WINDOW_CEILING);
	c->cfg.window_max = MIN(c->cfg.window_max, (uint32_t)TP_WINDOW_CEILING);
	/* Below what the peer collects before it acknowledges, both ends would wait for each other. */
	c->cfg.replay_max = MAX(c->cfg.replay_max, (size_t)ACK_AFTER_BYTES);
	TAILQ_INIT(&c->all);
	TAILQ_INIT(&c->ready);
	TAILQ_INIT(&c->crediting);
	TAILQ_INIT(&c->events);
	replay_init(&c->replay, c->cfg.kept);
	buf_init(&c->carrier.partial, TP_FRAME_HEADER + TP_PAYLOAD_CEILING);
	buf_init(&c->carrier.urgent, URGENT_MAX);
	buf_init(&c->carrier.note, TP_NOTE_MAX);
	conn_forget_session(c);
	*ret = c;
	return 0;
}

struct tp_conn *tp_conn_free(struct tp_conn *c)
{
	struct tp_stream *s;

	if (!c)
		return NULL;
	CHECK_OBJ(c, TP_CONN_MAGIC);
	while ((s = TAILQ_FIRST(&c->all)))
		stream_free(s);
	idmap_done(&c->streams);
	replay_done(&c->replay);
	buf_done(&c->carrier.partial);
	buf_done(&c->carrier.urgent);
	buf_done(&c->carrier.note);
	c->magic = 0;
	free(c);
	return NULL;
}

/* A session that never was: counts from zero, nothing agreed. */
void conn_forget_session(struct tp_conn *c)
{
	c->has_session = c->broken = false;
	memset(c->session, 0, sizeof(c->session));
	replay_clear(&c->replay);
	c->last_id = 0;
	c->rx_count = c->rx_acked = 0;
	c->rx_bytes_unacked = 0;
	c->goaway_sent = c->goaway_received = false;
	c->answer_count = 0;
	c->max_payload = c->cfg.max_payload;
	c->peer_window = 0;
	c->peer_max_streams = 0;
	c->grace_ms = c->cfg.grace_ms;
	c->windows = (struct window_session){ .extra_left = c->cfg.window_extra_max };
	budget_init(&c->resets, RESET_RATE, c->cfg.max_streams + RESET_RATE);
	budget_init(&c->empties, EMPTY_DATA_RATE, EMPTY_DATA_RATE);
	budget_init(&c->notes, NOTE_RATE, 10 * NOTE_RATE);
}

int conn_random(struct tp_conn *c, void *dst, size_t len)
{
	int r;

	assert(len <= MASK_POOL);
	if (c->entropy_left < len) {
		r = c->cfg.random(c->entropy, MASK_POOL);
		if (r < 0)
			return r;
		c->entropy_left = MASK_POOL;
	}
	c->entropy_left -= len;
	memcpy(dst, c->entropy + c->entropy_left, len);
	return 0;
}

/* The decimal of v in dst, as a span. */
static struct span decimal(char dst[24], uint64_t v)
{
	snprintf(dst, 24, "%llu", (unsigned long long)v);
	return span_of(dst);
}

void tp_conn_replaces(struct tp_conn *c, const uint8_t session[TP_SESSION_ID_BYTES])
{
	assert(c->cfg.role == TP_GATEWAY);
	memcpy(c->replaces, session, TP_SESSION_ID_BYTES);
}

static int send_hello(struct tp_conn *c)
{
	static const uint8_t none[TP_SESSION_ID_BYTES];
	char session[2 * TP_SESSION_ID_BYTES + 1] = "", replaces[sizeof(session)] = "", n[4][24];

	if (c->has_session)
		hex_encode(c->session, sizeof(c->session), session);
	if (memcmp(c->replaces, none, sizeof(none)) != 0)
		hex_encode(c->replaces, sizeof(c->replaces), replaces);

	const struct tp_field fields[] = {
		{ SPAN(":version"), SPAN("1") },
		{ SPAN(":session"), span_of(session) },
		{ SPAN(":replaces"), span_of(replaces) },
		{ SPAN(":received"), decimal(n[0], c->rx_count) },
		{ SPAN(":max-payload"), decimal(n[1], c->cfg.max_payload) },
		{ SPAN(":window"), decimal(n[2], c->cfg.window_initial) },
		{ SPAN(":max-streams"), decimal(n[3], c->cfg.max_streams) },
		{ SPAN(":software"), span_of(c->cfg.version ? c->cfg.version : "") },
		{ SPAN(":region"), span_of(c->cfg.region ? c->cfg.region : "") },
	};
	return conn_send_session_fields(c, TP_HELLO, fields, ARRAY_LEN(fields));
}

static int send_welcome(struct tp_conn *c, bool resumed)
{
	char session[2 * TP_SESSION_ID_BYTES + 1], n[5][24];

	hex_encode(c->session, sizeof(c->session), session);

	const struct tp_field fields[] = {
		{ SPAN(":version"), SPAN("1") },
		{ SPAN(":session"), span_of(session) },
		{ SPAN(":resumed"), resumed ? SPAN("1") : SPAN("0") },
		{ SPAN(":received"), decimal(n[0], c->rx_count) },
		{ SPAN(":max-payload"), decimal(n[1], c->max_payload) },
		{ SPAN(":window"), decimal(n[2], c->cfg.window_initial) },
		{ SPAN(":keepalive-ms"), decimal(n[3], c->cfg.keepalive_ms) },
		{ SPAN(":grace-ms"), decimal(n[4], c->cfg.grace_ms) },
		{ SPAN(":software"), span_of(c->cfg.version ? c->cfg.version : "") },
	};
	return conn_send_session_fields(c, TP_WELCOME, fields, ARRAY_LEN(fields));
}

int tp_conn_attach(struct tp_conn *c, uint64_t now_ms)
{
	struct tp_carrier *k = &c->carrier;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	tp_conn_detach(c);
	ws_decoder_init(&k->ws, c->cfg.role == TP_GATEWAY ? WS_CLIENT : WS_SERVER,
			TP_FRAME_HEADER + MAX(c->cfg.max_payload, (uint32_t)TP_FIELDS_BYTES_MAX));
	k->up = true;
	k->opened_ms = k->last_rx_ms = now_ms;
	budget_init(&k->pings, PING_RATE, 10 * PING_RATE);
	if (c->broken)
		conn_end_session(c, TP_REASON_INTERNAL);
	if (c->cfg.role == TP_GATEWAY) {
		k->hello_done = true;
		return send_hello(c);
	}
	return 0;
}

void tp_conn_detach(struct tp_conn *c)
{
	struct tp_carrier *k = &c->carrier;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	buf_clear(&k->partial);
	buf_clear(&k->urgent);
	buf_clear(&k->note);
	*k = (struct tp_carrier){ .partial = k->partial, .urgent = k->urgent, .note = k->note };
	c->ping_open = false;
	/* The next connection may take another path. */
	c->windows.rtt_us = c->windows.per_trip = 0;
	c->tell_failed = c->tell_closed = c->tell_attached = false;
}

bool tp_conn_is_attached(const struct tp_conn *c)
{
	return c->carrier.ready && !c->carrier.unproven && !c->carrier.failed && !c->carrier.closing;
}

static void become_ready(struct tp_conn *c, bool resumed, uint64_t frames, uint64_t bytes)
{
	c->carrier.ready = true;
	c->tell_attached = true;
	c->told.resumed = resumed;
	c->told.frames = frames;
	c->told.bytes = bytes;
}

int tp_conn_welcome(struct tp_conn *fresh, const uint8_t session[TP_SESSION_ID_BYTES], uint64_t now_ms)
{
	int r;

	CHECK_OBJ(fresh, TP_CONN_MAGIC);
	assert(fresh->cfg.role == TP_RELAY && fresh->carrier.hello_done && !fresh->carrier.ready);
	memcpy(fresh->session, session, TP_SESSION_ID_BYTES);
	fresh->has_session = true;
	r = send_welcome(fresh, false);
	if (r < 0)
		return r;
	become_ready(fresh, false, 0, 0);
	/* If the WELCOME is lost, so is the session; what was opened before the gateway had it would be lost, too. */
	fresh->carrier.unproven = true;
	fresh->tell_attached = false;
	return conn_send_ping(fresh, now_ms * 1000);
}

int tp_conn_resume(struct tp_conn *c, struct tp_conn *fresh, uint64_t now_ms)
{
	uint64_t frames;
	int r;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	CHECK_OBJ(fresh, TP_CONN_MAGIC);
	assert(fresh->carrier.hello_done && !fresh->carrier.ready);
	if (fresh->carrier.in != fresh->carrier.in_end ||
	    (buf_len(&fresh->carrier.partial) && !fresh->carrier.partial_in_use))
		return TP_RESUME_IMPOSSIBLE;
	if (c->broken || !replay_rewind(&c->replay, fresh->hello_received))
		return TP_RESUME_IMPOSSIBLE;
	tp_conn_detach(c);
	buf_done(&c->carrier.partial);
	buf_done(&c->carrier.urgent);
	buf_done(&c->carrier.note);
	c->carrier = fresh->carrier;
	buf_init(&fresh->carrier.partial, 0);
	buf_init(&fresh->carrier.urgent, 0);
	buf_init(&fresh->carrier.note, 0);
	fresh->carrier.up = false;
	c->rx_acked = c->rx_count;
	c->rx_bytes_unacked = 0;
	frames = c->replay.count - c->replay.sent;
	r = send_welcome(c, true);
	if (r < 0)
		return r;
	become_ready(c, true, frames, c->replay.unsent_bytes);
	return conn_send_ping(c, now_ms * 1000);
}

void conn_end_session(struct tp_conn *c, uint32_t reason)
{
	struct tp_stream *s;
	size_t it;

	/* Stream ids begin anew, so the old streams leave the map now, told and released or not. */
	for (it = 0; (s = idmap_next(&c->streams, &it)); it = 0) {
		idmap_take(&c->streams, s->id);
		s->in_map = false;
		if (!s->closed)
			stream_tell_reset(s, reason);
	}
	conn_forget_session(c);
}

void tp_conn_abandon(struct tp_conn *c, uint32_t reason)
{
	struct tp_carrier *k = &c->carrier;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	if (k->msg_active && !k->msg_urgent) {
		/* The rest of a frame half written goes with the session, so this connection can say nothing more. */
		tp_conn_detach(c);
	} else if (k->up) {
		tp_conn_close(c, reason, NULL);
		k->failed = true;
		k->in = k->in_end = NULL;
	}
	conn_end_session(c, reason);
}

void conn_queue_event(struct tp_stream *s)
{
	if (s->in_events || s->released)
		return;
	s->in_events = true;
	TAILQ_INSERT_TAIL(&s->conn->events, s, event_link);
}

void tp_conn_close(struct tp_conn *c, uint32_t reason, const char *detail)
{
	uint8_t payload[WS_CONTROL_MAX];
	uint16_t code = reason == TP_REASON_NONE || reason == TP_REASON_GATEWAY_STOPPED ||
					reason == TP_REASON_RELAY_STOPPED || reason == TP_REASON_TOKEN_REVOKED ?
				1000 :
				1002;
	int n;

	if (!c->carrier.up || c->carrier.closing)
		return;
	put_be16(payload, code);
	n = snprintf((char *)payload + 2, sizeof(payload) - 2, "%s%s%s", tp_reason_name(reason), detail ? ": " : "",
		     detail ? detail : "");
	n = MIN(n, (int)sizeof(payload) - 3);
	if (conn_send_urgent(c, WS_CLOSE, payload, 2 + (size_t)n, NULL, 0) == 0)
		c->carrier.closing = true;
}

void conn_fail(struct tp_conn *c, uint32_t reason, bool fatal, const char *detail)
{
	c->broken |= fatal && !c->carrier.up;
	if (!c->carrier.up || c->carrier.failed)
		return;
	tp_conn_close(c, reason, detail);
	c->carrier.failed = true;
	c->carrier.in = c->carrier.in_end = NULL;
	c->tell_failed = true;
	c->told.reason = reason;
	c->told.fatal = fatal;
	snprintf(c->told.detail, sizeof(c->told.detail), "%s", detail ? detail : "");
}

int tp_conn_goaway(struct tp_conn *c, uint32_t reason, const char *detail)
{
	const uint32_t words[2] = { c->last_id, reason };
	int r;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	if (c->goaway_sent || !c->has_session)
		return 0;
	r = conn_send_coded(c, TP_GOAWAY, 0, words, 2, detail);
	if (r < 0)
		return r;
	c->goaway_sent = true;
	return 0;
}

bool tp_conn_goaway_answered(const struct tp_conn *c)
{
	return c->goaway_sent && c->goaway_received;
}

bool tp_conn_is_delivered(const struct tp_conn *c)
{
	return c->open_streams == 0 && c->replay.acked >= c->answer_count;
}

int tp_conn_ask(struct tp_conn *c, uint64_t now_us)
{
	CHECK_OBJ(c, TP_CONN_MAGIC);
	/* PING overtakes what is not sent yet. */
	if (!tp_conn_is_attached(c) || c->ping_open || c->replay.sent < c->replay.count || c->replay.acked == c->replay.count)
		return 0;
	return conn_send_ping(c, now_us);
}

bool tp_conn_going_away(const struct tp_conn *c)
{
	return c->goaway_sent || c->goaway_received;
}

int tp_conn_note(struct tp_conn *c, const struct tp_field *fields, size_t n)
{
	size_t size = fields_size(fields, n);
	uint8_t *at;
	int r;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	assert(c->cfg.role == TP_GATEWAY);
	if (!size)
		return -EINVAL;
	if (size > TP_NOTE_MAX)
		return -EMSGSIZE;
	if (!tp_conn_is_attached(c))
		return 0;
	buf_clear(&c->carrier.note);
	r = buf_reserve(&c->carrier.note, size, &at);
	if (r < 0)
		return r;
	fields_encode(at, fields, n);
	buf_commit(&c->carrier.note, size);
	return 0;
}

uint64_t tp_conn_deadline(const struct tp_conn *c)
{
	const struct tp_carrier *k = &c->carrier;

	if (!k->up || k->failed)
		return UINT64_MAX;
	if (!k->ready)
		return k->opened_ms + c->cfg.handshake_ms;
	if (k->last_ping_ms >= k->last_rx_ms + c->cfg.keepalive_ms)
		return k->last_rx_ms + 2 * c->cfg.keepalive_ms;
	return k->last_rx_ms + c->cfg.keepalive_ms;
}

void tp_conn_tick(struct tp_conn *c, uint64_t now_ms)
{
	struct tp_carrier *k = &c->carrier;

	CHECK_OBJ(c, TP_CONN_MAGIC);
	if (now_ms < tp_conn_deadline(c))
		return;
	if (!k->ready) {
		conn_fail(c, TP_REASON_PROTOCOL, false,
			  c->cfg.role == TP_RELAY ? "no HELLO in time" : "no WELCOME in time");
	} else if (now_ms >= k->last_rx_ms + 2 * c->cfg.keepalive_ms) {
		conn_fail(c, TP_REASON_KEEPALIVE, false, "nothing arrived for two keepalive times");
	} else if (conn_send_ping(c, now_ms * 1000) < 0) {
		conn_fail(c, TP_REASON_INTERNAL, false, "out of memory");
	} else {
		k->last_ping_ms = now_ms;
	}
}

size_t tp_conn_streams(const struct tp_conn *c)
{
	return c->open_streams;
}

struct tp_stream *tp_conn_stream(const struct tp_conn *c, uint32_t id)
{
	return idmap_get(&c->streams, id);
}

uint64_t tp_conn_rtt_us(const struct tp_conn *c)
{
	return c->windows.rtt_us;
}

uint64_t tp_conn_stalls(const struct tp_conn *c)
{
	return c->stalls;
}

uint64_t tp_conn_grace_ms(const struct tp_conn *c)
{
	return c->grace_ms;
}

const uint8_t *tp_conn_session_id(const struct tp_conn *c)
{
	return c->session;
}

size_t tp_conn_memory(const struct tp_conn *c)
{
	struct tp_stream *s;
	size_t it = 0, sum = c->replay.bytes + buf_len(&c->carrier.urgent) + buf_len(&c->carrier.note) +
			     buf_len(&c->carrier.partial);

	while ((s = idmap_next(&c->streams, &it)))
		sum += sizeof(*s) + s->queue.cap;
	return sum;
}
