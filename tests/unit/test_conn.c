/* Two ends joined in memory: greeting, streams, endings, going away, liveness. */
#include "tests/lib/pair.h"
#include "tests/lib/raw.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

#include "proto/conn_impl.h"
#include "proto/frame.h"

static struct pair p;

static struct pair_stream *gateway_end(const struct pair_stream *ps)
{
	return pair_peer(&p, PAIR_GATEWAY, ps->id);
}

static void start(void)
{
	pair_seed(1);
	pair_init(&p);
	pair_up(&p);
	pair_forget_notes(&p);
}

static void assert_got(const struct pair_stream *ps, enum pair_side from, size_t len)
{
	ck_assert_uint_eq(buf_len(&ps->got), len);
	ck_assert(pair_pattern_ok(buf_bytes(&ps->got), len, ps->id, from, 0));
}

static void assert_quiet(void)
{
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_FAILED), 0);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_FAILED), 0);
}

/* Else it could keep a gateway from dialling any other relay. */
START_TEST(a_relay_that_would_wait_for_ever)
{
	pair_init(&p);
	p.cfg[PAIR_RELAY].grace_ms = INT64_MAX;
	pair_up(&p);
	ck_assert_uint_eq(tp_conn_grace_ms(p.end[0].conn), TP_GRACE_MAX_MS);
}
END_TEST

START_TEST(greeting_agrees)
{
	pair_init(&p);
	p.cfg[PAIR_GATEWAY].max_payload = 32 * 1024;
	p.cfg[PAIR_RELAY].max_payload = 64 * 1024;
	p.cfg[PAIR_GATEWAY].window_initial = 1000;
	p.cfg[PAIR_RELAY].window_initial = 2000;
	p.cfg[PAIR_GATEWAY].max_streams = 7;
	p.cfg[PAIR_RELAY].grace_ms = 12345;
	pair_up(&p);
	ck_assert_uint_eq(p.end[0].conn->max_payload, 32 * 1024);
	ck_assert_uint_eq(p.end[1].conn->max_payload, 32 * 1024);
	ck_assert_uint_eq(p.end[0].conn->peer_window, 2000);
	ck_assert_uint_eq(p.end[1].conn->peer_window, 1000);
	ck_assert_uint_eq(p.end[1].conn->peer_max_streams, 7);
	ck_assert_uint_eq(tp_conn_grace_ms(p.end[0].conn), 12345);
	ck_assert_mem_eq(tp_conn_session_id(p.end[0].conn), tp_conn_session_id(p.end[1].conn), TP_SESSION_ID_BYTES);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_ATTACHED), 1);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_ATTACHED), 1);
	ck_assert(!pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
	ck_assert_uint_gt(tp_conn_rtt_us(p.end[0].conn), 0);
	ck_assert_uint_gt(tp_conn_rtt_us(p.end[1].conn), 0);
	pair_done(&p);
}
END_TEST

static void small_exchange(void)
{
	struct pair_stream *r = pair_open(&p, false), *g;

	pair_send(r, PAIR_RELAY, 1000, true);
	pair_run(&p);
	g = gateway_end(r);
	ck_assert_ptr_nonnull(g);
	ck_assert_str_eq(g->fields, ":kind=exchange;Accept=*/*;");
	ck_assert(g->end);
	assert_got(g, PAIR_RELAY, 1000);
	pair_head(g, false);
	pair_run(&p);
	ck_assert(r->head && !r->end);
	pair_send(g, PAIR_GATEWAY, 2000, false);
	pair_send_at(g, PAIR_GATEWAY, 2000, 3000, true);
	pair_run(&p);
	ck_assert(r->end);
	assert_got(r, PAIR_GATEWAY, 5000);
	ck_assert_uint_eq(tp_conn_streams(p.end[0].conn), 0);
	ck_assert_uint_eq(tp_conn_streams(p.end[1].conn), 0);
	pair_release(r);
	pair_release(g);
	ck_assert_ptr_null(tp_conn_stream(p.end[0].conn, r->id));
	assert_quiet();
}

START_TEST(every_message_at_every_byte)
{
	static const size_t chunks[] = { 1, 2, 3, 5, 7, 13, 64, 1000, 0 };

	for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
		pair_seed(i);
		pair_init(&p);
		p.chunk = chunks[i];
		p.pull = chunks[i] ? chunks[i] : 64 * 1024;
		pair_up(&p);
		small_exchange();
		small_exchange();
		pair_done(&p);
	}
}
END_TEST

