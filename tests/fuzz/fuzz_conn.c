/* One end of the tunnel, after a valid greeting, against a peer that sends anything, with a user that does anything. First
 * byte: which end. Then steps of one byte with their arguments. Whatever happens, the invariants hold and memory is bounded.
 */
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STREAMS = 32, MAX_OPEN = 8, SENDS = 4096 };

/* Kept frames: DATA up to the limit, CREDIT and HEAD beyond it, answers up to four times it. Then the queues. */
enum { MEMORY_MAX = 5 * ACK_AFTER_BYTES + URGENT_MAX + TP_PAYLOAD_CEILING + STREAMS * (2 * TP_SEND_QUEUE + 1024) };

struct user_stream {
	struct tp_stream *s;
	size_t unconsumed;
	bool head, ended;
};

struct fuzz {
	const uint8_t *p, *end;
	enum tp_role role;
	struct tp_conn *c;
	uint64_t now_ms;
	uint8_t session[TP_SESSION_ID_BYTES];
	struct user_stream streams[STREAMS];
	uint32_t last_id; /* opened by the peer */
};

static struct tp_event ev;

static void must(bool ok)
{
	if (!ok)
		abort();
}

static uint8_t take(struct fuzz *f)
{
	return f->p < f->end ? *f->p++ : 0;
}

static size_t take_bytes(struct fuzz *f, size_t want, const uint8_t **ret)
{
	size_t n = MIN(want, (size_t)(f->end - f->p));

	*ret = f->p;
	f->p += n;
	return n;
}

/* The same for the same input. */
static int entropy(void *dst, size_t len)
{
	static uint8_t x;

	for (size_t i = 0; i < len; i++)
		((uint8_t *)dst)[i] = x = (uint8_t)(x * 5 + 3);
	return 0;
}

static struct tp_config config(enum tp_role role)
{
	struct tp_config cfg;

	tp_config_init(&cfg, role, entropy);
	cfg.max_streams = MAX_OPEN;
	cfg.window_initial = 4096;
	cfg.window_max = 16384;
	cfg.window_extra_max = 32768;
	cfg.replay_max = 0; /* the smallest there is */
	cfg.max_payload = 2048;
	return cfg;
}

static struct user_stream *of(struct fuzz *f, uint8_t k)
{
	return &f->streams[k % STREAMS];
}

static void add_stream(struct fuzz *f, struct tp_stream *s, bool ended)
{
	for (size_t i = 0; i < STREAMS; i++) {
		if (f->streams[i].s)
			continue;
		f->streams[i] = (struct user_stream){ .s = s, .ended = ended };
		tp_stream_set_user(s, &f->streams[i]);
		return;
	}
	tp_stream_release(s);
}

static void on_event(struct fuzz *f)
{
	struct user_stream *u = ev.stream && ev.type != TP_EV_OPEN ? tp_stream_user(ev.stream) : NULL;

	must(!u || u->s == ev.stream);
	must(ev.type == TP_EV_OPEN || ev.n_fields == 0 || ev.type == TP_EV_HEAD || ev.type == TP_EV_HELLO ||
	     (ev.type == TP_EV_NOTE && f->role == TP_RELAY));
	switch (ev.type) {
	case TP_EV_OPEN:
		add_stream(f, ev.stream, false);
		break;
	case TP_EV_DATA:
		u->unconsumed += ev.len;
		must(u->unconsumed <= 16384);
		break;
	case TP_EV_RESET:
		u->s = tp_stream_release(u->s);
		break;
	case TP_EV_FAILED:
		if (ev.fatal)
			tp_conn_abandon(f->c, ev.reason);
		break;
	default:
		break;
	}
}

static void feed(struct fuzz *f, const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	must(copy != NULL);
	if (len)
		memcpy(copy, bytes, len);
	tp_conn_feed(f->c, copy, len);
	while (tp_conn_next(f->c, f->now_ms * 1000, &ev))
		on_event(f);
	free(copy);
}

/* A message, whole or in two pieces. */
static size_t wrap(const struct fuzz *f, const uint8_t *msg, size_t len, uint8_t *dst)
{
	static const uint8_t mask[4] = { 1, 2, 3, 4 };
	const uint8_t *key = f->role == TP_RELAY ? mask : NULL;
	size_t n = ws_header(dst, WS_BINARY, len, key);

	ws_mask_copy(dst + n, msg, len, key, 0);
	return n + len;
}

static void send_frame(struct fuzz *f, uint8_t type, uint8_t flags, uint32_t id, const uint8_t *payload, size_t len)
{
	uint8_t msg[TP_FRAME_HEADER + 4096], bytes[WS_HEADER_MAX + sizeof(msg)];
	size_t n, cut;

	frame_put_header(msg, type, flags, id);
	if (len)
		memcpy(msg + TP_FRAME_HEADER, payload, len);
	n = wrap(f, msg, TP_FRAME_HEADER + len, bytes);
	cut = take(f);
	cut = MIN(cut, n);
	feed(f, bytes, cut);
	feed(f, bytes + cut, n - cut);
}

