/* Two ends joined in memory: flow control, fairness, acknowledgement and what is kept. */
#include "tests/lib/pair.h"
#include "tests/lib/unit.h"

#include <errno.h>

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


START_TEST(credit_runs_out_and_returns_on_consumption)
{
	enum { WINDOW = 100001 }; /* no whole number of frames */
	struct pair_stream *r, *g;

	pair_init(&p);
	p.cfg[PAIR_GATEWAY].window_initial = WINDOW;
	p.auto_consume = false;
	pair_up(&p);
	r = pair_open(&p, false);
	pair_run(&p);
	g = gateway_end(r);
	pair_send(r, PAIR_RELAY, 130 * 1000, false);
	pair_run(&p);
	ck_assert_uint_eq(buf_len(&g->got), WINDOW);
	ck_assert_uint_eq(tp_conn_stalls(p.end[PAIR_RELAY].conn), 1);
	ck_assert(!tp_conn_wants_write(p.end[PAIR_RELAY].conn));
	/* Less than an eighth is not worth a frame. */
	pair_consume(&p, g, WINDOW / 8 - 1);
	pair_run(&p);
	ck_assert_uint_eq(buf_len(&g->got), WINDOW);
	pair_consume(&p, g, 1);
	pair_run(&p);
	ck_assert_uint_eq(buf_len(&g->got), WINDOW + WINDOW / 8);
	pair_consume(&p, g, WINDOW / 4);
	pair_run(&p);
	assert_got(g, PAIR_RELAY, 130 * 1000);
	ck_assert_uint_eq(tp_conn_stalls(p.end[PAIR_RELAY].conn), 2);
	ck_assert_uint_eq(tp_conn_stalls(p.end[PAIR_GATEWAY].conn), 0);
	assert_quiet();
	pair_done(&p);
}
END_TEST

/* END is the last thing of its stream, also when it is given while the rest waits for credit. */
START_TEST(end_does_not_overtake_data)
{
	struct pair_stream *r;

	start();
	p.auto_consume = false;
	r = pair_open(&p, false);
	pair_send(r, PAIR_RELAY, TP_WINDOW_INITIAL + 10, false);
	pair_run(&p);
	pair_send(r, PAIR_RELAY, 0, true);
	pair_run(&p);
	ck_assert_uint_eq(tp_conn_stalls(p.end[PAIR_RELAY].conn), 1);
	ck_assert(!gateway_end(r)->end);
	pair_consume(&p, gateway_end(r), TP_WINDOW_INITIAL);
	pair_run(&p);
	ck_assert(gateway_end(r)->end);
	assert_got(gateway_end(r), PAIR_RELAY, TP_WINDOW_INITIAL + 10);
	pair_done(&p);
}
END_TEST

/* One that always has a little more to say, just in time, does not keep a patient one waiting. */
START_TEST(a_talkative_stream_starves_nobody)
{
	enum { ROUNDS = 25 };
	struct pair_stream *talks, *waits;

	start();
	p.auto_consume = false;
	p.pull = 12000;
	talks = pair_open(&p, false);
	waits = pair_open(&p, false);
	pair_run(&p);
	pair_send(waits, PAIR_RELAY, 8 * TP_PAYLOAD_DEFAULT, false);
	for (int i = 0; i < ROUNDS; i++) {
		if (tp_stream_wants_data(talks->s))
			pair_send_at(talks, PAIR_RELAY, (uint64_t)i * 12000, 12000, false);
		pair_move(&p, PAIR_RELAY, SIZE_MAX);
	}
	assert_got(gateway_end(waits), PAIR_RELAY, 8 * TP_PAYLOAD_DEFAULT);
	pair_done(&p);
}
END_TEST

/* The other streams do not wait for one that has no credit. */
START_TEST(a_stuck_stream_holds_up_nobody)
{
	struct pair_stream *stuck, *r;

	start();
	p.auto_consume = false;
	stuck = pair_open(&p, false);
	pair_send(stuck, PAIR_RELAY, 300 * 1000, true);
	pair_run(&p);
	r = pair_open(&p, false);
	pair_send(r, PAIR_RELAY, 200 * 1000, true);
	pair_run(&p);
	assert_got(gateway_end(r), PAIR_RELAY, 200 * 1000);
	ck_assert(!gateway_end(stuck)->end);
	pair_done(&p);
}
END_TEST