/* END on OPEN, HEAD, DATA and alone, in both directions. */
START_TEST(half_closes)
{
	for (int request = 0; request < 4; request++) {
		for (int answer = 0; answer < 4; answer++) {
			struct pair_stream *r, *g;

			start();
			r = pair_open(&p, request == 0);
			if (request == 1 || request == 2)
				pair_send(r, PAIR_RELAY, 10, request == 1);
			if (request >= 2) {
				pair_run(&p);
				ck_assert(!gateway_end(r)->end);
				pair_send(r, PAIR_RELAY, 0, true);
			}
			pair_run(&p);
			g = gateway_end(r);
			ck_assert(g->end);
			ck_assert_uint_eq(buf_len(&g->got), request == 1 || request == 2 ? 10 : 0);
			ck_assert_uint_eq(tp_conn_streams(p.end[0].conn), 1);
			pair_head(g, answer == 0);
			if (answer)
				pair_send(g, PAIR_GATEWAY, answer == 3 ? 0 : 20, answer != 2);
			if (answer == 2)
				pair_send(g, PAIR_GATEWAY, 0, true);
			pair_run(&p);
			ck_assert(r->head && r->end && !r->reset && !g->reset);
			ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
			assert_quiet();
			pair_done(&p);
		}
	}
}
END_TEST

/* The answer may come, and end, before the request has. */
START_TEST(answer_before_the_request_ends)
{
	struct pair_stream *r, *g;

	start();
	r = pair_open(&p, false);
	pair_run(&p);
	g = gateway_end(r);
	pair_head(g, false);
	pair_send(g, PAIR_GATEWAY, 50, true);
	pair_run(&p);
	ck_assert(r->end && !r->reset);
	ck_assert_uint_eq(tp_conn_streams(p.end[1].conn), 1);
	pair_send(r, PAIR_RELAY, 70, true);
	pair_run(&p);
	assert_got(g, PAIR_RELAY, 70);
	ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
	pair_done(&p);
}
END_TEST

START_TEST(a_gateway_that_has_answered_may_leave)
{
	const size_t all = 300 * 1000; /* more than the credit: most of it is queued */
	struct pair_stream *r, *g;

	start();
	p.auto_consume = false;
	r = pair_open(&p, false);
	pair_run(&p);
	g = gateway_end(r);
	pair_head(g, false);
	pair_send(g, PAIR_GATEWAY, all, true);
	pair_release(g);
	pair_send(r, PAIR_RELAY, 100, false);
	pair_run(&p);
	ck_assert_uint_eq(buf_len(&r->got), TP_WINDOW_INITIAL);
	pair_consume(&p, r, r->unconsumed);
	pair_run(&p);
	ck_assert(r->end && r->reset);
	ck_assert_uint_eq(r->reason, TP_REASON_NONE);
	assert_got(r, PAIR_GATEWAY, all);
	ck_assert_uint_eq(tp_conn_streams(p.end[0].conn), 0);
	assert_quiet();
	pair_done(&p);
}
END_TEST

START_TEST(release_before_the_end)
{
	struct pair_stream *r, *g;

	start();
	r = pair_open(&p, true);
	pair_run(&p);
	g = gateway_end(r);
	pair_release(r);
	pair_run(&p);
	ck_assert(g->reset);
	ck_assert_uint_eq(g->reason, TP_REASON_CANCELLED);
	ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
	/* What is sent on it now goes nowhere, without harm. */
	pair_send(g, PAIR_GATEWAY, 100, false);
	pair_run(&p);
	pair_release(g);
	/* Before the other end has even heard of it. */
	r = pair_open(&p, false);
	pair_send(r, PAIR_RELAY, 10, false);
	pair_release(r);
	pair_run(&p);
	ck_assert(gateway_end(r)->reset);
	/* A gateway that leaves without an answer. */
	r = pair_open(&p, true);
	pair_run(&p);
	pair_release(gateway_end(r));
	pair_run(&p);
	ck_assert(r->reset);
	assert_quiet();
	pair_done(&p);
}
END_TEST