static size_t greeting(const struct fuzz *f, bool resumed, uint64_t received, uint8_t *dst)
{
	char hex[2 * TP_SESSION_ID_BYTES + 1], count[24];
	bool welcome = f->role == TP_GATEWAY;
	struct tp_field fields[] = {
		{ SPAN(":version"), SPAN("1") },
		{ SPAN(":session"), SPAN("") },
		{ SPAN(":received"), { count, (size_t)snprintf(count, sizeof(count), "%llu", (unsigned long long)received) } },
		{ SPAN(":max-payload"), SPAN("2048") },
		{ SPAN(":window"), SPAN("4096") },
		{ welcome ? SPAN(":resumed") : SPAN(":max-streams"), welcome ? (resumed ? SPAN("1") : SPAN("0")) : SPAN("8") },
		{ welcome ? SPAN(":grace-ms") : SPAN(":replaces"), SPAN("1") },
	};
	uint8_t msg[1024];
	size_t size;

	hex_encode(f->session, sizeof(f->session), hex);
	if (welcome || resumed)
		fields[1].value = span_of(hex);
	if (!welcome)
		fields[6].value = span_of(hex);
	size = fields_size(fields, ARRAY_LEN(fields));
	frame_put_header(msg, welcome ? TP_WELCOME : TP_HELLO, 0, 0);
	fields_encode(msg + TP_FRAME_HEADER, fields, ARRAY_LEN(fields));
	return wrap(f, msg, TP_FRAME_HEADER + size, dst);
}

static void greet_gateway(struct fuzz *f, bool resume, uint64_t received)
{
	uint8_t bytes[1100];
	size_t n = greeting(f, resume, received, bytes);

	must(tp_conn_attach(f->c, f->now_ms) == 0);
	feed(f, bytes, n);
}

static void greet_relay(struct fuzz *f, bool resume, uint64_t received)
{
	struct tp_config cfg = config(TP_RELAY);
	uint8_t bytes[1100];
	size_t n = greeting(f, resume, received, bytes);
	struct tp_conn *fresh;

	must(tp_conn_new(&cfg, &fresh) == 0 && tp_conn_attach(fresh, f->now_ms) == 0);
	tp_conn_feed(fresh, bytes, n);
	must(tp_conn_next(fresh, f->now_ms * 1000, &ev) && ev.type == TP_EV_HELLO);
	must(!tp_conn_next(fresh, f->now_ms * 1000, &ev));
	if (resume && tp_conn_resume(f->c, fresh, f->now_ms) == 0) {
		tp_conn_free(fresh);
		feed(f, NULL, 0);
		return;
	}
	if (f->c) {
		tp_conn_abandon(f->c, TP_REASON_SESSION_LOST);
		feed(f, NULL, 0);
		for (size_t i = 0; i < STREAMS; i++)
			f->streams[i].s = tp_stream_release(f->streams[i].s);
		tp_conn_free(f->c);
	}
	f->c = fresh;
	must(tp_conn_welcome(f->c, f->session, f->now_ms) == 0);
	feed(f, NULL, 0);
}

/* A new connection: the same session, with a count that may be right, or a new one. */
static void connect_again(struct fuzz *f)
{
	uint8_t how = take(f);
	bool resume = f->c && f->c->has_session && (how & 1);
	uint64_t received = 0;

	if (resume)
		received = how & 2 ? f->c->replay.sent : f->c->replay.acked + (how >> 2);
	if (f->role == TP_GATEWAY)
		greet_gateway(f, resume, received);
	else
		greet_relay(f, resume, received);
	if (!resume)
		f->last_id = 0;
}

static void peer_frame(struct fuzz *f)
{
	static const uint8_t types[] = { TP_HELLO, TP_WELCOME, TP_PING, TP_PONG, TP_ACK, TP_GOAWAY, TP_OPEN, TP_HEAD, TP_DATA,
					 TP_CREDIT, TP_RESET, TP_DATA, TP_CREDIT, TP_HEAD, TP_RESET, 0x7f,
					 TP_NOTE };
	uint8_t type = types[take(f) % ARRAY_LEN(types)], flags = take(f), id = take(f);
	const uint8_t *payload;
	size_t len = take_bytes(f, (size_t)take(f) << (flags >> 6), &payload);

	send_frame(f, type, flags & 0x0f, id, payload, len);
}

/* What a peer in its senses would send. */
static void peer_open(struct fuzz *f)
{
	static const uint8_t fields[] = "\0\x05\0\x08:kindexchange";

	if (f->role == TP_GATEWAY)
		send_frame(f, TP_OPEN, take(f) & TP_FLAG_END, ++f->last_id, fields, sizeof(fields) - 1);
}