START_TEST(writable_is_told_once_there_is_room)
{
	struct pair_stream *r;

	start();
	p.auto_consume = false;
	r = pair_open(&p, false);
	pair_run(&p);
	ck_assert(tp_stream_wants_data(r->s));
	pair_send(r, PAIR_RELAY, TP_WINDOW_INITIAL, false);
	ck_assert(!tp_stream_wants_data(r->s));
	pair_run(&p);
	ck_assert_uint_eq(r->writable, 1);
	pair_send_at(r, PAIR_RELAY, TP_WINDOW_INITIAL, TP_SEND_QUEUE, false);
	ck_assert(!tp_stream_wants_data(r->s));
	pair_run(&p);
	ck_assert_uint_eq(r->writable, 1);
	pair_consume(&p, gateway_end(r), TP_WINDOW_INITIAL);
	pair_run(&p);
	ck_assert_uint_eq(r->writable, 2);
	/* Not after END, and not after a reset. */
	pair_consume(&p, gateway_end(r), gateway_end(r)->unconsumed);
	pair_send(r, PAIR_RELAY, TP_SEND_QUEUE + 1000, true);
	pair_run(&p);
	ck_assert_uint_eq(r->writable, 2);
	pair_done(&p);
}
END_TEST

START_TEST(the_queue_of_a_stream_is_bounded)
{
	static const uint8_t zeros[256 * 1024];
	struct pair_stream *r;

	start();
	r = pair_open(&p, false);
	ck_assert_int_eq(tp_stream_send(r->s, zeros, sizeof(zeros), false), 0);
	ck_assert_int_eq(tp_stream_send(r->s, zeros, TP_SEND_QUEUE, false), 0);
	ck_assert_int_eq(tp_stream_send(r->s, zeros, 1, false), -ENOBUFS);
	ck_assert_uint_gt(tp_conn_memory(p.end[PAIR_RELAY].conn), sizeof(zeros));
	pair_done(&p);
}
END_TEST

/* Frames that one side sent in this connection. */
static struct pair_frame frames[4096];

/* A large answer is under way; the small one that is given then is in the byte stream after one more frame. */
START_TEST(a_small_answer_overtakes_a_large_one)
{
	struct pair_stream *large, *small;
	size_t n, small_at = 0, large_end = 0, before = 0;

	start();
	p.recording = true;
	p.pull = 64 * 1024;
	large = pair_open(&p, true);
	small = pair_open(&p, true);
	pair_run(&p);
	pair_head(gateway_end(large), false);
	pair_send(gateway_end(large), PAIR_GATEWAY, 250 * 1000, true);
	buf_clear(&p.end[PAIR_GATEWAY].record);
	pair_move(&p, PAIR_GATEWAY, SIZE_MAX);
	before = buf_len(&p.end[PAIR_GATEWAY].record);
	ck_assert_uint_gt(before, 60 * 1000);
	ck_assert_uint_lt(before, 70 * 1000);
	pair_head(gateway_end(small), false);
	pair_send(gateway_end(small), PAIR_GATEWAY, 200, true);
	pair_run(&p);
	n = pair_frames(&p, PAIR_GATEWAY, frames, ARRAY_LEN(frames));
	for (size_t i = 0; i < n; i++) {
		if (frames[i].type != TP_DATA || !(frames[i].flags & TP_FLAG_END))
			continue;
		if (frames[i].id == small->id)
			small_at = frames[i].at;
		else
			large_end = frames[i].at;
	}
	ck_assert_uint_gt(small_at, 0);
	ck_assert_uint_lt(small_at, large_end);
	/* The rest of the frame being written, and at most one frame of the large answer. */
	ck_assert_uint_le(small_at, before + 2 * (TP_PAYLOAD_DEFAULT + 100));
	assert_got(small, PAIR_GATEWAY, 200);
	assert_got(large, PAIR_GATEWAY, 250 * 1000);
	pair_done(&p);
}
END_TEST

/* Several large ones take turns: at no time is one more than one frame ahead of another. */
START_TEST(large_answers_take_turns)
{
	enum { MANY = 5, EACH = 12 * TP_PAYLOAD_DEFAULT };
	size_t n, sent[MANY + 1] = { 0 };

	start();
	p.recording = true;
	for (int i = 0; i < MANY; i++)
		pair_open(&p, true);
	pair_run(&p);
	for (uint32_t id = 1; id <= MANY; id++) {
		pair_head(pair_peer(&p, PAIR_GATEWAY, id), false);
		pair_send(pair_peer(&p, PAIR_GATEWAY, id), PAIR_GATEWAY, EACH, true);
	}
	pair_run(&p);
	n = pair_frames(&p, PAIR_GATEWAY, frames, ARRAY_LEN(frames));
	for (size_t i = 0; i < n; i++) {
		size_t least = SIZE_MAX;

		if (frames[i].type != TP_DATA)
			continue;
		for (int k = 1; k <= MANY; k++)
			least = MIN(least, sent[k]);
		ck_assert_uint_le(sent[frames[i].id], least + TP_PAYLOAD_DEFAULT);
		sent[frames[i].id] += frames[i].len;
	}
	for (int k = 1; k <= MANY; k++)
		ck_assert_uint_eq(sent[k], EACH);
	pair_done(&p);
}
END_TEST

