/* relay/pace: how fast the body of a request has to come, and that nobody is blamed for time in which it was not read. */
#include "relay/pace.h"

#include "tests/lib/unit.h"

enum { TIMEOUT_MS = 1000, WHILE_MS = 10 * 60 * 1000 };

START_TEST(from_one_piece_to_the_next)
{
	struct pace p = { 0 };

	pace_begin(&p, 5000);
	ck_assert(!pace_is_late(&p, TIMEOUT_MS, 5999));
	ck_assert(pace_is_late(&p, TIMEOUT_MS, 6000));
	pace_came(&p, PACE_RATE_MIN, 5999);
	ck_assert(!pace_is_late(&p, TIMEOUT_MS, 6998));
	ck_assert(pace_is_late(&p, TIMEOUT_MS, 6999));
}
END_TEST

/* However little there is between two pieces. */
START_TEST(altogether)
{
	struct pace p = { 0 };
	uint64_t now = 5000;

	pace_begin(&p, now);
	for (int i = 0; i < 1000 && !pace_is_late(&p, TIMEOUT_MS, now); i++)
		pace_came(&p, PACE_RATE_MIN / 20, now += 100);
	/* Half as fast as it has to be: twice the timeout. */
	ck_assert_uint_ge(now, 5000 + 19 * TIMEOUT_MS / 10);
	ck_assert_uint_le(now, 5000 + 21 * TIMEOUT_MS / 10);
	/* As fast. */
	pace_begin(&p, now);
	for (int i = 0; i < 1000; i++) {
		pace_came(&p, PACE_RATE_MIN / 8, now += 125);
		ck_assert(!pace_is_late(&p, TIMEOUT_MS, now));
	}
}
END_TEST

START_TEST(time_in_which_nothing_is_read)
{
	struct pace p = { 0 };
	uint64_t now = 5000;

	pace_begin(&p, now);
	for (int i = 0; i < 5; i++) {
		pace_came(&p, 10, now += 100);
		pace_stop(&p, now);
		now += WHILE_MS;
		ck_assert(!pace_is_late(&p, TIMEOUT_MS, now));
		pace_go(&p, now);
		ck_assert(!pace_is_late(&p, TIMEOUT_MS, now));
	}
	/* 500 ms have counted, and 50 bytes; the rest of the time is there. */
	for (int i = 0; i < 5; i++) {
		ck_assert(!pace_is_late(&p, TIMEOUT_MS, now));
		pace_came(&p, 0, now += 100);
	}
	now += 50 * 1000 / PACE_RATE_MIN;
	ck_assert(!pace_is_late(&p, TIMEOUT_MS, now));
	ck_assert(pace_is_late(&p, TIMEOUT_MS, now + 1));
}
END_TEST

/* Only that part of it that is after the beginning; and the next body has what is its own. */
START_TEST(stopped_before_it_began)
{
	struct pace p = { 0 };

	pace_stop(&p, 1000);
	pace_begin(&p, 1000 + WHILE_MS);
	pace_go(&p, 1100 + WHILE_MS);
	ck_assert(!pace_is_late(&p, TIMEOUT_MS, 2099 + WHILE_MS));
	ck_assert(pace_is_late(&p, TIMEOUT_MS, 2100 + WHILE_MS));
	pace_came(&p, 100000, 2000 + WHILE_MS);
	pace_begin(&p, 5000 + WHILE_MS);
	pace_came(&p, 1, 5900 + WHILE_MS);
	pace_came(&p, 1, 6004 + WHILE_MS);
	ck_assert(pace_is_late(&p, TIMEOUT_MS, 6004 + WHILE_MS));
}
END_TEST

UNIT_MAIN("pace", ADD(from_one_piece_to_the_next) ADD(altogether) ADD(time_in_which_nothing_is_read)
			  ADD(stopped_before_it_began))
