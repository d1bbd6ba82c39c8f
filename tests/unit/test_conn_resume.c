/* A lost connection costs latency and nothing else: cuts at every byte, taking over, counts that do not fit, lost sessions. */
#include "tests/lib/pair.h"
#include "tests/lib/raw.h"
#include "tests/lib/unit.h"

#include <string.h>

#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"
#include "proto/frame.h"

static struct pair p;

enum { CALLS = 3, REQUEST = 700, ANSWER = 1500 };

/* Calls go out as soon as the session is there; the gateway answers each when it has the request. */
static void run_calls(struct pair *pair, enum pair_side side, const struct tp_event *ev, struct pair_stream *ps)
{
	struct pair_stream *r;

	if (side == PAIR_RELAY && ev->type == TP_EV_ATTACHED && pair->end[PAIR_RELAY].n_streams == 0) {
		for (int i = 0; i < CALLS; i++) {
			r = pair_open(pair, false);
			pair_send(r, PAIR_RELAY, REQUEST, i != 1);
			if (i == 1)
				pair_release(r); /* cancelled */
		}
	}
	if (side == PAIR_GATEWAY && ps && ps->end && !ps->head && !ps->reset) {
		ps->head = true;
		pair_head(ps, false);
		pair_send(ps, PAIR_GATEWAY, ANSWER, true);
	}
}

static void assert_calls_done(void)
{
	ck_assert_uint_eq(p.end[PAIR_RELAY].n_streams, CALLS);
	ck_assert_uint_eq(p.end[PAIR_GATEWAY].n_streams, CALLS);
	for (size_t i = 0; i < CALLS; i++) {
		struct pair_stream *r = &p.end[PAIR_RELAY].streams[i], *g = pair_peer(&p, PAIR_GATEWAY, r->id);

		ck_assert_uint_eq(buf_len(&g->got), i == 1 ? buf_len(&g->got) : REQUEST);
		ck_assert(pair_pattern_ok(buf_bytes(&g->got), buf_len(&g->got), g->id, PAIR_RELAY, 0));
		ck_assert_int_eq(g->reset, i == 1);
		if (i == 1)
			continue;
		ck_assert(r->head && r->end && !r->reset);
		ck_assert_uint_eq(buf_len(&r->got), ANSWER);
		ck_assert(pair_pattern_ok(buf_bytes(&r->got), ANSWER, r->id, PAIR_GATEWAY, 0));
	}
	ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_FAILED) + pair_count(&p, PAIR_RELAY, TP_EV_FAILED), 0);
}

static void begin(size_t chunk)
{
	pair_seed(7);
	pair_init(&p);
	p.chunk = chunk;
	p.pull = chunk ? chunk : 4096; /* what is half pulled is half sent */
	p.on_event = run_calls;
}

/* How many bytes the whole scenario moves. */
static size_t scenario_bytes(size_t chunk)
{
	size_t n;

	begin(chunk);
	p.budget = SIZE_MAX / 2;
	pair_connect(&p);
	pair_run(&p);
	assert_calls_done();
	n = SIZE_MAX / 2 - p.budget;
	pair_done(&p);
	return n;
}

START_TEST(cut_at_every_byte)
{
	static const size_t chunks[] = { 0, 1, 19 };

	for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
		size_t total = scenario_bytes(chunks[i]);

		ck_assert_uint_gt(total, CALLS * (REQUEST + ANSWER) - ANSWER);
		for (size_t at = 0; at < total; at += chunks[i] == 0 ? 1 : 3) {
			begin(chunks[i]);
			p.budget = at;
			pair_connect(&p);
			pair_run(&p);
			ck_assert(!p.up);
			p.budget = SIZE_MAX;
			pair_connect(&p);
			pair_run(&p);
			assert_calls_done();
			pair_done(&p);
		}
	}
}
END_TEST

/* Again and again, at steps that fall everywhere, in the greeting of the new connection too. */
START_TEST(cut_all_the_time)
{
	for (size_t step = 2500; step < 7000; step += 37) { /* a greeting and the largest frame fit */
		int tries = 0;

		begin(0);
		do {
			if (p.up)
				pair_cut(&p);
			p.budget = step;
			pair_connect(&p);
			pair_run(&p);
			ck_assert_int_lt(++tries, 20);
		} while (!p.up);
		assert_calls_done();
		pair_done(&p);
	}
}
END_TEST