START_TEST(reset_from_either_side_and_crossing)
{
	for (int who = 1; who < 4; who++) {
		struct pair_stream *r, *g;

		start();
		r = pair_open(&p, false);
		pair_run(&p);
		g = gateway_end(r);
		if (who & 1)
			tp_stream_reset(r->s, TP_REASON_DEADLINE, "too slow");
		if (who & 2)
			tp_stream_reset(g->s, TP_REASON_POLICY, "not allowed");
		pair_run(&p);
		ck_assert_int_eq(r->reset, who == 2);
		ck_assert_int_eq(g->reset, who == 1);
		if (who == 2) {
			ck_assert_uint_eq(r->reason, TP_REASON_POLICY);
			ck_assert_str_eq(pair_last(&p, PAIR_RELAY, TP_EV_RESET)->text, "not allowed");
		}
		ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
		tp_stream_reset(r->s, TP_REASON_INTERNAL, NULL); /* once more does nothing */
		pair_run(&p);
		assert_quiet();
		pair_done(&p);
	}
}
END_TEST

/* Data queued behind a reset is gone, data of other streams is not. */
START_TEST(reset_drops_what_is_queued)
{
	struct pair_stream *a, *b;

	start();
	a = pair_open(&p, false);
	b = pair_open(&p, false);
	pair_send(a, PAIR_RELAY, 100 * 1000, false);
	pair_send(b, PAIR_RELAY, 100 * 1000, true);
	tp_stream_reset(a->s, TP_REASON_CANCELLED, NULL);
	pair_run(&p);
	ck_assert(gateway_end(a)->reset);
	ck_assert_uint_lt(buf_len(&gateway_end(a)->got), 100 * 1000);
	assert_got(gateway_end(b), PAIR_RELAY, 100 * 1000);
	pair_done(&p);
}
END_TEST

START_TEST(the_smaller_limit_of_streams_holds)
{
	struct pair_stream *r[4];

	pair_init(&p);
	p.cfg[PAIR_GATEWAY].max_streams = 3;
	pair_up(&p);
	for (int i = 0; i < 3; i++)
		r[i] = pair_open(&p, true);
	ck_assert_ptr_null(pair_open(&p, true));
	pair_run(&p);
	pair_head(gateway_end(r[1]), true);
	ck_assert_ptr_null(pair_open(&p, true));
	pair_run(&p);
	r[3] = pair_open(&p, true);
	ck_assert_ptr_nonnull(r[3]);
	pair_run(&p);
	ck_assert_ptr_nonnull(gateway_end(r[3]));
	assert_quiet();
	pair_done(&p);
}
END_TEST

START_TEST(oversized_fields_are_not_sent)
{
	static char big[TP_FIELDS_BYTES_MAX];
	const struct tp_field f[] = { { SPAN("x"), span_make(big, sizeof(big)) } };
	struct pair_stream *r;
	struct tp_stream *s;

	start();
	memset(big, 'a', sizeof(big));
	ck_assert_int_lt(tp_stream_open(p.end[PAIR_RELAY].conn, f, 1, true, NULL, &s), 0);
	ck_assert_uint_eq(tp_conn_streams(p.end[PAIR_RELAY].conn), 0);
	r = pair_open(&p, true);
	ck_assert_uint_eq(r->id, 1);
	pair_run(&p);
	ck_assert_int_lt(tp_stream_head(gateway_end(r)->s, f, 1, true), 0);
	pair_head(gateway_end(r), true);
	pair_run(&p);
	ck_assert(r->end);
	pair_done(&p);
}
END_TEST

START_TEST(gateway_goes_away)
{
	struct pair_stream *open, *late;

	start();
	open = pair_open(&p, true);
	pair_run(&p);
	late = pair_open(&p, true); /* crosses the GOAWAY */
	ck_assert_int_eq(tp_conn_goaway(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, "update"), 0);
	ck_assert_int_eq(tp_conn_goaway(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, "again"), 0);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_GOAWAY), 1);
	ck_assert_uint_eq(pair_last(&p, PAIR_RELAY, TP_EV_GOAWAY)->last_id, open->id);
	ck_assert_uint_eq(pair_last(&p, PAIR_RELAY, TP_EV_GOAWAY)->reason, TP_REASON_GATEWAY_STOPPED);
	ck_assert_str_eq(pair_last(&p, PAIR_RELAY, TP_EV_GOAWAY)->text, "update");
	ck_assert(!late->reset);
	ck_assert(tp_conn_goaway_answered(p.end[PAIR_GATEWAY].conn));
	ck_assert(!tp_conn_is_delivered(p.end[PAIR_GATEWAY].conn));
	ck_assert(tp_conn_going_away(p.end[0].conn) && tp_conn_going_away(p.end[1].conn));
	ck_assert_ptr_null(pair_open(&p, true));
	/* What is open, and what was on its way, may finish. */
	pair_head(gateway_end(late), true);
	pair_head(gateway_end(open), false);
	pair_send(gateway_end(open), PAIR_GATEWAY, 1000, true);
	pair_run(&p);
	assert_got(open, PAIR_GATEWAY, 1000);
	assert_quiet();
	ck_assert(late->end && !tp_conn_is_delivered(p.end[PAIR_GATEWAY].conn));
	ck_assert_int_eq(tp_conn_ask(p.end[PAIR_GATEWAY].conn, p.now_us), 0);
	pair_run(&p);
	ck_assert(tp_conn_is_delivered(p.end[PAIR_GATEWAY].conn));
	pair_done(&p);
}
END_TEST