START_TEST(payloads_keep_the_agreed_limit)
{
	size_t n, largest = 0;

	pair_init(&p);
	p.cfg[PAIR_GATEWAY].max_payload = 5000;
	p.recording = true;
	pair_up(&p);
	pair_send(pair_open(&p, false), PAIR_RELAY, 100 * 1000, true);
	pair_run(&p);
	n = pair_frames(&p, PAIR_RELAY, frames, ARRAY_LEN(frames));
	for (size_t i = 0; i < n; i++)
		largest = MAX(largest, frames[i].type == TP_DATA ? frames[i].len : 0);
	ck_assert_uint_eq(largest, 5000);
	assert_quiet();
	pair_done(&p);
}
END_TEST

/* An ACK at the latest after 64 frames or 64 KiB, and no more often than that. */
START_TEST(acknowledgement_cadence)
{
	size_t n, acks = 0;
	struct pair_stream *r;

	start();
	p.recording = true;
	r = pair_open(&p, false);
	for (int i = 0; i < 640; i++) {
		pair_send_at(r, PAIR_RELAY, (uint64_t)i, 1, false);
		pair_run(&p);
		ck_assert_uint_lt(p.end[PAIR_RELAY].conn->replay.count - p.end[PAIR_RELAY].conn->replay.acked, 64);
	}
	n = pair_frames(&p, PAIR_GATEWAY, frames, ARRAY_LEN(frames));
	for (size_t i = 0; i < n; i++)
		acks += frames[i].type == TP_ACK;
	ck_assert_uint_ge(acks, 9);
	ck_assert_uint_le(acks, 10);
	for (int i = 0; i < 40; i++) {
		pair_send_at(r, PAIR_RELAY, 640 + (uint64_t)i * 16384, 16384, false);
		pair_run(&p);
		ck_assert_uint_lt(p.end[PAIR_RELAY].conn->replay.bytes, 64 * 1024);
	}
	pair_done(&p);
}
END_TEST

/* With little room for kept frames DATA waits for acknowledgements: all of it comes, in both directions at once. */
START_TEST(small_replay_room_bounds_and_does_not_lock)
{
	enum { STREAMS = 20, EACH = 200 * 1000 };
	size_t most[2] = { 0, 0 };
	bool moved = true;

	pair_init(&p);
	p.cfg[0].replay_max = p.cfg[1].replay_max = 1; /* the smallest there is */
	p.chunk = 1500;
	pair_up(&p);
	for (int i = 0; i < STREAMS; i++)
		pair_open(&p, false);
	pair_run(&p);
	for (uint32_t id = 1; id <= STREAMS; id++) {
		pair_head(pair_peer(&p, PAIR_GATEWAY, id), false);
		pair_send(pair_peer(&p, PAIR_GATEWAY, id), PAIR_GATEWAY, EACH, true);
		pair_send(pair_peer(&p, PAIR_RELAY, id), PAIR_RELAY, EACH, true);
	}
	while (moved) {
		moved = false;
		for (int side = 0; side < 2; side++) {
			moved |= pair_move(&p, side, SIZE_MAX);
			most[side] = MAX(most[side], p.end[side].conn->replay.bytes);
		}
	}
	for (int side = 0; side < 2; side++) {
		ck_assert_uint_ge(most[side], ACK_AFTER_BYTES);
		ck_assert_uint_le(most[side], ACK_AFTER_BYTES + 2 * TP_PAYLOAD_DEFAULT);
		for (uint32_t id = 1; id <= STREAMS; id++)
			assert_got(pair_peer(&p, !side, id), side, EACH);
	}
	assert_quiet();
	pair_done(&p);
}
END_TEST