START_TEST(takes_over_from_a_connection_that_looks_alive)
{
	size_t total = scenario_bytes(0);

	for (size_t at = 0; at < total; at += 11) {
		struct tp_conn *session;

		begin(0);
		pair_connect(&p);
		for (size_t moved = 0; moved < at && p.up; moved += 400) {
			pair_move(&p, PAIR_GATEWAY, 200);
			pair_move(&p, PAIR_RELAY, 200);
		}
		session = p.end[PAIR_RELAY].conn;
		pair_connect(&p); /* the relay has not noticed anything */
		pair_run(&p);
		assert_calls_done();
		if (session && tp_conn_is_attached(session))
			ck_assert_ptr_eq(session, p.end[PAIR_RELAY].conn);
		pair_done(&p);
	}
}
END_TEST

START_TEST(everything_done_while_detached_arrives)
{
	struct pair_stream *a, *b, *c, *g;

	pair_init(&p);
	p.auto_consume = false;
	pair_up(&p);
	a = pair_open(&p, false);
	b = pair_open(&p, false);
	pair_send(a, PAIR_RELAY, 1000, false);
	pair_run(&p);
	pair_cut(&p);
	pair_forget_notes(&p);
	ck_assert(!tp_conn_is_attached(p.end[0].conn) && !tp_conn_is_attached(p.end[1].conn));
	ck_assert(!tp_conn_wants_write(p.end[0].conn));
	c = pair_open(&p, true);
	pair_send_at(a, PAIR_RELAY, 1000, 100 * 1000, true);
	pair_release(b);
	g = pair_peer(&p, PAIR_GATEWAY, a->id);
	pair_head(g, false);
	pair_send(g, PAIR_GATEWAY, 50 * 1000, true);
	pair_consume(&p, g, 1000);
	tp_conn_goaway(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, "bye");
	pair_up(&p);
	ck_assert(pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
	ck_assert(pair_last(&p, PAIR_RELAY, TP_EV_ATTACHED)->resumed);
	ck_assert_uint_gt(pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->frames, 0);
	ck_assert_uint_gt(pair_last(&p, PAIR_RELAY, TP_EV_ATTACHED)->frames, 0);
	ck_assert_uint_eq(buf_len(&g->got), 101 * 1000);
	ck_assert(g->end && pair_pattern_ok(buf_bytes(&g->got), 101 * 1000, a->id, PAIR_RELAY, 0));
	ck_assert(a->end && pair_pattern_ok(buf_bytes(&a->got), 50 * 1000, a->id, PAIR_GATEWAY, 0));
	ck_assert(pair_peer(&p, PAIR_GATEWAY, b->id)->reset);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_GOAWAY), 1);
	ck_assert(!c->reset && pair_peer(&p, PAIR_GATEWAY, c->id)); /* it crossed the GOAWAY */
	pair_done(&p);
}
END_TEST

/* While detached a stream takes what its queue holds, and then waits. */
START_TEST(detached_streams_wait)
{
	struct pair_stream *r;
	uint64_t at = 0;

	pair_init(&p);
	pair_up(&p);
	r = pair_open(&p, false);
	pair_run(&p);
	pair_cut(&p);
	for (int i = 0; i < 10000 && tp_stream_wants_data(r->s); i++, at += 1000)
		pair_send_at(r, PAIR_RELAY, at, 1000, false);
	ck_assert_uint_le(at, 2 * TP_SEND_QUEUE);
	ck_assert_uint_le(tp_conn_memory(p.end[PAIR_RELAY].conn), 3 * TP_SEND_QUEUE);
	pair_up(&p);
	ck_assert_uint_eq(r->writable, 1);
	ck_assert_uint_eq(buf_len(&pair_peer(&p, PAIR_GATEWAY, r->id)->got), at);
	pair_done(&p);
}
END_TEST

START_TEST(lost_session_ends_every_stream)
{
	struct pair_stream *r[3], *g[3], *fresh;

	pair_init(&p);
	pair_up(&p);
	for (int i = 0; i < 3; i++)
		r[i] = pair_open(&p, false);
	pair_run(&p);
	for (int i = 0; i < 3; i++)
		g[i] = pair_peer(&p, PAIR_GATEWAY, r[i]->id);
	pair_send(g[2], PAIR_GATEWAY, 0, true);
	pair_send(r[2], PAIR_RELAY, 0, true);
	pair_run(&p); /* the third is over */
	pair_release(g[1]);
	pair_cut(&p);
	p.forget_sessions = true;
	pair_forget_notes(&p);
	pair_up(&p);
	ck_assert(!pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_RESET), 1);
	ck_assert(g[0]->reset && r[0]->reset && r[1]->reset);
	ck_assert_uint_eq(g[0]->reason, TP_REASON_SESSION_LOST);
	ck_assert_uint_eq(r[0]->reason, TP_REASON_SESSION_LOST);
	/* First the endings, then the new session. */
	ck_assert(pair_last(&p, PAIR_GATEWAY, TP_EV_RESET) < pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED));
	ck_assert_mem_eq(tp_conn_session_id(p.end[0].conn), tp_conn_session_id(p.end[1].conn), TP_SESSION_ID_BYTES);
	/* Ids begin anew, and the old streams are in nobody's way. */
	fresh = pair_open(&p, false);
	ck_assert_uint_eq(fresh->id, 1);
	pair_send(fresh, PAIR_RELAY, 5000, true);
	tp_stream_consumed(g[0]->s, 0, p.now_us);
	pair_release(g[0]);
	pair_run(&p);
	ck_assert_uint_eq(buf_len(&pair_peer(&p, PAIR_GATEWAY, 1)->got), 5000);
	pair_done(&p);
}
END_TEST

