#include "tests/lib/pair.h"

#include <stdio.h>

#include "proto/frame.h"
#include "proto/websocket.h"

static uint64_t seed_state = 1;

void pair_seed(uint64_t seed)
{
	seed_state = seed * 2 + 1;
}

uint64_t pair_random64(void)
{
	uint64_t z = seed_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t pair_below(uint32_t n)
{
	return (uint32_t)(pair_random64() % n);
}

int pair_entropy(void *dst, size_t len)
{
	uint8_t *p = dst;

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)pair_random64();
	return 0;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "pair: %s\n", what);
	abort();
}

static void *must_alloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	must(p != NULL, "out of memory");
	return p;
}

void pair_init(struct pair *p)
{
	*p = (struct pair){
		.keep_data = true,
		.auto_consume = true,
		.fail_detaches = true,
		.pull = 64 * 1024,
		.budget = SIZE_MAX,
		.now_us = 1000 * 1000 * 1000,
		.notes = must_alloc(PAIR_NOTES, sizeof(struct pair_note)),
	};
	for (int i = 0; i < 2; i++) {
		tp_config_init(&p->cfg[i], i == PAIR_GATEWAY ? TP_GATEWAY : TP_RELAY, pair_entropy);
		p->cfg[i].version = i == PAIR_GATEWAY ? "gateway/1" : "relay/1";
		buf_init(&p->end[i].wire, SIZE_MAX / 2);
		buf_init(&p->end[i].record, SIZE_MAX / 2);
		p->end[i].streams = must_alloc(PAIR_STREAMS, sizeof(struct pair_stream));
	}
	p->cfg[PAIR_GATEWAY].region = "here";
}

static void release_all(struct pair_end *e)
{
	for (size_t i = 0; i < e->n_streams; i++)
		pair_release(&e->streams[i]);
}

void pair_done(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		release_all(&p->end[i]);
		for (size_t k = 0; k < p->end[i].n_streams; k++)
			buf_done(&p->end[i].streams[k].got);
		tp_conn_free(p->end[i].conn);
		tp_conn_free(p->end[i].fresh);
		buf_done(&p->end[i].wire);
		buf_done(&p->end[i].record);
		free(p->end[i].streams);
	}
	free(p->notes);
}

static struct pair_stream *stream_add(struct pair *p, enum pair_side side, struct tp_stream *s)
{
	struct pair_end *e = &p->end[side];
	struct pair_stream *ps;

	must(e->n_streams < PAIR_STREAMS, "too many streams for one test");
	ps = &e->streams[e->n_streams++];
	*ps = (struct pair_stream){ .s = s, .id = tp_stream_id(s) };
	buf_init(&ps->got, SIZE_MAX / 2);
	tp_stream_set_user(s, ps);
	return ps;
}

static void note_fields(char *dst, const struct tp_event *ev)
{
	size_t at = 0;

	for (size_t i = 0; i < ev->n_fields && at < PAIR_TEXT; i++)
		at += (size_t)snprintf(dst + at, PAIR_TEXT - at, "%.*s=%.*s;", SPAN_FMT(ev->fields[i].name),
				       SPAN_FMT(ev->fields[i].value));
}

static void note(struct pair *p, enum pair_side side, const struct tp_event *ev)
{
	struct pair_note *n;

	if (p->n_notes == PAIR_NOTES)
		return;
	n = &p->notes[p->n_notes++];
	*n = (struct pair_note){ .side = side, .type = ev->type, .len = ev->len, .end = ev->end, .fatal = ev->fatal,
				 .resumed = ev->resumed, .reason = ev->reason, .last_id = ev->last_id,
				 .frames = ev->replayed_frames, .bytes = ev->replayed_bytes };
	n->id = ev->stream ? tp_stream_id(ev->stream) : 0;
	snprintf(n->text, sizeof(n->text), "%.*s", SPAN_FMT(ev->detail));
	memcpy(n->replaces, ev->replaces, sizeof(n->replaces));
}

static void take_data(struct pair *p, struct pair_stream *ps, const struct tp_event *ev)
{
	must(!ps->end && !ps->reset, "DATA after the end");
	if (p->keep_data)
		must(buf_add(&ps->got, ev->data, ev->len) == 0, "out of memory");
	ps->unconsumed += ev->len;
	ps->end = ev->end;
	if (p->auto_consume)
		pair_consume(p, ps, ps->unconsumed);
}