START_TEST(relay_goes_away)
{
	struct pair_stream *r;

	start();
	r = pair_open(&p, true);
	tp_conn_goaway(p.end[PAIR_RELAY].conn, TP_REASON_RELAY_STOPPED, NULL);
	ck_assert_ptr_null(pair_open(&p, true));
	pair_run(&p);
	ck_assert_uint_eq(pair_last(&p, PAIR_GATEWAY, TP_EV_GOAWAY)->last_id, r->id);
	pair_head(gateway_end(r), true);
	pair_run(&p);
	ck_assert(r->end);
	assert_quiet();
	pair_done(&p);
}
END_TEST

/* Frames that one side sent in this connection. */
static struct pair_frame frames[4096];

static size_t pings(enum pair_side side)
{
	size_t n = pair_frames(&p, side, frames, ARRAY_LEN(frames)), count = 0;

	for (size_t i = 0; i < n; i++)
		count += frames[i].type == TP_PING;
	return count;
}

START_TEST(ping_when_idle)
{
	size_t before;

	start();
	p.cfg[0].keepalive_ms = 20000;
	pair_cut(&p);
	p.recording = true;
	pair_connect(&p);
	pair_run(&p);
	before = pings(PAIR_GATEWAY) + pings(PAIR_RELAY);
	ck_assert_uint_eq(before, 2); /* the measurement at the start */
	pair_advance(&p, 19000);
	ck_assert_uint_eq(pings(PAIR_GATEWAY) + pings(PAIR_RELAY), before);
	pair_advance(&p, 2000);
	ck_assert_uint_ge(pings(PAIR_GATEWAY) + pings(PAIR_RELAY), before + 1);
	pair_advance(&p, 3600 * 1000);
	ck_assert(tp_conn_is_attached(p.end[0].conn) && tp_conn_is_attached(p.end[1].conn));
	ck_assert_uint_le(pings(PAIR_GATEWAY) + pings(PAIR_RELAY), before + 2 * 182);
	assert_quiet();
	pair_done(&p);
}
END_TEST

START_TEST(dead_after_two_keepalive_times)
{
	struct tp_conn *g;
	uint64_t start_ms;

	start();
	g = p.end[PAIR_GATEWAY].conn;
	start_ms = p.now_us / 1000;
	/* The wire swallows everything from now on. */
	ck_assert_uint_eq(tp_conn_deadline(g), start_ms + 20000);
	tp_conn_tick(g, start_ms + 19999);
	ck_assert(!tp_conn_wants_write(g));
	tp_conn_tick(g, start_ms + 20000);
	ck_assert(tp_conn_wants_write(g));
	ck_assert_uint_eq(tp_conn_deadline(g), start_ms + 40000);
	tp_conn_tick(g, start_ms + 39999);
	pair_events(&p, PAIR_GATEWAY);
	assert_quiet();
	tp_conn_tick(g, start_ms + 40000);
	pair_events(&p, PAIR_GATEWAY);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_FAILED), 1);
	ck_assert_uint_eq(pair_last(&p, PAIR_GATEWAY, TP_EV_FAILED)->reason, TP_REASON_KEEPALIVE);
	ck_assert(!pair_last(&p, PAIR_GATEWAY, TP_EV_FAILED)->fatal);
	ck_assert(!tp_conn_is_attached(g));
	ck_assert_uint_eq(tp_conn_deadline(g), UINT64_MAX);
	pair_done(&p);
}
END_TEST

