/* What a broken or hostile peer may send, and the named reason that each breach ends with. */
#include "tests/lib/pair.h"
#include "tests/lib/raw.h"
#include "tests/lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "proto/conn_impl.h"

static struct raw r;

static void begin(enum tp_role role)
{
	raw_init(&r, role);
	raw_greet(&r);
}

/* The connection, and with it the session when `fatal`, has ended for that reason, and the peer was told. */
static void end_with(uint32_t reason, bool fatal, const char *detail)
{
	ck_assert_msg(r.over, "still alive, expected: %s", detail);
	ck_assert_int_eq(r.failed.type, TP_EV_FAILED);
	ck_assert_msg(strstr(r.detail, detail), "'%s' instead of '%s'", r.detail, detail);
	ck_assert_str_eq(tp_reason_name(r.failed.reason), tp_reason_name(reason));
	ck_assert_int_eq(r.failed.fatal, fatal);
	ck_assert(!tp_conn_is_attached(r.c));
	ck_assert(!tp_conn_wants_write(r.c));
	ck_assert_ptr_nonnull(memmem(buf_bytes(&r.out), buf_len(&r.out), "\x88", 1));
	raw_bytes(&r, "\x82\x00", 2); /* nothing more is read */
	raw_done(&r);
}

static void protocol_error(const char *detail)
{
	end_with(TP_REASON_PROTOCOL, true, detail);
}

/* The stream has ended, at both ends, for that reason; the session goes on. */
static void stream_error(uint32_t id, uint32_t reason, const char *detail)
{
	struct tp_frame f;

	ck_assert(!r.over);
	ck_assert_uint_eq(r.resets, 1);
	ck_assert(raw_sent(&r, TP_RESET, &f));
	ck_assert_uint_eq(f.stream_id, id);
	ck_assert_uint_eq(get_be32(f.payload), reason);
	ck_assert_uint_eq(f.len, 4 + strlen(detail));
	ck_assert_mem_eq(f.payload + 4, detail, f.len - 4);
	ck_assert_uint_eq(tp_conn_streams(r.c), 0);
	raw_done(&r);
}

START_TEST(frames_that_are_not_frames)
{
	static const struct {
		uint8_t bytes[24];
		size_t len;
		const char *detail;
	} cases[] = {
		{ { 0 }, 0, "frame shorter than its header" },
		{ { 0x03, 0, 0, 0, 0, 0, 0 }, 7, "frame shorter than its header" },
		{ { 0x00, 0, 0, 0, 0, 0, 0, 0 }, 8, "unknown frame type" },
		{ { 0x08, 0, 0, 0, 0, 0, 0, 0 }, 8, "unknown frame type" },
		{ { 0x15, 0, 0, 0, 0, 0, 0, 1 }, 8, "unknown frame type" },
		{ { 0xff, 0, 0, 0, 0, 0, 0, 1 }, 8, "unknown frame type" },
		{ { 0x12, 2, 0, 0, 0, 0, 0, 1 }, 8, "flag not allowed on this frame" },
		{ { 0x13, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1 }, 12, "flag not allowed on this frame" },
		{ { 0x12, 0, 0, 1, 0, 0, 0, 1 }, 8, "reserved bytes of a frame are not zero" },
		{ { 0x05, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0 }, 16, "session frame with a stream id" },
		{ { 0x12, 1, 0, 0, 0, 0, 0, 0 }, 8, "stream frame without a valid stream id" },
		{ { 0x12, 1, 0, 0, 0x80, 0, 0, 1 }, 8, "stream frame without a valid stream id" },
		{ { 0x13, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1 }, 11, "frame payload too short" },
		{ { 0x13, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0 }, 13, "frame payload too long" },
		{ { 0x14, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0 }, 11, "frame payload too short" },
		{ { 0x03, 0, 0, 0, 0, 0, 0, 0, 1 }, 9, "frame payload too short" },
	};

	for (size_t i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		begin(i & 1 ? TP_RELAY : TP_GATEWAY);
		raw_ws(&r, 0x80 | WS_BINARY, cases[i / 2].bytes, cases[i / 2].len);
		protocol_error(cases[i / 2].detail);
	}
}
END_TEST

