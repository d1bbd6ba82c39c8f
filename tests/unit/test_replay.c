/* The queue of counted frames against a plain array of all frames ever appended. */
#include "proto/replay.h"

#include "tests/lib/pair.h"
#include "tests/lib/unit.h"

#include <string.h>

enum { FRAMES = 20000 };

static struct replay r;
static uint32_t lengths[FRAMES];
static uint64_t acked, sent, count;

static uint8_t byte_of(uint64_t number, size_t at)
{
	return (uint8_t)(number * 7 + at * 3);
}

static void append(size_t len)
{
	uint8_t *at;

	ck_assert_int_eq(replay_append(&r, len, &at), 0);
	for (size_t i = 0; i < len; i++)
		at[i] = byte_of(count, i);
	lengths[count++] = (uint32_t)len;
}

static size_t sum(uint64_t from, uint64_t to)
{
	size_t n = 0;

	for (; from < to; from++)
		n += lengths[from];
	return n;
}

static void check(void)
{
	struct span frame = replay_peek(&r);

	ck_assert_uint_eq(r.acked, acked);
	ck_assert_uint_eq(r.sent, sent);
	ck_assert_uint_eq(r.count, count);
	ck_assert_uint_eq(r.bytes, sum(acked, count));
	ck_assert_uint_eq(r.unsent_bytes, sum(sent, count));
	if (sent == count) {
		ck_assert_ptr_null(frame.p);
		return;
	}
	ck_assert_uint_eq(frame.len, lengths[sent]);
	for (size_t i = 0; i < frame.len; i += 1 + frame.len / 7)
		ck_assert_uint_eq((uint8_t)frame.p[i], byte_of(sent, i));
}

static size_t random_length(void)
{
	switch (pair_below(8)) {
	case 0:
		return 16 * 1024 + 8;
	case 1:
		return pair_below(70000); /* more than a chunk, now and then */
	default:
		return pair_below(60);
	}
}

static void random_step(void)
{
	uint64_t to;

	switch (pair_below(16)) {
	case 0:
		to = acked + pair_below((uint32_t)(sent - acked) + 1);
		ck_assert(replay_rewind(&r, to));
		sent = acked = to;
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		to = acked + pair_below((uint32_t)(sent - acked) + 1);
		ck_assert(replay_ack(&r, to));
		acked = to;
		break;
	case 5:
		ck_assert(!replay_ack(&r, sent + 1 + pair_below(3)));
		ck_assert(acked == 0 || !replay_ack(&r, acked - 1));
		ck_assert(!replay_rewind(&r, sent + 1));
		ck_assert(acked == 0 || !replay_rewind(&r, acked - 1));
		break;
	case 6:
	case 7:
	case 8:
	case 9:
	case 10:
		if (count < FRAMES)
			append(random_length());
		break;
	default:
		if (sent < count) {
			replay_advance(&r);
			sent++;
		}
		break;
	}
}

START_TEST(against_a_plain_model)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		pair_seed(seed);
		acked = sent = count = 0;
		replay_init(&r, NULL);
		for (int i = 0; i < 3000; i++) {
			random_step();
			check();
		}
		replay_done(&r);
	}
}
END_TEST

/* A frame stays where it is until it is acknowledged: a message half written goes on from the same bytes. */
START_TEST(frames_do_not_move)
{
	struct span first;

	replay_init(&r, NULL);
	acked = sent = count = 0;
	append(1000);
	first = replay_peek(&r);
	for (int i = 0; i < 500; i++)
		append(1000);
	ck_assert_ptr_eq(replay_peek(&r).p, first.p);
	for (int i = 0; i < 500; i++)
		replay_advance(&r);
	ck_assert_uint_eq((uint8_t)first.p[999], byte_of(0, 999));
	ck_assert(replay_rewind(&r, 0));
	ck_assert_ptr_eq(replay_peek(&r).p, first.p);
	replay_done(&r);
}
END_TEST

START_TEST(empty_costs_nothing)
{
	replay_init(&r, NULL);
	acked = sent = count = 0;
	for (int i = 0; i < 100; i++) {
		append(10000);
		replay_advance(&r);
		sent++;
	}
	ck_assert(replay_ack(&r, 100));
	ck_assert(TAILQ_EMPTY(&r.chunks));
	ck_assert_ptr_null(r.spare);
	acked = 100;
	check();
	append(5);
	check();
	replay_clear(&r);
	ck_assert_uint_eq(r.count, 0);
	ck_assert_uint_eq(r.bytes, 0);
	ck_assert_ptr_null(replay_peek(&r).p);
	acked = sent = count = 0;
	append(0);
	check();
	replay_done(&r);
}
END_TEST

/* Four full DATA frames share a chunk. */
START_TEST(little_is_wasted)
{
	const char *p[4];

	replay_init(&r, NULL);
	acked = sent = count = 0;
	for (int i = 0; i < 4; i++)
		append(16 * 1024 + 8);
	for (int i = 0; i < 4; i++) {
		p[i] = replay_peek(&r).p;
		replay_advance(&r);
	}
	for (int i = 1; i < 4; i++)
		ck_assert_int_eq(p[i] - p[i - 1], 16 * 1024 + 8 + 4);
	replay_done(&r);
}
END_TEST

UNIT_MAIN("replay", ADD(against_a_plain_model) ADD(frames_do_not_move) ADD(empty_costs_nothing) ADD(little_is_wasted))