START_TEST(handshake_takes_too_long)
{
	pair_init(&p);
	pair_connect(&p);
	ck_assert_uint_eq(tp_conn_deadline(p.end[PAIR_RELAY].fresh), p.now_us / 1000 + 10000);
	p.now_us += 10000 * 1000;
	for (int side = 0; side < 2; side++) {
		struct raw r;

		raw_init(&r, side == 0 ? TP_GATEWAY : TP_RELAY);
		r.now_us += 9999 * 1000;
		tp_conn_tick(r.c, r.now_us / 1000);
		raw_bytes(&r, NULL, 0);
		ck_assert(!r.over);
		r.now_us += 1000;
		tp_conn_tick(r.c, r.now_us / 1000);
		raw_bytes(&r, NULL, 0);
		ck_assert(r.over);
		ck_assert_uint_eq(r.failed.reason, TP_REASON_PROTOCOL);
		ck_assert(!r.failed.fatal);
		ck_assert_ptr_nonnull(strstr(r.detail, "in time"));
		raw_done(&r);
	}
	pair_done(&p);
}
END_TEST

START_TEST(close_in_order)
{
	start();
	tp_conn_close(p.end[PAIR_RELAY].conn, TP_REASON_RELAY_STOPPED, "restart");
	ck_assert(!tp_conn_is_attached(p.end[PAIR_RELAY].conn));
	p.fail_detaches = false;
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_GATEWAY, TP_EV_CLOSED), 1);
	ck_assert_str_eq(pair_last(&p, PAIR_GATEWAY, TP_EV_CLOSED)->text, "restart");
	ck_assert_uint_eq(pair_last(&p, PAIR_GATEWAY, TP_EV_CLOSED)->reason, TP_REASON_RELAY_STOPPED);
	ck_assert(pair_last(&p, PAIR_GATEWAY, TP_EV_CLOSED)->fatal);
	/* The answering close frame. */
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_CLOSED), 1);
	ck_assert(!tp_conn_wants_write(p.end[0].conn) && !tp_conn_wants_write(p.end[1].conn));
	pair_done(&p);
}
END_TEST

/* Messages may arrive in fragments, with pings and empty pieces between them. */
START_TEST(fragmented_messages)
{
	static const uint8_t payload[300] = { 1, 2, 3 };
	uint8_t msg[TP_FRAME_HEADER + sizeof(payload)];
	struct raw r;

	raw_init(&r, TP_GATEWAY);
	raw_greet(&r);
	raw_open(&r, 1, false);
	frame_put_header(msg, TP_DATA, 0, 1);
	memcpy(msg + TP_FRAME_HEADER, payload, sizeof(payload));
	for (size_t cut = 0; cut <= sizeof(msg); cut++) {
		r.now_us += 200 * 1000; /* pings have a rate */
		raw_ws(&r, WS_BINARY, msg, cut);
		raw_ws(&r, 0x80 | WS_PING, "hi", 2);
		raw_ws(&r, WS_CONTINUATION, msg, 0);
		raw_ws(&r, 0x80 | WS_CONTINUATION, msg + cut, sizeof(msg) - cut);
		ck_assert(!r.over);
		ck_assert_uint_eq(r.datas, cut + 1);
	}
	raw_done(&r);
}
END_TEST

START_TEST(websocket_ping_is_answered)
{
	static const uint8_t pong[] = { 0x8a, 5, 'h', 'e', 'l', 'l', 'o' };
	struct raw r;

	raw_init(&r, TP_RELAY);
	raw_greet(&r);
	buf_clear(&r.out);
	raw_ws(&r, 0x80 | WS_PING, "hello", 5);
	ck_assert_uint_eq(buf_len(&r.out), sizeof(pong));
	ck_assert_mem_eq(buf_bytes(&r.out), pong, sizeof(pong));
	raw_ws(&r, 0x80 | WS_PONG, "anything", 8);
	ck_assert(!r.over);
	raw_done(&r);
}
END_TEST

/* Anew on each connection: it may take another path. */
START_TEST(round_trip_is_measured)
{
	start();
	p.delay_us = 15 * 1000;
	pair_cut(&p);
	pair_up(&p);
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_ge(tp_conn_rtt_us(p.end[i].conn), 15 * 1000);
		ck_assert_uint_le(tp_conn_rtt_us(p.end[i].conn), 65 * 1000);
	}
	pair_done(&p);
}
END_TEST

static const struct tp_field *note_of(const char *value)
{
	static struct tp_field f;

	f = (struct tp_field){ SPAN(":audit"), span_of(value) };
	return &f;
}

static int note(const char *value)
{
	return tp_conn_note(p.end[PAIR_GATEWAY].conn, note_of(value), 1);
}