static uint8_t zeros[128 * 1024];

START_TEST(sizes_above_the_limits)
{
	static const uint8_t sizes[][2] = { { TP_RESET, 4 }, { TP_GOAWAY, 8 } };

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		begin(TP_GATEWAY);
		raw_open(&r, 1, false);
		raw_frame(&r, sizes[i][0], 0, sizes[i][0] == TP_RESET, zeros, sizes[i][1] + TP_DETAIL_MAX);
		ck_assert(!r.over);
		raw_done(&r);
		begin(TP_GATEWAY);
		raw_open(&r, 1, false);
		raw_frame(&r, sizes[i][0], 0, sizes[i][0] == TP_RESET, zeros, sizes[i][1] + TP_DETAIL_MAX + 1);
		protocol_error("frame payload too long");
	}
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_frame(&r, TP_DATA, 0, 1, zeros, TP_PAYLOAD_DEFAULT);
	ck_assert(!r.over);
	raw_frame(&r, TP_DATA, 0, 1, zeros, TP_PAYLOAD_DEFAULT + 1);
	protocol_error("frame payload too long");
	begin(TP_GATEWAY);
	raw_frame(&r, TP_OPEN, 0, 1, zeros, TP_FIELDS_BYTES_MAX + 1);
	protocol_error("message is too large");
}
END_TEST

/* A message that never ends is cut off at the limit, in however many pieces it comes. */
START_TEST(endless_message)
{
	begin(TP_RELAY);
	raw_ws(&r, WS_BINARY, zeros, 1000);
	for (int i = 0; i < 40 && !r.over; i++) {
		raw_ws(&r, WS_CONTINUATION, zeros, 1000);
		ck_assert_uint_le(tp_conn_memory(r.c), TP_FRAME_HEADER + TP_FIELDS_BYTES_MAX);
	}
	protocol_error("message is too large");
}
END_TEST