static void on_stream_event(struct pair *p, struct pair_stream *ps, const struct tp_event *ev)
{
	switch (ev->type) {
	case TP_EV_HEAD:
		must(!ps->head && !ps->reset && !ps->end, "HEAD out of place");
		ps->head = true;
		ps->end = ev->end;
		note_fields(ps->fields, ev);
		break;
	case TP_EV_DATA:
		take_data(p, ps, ev);
		break;
	case TP_EV_RESET:
		must(!ps->reset, "RESET twice");
		ps->reset = true;
		ps->reason = ev->reason;
		break;
	case TP_EV_WRITABLE:
		ps->writable++;
		break;
	default:
		must(false, "event with a stream that should have none");
	}
}

static void answer_hello(struct pair *p, const struct tp_event *ev)
{
	static const uint8_t none[TP_SESSION_ID_BYTES];
	struct pair_end *e = &p->end[PAIR_RELAY];
	uint8_t id[TP_SESSION_ID_BYTES] = { 0x5e, ++p->next_session };

	if (e->conn && !p->forget_sessions && memcmp(ev->session, none, sizeof(none)) != 0 &&
	    memcmp(ev->session, tp_conn_session_id(e->conn), sizeof(none)) == 0) {
		if (tp_conn_resume(e->conn, e->fresh, p->now_us / 1000) == 0) {
			e->fresh = tp_conn_free(e->fresh);
			return;
		}
	}
	if (e->conn) {
		tp_conn_abandon(e->conn, TP_REASON_SESSION_LOST);
		pair_events(p, PAIR_RELAY);
		release_all(e);
		tp_conn_free(e->conn);
	}
	e->conn = e->fresh;
	e->fresh = NULL;
	must(tp_conn_welcome(e->conn, id, p->now_us / 1000) == 0, "welcome");
}

static void on_event(struct pair *p, enum pair_side side, struct tp_event *ev)
{
	struct pair_stream *ps = NULL;

	note(p, side, ev);
	if (ev->type == TP_EV_OPEN) {
		ps = stream_add(p, side, ev->stream);
		ps->end = ev->end;
		note_fields(ps->fields, ev);
	} else if (ev->stream) {
		ps = tp_stream_user(ev->stream);
		must(ps && ps->s == ev->stream, "event for a stream that was released");
		on_stream_event(p, ps, ev);
	}
	if (ev->type == TP_EV_NOTE)
		note_fields(p->notes[p->n_notes - 1].text, ev);
	if (ev->type == TP_EV_HELLO)
		answer_hello(p, ev);
	if (p->on_event)
		p->on_event(p, side, ev, ps);
	if ((ev->type == TP_EV_FAILED || ev->type == TP_EV_CLOSED) && p->fail_detaches)
		p->up = false;
}

/* On the connection as it is for the wire: the relay's may still wait for its HELLO. */
static struct tp_conn *wire_conn(struct pair *p, enum pair_side side)
{
	return p->end[side].fresh ? p->end[side].fresh : p->end[side].conn;
}

static void drain(struct pair *p, enum pair_side side, struct tp_conn *c)
{
	static struct tp_event ev;

	while (c && tp_conn_next(c, p->now_us, &ev)) {
		on_event(p, side, &ev);
		/* An answered HELLO has moved or freed the connection. */
		if (ev.type == TP_EV_HELLO)
			c = p->end[side].conn;
	}
}

void pair_events(struct pair *p, enum pair_side side)
{
	drain(p, side, p->end[side].conn);
}

/* In memory of its own, so that a sanitizer sees every step outside. */
static void deliver(struct pair *p, enum pair_side to, const uint8_t *bytes, size_t len)
{
	uint8_t *copy = must_alloc(len, 1);
	struct tp_conn *c = wire_conn(p, to);

	memcpy(copy, bytes, len);
	if (c) {
		tp_conn_feed(c, copy, len);
		drain(p, to, c);
	}
	free(copy);
}