/* Two sessions share the room for kept frames; each moves on with what it always has, and nothing is dropped. */
START_TEST(sessions_share_their_room)
{
	enum { STREAMS = 20, EACH = 60 * 1000, SHARED = 256 * 1024 };
	static struct pair both[2];
	size_t kept = 0;

	for (int k = 0; k < 2; k++) {
		pair_init(&both[k]);
		both[k].cfg[PAIR_RELAY].kept = &kept;
		both[k].cfg[PAIR_RELAY].kept_max = SHARED;
		pair_up(&both[k]);
		for (int i = 0; i < STREAMS; i++)
			pair_send(pair_open(&both[k], false), PAIR_RELAY, EACH, true);
		while (pair_move(&both[k], PAIR_RELAY, SIZE_MAX)) /* nothing comes back */
			;
		ck_assert_uint_ge(kept, SHARED + (size_t)k * ACK_AFTER_BYTES);
		ck_assert_uint_le(kept, SHARED + (size_t)k * ACK_AFTER_BYTES + 3 * TP_PAYLOAD_DEFAULT);
		pair_cut(&both[k]);
	}
	ck_assert_uint_eq(kept, both[0].end[PAIR_RELAY].conn->replay.bytes + both[1].end[PAIR_RELAY].conn->replay.bytes);
	/* The first session stays away: the second one does not wait for it. */
	for (int k = 1; k >= 0; k--) {
		pair_up(&both[k]);
		for (uint32_t id = 1; id <= STREAMS; id++)
			assert_got(pair_peer(&both[k], PAIR_GATEWAY, id), PAIR_RELAY, EACH);
	}
	ck_assert_uint_lt(kept, 2 * ACK_AFTER_BYTES);
	for (int k = 0; k < 2; k++)
		pair_done(&both[k]);
	ck_assert_uint_eq(kept, 0);
}
END_TEST

START_TEST(a_full_replay_makes_open_busy)
{
	struct pair_stream *r;
	int opened = 0;

	start();
	p.end[PAIR_RELAY].conn->cfg.replay_max = ACK_AFTER_BYTES;
	for (; opened < 5000 && (r = pair_open(&p, true)); opened++)
		pair_release(r);
	ck_assert_int_gt(opened, 100);
	ck_assert_int_lt(opened, 5000);
	ck_assert_uint_ge(tp_conn_memory(p.end[PAIR_RELAY].conn), 2 * ACK_AFTER_BYTES);
	ck_assert_uint_le(tp_conn_memory(p.end[PAIR_RELAY].conn), 2 * ACK_AFTER_BYTES + 1000);
	pair_run(&p);
	ck_assert_ptr_nonnull(pair_open(&p, true));
	pair_done(&p);
}
END_TEST

/* On a long path the window grows until it is no longer the limit, within what the session allows. */
START_TEST(windows_grow_within_the_session)
{
	struct pair_stream *r;
	uint64_t at = 0;

	pair_init(&p);
	p.cfg[PAIR_GATEWAY].window_extra_max = 1024 * 1024;
	p.delay_us = 20 * 1000;
	p.keep_data = false;
	pair_up(&p);
	r = pair_open(&p, false);
	p.delay_us = 0; /* now in whole round trips: all that credit allows, then what the other end says */
	for (int i = 0; i < 200; i++) {
		do {
			if (!tp_stream_wants_data(r->s))
				continue;
			pair_send_at(r, PAIR_RELAY, at, 65536, false);
			at += 65536;
		} while (pair_move(&p, PAIR_RELAY, SIZE_MAX));
		p.now_us += 40 * 1000;
		pair_move(&p, PAIR_GATEWAY, SIZE_MAX);
	}
	ck_assert_uint_gt(at, 200 * TP_WINDOW_INITIAL);
	ck_assert_uint_gt(gateway_end(r)->s->window.size, TP_WINDOW_INITIAL);
	ck_assert_uint_le(gateway_end(r)->s->window.size, TP_WINDOW_INITIAL + 1024 * 1024);
	pair_release(r);
	pair_run(&p);
	pair_release(gateway_end(r));
	ck_assert_uint_eq(p.end[PAIR_GATEWAY].conn->windows.extra_left, 1024 * 1024);
	pair_done(&p);
}
END_TEST
UNIT_MAIN("conn_flow",
	  ADD(credit_runs_out_and_returns_on_consumption) ADD(end_does_not_overtake_data)
	  ADD(a_talkative_stream_starves_nobody) ADD(a_stuck_stream_holds_up_nobody)
	  ADD(writable_is_told_once_there_is_room) ADD(the_queue_of_a_stream_is_bounded)
	  ADD(a_small_answer_overtakes_a_large_one) ADD(large_answers_take_turns)
	  ADD(payloads_keep_the_agreed_limit) ADD(acknowledgement_cadence)
	  ADD(small_replay_room_bounds_and_does_not_lock) ADD(sessions_share_their_room) ADD(a_full_replay_makes_open_busy)
	  ADD(windows_grow_within_the_session))