START_TEST(websocket_breaches)
{
	static const struct {
		uint8_t first;
		const char *detail;
	} cases[] = {
		{ 0x81, "text message" },
		{ 0x83, "unknown opcode" },
		{ 0xc2, "reserved bit set" },
		{ 0x80, "continuation without a message" },
		{ 0x09, "fragmented control frame" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		begin(TP_GATEWAY);
		raw_ws(&r, cases[i].first, "", 0);
		protocol_error(cases[i].detail);
	}
	begin(TP_RELAY);
	raw_bytes(&r, "\x82\x00", 2);
	protocol_error("unmasked frame from a client");
	begin(TP_GATEWAY);
	raw_bytes(&r, "\x82\x80\0\0\0\0", 6);
	protocol_error("masked frame from a server");
}
END_TEST

START_TEST(before_the_greeting)
{
	static const uint8_t types[] = { TP_PING, TP_PONG, TP_ACK, TP_GOAWAY, TP_OPEN, TP_HEAD, TP_DATA, TP_CREDIT, TP_RESET };
	static const size_t sizes[] = { 16, 16, 8, 8, 0, 0, 1, 4, 4 };

	for (size_t i = 0; i < 2 * ARRAY_LEN(types); i++) {
		raw_init(&r, i & 1 ? TP_RELAY : TP_GATEWAY);
		raw_frame(&r, types[i / 2], 0, types[i / 2] >= TP_OPEN, zeros, sizes[i / 2]);
		protocol_error("frame before the greeting");
	}
}
END_TEST

START_TEST(greetings_that_are_not)
{
	static const struct {
		enum tp_role role;
		const char *name, *value, *detail;
	} cases[] = {
		{ TP_RELAY, ":version", "2", "greeting with another :version than 1" },
		{ TP_RELAY, ":version", NULL, "greeting with another :version than 1" },
		{ TP_RELAY, ":received", NULL, "greeting without a valid :received" },
		{ TP_RELAY, ":received", "-1", "greeting without a valid :received" },
		{ TP_RELAY, ":received", "99999999999999999999", "greeting without a valid :received" },
		{ TP_RELAY, ":max-payload", "1023", "greeting without a valid :max-payload" },
		{ TP_RELAY, ":max-payload", "4294967296", "greeting without a valid :max-payload" },
		{ TP_RELAY, ":window", "2147483648", "greeting without a valid :window" },
		{ TP_RELAY, ":window", "", "greeting without a valid :window" },
		{ TP_RELAY, ":session", "0011", "greeting with a malformed :session" },
		{ TP_RELAY, ":session", "zz112233445566778899aabbccddeeff", "greeting with a malformed :session" },
		{ TP_RELAY, ":max-streams", NULL, "HELLO without a valid :max-streams" },
		{ TP_RELAY, ":max-streams", "4294967296", "HELLO without a valid :max-streams" },
		{ TP_RELAY, ":replaces", "00", "HELLO with a malformed :replaces" },
		{ TP_RELAY, ":replaces", "zz112233445566778899aabbccddeeff", "HELLO with a malformed :replaces" },
		{ TP_GATEWAY, ":version", "", "greeting with another :version than 1" },
		{ TP_GATEWAY, ":session", NULL, "greeting with a malformed :session" },
		{ TP_GATEWAY, ":session", "", "greeting with a malformed :session" },
		{ TP_GATEWAY, ":received", "1", "WELCOME with an impossible :received" },
		{ TP_GATEWAY, ":resumed", "1", "WELCOME resumes a session that was not asked for" },
		{ TP_GATEWAY, ":resumed", "2", "WELCOME without a valid :resumed" },
		{ TP_GATEWAY, ":resumed", NULL, "WELCOME without a valid :resumed" },
		{ TP_GATEWAY, ":grace-ms", NULL, "WELCOME without a valid :grace-ms" },
		{ TP_GATEWAY, ":grace-ms", "-1", "WELCOME without a valid :grace-ms" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		raw_init(&r, cases[i].role);
		raw_greet_with(&r, cases[i].name, cases[i].value);
		protocol_error(cases[i].detail);
	}
}
END_TEST

START_TEST(greetings_out_of_place)
{
	for (int role = 0; role < 2; role++) {
		begin(role);
		raw_greet_with(&r, NULL, NULL);
		protocol_error(role == TP_RELAY ? "unexpected HELLO" : "unexpected WELCOME");
		raw_init(&r, role);
		raw_fields(&r, role == TP_RELAY ? TP_WELCOME : TP_HELLO, 0, 0, NULL, 0);
		protocol_error(role == TP_RELAY ? "unexpected WELCOME" : "unexpected HELLO");
	}
}
END_TEST

START_TEST(malformed_fields)
{
	static const struct {
		uint8_t bytes[16];
		size_t len;
		const char *detail;
	} cases[] = {
		{ { 0, 1, 0 }, 3, "field cut short" },
		{ { 0, 5, 0, 0, 'a' }, 5, "field cut short" },
		{ { 0, 1, 0xff, 0xff, 'a' }, 5, "field cut short" },
		{ { 0, 0, 0, 1, 'a' }, 5, "field without a name" },
		{ { 0, 1, 0, 0, ' ' }, 5, "field name that is not a token" },
		{ { 0, 1, 0, 1, 'a', '\n' }, 6, "field value with CR, LF or NUL" },
		{ { 0, 1, 0, 0, 'a', 0, 2, 0, 0, ':', 'b' }, 11, "pseudo-field after an ordinary one" },
		{ { 0, 2, 0, 0, ':', 'b', 0, 2, 0, 0, ':', 'b' }, 12, "pseudo-field twice" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		begin(TP_GATEWAY);
		raw_frame(&r, TP_OPEN, 0, 1, cases[i].bytes, cases[i].len);
		protocol_error(cases[i].detail);
	}
}
END_TEST

START_TEST(streams_out_of_order)
{
	begin(TP_GATEWAY);
	raw_open(&r, 5, false);
	raw_open(&r, 5, false);
	protocol_error("stream ids do not grow");
	begin(TP_GATEWAY);
	raw_open(&r, 5, false);
	raw_open(&r, 4, false);
	protocol_error("stream ids do not grow");
	begin(TP_RELAY);
	raw_open(&r, 1, false);
	protocol_error("OPEN from a gateway");
}
END_TEST

START_TEST(frames_for_streams_that_never_were)
{
	static const uint8_t types[] = { TP_HEAD, TP_DATA, TP_CREDIT, TP_RESET };

	for (size_t i = 0; i < 2 * ARRAY_LEN(types); i++) {
		begin(i & 1 ? TP_RELAY : TP_GATEWAY);
		if (i & 1)
			raw_local_open(&r, false);
		else
			raw_open(&r, 1, false);
		raw_frame(&r, types[i / 2], 0, 2, zeros, types[i / 2] == TP_HEAD ? 0 : 4);
		protocol_error("frame for a stream that was never opened");
	}
}
END_TEST

/* They crossed our RESET on their way. */
START_TEST(late_frames_are_ignored)
{
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	tp_stream_reset(r.last, TP_REASON_POLICY, NULL);
	for (int released = 0; released < 2; released++) {
		raw_frame(&r, TP_DATA, 0, 1, zeros, 100);
		raw_u32(&r, TP_CREDIT, 1, 0);
		raw_u32(&r, TP_RESET, 1, 1);
		ck_assert(!r.over);
		ck_assert_uint_eq(r.datas + r.resets, 0);
		if (!released)
			tp_stream_release(r.last);
	}
	raw_done(&r);
}
END_TEST

START_TEST(credit_overrun)
{
	struct tp_config cfg;

	tp_config_init(&cfg, TP_GATEWAY, pair_entropy);
	cfg.window_initial = 1000;
	for (int over = 0; over < 2; over++) {
		raw_init_cfg(&r, &cfg);
		raw_greet(&r);
		raw_open(&r, 1, false);
		raw_frame(&r, TP_DATA, 0, 1, zeros, 600);
		raw_frame(&r, TP_DATA, 0, 1, zeros, over ? 401 : 400);
		if (over) {
			stream_error(1, TP_REASON_FLOW_CONTROL, "more DATA than credit");
		} else {
			ck_assert_uint_eq(r.datas, 2);
			raw_done(&r);
		}
	}
}
END_TEST

START_TEST(credit_of_nothing_and_too_much)
{
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_u32(&r, TP_CREDIT, 1, 0);
	stream_error(1, TP_REASON_FLOW_CONTROL, "CREDIT of nothing");
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_u32(&r, TP_CREDIT, 1, INT32_MAX - 262144);
	ck_assert_uint_eq(r.resets, 0);
	raw_u32(&r, TP_CREDIT, 1, 1);
	stream_error(1, TP_REASON_FLOW_CONTROL, "credit above 2^31 - 1");
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_u32(&r, TP_CREDIT, 1, UINT32_MAX);
	stream_error(1, TP_REASON_FLOW_CONTROL, "credit above 2^31 - 1");
}
END_TEST

START_TEST(stream_states_broken)
{
	begin(TP_GATEWAY);
	raw_open(&r, 1, true);
	raw_frame(&r, TP_DATA, 0, 1, "x", 1);
	stream_error(1, TP_REASON_PROTOCOL, "DATA after END");
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_fields(&r, TP_HEAD, 0, 1, NULL, 0);
	stream_error(1, TP_REASON_PROTOCOL, "unexpected HEAD");
	begin(TP_RELAY);
	raw_local_open(&r, false);
	raw_frame(&r, TP_DATA, 0, 1, "x", 1);
	stream_error(1, TP_REASON_PROTOCOL, "DATA before HEAD");
	begin(TP_RELAY);
	raw_local_open(&r, false);
	raw_fields(&r, TP_HEAD, 0, 1, NULL, 0);
	raw_fields(&r, TP_HEAD, 0, 1, NULL, 0);
	stream_error(1, TP_REASON_PROTOCOL, "unexpected HEAD");
	begin(TP_RELAY);
	raw_local_open(&r, false);
	raw_fields(&r, TP_HEAD, TP_FLAG_END, 1, NULL, 0);
	raw_frame(&r, TP_DATA, TP_FLAG_END, 1, NULL, 0);
	stream_error(1, TP_REASON_PROTOCOL, "DATA after END");
}
END_TEST

/* Before the relay's answer they crossed the gateway's GOAWAY; behind it they are too late. */
START_TEST(streams_opened_while_going_away)
{
	static const uint8_t answer[8];
	struct tp_frame f;

	begin(TP_GATEWAY);
	tp_conn_goaway(r.c, TP_REASON_GATEWAY_STOPPED, NULL);
	raw_open(&r, 1, true);
	ck_assert_uint_eq(r.opens, 1);
	raw_frame(&r, TP_GOAWAY, 0, 0, answer, sizeof(answer));
	ck_assert_uint_eq(r.goaways, 0);
	ck_assert(tp_conn_goaway_answered(r.c));
	raw_open(&r, 2, true);
	ck_assert_uint_eq(r.opens, 1);
	ck_assert(raw_sent(&r, TP_RESET, &f));
	ck_assert_uint_eq(f.stream_id, 2);
	ck_assert_uint_eq(get_be32(f.payload), TP_REASON_REFUSED);
	raw_done(&r);
}
END_TEST

START_TEST(more_streams_than_allowed)
{
	struct tp_config cfg;
	struct tp_frame f;

	tp_config_init(&cfg, TP_GATEWAY, pair_entropy);
	cfg.max_streams = 3;
	raw_init_cfg(&r, &cfg);
	raw_greet(&r);
	for (uint32_t id = 1; id <= 4; id++)
		raw_open(&r, id, true);
	ck_assert_uint_eq(r.opens, 3);
	ck_assert(raw_sent(&r, TP_RESET, &f));
	ck_assert_uint_eq(f.stream_id, 4);
	ck_assert_uint_eq(get_be32(f.payload), TP_REASON_REFUSED);
	/* A peer that goes on opening is cut off. */
	for (uint32_t id = 5; id < 3000 && !r.over; id++)
		raw_open(&r, id, true);
	ck_assert_uint_eq(r.opens, 3);
	end_with(TP_REASON_ABUSE, true, "too many streams that have to be refused");
}
END_TEST

/* Nothing is acknowledged, slowly enough for every rate: the kept frames stay bounded. */
START_TEST(a_peer_that_acknowledges_nothing)
{
	for (int going_away = 0; going_away < 2; going_away++) {
		struct tp_config cfg;
		size_t most = 0;
		uint32_t id;

		tp_config_init(&cfg, TP_GATEWAY, pair_entropy);
		cfg.max_streams = 3;
		cfg.replay_max = ACK_AFTER_BYTES;
		raw_init_cfg(&r, &cfg);
		raw_greet(&r);
		r.hold = going_away;
		if (going_away)
			tp_conn_goaway(r.c, TP_REASON_GATEWAY_STOPPED, NULL);
		for (id = 1; id < 50000 && !r.over; id++) {
			r.now_us += 2000;
			raw_open(&r, id, true);
			if (!r.over)
				buf_clear(&r.out);
			most = MAX(most, tp_conn_memory(r.c));
		}
		ck_assert_uint_lt(most, 6 * ACK_AFTER_BYTES);
		r.hold = false;
		raw_bytes(&r, NULL, 0);
		end_with(TP_REASON_ABUSE, true, "too many frames that the peer does not acknowledge");
	}
}
END_TEST

/* Heads of streams that come and go are kept, too, and a peer that acknowledges none gets no new stream. */
START_TEST(answers_that_nobody_acknowledges)
{
	static char big[30 * 1000];
	const struct tp_field head[] = { { SPAN(":status"), SPAN("200") }, { SPAN("x"), span_make(big, sizeof(big)) } };
	size_t most = 0;

	memset(big, 'x', sizeof(big));
	begin(TP_GATEWAY);
	for (uint32_t id = 1; id < 2000 && !r.over; id++) {
		r.now_us += 2000;
		r.last = NULL;
		raw_open(&r, id, true);
		if (r.last) {
			ck_assert_int_eq(tp_stream_head(r.last, head, 2, true), 0);
			tp_stream_release(r.last);
		}
		buf_clear(&r.out);
		most = MAX(most, tp_conn_memory(r.c));
	}
	ck_assert_uint_lt(most, 9 * 1024 * 1024);
	ck_assert_uint_gt(r.opens, 200);
	ck_assert_uint_lt(r.opens, 400);
	raw_done(&r);
}
END_TEST

/* Opens and resets at once: the cheapest way to make an end work. */
START_TEST(rapid_resets)
{
	begin(TP_GATEWAY);
	r.release_opens = true;
	for (uint32_t id = 1; id < 100000 && !r.over; id++) {
		raw_open(&r, id, true);
		raw_u32(&r, TP_RESET, id, TP_REASON_CANCELLED);
		buf_clear(&r.out);
		r.now_us += 100;
	}
	ck_assert(r.over);
	ck_assert_uint_lt(r.opens, 2 * (RESET_RATE + 2048));
	raw_done(&r);
	/* The same number in their own time is nothing unusual. */
	begin(TP_GATEWAY);
	r.hold = true;
	for (uint32_t id = 1; id < 10000; id++) {
		raw_open(&r, id, true);
		raw_u32(&r, TP_RESET, id, TP_REASON_CANCELLED);
		tp_stream_release(r.last);
		r.now_us += 1000;
	}
	ck_assert(!r.over);
	raw_done(&r);
}
END_TEST

START_TEST(resets_per_second)
{
	begin(TP_GATEWAY);
	r.hold = true;
	for (uint32_t id = 1; id <= RESET_RATE + 2048; id++) {
		raw_open(&r, id, true);
		raw_u32(&r, TP_RESET, id, TP_REASON_CANCELLED);
		tp_stream_release(r.last);
	}
	ck_assert(!r.over);
	r.hold = false;
	raw_u32(&r, TP_RESET, 1, 1);
	end_with(TP_REASON_ABUSE, true, "too many RESET frames");
}
END_TEST

START_TEST(pings_per_second)
{
	for (int websocket = 0; websocket < 2; websocket++) {
		begin(TP_RELAY);
		for (int i = 0; i < 10 * PING_RATE; i++) {
			if (websocket)
				raw_ws(&r, 0x80 | WS_PING, "", 0);
			else
				raw_ping(&r, 0);
		}
		ck_assert(!r.over);
		if (websocket)
			raw_ws(&r, 0x80 | WS_PING, "", 0);
		else
			raw_ping(&r, 0);
		end_with(TP_REASON_ABUSE, true, websocket ? "too many WebSocket pings" : "too many PING frames");
	}
}
END_TEST

/* Nobody else says how long the path is. */
START_TEST(pongs_that_answer_nothing)
{
	struct tp_frame ping;
	uint8_t payload[16];

	begin(TP_RELAY);
	raw_ping(&r, 0); /* proves the session: its own PING goes out */
	ck_assert(raw_sent(&r, TP_PING, &ping));
	memcpy(payload, ping.payload, 8);
	put_be64(payload + 8, 0);
	r.now_us += 5000;
	payload[0] ^= 1;
	raw_frame(&r, TP_PONG, 0, 0, payload, sizeof(payload));
	ck_assert_uint_eq(tp_conn_rtt_us(r.c), 0);
	payload[0] ^= 1;
	r.now_us += 5000;
	raw_frame(&r, TP_PONG, 0, 0, payload, sizeof(payload));
	ck_assert_uint_eq(tp_conn_rtt_us(r.c), 10000);
	r.now_us += 5000;
	raw_frame(&r, TP_PONG, 0, 0, payload, sizeof(payload));
	ck_assert_uint_eq(tp_conn_rtt_us(r.c), 10000);
	ck_assert(!r.over);
	raw_done(&r);
}
END_TEST

START_TEST(empty_data_per_second)
{
	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	for (int i = 0; i < EMPTY_DATA_RATE; i++)
		raw_frame(&r, TP_DATA, 0, 1, NULL, 0);
	ck_assert(!r.over);
	ck_assert_uint_eq(r.datas, 0);
	raw_frame(&r, TP_DATA, 0, 1, NULL, 0);
	end_with(TP_REASON_ABUSE, true, "too many empty DATA frames");
}
END_TEST

START_TEST(impossible_acknowledgements)
{
	uint8_t count[16] = { 0 };

	for (int type = 0; type < 3; type++) {
		begin(TP_RELAY);
		raw_local_open(&r, true);
		put_be64(count + (type ? 8 : 0), 1);
		raw_frame(&r, type == 0 ? TP_ACK : type == 1 ? TP_PING : TP_PONG, 0, 0, count, type ? 16 : 8);
		ck_assert(!r.over);
		put_be64(count + (type ? 8 : 0), type == 2 ? 0 : 2); /* more than sent, or fewer than before */
		raw_frame(&r, type == 0 ? TP_ACK : type == 1 ? TP_PING : TP_PONG, 0, 0, count, type ? 16 : 8);
		protocol_error("acknowledgement of frames that were not sent");
	}
}
END_TEST

START_TEST(goaway_twice)
{
	begin(TP_GATEWAY);
	raw_frame(&r, TP_GOAWAY, 0, 0, zeros, 8);
	ck_assert_uint_eq(r.goaways, 1);
	raw_frame(&r, TP_GOAWAY, 0, 0, zeros, 8);
	protocol_error("GOAWAY twice");
}
END_TEST

/* A relay that was told of a breach can abandon the session while a frame is half out. */
START_TEST(abandoned_in_the_middle_of_a_frame)
{
	uint8_t dst[5000];
	struct tp_stream *s;

	for (int half = 0; half < 2; half++) {
		begin(TP_RELAY);
		s = raw_local_open(&r, false);
		r.hold = true;
		ck_assert_int_eq(tp_stream_send(s, zeros, 10000, false), 0);
		if (half)
			ck_assert_uint_eq(tp_conn_pull(r.c, dst, sizeof(dst)), sizeof(dst));
		tp_conn_abandon(r.c, TP_REASON_PROTOCOL);
		ck_assert(!tp_conn_is_attached(r.c));
		if (half)
			ck_assert_uint_eq(tp_conn_pull(r.c, dst, sizeof(dst)), 0);
		raw_frame(&r, TP_DATA, 0, 1, zeros, 4); /* not read any more */
		ck_assert_uint_eq(r.resets, 1);
		ck_assert(!r.over);
		if (half) /* otherwise the connection frees it */
			tp_stream_release(s);
		raw_done(&r);
	}
}
END_TEST

/* A frame that nobody is told of leaves nothing in the event that follows it in the same input. */
START_TEST(untold_frames_leave_no_trace)
{
	uint8_t bytes[64], *at = bytes;

	begin(TP_GATEWAY);
	raw_open(&r, 1, false);
	raw_open(&r, 2, false);
	tp_stream_head(r.last, NULL, 0, false);
	tp_stream_send(r.last, zeros, sizeof(zeros), true);
	tp_stream_release(r.last);
	at += ws_header(at, WS_BINARY, 11, NULL);
	frame_put_header(at, TP_DATA, TP_FLAG_END, 2);
	memcpy(at + 8, "end", 3);
	at += 11;
	at += ws_header(at, WS_BINARY, 12, NULL);
	frame_put_header(at, TP_RESET, 0, 1);
	put_be32(at + 8, TP_REASON_CANCELLED);
	at += 12;
	tp_conn_feed(r.c, bytes, (size_t)(at - bytes));
	ck_assert(tp_conn_next(r.c, r.now_us, &r.ev));
	ck_assert_int_eq(r.ev.type, TP_EV_RESET);
	ck_assert(!r.ev.end && r.ev.len == 0 && !r.ev.data);
	ck_assert(!tp_conn_next(r.c, r.now_us, &r.ev));
	raw_done(&r);
}
END_TEST

START_TEST(notes)
{
	const struct tp_field good = { SPAN(":audit"), SPAN("a:1:b") };

	begin(TP_GATEWAY);
	raw_fields(&r, TP_NOTE, 0, 0, &good, 1);
	protocol_error("NOTE from a relay");
	begin(TP_RELAY);
	raw_frame(&r, TP_NOTE, 0, 0, "\0\x05\0", 3);
	protocol_error("field cut short");
	begin(TP_RELAY);
	raw_frame(&r, TP_NOTE, 0, 0, zeros, TP_NOTE_MAX + 1);
	protocol_error("frame payload too long");
	raw_init(&r, TP_RELAY);
	raw_fields(&r, TP_NOTE, 0, 0, &good, 1);
	protocol_error("frame before the greeting");
	begin(TP_RELAY);
	for (unsigned i = 0; i < 10 * NOTE_RATE; i++)
		raw_fields(&r, TP_NOTE, 0, 0, &good, 1);
	ck_assert(!r.over);
	for (unsigned i = 0; i < NOTE_RATE; i++) {
		r.now_us += 1000 * 1000 / NOTE_RATE;
		raw_fields(&r, TP_NOTE, 0, 0, &good, 1);
	}
	ck_assert(!r.over);
	raw_fields(&r, TP_NOTE, 0, 0, &good, 1);
	end_with(TP_REASON_ABUSE, true, "too many NOTE frames");
}
END_TEST

/* Streams that have ended but were not released do not get lost with their session. */
START_TEST(nothing_leaks_with_a_session)
{
	begin(TP_GATEWAY);
	raw_open(&r, 1, true);
	tp_stream_head(r.last, NULL, 0, true);
	raw_open(&r, 2, true);
	tp_conn_abandon(r.c, TP_REASON_SESSION_LOST);
	raw_bytes(&r, NULL, 0);
	ck_assert_uint_eq(r.resets, 1);
	raw_done(&r);
}
END_TEST

UNIT_MAIN("conn_abuse",
	  ADD(frames_that_are_not_frames) ADD(sizes_above_the_limits) ADD(endless_message) ADD(websocket_breaches)
	  ADD(before_the_greeting) ADD(greetings_that_are_not) ADD(greetings_out_of_place) ADD(malformed_fields)
	  ADD(streams_out_of_order) ADD(frames_for_streams_that_never_were) ADD(late_frames_are_ignored)
	  ADD(credit_overrun) ADD(credit_of_nothing_and_too_much) ADD(stream_states_broken)
	  ADD(streams_opened_while_going_away) ADD(more_streams_than_allowed) ADD(a_peer_that_acknowledges_nothing)
	  ADD(answers_that_nobody_acknowledges) ADD(rapid_resets) ADD(resets_per_second) ADD(pings_per_second)
	  ADD(pongs_that_answer_nothing) ADD(empty_data_per_second) ADD(impossible_acknowledgements) ADD(goaway_twice) ADD(notes)
	  ADD(abandoned_in_the_middle_of_a_frame) ADD(nothing_leaks_with_a_session)
	  ADD(untold_frames_leave_no_trace))