void pair_connect(struct pair *p)
{
	struct pair_end *r = &p->end[PAIR_RELAY], *g = &p->end[PAIR_GATEWAY];

	for (int i = 0; i < 2; i++) {
		buf_clear(&p->end[i].wire);
		buf_clear(&p->end[i].record);
	}
	r->fresh = tp_conn_free(r->fresh);
	must(tp_conn_new(&p->cfg[PAIR_RELAY], &r->fresh) == 0, "out of memory");
	must(tp_conn_attach(r->fresh, p->now_us / 1000) == 0, "attach");
	if (!g->conn)
		must(tp_conn_new(&p->cfg[PAIR_GATEWAY], &g->conn) == 0, "out of memory");
	must(tp_conn_attach(g->conn, p->now_us / 1000) == 0, "attach");
	p->up = true;
}

void pair_cut(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		buf_clear(&p->end[i].wire);
		if (p->end[i].conn)
			tp_conn_detach(p->end[i].conn);
	}
	p->end[PAIR_RELAY].fresh = tp_conn_free(p->end[PAIR_RELAY].fresh);
	p->up = false;
}

static size_t pull(struct pair *p, enum pair_side side)
{
	struct tp_conn *c = wire_conn(p, side);
	uint8_t *dst = must_alloc(p->pull, 1);
	bool wanted = c && tp_conn_wants_write(c);
	size_t n = c ? tp_conn_pull(c, dst, p->pull) : 0;

	must(wanted || n == 0, "bytes although no write was wanted");
	must(!wanted || n > 0 || tp_conn_has_event(c), "a write was wanted, and nothing came");
	must(n <= p->pull, "more bytes than room");
	must(buf_add(&p->end[side].wire, dst, n) == 0, "out of memory");
	if (p->recording)
		must(buf_add(&p->end[side].record, dst, n) == 0, "out of memory");
	free(dst);
	drain(p, side, c);
	return n;
}

bool pair_move(struct pair *p, enum pair_side from, size_t max)
{
	struct buf *wire = &p->end[from].wire;
	bool moved = pull(p, from) > 0;
	size_t n;

	p->now_us += p->delay_us;
	while (buf_len(wire) && max) {
		n = MIN(MIN(buf_len(wire), p->chunk ? p->chunk : SIZE_MAX), MIN(max, p->budget));
		if (n == 0) {
			pair_cut(p);
			return false;
		}
		max -= n;
		p->budget -= n;
		deliver(p, !from, buf_bytes(wire), n);
		if (!p->up)
			break;
		buf_drop(wire, n);
		moved = true;
	}
	return moved;
}

void pair_run(struct pair *p)
{
	bool moved = true;

	while (p->up && moved) {
		moved = pair_move(p, PAIR_GATEWAY, SIZE_MAX);
		if (p->up)
			moved |= pair_move(p, PAIR_RELAY, SIZE_MAX);
	}
	pair_events(p, PAIR_GATEWAY);
	pair_events(p, PAIR_RELAY);
}

void pair_up(struct pair *p)
{
	pair_connect(p);
	pair_run(p);
	for (int i = 0; i < 2; i++)
		must(p->end[i].conn && tp_conn_is_attached(p->end[i].conn), "not attached");
}

void pair_advance(struct pair *p, uint64_t ms)
{
	uint64_t until = p->now_us + ms * 1000, due;

	for (;;) {
		struct tp_conn *g = wire_conn(p, PAIR_GATEWAY), *r = wire_conn(p, PAIR_RELAY);

		pair_run(p);
		due = MIN(g ? tp_conn_deadline(g) : UINT64_MAX, r ? tp_conn_deadline(r) : UINT64_MAX);
		if (due == UINT64_MAX || due * 1000 > until)
			break;
		p->now_us = MAX(p->now_us, due * 1000);
		for (int i = 0; i < 2; i++) {
			struct tp_conn *c = wire_conn(p, i);

			if (c) {
				tp_conn_tick(c, p->now_us / 1000);
				drain(p, i, c);
			}
		}
	}
	p->now_us = until;
}

struct pair_stream *pair_open(struct pair *p, bool end)
{
	const struct tp_field fields[] = { { SPAN(":kind"), SPAN("exchange") }, { SPAN("Accept"), SPAN("*/*") } };
	struct tp_stream *s;
	int r = tp_stream_open(p->end[PAIR_RELAY].conn, fields, ARRAY_LEN(fields), end, NULL, &s);

	must(r >= 0, "open");
	return r > 0 ? NULL : stream_add(p, PAIR_RELAY, s);
}

