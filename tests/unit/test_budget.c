#include "proto/budget.h"

#include "tests/lib/unit.h"

static unsigned take_all(struct budget *b, uint64_t now_ms)
{
	unsigned n = 0;

	while (n < 100000 && budget_take(b, now_ms))
		n++;
	return n;
}

START_TEST(burst_then_rate)
{
	struct budget b;

	budget_init(&b, 10, 100);
	ck_assert_uint_eq(take_all(&b, 5000), 100);
	ck_assert(!budget_take(&b, 5099));
	ck_assert(budget_take(&b, 5100)); /* a tenth of a second, one more */
	ck_assert(!budget_take(&b, 5100));
	ck_assert_uint_eq(take_all(&b, 6100), 10);
	ck_assert_uint_eq(take_all(&b, 7100), 10);
}
END_TEST

START_TEST(a_pause_fills_the_bucket_and_no_more)
{
	struct budget b;

	budget_init(&b, 1000, 500);
	take_all(&b, 1);
	ck_assert_uint_eq(take_all(&b, UINT64_MAX / 2), 500);
	take_all(&b, UINT64_MAX / 2);
	ck_assert_uint_eq(take_all(&b, UINT64_MAX), 500);
}
END_TEST

START_TEST(in_small_steps_as_in_large_ones)
{
	struct budget b;
	unsigned n;

	budget_init(&b, 3, 5);
	n = take_all(&b, 1000);
	for (uint64_t now = 1001; now <= 11000; now++)
		n += take_all(&b, now);
	ck_assert_uint_eq(n, 5 + 3 * 10);
}
END_TEST

START_TEST(a_clock_that_runs_back_gives_nothing)
{
	struct budget b;

	budget_init(&b, 10, 1);
	ck_assert(budget_take(&b, 5000));
	ck_assert(!budget_take(&b, 1000));
	ck_assert(!budget_take(&b, 5050));
	ck_assert(budget_take(&b, 5100));
}
END_TEST

START_TEST(rate_of_nothing)
{
	struct budget b;

	budget_init(&b, 0, 2);
	ck_assert_uint_eq(take_all(&b, 100), 2);
	budget_init(&b, UINT32_MAX, UINT32_MAX);
	for (uint64_t now = 0; now < 1000; now++)
		ck_assert(budget_take(&b, now << 40));
}
END_TEST

UNIT_MAIN("budget", ADD(burst_then_rate) ADD(a_pause_fills_the_bucket_and_no_more)
	  ADD(in_small_steps_as_in_large_ones) ADD(a_clock_that_runs_back_gives_nothing) ADD(rate_of_nothing))