/* One end under test that has a session with `sent` counted frames sent, of which `acked` are acknowledged; then it is detached. */
static struct tp_stream *session_with(struct raw *r, enum tp_role role, int sent, int acked)
{
	struct tp_stream *s;
	uint8_t count[8];

	raw_init(r, role);
	raw_greet(r);
	if (role == TP_RELAY) {
		s = raw_local_open(r, false);
	} else {
		raw_open(r, 1, false);
		s = r->last;
		tp_stream_head(s, NULL, 0, false);
	}
	for (int i = 1; i < sent; i++)
		tp_stream_send(s, "x", 1, false);
	raw_bytes(r, NULL, 0);
	put_be64(count, (uint64_t)acked);
	raw_frame(r, TP_ACK, 0, 0, count, sizeof(count));
	ck_assert(!r->over);
	tp_conn_detach(r->c);
	return s;
}

static void session_hex(const struct raw *r, char hex[2 * TP_SESSION_ID_BYTES + 1])
{
	hex_encode(tp_conn_session_id(r->c), TP_SESSION_ID_BYTES, hex);
}

START_TEST(gateway_checks_the_counts)
{
	static const struct {
		const char *received, *session;
		const char *detail; /* NULL: resumed */
	} cases[] = {
		{ "2", NULL, "WELCOME with an impossible :received" },
		{ "3", NULL, NULL },
		{ "5", NULL, NULL },
		{ "6", NULL, "WELCOME with an impossible :received" },
		{ "5", "00000000000000000000000000000001", "WELCOME names another session" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char hex[2 * TP_SESSION_ID_BYTES + 1];
		struct raw r;

		session_with(&r, TP_GATEWAY, 5, 3);
		session_hex(&r, hex);
		buf_clear(&r.out);
		tp_conn_attach(r.c, r.now_us / 1000);

		const struct tp_field welcome[] = {
			{ SPAN(":version"), SPAN("1") },
			{ SPAN(":session"), span_of(cases[i].session ? cases[i].session : hex) },
			{ SPAN(":resumed"), SPAN("1") },
			{ SPAN(":received"), span_of(cases[i].received) },
			{ SPAN(":max-payload"), SPAN("16384") },
			{ SPAN(":window"), SPAN("262144") },
			{ SPAN(":grace-ms"), SPAN("30000") },
		};
		raw_fields(&r, TP_WELCOME, 0, 0, welcome, ARRAY_LEN(welcome));
		ck_assert_int_eq(r.over, cases[i].detail != NULL);
		if (cases[i].detail) {
			ck_assert_str_eq(r.detail, cases[i].detail);
			ck_assert(r.failed.fatal);
		} else {
			struct tp_frame f;

			ck_assert(tp_conn_is_attached(r.c));
			ck_assert_int_eq(raw_sent(&r, TP_DATA, &f), cases[i].received[0] == '3');
		}
		raw_done(&r);
	}
}
END_TEST

/* A connection that waits for its answer to HELLO, naming r's session. */
static void hello_for(struct raw *fresh, const struct raw *r, const char *received, bool more)
{
	char hex[2 * TP_SESSION_ID_BYTES + 1];
	static uint8_t bytes[4096], payload[2048];
	size_t n, size;

	session_hex(r, hex);
	const struct tp_field hello[] = {
		{ SPAN(":version"), SPAN("1") },	 { SPAN(":session"), span_of(hex) },
		{ SPAN(":received"), span_of(received) }, { SPAN(":max-payload"), SPAN("16384") },
		{ SPAN(":window"), SPAN("262144") },	 { SPAN(":max-streams"), SPAN("100") },
	};
	static const uint8_t mask[4] = { 0 };

	raw_init(fresh, TP_RELAY);
	frame_put_header(payload, TP_HELLO, 0, 0);
	size = fields_size(hello, ARRAY_LEN(hello));
	fields_encode(payload + TP_FRAME_HEADER, hello, ARRAY_LEN(hello));
	n = ws_header(bytes, WS_BINARY, TP_FRAME_HEADER + size, mask);
	memcpy(bytes + n, payload, TP_FRAME_HEADER + size);
	tp_conn_feed(fresh->c, bytes, n + TP_FRAME_HEADER + size + (more ? 1 : 0));
	ck_assert(tp_conn_next(fresh->c, fresh->now_us, &fresh->ev));
	ck_assert_int_eq(fresh->ev.type, TP_EV_HELLO);
	ck_assert_mem_eq(fresh->ev.session, tp_conn_session_id(r->c), TP_SESSION_ID_BYTES);
}

START_TEST(relay_checks_the_counts)
{
	static const struct {
		const char *received;
		bool more;
		int result;
	} cases[] = {
		{ "2", false, TP_RESUME_IMPOSSIBLE }, { "3", false, 0 },
		{ "5", false, 0 },		      { "6", false, TP_RESUME_IMPOSSIBLE },
		{ "4", true, TP_RESUME_IMPOSSIBLE }, /* something follows HELLO before WELCOME */
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct raw r, fresh;
		struct tp_event ev;

		session_with(&r, TP_RELAY, 5, 3);
		hello_for(&fresh, &r, cases[i].received, cases[i].more);
		ck_assert_int_eq(tp_conn_resume(r.c, fresh.c, fresh.now_us / 1000), cases[i].result);
		ck_assert_int_eq(tp_conn_is_attached(r.c), cases[i].result == 0);
		if (cases[i].result == 0) {
			ck_assert(tp_conn_next(r.c, r.now_us, &ev));
			ck_assert_int_eq(ev.type, TP_EV_ATTACHED);
			ck_assert(ev.resumed);
			ck_assert_uint_eq(ev.replayed_frames, 5 - (uint64_t)(cases[i].received[0] - '0'));
			ck_assert(!tp_conn_wants_write(fresh.c));
		}
		raw_done(&fresh);
		raw_done(&r);
	}
}
END_TEST

START_TEST(going_away_holds_across_connections)
{
	pair_init(&p);
	pair_up(&p);
	tp_conn_goaway(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, NULL);
	pair_run(&p);
	pair_cut(&p);
	pair_up(&p);
	ck_assert(tp_conn_going_away(p.end[1].conn));
	ck_assert_ptr_null(pair_open(&p, true));
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_GOAWAY), 1);
	/* A new session starts afresh. */
	pair_cut(&p);
	p.forget_sessions = true;
	pair_up(&p);
	ck_assert_ptr_nonnull(pair_open(&p, true));
	pair_done(&p);
}
END_TEST