START_TEST(a_note_reaches_the_relay)
{
	uint64_t counted;

	start();
	counted = p.end[PAIR_RELAY].conn->rx_count;
	ck_assert_int_eq(note("one"), 0);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 1);
	ck_assert_str_eq(pair_last(&p, PAIR_RELAY, TP_EV_NOTE)->text, ":audit=one;");
	ck_assert_uint_eq(p.end[PAIR_RELAY].conn->rx_count, counted);
	/* Of those that wait only the newest goes out. */
	ck_assert_int_eq(note("two"), 0);
	ck_assert_int_eq(note("the third"), 0);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 2);
	ck_assert_str_eq(pair_last(&p, PAIR_RELAY, TP_EV_NOTE)->text, ":audit=the third;");
	small_exchange();
	pair_done(&p);
}
END_TEST

/* The wire stands in the middle of a note: the next ones wait as one. */
START_TEST(a_note_that_is_being_sent_is_whole)
{
	start();
	p.pull = 10;
	ck_assert_int_eq(note("the first"), 0);
	pair_move(&p, PAIR_GATEWAY, SIZE_MAX);
	ck_assert_int_eq(note("the second"), 0);
	ck_assert_int_eq(note("the third"), 0);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 2);
	ck_assert_str_eq(pair_last(&p, PAIR_RELAY, TP_EV_NOTE)->text, ":audit=the third;");
	assert_quiet();
	pair_done(&p);
}
END_TEST

START_TEST(a_note_without_a_connection_is_nothing)
{
	pair_init(&p);
	pair_connect(&p);
	ck_assert_int_eq(note("before the greeting"), 0);
	pair_run(&p);
	ck_assert_int_eq(note("lost on the way"), 0);
	pair_cut(&p);
	ck_assert_int_eq(note("detached"), 0);
	pair_up(&p);
	ck_assert(pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 0);
	ck_assert_int_eq(note("there"), 0);
	tp_conn_close(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, NULL);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 0);
	pair_done(&p);
}
END_TEST

START_TEST(notes_have_a_size)
{
	static char big[TP_NOTE_MAX + 1];
	const size_t most = TP_NOTE_MAX - 4 - strlen(":audit");

	start();
	memset(big, 'a', most + 1);
	ck_assert_int_eq(note(big), -EMSGSIZE);
	ck_assert_int_eq(note("line\n"), -EINVAL);
	ck_assert_int_eq(tp_conn_note(p.end[PAIR_GATEWAY].conn, NULL, 0), -EINVAL);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 0);
	big[most] = '\0';
	ck_assert_int_eq(note(big), 0);
	pair_run(&p);
	ck_assert_uint_eq(pair_count(&p, PAIR_RELAY, TP_EV_NOTE), 1);
	assert_quiet();
	pair_done(&p);
}
END_TEST

static int no_entropy(void *dst, size_t len)
{
	return -EIO;
}

START_TEST(without_entropy_nothing_is_sent)
{
	struct tp_config cfg;
	struct raw r;
	uint8_t dst[1000];

	tp_config_init(&cfg, TP_GATEWAY, no_entropy);
	raw_init_cfg(&r, &cfg);
	ck_assert_uint_eq(tp_conn_pull(r.c, dst, sizeof(dst)), 0);
	r.hold = true;
	raw_bytes(&r, NULL, 0);
	ck_assert(r.over);
	ck_assert_uint_eq(r.failed.reason, TP_REASON_INTERNAL);
	raw_done(&r);
}
END_TEST

UNIT_MAIN("conn",
	  ADD(greeting_agrees) ADD(a_relay_that_would_wait_for_ever) ADD(every_message_at_every_byte) ADD(half_closes)
	  ADD(answer_before_the_request_ends) ADD(a_gateway_that_has_answered_may_leave)
	  ADD(release_before_the_end) ADD(reset_from_either_side_and_crossing) ADD(reset_drops_what_is_queued)
	  ADD(the_smaller_limit_of_streams_holds) ADD(oversized_fields_are_not_sent) ADD(gateway_goes_away)
	  ADD(relay_goes_away) ADD(ping_when_idle) ADD(dead_after_two_keepalive_times)
	  ADD(handshake_takes_too_long) ADD(close_in_order) ADD(fragmented_messages)
	  ADD(websocket_ping_is_answered) ADD(round_trip_is_measured) ADD(a_note_reaches_the_relay)
	  ADD(a_note_that_is_being_sent_is_whole) ADD(a_note_without_a_connection_is_nothing) ADD(notes_have_a_size)
	  ADD(without_entropy_nothing_is_sent))