struct pair_stream *pair_peer(struct pair *p, enum pair_side side, uint32_t id)
{
	struct pair_end *e = &p->end[side];

	/* The newest, for ids begin anew with a session. */
	for (size_t i = e->n_streams; i-- > 0;)
		if (e->streams[i].id == id)
			return &e->streams[i];
	return NULL;
}

void pair_head(struct pair_stream *ps, bool end)
{
	const struct tp_field fields[] = { { SPAN(":status"), SPAN("200") } };

	must(tp_stream_head(ps->s, fields, ARRAY_LEN(fields), end) == 0, "head");
}

uint8_t pair_pattern(uint32_t id, enum pair_side from, uint64_t at)
{
	return (uint8_t)(at * 31 + (at >> 8) * 7 + id * 13 + from * 101);
}

void pair_send_at(struct pair_stream *ps, enum pair_side from, uint64_t at, size_t len, bool end)
{
	uint8_t *bytes = must_alloc(len + 1, 1);

	for (size_t i = 0; i < len; i++)
		bytes[i] = pair_pattern(ps->id, from, at + i);
	must(tp_stream_send(ps->s, bytes, len, end) == 0, "send");
	free(bytes);
}

void pair_send(struct pair_stream *ps, enum pair_side from, size_t len, bool end)
{
	pair_send_at(ps, from, 0, len, end);
}

bool pair_pattern_ok(const uint8_t *p, size_t len, uint32_t id, enum pair_side from, uint64_t at)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != pair_pattern(id, from, at + i))
			return false;
	return true;
}

void pair_consume(struct pair *p, struct pair_stream *ps, size_t len)
{
	must(len <= ps->unconsumed, "more consumed than came");
	ps->unconsumed -= len;
	if (ps->s)
		tp_stream_consumed(ps->s, len, p->now_us);
}

void pair_release(struct pair_stream *ps)
{
	ps->s = tp_stream_release(ps->s);
}

size_t pair_count(const struct pair *p, enum pair_side side, enum tp_event_type type)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_notes; i++)
		n += p->notes[i].side == side && p->notes[i].type == type;
	return n;
}

const struct pair_note *pair_last(const struct pair *p, enum pair_side side, enum tp_event_type type)
{
	for (size_t i = p->n_notes; i-- > 0;)
		if (p->notes[i].side == side && p->notes[i].type == type)
			return &p->notes[i];
	return NULL;
}

void pair_forget_notes(struct pair *p)
{
	p->n_notes = 0;
}

/* Gathers the pieces of a message in `message`. */
static void frame_of(const struct buf *message, struct pair_frame *ret)
{
	uint8_t *m = buf_bytes(message);
	struct tp_frame f;

	must(frame_decode(m, buf_len(message), TP_PAYLOAD_CEILING, &f) == NULL, "a frame that is not one");
	ret->type = f.type;
	ret->flags = f.flags;
	ret->id = f.stream_id;
	ret->len = f.len;
	memcpy(ret->payload, f.payload, MIN(f.len, sizeof(ret->payload)));
}

size_t pair_frames(struct pair *p, enum pair_side side, struct pair_frame *ret, size_t max)
{
	struct buf *rec = &p->end[side].record, message;
	uint8_t *start = must_alloc(buf_len(rec) + 1, 1), *at = start, *end = start + buf_len(rec);
	struct ws_decoder d;
	struct ws_item item;
	size_t n = 0, begin = 0;

	memcpy(start, buf_bytes(rec) ? buf_bytes(rec) : start, buf_len(rec));
	buf_init(&message, SIZE_MAX / 2);
	ws_decoder_init(&d, side == PAIR_GATEWAY ? WS_SERVER : WS_CLIENT, SIZE_MAX);
	while (n < max) {
		ws_decode(&d, &at, end, &item);
		must(item.type != WS_ITEM_BAD, "a WebSocket frame that is not one");
		if (item.type == WS_ITEM_MORE)
			break;
		if (item.type == WS_ITEM_DATA) {
			must(buf_add(&message, item.data, item.len) == 0, "out of memory");
			if (!item.end)
				continue;
			frame_of(&message, &ret[n]);
			ret[n++].at = begin;
			buf_clear(&message);
		}
		begin = (size_t)(at - start);
	}
	buf_done(&message);
	free(start);
	return n;
}