static void peer_ack(struct fuzz *f)
{
	uint8_t count[8];

	put_be64(count, f->c->replay.sent);
	send_frame(f, TP_ACK, 0, 0, count, sizeof(count));
}

static void peer_bytes(struct fuzz *f)
{
	const uint8_t *bytes;
	size_t n = take_bytes(f, take(f), &bytes);

	feed(f, bytes, n);
}

static void user_open(struct fuzz *f)
{
	const struct tp_field fields[] = { { SPAN(":kind"), take(f) & 1 ? SPAN("pipe") : SPAN("exchange") } };
	bool end = take(f) & 1;
	struct tp_stream *s;

	if (f->role == TP_RELAY && f->c->has_session && tp_stream_open(f->c, fields, 1, end, NULL, &s) == 0)
		add_stream(f, s, end);
}

static void user_send(struct fuzz *f)
{
	static const uint8_t zeros[SENDS];
	struct user_stream *u = of(f, take(f));
	const struct tp_field fields[] = { { SPAN(":status"), SPAN("200") } };
	uint8_t how = take(f);
	size_t len = (size_t)(how >> 1) << 5;

	if (!u->s || u->ended)
		return;
	if (f->role == TP_GATEWAY && !u->head) {
		u->head = true;
		u->ended = how & 1;
		must(tp_stream_head(u->s, fields, 1, how & 1) == 0);
		return;
	}
	if (!tp_stream_wants_data(u->s))
		return;
	u->ended = how & 1;
	must(tp_stream_send(u->s, zeros, MIN(len, sizeof(zeros)), how & 1) == 0);
}

static void user_consume(struct fuzz *f)
{
	struct user_stream *u = of(f, take(f));
	size_t n = (size_t)take(f) << 4;

	n = MIN(n, u->unconsumed);
	if (!u->s || !n)
		return;
	u->unconsumed -= n;
	tp_stream_consumed(u->s, n, f->now_ms * 1000);
}

static void user_session(struct fuzz *f)
{
	uint8_t how = take(f);
	const struct tp_field fields[] = { { SPAN(":audit"), SPAN("a:1:b") }, { SPAN("x"), SPAN("1") } };

	if (how & 2 && f->role == TP_GATEWAY)
		must(tp_conn_note(f->c, fields, 1 + (how >> 7)) == 0);
	else if (how & 1)
		tp_conn_goaway(f->c, TP_REASON_NONE, NULL);
	else
		tp_conn_close(f->c, TP_REASON_NONE, NULL);
}

static void pull(struct fuzz *f)
{
	uint8_t dst[16384];
	size_t room = (size_t)take(f) << 6, n;

	n = tp_conn_pull(f->c, dst, MIN(room, sizeof(dst)));
	must(n <= room);
	if (room && tp_conn_wants_write(f->c))
		must(n > 0);
	feed(f, NULL, 0);
}

static void step(struct fuzz *f)
{
	struct user_stream *u;

	switch (take(f) % 16) {
	case 0:
	case 1:
		peer_frame(f);
		break;
	case 2:
		peer_open(f);
		break;
	case 3:
		peer_ack(f);
		break;
	case 4:
		peer_bytes(f);
		break;
	case 5:
		user_open(f);
		break;
	case 6:
	case 7:
		user_send(f);
		break;
	case 8:
		user_consume(f);
		break;
	case 9:
		u = of(f, take(f));
		if (u->s)
			tp_stream_reset(u->s, take(f), "fuzz");
		break;
	case 10:
		u = of(f, take(f));
		u->s = tp_stream_release(u->s);
		break;
	case 11:
	case 12:
		pull(f);
		break;
	case 13:
		f->now_ms += (uint64_t)take(f) << 6;
		tp_conn_tick(f->c, f->now_ms);
		feed(f, NULL, 0);
		break;
	case 14:
		connect_again(f);
		break;
	case 15:
		user_session(f);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz f = { .p = data, .end = data + size, .now_ms = 1000, .session = { 1, 2, 3 } };
	struct tp_config cfg;

	f.role = take(&f) & 1 ? TP_RELAY : TP_GATEWAY;
	if (f.role == TP_GATEWAY) {
		cfg = config(f.role);
		must(tp_conn_new(&cfg, &f.c) == 0);
		greet_gateway(&f, false, 0);
	} else {
		greet_relay(&f, false, 0);
	}
	while (f.p < f.end) {
		step(&f);
		tp_conn_check(f.c);
		must(tp_conn_memory(f.c) <= MEMORY_MAX);
		must(tp_conn_streams(f.c) <= MAX_OPEN);
	}
	tp_conn_free(f.c);
	return 0;
}