/* The relay opens nothing in a session of which the gateway may never hear. */
START_TEST(a_lost_welcome_loses_no_call)
{
	struct raw r;

	raw_init(&r, TP_RELAY);
	raw_greet_with(&r, NULL, NULL);
	ck_assert(!tp_conn_is_attached(r.c));
	ck_assert(!r.over);
	raw_ping(&r, 0);
	ck_assert(tp_conn_is_attached(r.c));
	raw_done(&r);
}
END_TEST

/* The session of a dead process is named until the relay has been reached, and no longer. */
START_TEST(what_a_gateway_replaces)
{
	static const uint8_t dead[TP_SESSION_ID_BYTES] = { 1, 2, 3 }, none[TP_SESSION_ID_BYTES];

	pair_init(&p);
	pair_connect(&p);
	tp_conn_replaces(p.end[PAIR_GATEWAY].conn, dead);
	for (int i = 0; i < 2; i++) {
		pair_connect(&p);
		pair_move(&p, PAIR_GATEWAY, SIZE_MAX);
		ck_assert_mem_eq(pair_last(&p, PAIR_RELAY, TP_EV_HELLO)->replaces, dead, sizeof(dead));
	}
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_ATTACHED), 1);
	pair_cut(&p);
	pair_up(&p);
	ck_assert(pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
	ck_assert_mem_eq(pair_last(&p, PAIR_RELAY, TP_EV_HELLO)->replaces, none, sizeof(none));
	pair_done(&p);
}
END_TEST

UNIT_MAIN("conn_resume",
	  ADD(cut_at_every_byte) ADD(cut_all_the_time) ADD(takes_over_from_a_connection_that_looks_alive)
	  ADD(everything_done_while_detached_arrives) ADD(detached_streams_wait) ADD(lost_session_ends_every_stream)
	  ADD(gateway_checks_the_counts) ADD(relay_checks_the_counts) ADD(going_away_holds_across_connections)
	  ADD(what_a_gateway_replaces)
	  ADD(a_lost_welcome_loses_no_call))
