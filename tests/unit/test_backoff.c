#include "gateway/backoff.h"

#include "tests/lib/unit.h"

#define MOST UINT32_MAX

START_TEST(jitter_is_full)
{
	/* From nothing to the whole bound, in proportion to chance. */
	static const struct {
		uint32_t chance;
		uint64_t wait;
	} rows[] = {
		{ 0, 0 },	       { 1, 0 },	  { MOST / 4, 124 }, { MOST / 2, 249 },
		{ MOST / 4 * 3, 374 }, { MOST - 1, 499 }, { MOST, 500 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct backoff b = { 0 };

		ck_assert_uint_eq(backoff_lost(&b, 1000, rows[i].chance, false, 0), rows[i].wait);
	}
}
END_TEST

START_TEST(doubles_up_to_the_ceiling)
{
	static const uint64_t waits[] = { 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000 };
	struct backoff b = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		ck_assert_uint_eq(backoff_lost(&b, 1000 * i, MOST, false, 0), waits[i]);
	for (unsigned i = 0; i < 1000; i++)
		ck_assert_uint_eq(backoff_lost(&b, 1000 * i, MOST, false, 0), BACKOFF_MAX_MS);
	/* The jitter stays full at the ceiling. */
	ck_assert_uint_eq(backoff_lost(&b, 0, 0, false, 0), 0);
	ck_assert_uint_eq(backoff_lost(&b, 0, MOST / 2, false, 0), BACKOFF_MAX_MS / 2 - 1);
}
END_TEST

START_TEST(only_a_stable_session_resets)
{
	static const struct {
		uint64_t attached_for_ms, wait;
	} rows[] = {
		{ 0, 8000 },
		{ 1, 8000 },
		{ BACKOFF_STABLE_MS - 1, 8000 },
		{ BACKOFF_STABLE_MS, 500 },
		{ 24 * 3600 * 1000, 500 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct backoff b = { 0 };

		for (unsigned k = 0; k < 4; k++)
			backoff_lost(&b, 1000, MOST, false, 0);
		backoff_attached(&b, 5000);
		ck_assert_uint_eq(backoff_lost(&b, 5000 + rows[i].attached_for_ms, MOST, false, 0), rows[i].wait);
	}
}
END_TEST

START_TEST(attaching_again_and_again_is_not_stable)
{
	struct backoff b = { 0 };
	uint64_t now = 1000, wait = 0;

	for (unsigned i = 0; i < 10; i++) {
		backoff_attached(&b, now);
		now += 30 * 1000;
		wait = backoff_lost(&b, now, MOST, false, 0);
		now += wait;
	}
	ck_assert_uint_eq(wait, BACKOFF_MAX_MS);
	/* The time between two sessions does not count as one. */
	ck_assert_uint_eq(backoff_lost(&b, now + 10 * BACKOFF_STABLE_MS, MOST, false, 0), BACKOFF_MAX_MS);
}
END_TEST

/* Calls wait for this one: it is tried often, and counts as a failure all the same. */
START_TEST(a_session_to_resume_is_tried_often)
{
	static const uint64_t waits[] = { 500, 1000, 2000, 2000, 2000, 2000 };
	struct backoff b = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		ck_assert_uint_eq(backoff_lost_resumable(&b, 1000, MOST, 0), waits[i]);
	ck_assert_uint_eq(backoff_lost_resumable(&b, 1000, 0, 0), 0);
	ck_assert_uint_eq(backoff_lost_resumable(&b, 1000, MOST / 2, 0), BACKOFF_RESUME_MAX_MS / 2 - 1);
	ck_assert_uint_eq(backoff_lost_resumable(&b, 1000, MOST, 9), 9000);
	ck_assert_uint_eq(backoff_lost(&b, 1000, MOST, false, 0), BACKOFF_MAX_MS);
	backoff_attached(&b, 5000);
	ck_assert_uint_eq(backoff_lost_resumable(&b, 5000 + BACKOFF_STABLE_MS, MOST, 0), BACKOFF_FIRST_MS);
}
END_TEST

START_TEST(refused_token_waits_minutes)
{
	static const uint64_t most[] = { 60000, 120000, 240000, 480000, 600000, 600000 };
	struct backoff b = { 0 }, c = { 0 };

	/* Never at once, whatever chance says: between half of the bound and all of it. */
	for (size_t i = 0; i < ARRAY_LEN(most); i++) {
		ck_assert_uint_eq(backoff_lost(&b, 1000, MOST, true, 0), most[i]);
		ck_assert_uint_eq(backoff_lost(&c, 1000, 0, true, 0), most[i] / 2);
	}
	/* By another cause, the ordinary ceiling holds again. */
	ck_assert_uint_eq(backoff_lost(&b, 1000, MOST, false, 0), BACKOFF_MAX_MS);
}
END_TEST

START_TEST(a_new_token_starts_anew)
{
	struct backoff b = { 0 };

	for (unsigned i = 0; i < 6; i++)
		backoff_lost(&b, 1000, MOST, true, 0);
	backoff_reset(&b);
	ck_assert_uint_eq(backoff_lost(&b, 1000, MOST, true, 0), BACKOFF_TOKEN_FIRST_MS);
	backoff_reset(&b);
	ck_assert_uint_eq(backoff_lost(&b, 1000, MOST, false, 0), BACKOFF_FIRST_MS);
}
END_TEST

START_TEST(retry_after_is_a_minimum)
{
	static const struct {
		uint32_t chance;
		bool token;
		unsigned retry_after_s;
		uint64_t wait;
	} rows[] = {
		{ 0, false, 7, 7000 },		{ MOST, false, 7, 7000 },      { MOST, false, 0, 500 },
		{ 0, true, 7, 30000 },		{ MOST, true, 120, 120000 },   { 0, false, 86400, 86400000 },
		{ MOST, false, UINT32_MAX, UINT32_MAX * (uint64_t)1000 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct backoff b = { 0 };

		ck_assert_uint_eq(backoff_lost(&b, 1000, rows[i].chance, rows[i].token, rows[i].retry_after_s), rows[i].wait);
	}
}
END_TEST

/* One relay's refusal or Retry-After is its own: the next one is dialled soon, and its own waits are kept. */
START_TEST(each_relay_has_its_own)
{
	static const struct {
		uint64_t not_before_ms[3];
		size_t n, at;
		uint32_t chance;
		size_t next;
		uint64_t wait_ms;
	} rows[] = {
		{ { 5000 }, 1, 0, MOST, 0, 4000 },		    /* there is no other */
		{ { 0 }, 1, 0, MOST, 0, 0 },
		{ { 31000, 0 }, 2, 0, MOST, 1, 500 },		    /* refused: the other at most a step later */
		{ { 31000, 0 }, 2, 0, 0, 1, 0 },
		{ { 601000, 900 }, 2, 0, MOST / 2, 1, 249 },	    /* Retry-After of ten minutes */
		{ { 601000, 9000 }, 2, 0, MOST, 1, 8000 },	    /* neither before its time */
		{ { 9000, 601000 }, 2, 0, MOST, 0, 8000 },	    /* the same again when it is due first */
		{ { 31000, 41000 }, 2, 1, 0, 0, 30000 },	    /* all refuse: rare */
		{ { 0, 0, 0 }, 3, 0, 0, 1, 0 },			    /* in turn */
		{ { 0, 0, 0 }, 3, 1, 0, 2, 0 },
		{ { 0, 0, 0 }, 3, 2, 0, 0, 0 },
		{ { 0, 9000, 0 }, 3, 0, 0, 2, 0 },		    /* over the one that is not due */
		{ { 1001, 2000, 9000 }, 3, 1, MOST, 0, 500 },	    /* due before the others, and not at once */
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct backoff b[3] = { { 0 } };
		uint64_t wait_ms = 12345;

		for (size_t k = 0; k < rows[i].n; k++)
			b[k].not_before_ms = rows[i].not_before_ms[k];
		ck_assert_msg(backoff_next(b, rows[i].n, rows[i].at, 1000, rows[i].chance, &wait_ms) == rows[i].next, "row %zu", i);
		ck_assert_msg(wait_ms == rows[i].wait_ms, "row %zu: %llu", i, (unsigned long long)wait_ms);
	}
}
END_TEST

START_TEST(the_next_time_is_kept)
{
	struct backoff b = { 0 };

	backoff_lost(&b, 1000, MOST, true, 0);
	ck_assert(b.token_refused);
	ck_assert_uint_eq(b.not_before_ms, 1000 + BACKOFF_TOKEN_FIRST_MS);
	backoff_lost(&b, 1000, 0, false, 90);
	ck_assert(!b.token_refused);
	ck_assert_uint_eq(b.not_before_ms, 91000);
	backoff_lost_resumable(&b, 2000, MOST, 0);
	ck_assert_uint_eq(b.not_before_ms, 2000 + BACKOFF_RESUME_MAX_MS);
	backoff_reset(&b);
	ck_assert_uint_eq(b.not_before_ms, 0);
}
END_TEST

UNIT_MAIN("backoff", ADD(jitter_is_full) ADD(doubles_up_to_the_ceiling) ADD(only_a_stable_session_resets)
	  ADD(attaching_again_and_again_is_not_stable) ADD(a_session_to_resume_is_tried_often)
	  ADD(refused_token_waits_minutes) ADD(a_new_token_starts_anew)
	  ADD(retry_after_is_a_minimum) ADD(each_relay_has_its_own) ADD(the_next_time_is_kept))
