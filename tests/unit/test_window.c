#include "proto/window.h"

#include "tests/lib/unit.h"

enum { K = 1024, MS = 1000 };

static struct window w;
static uint64_t extra;

/* The peer sends n bytes and the next hop takes them: what is granted for it. */
static uint32_t pass(size_t n, uint64_t now_us, uint64_t rtt_us)
{
	ck_assert(window_receive(&w, n));
	return window_consume(&w, n, now_us, rtt_us, &extra);
}

START_TEST(credit_cannot_be_overrun)
{
	window_init(&w, 1000, 1000);
	ck_assert(window_receive(&w, 0));
	ck_assert(window_receive(&w, 999));
	ck_assert(!window_receive(&w, 2));
	ck_assert(window_receive(&w, 1));
	ck_assert(!window_receive(&w, 1));
	ck_assert(!window_receive(&w, SIZE_MAX));
	/* What was refused does not count. */
	ck_assert_uint_eq(w.received, 1000);
}
END_TEST

START_TEST(granted_on_consumption_in_quarters)
{
	extra = 0;
	window_init(&w, 1000, 1000);
	ck_assert(window_receive(&w, 1000));
	ck_assert_uint_eq(window_consume(&w, 0, 1, 0, &extra), 0);
	ck_assert_uint_eq(window_consume(&w, 249, 1, 0, &extra), 0);
	ck_assert_uint_eq(window_consume(&w, 1, 1, 0, &extra), 250);
	ck_assert_uint_eq(window_consume(&w, 500, 1, 0, &extra), 500);
	ck_assert_uint_eq(window_consume(&w, 249, 1, 0, &extra), 0);
	ck_assert_uint_eq(window_consume(&w, 1, 1, 0, &extra), 250);
	ck_assert(window_receive(&w, 1000));
	ck_assert(!window_receive(&w, 1));
}
END_TEST

START_TEST(tiny_windows_work)
{
	for (uint32_t size = 1; size < 6; size++) {
		extra = 0;
		window_init(&w, size, size);
		for (uint64_t got = 0, credit = size; got < 100; got++) {
			ck_assert_uint_gt(credit, 0);
			credit += pass(1, 1, 0);
			credit--;
		}
	}
}
END_TEST

/* Each row: the time between the consumption of two halves, and the size of the window after it. */
START_TEST(growth)
{
	static const struct {
		uint64_t rtt_us, max, extra, gap_us;
		uint32_t size_after;
	} rows[] = {
		{ 50 * MS, 8192 * K, 65536 * K, 49 * MS, 512 * K },  /* faster than a round trip: it is the limit */
		{ 50 * MS, 8192 * K, 65536 * K, 50 * MS, 512 * K },
		{ 50 * MS, 8192 * K, 65536 * K, 51 * MS, 256 * K },  /* slower: it is not */
		{ 50 * MS, 8192 * K, 65536 * K, 5000 * MS, 256 * K },
		{ 0, 8192 * K, 65536 * K, 1, 256 * K },               /* nothing measured yet */
		{ 50 * MS, 256 * K, 65536 * K, 1, 256 * K },          /* at its ceiling */
		{ 50 * MS, 300 * K, 65536 * K, 1, 300 * K },          /* up to its ceiling */
		{ 50 * MS, 8192 * K, 255 * K, 1, 256 * K },           /* the session allows no more */
		{ 50 * MS, 8192 * K, 256 * K, 1, 512 * K },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const uint64_t start = 1000 * MS;

		extra = rows[i].extra;
		window_init(&w, 256 * K, (uint32_t)rows[i].max);
		ck_assert_uint_eq(pass(128 * K, start, rows[i].rtt_us), 128 * K); /* the first one only starts the clock */
		pass(128 * K, start + rows[i].gap_us, rows[i].rtt_us);
		ck_assert_msg(w.size == rows[i].size_after, "row %zu: %u", i, w.size);
		ck_assert_uint_eq(extra, rows[i].extra - (w.size - 256 * K));
		ck_assert_uint_eq(window_extra(&w, 256 * K), w.size - 256 * K);
		ck_assert_uint_eq(w.granted - w.consumed, w.size);
	}
}
END_TEST

START_TEST(doubles_up_to_the_ceiling)
{
	uint64_t now = 1000 * MS;
	uint32_t last = 256 * K;

	extra = UINT64_MAX;
	window_init(&w, 256 * K, 8192 * K);
	for (int i = 0; i < 20; i++) {
		pass(w.size / 2, now += MS, 50 * MS);
		ck_assert(w.size == last || w.size == 2 * last);
		last = w.size;
		ck_assert_uint_le(w.granted - w.received, 8192 * K);
	}
	ck_assert_uint_eq(w.size, 8192 * K);
}
END_TEST

/* What the window is for: on a path of that rate and round trip, a sender that only waits for credit gets most of it, whatever
 * the pieces are in which the next hop takes its bytes. */
static void fill_path(uint32_t initial, size_t piece, uint64_t rtt_us, uint64_t bytes_s)
{
	enum { IN_FLIGHT = 4096 };
	static struct { uint64_t at_us; uint32_t credit; } grants[IN_FLIGHT];
	uint64_t credit = initial, link_us = 0, sent = 0, last = 0, bdp = bytes_s * rtt_us / 1000000;
	size_t first = 0, n = 0;

	extra = UINT64_MAX;
	window_init(&w, initial, 8192 * K);
	for (int i = 0; i < 100000 && link_us < 40 * rtt_us; i++) {
		/* Grants that have crossed the path by the time at which the link is free. */
		while (first < n && (credit < piece || grants[first % IN_FLIGHT].at_us <= link_us)) {
			link_us = MAX(link_us, grants[first % IN_FLIGHT].at_us);
			credit += grants[first++ % IN_FLIGHT].credit;
		}
		ck_assert_msg(credit >= piece, "stuck with %zu of credit, pieces of %zu", (size_t)credit, piece);
		credit -= piece;
		link_us += piece * 1000000 / bytes_s;
		sent += piece;
		grants[n % IN_FLIGHT].credit = pass(piece, link_us + rtt_us / 2, rtt_us);
		grants[n % IN_FLIGHT].at_us = link_us + rtt_us;
		n += grants[n % IN_FLIGHT].credit > 0;
		if (link_us < 20 * rtt_us)
			last = sent;
	}
	ck_assert_msg((sent - last) > bytes_s * 20 * rtt_us / 1000000 * 95 / 100, "%zu of %zu bytes, window %u",
		      (size_t)(sent - last), (size_t)(bytes_s * 20 * rtt_us / 1000000), w.size);
	ck_assert_uint_le(w.size, MAX((uint64_t)initial, 5 * bdp));
}

START_TEST(a_long_path_is_filled)
{
	static const size_t pieces[] = { 1000, 16271, 16384, 65536 };

	for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
		fill_path(256 * K, pieces[i], 80 * MS, 12500000);
		fill_path(256 * K, pieces[i], 20 * MS, 12500000);
		fill_path(256 * K, pieces[i], 20 * MS, 100000000);
		fill_path(256 * K, pieces[i], 300 * MS, 6000000);
	}
}
END_TEST

/* Many streams: together they never grow by more than the session allows. */
START_TEST(growth_is_shared)
{
	static struct window many[100];
	uint64_t sum = 0;

	extra = 1000 * K;
	for (size_t i = 0; i < ARRAY_LEN(many); i++) {
		window_init(&many[i], 64 * K, 8192 * K);
		for (uint64_t now = 1000; now < 20000; now += 1000) {
			ck_assert(window_receive(&many[i], many[i].size / 2));
			window_consume(&many[i], many[i].size / 2, now, 50 * MS, &extra);
		}
		sum += window_extra(&many[i], 64 * K);
	}
	ck_assert_uint_eq(sum + extra, 1000 * K);
	ck_assert_uint_gt(sum, 500 * K);
}
END_TEST

START_TEST(a_clock_that_stands_or_runs_back_is_no_harm)
{
	extra = UINT64_MAX;
	window_init(&w, 1000, 1000000);
	pass(500, 5000, 10);
	pass(500, 4000, 10);
	ck_assert_uint_eq(w.size, 1000);
	pass(500, 4000, 10);
	ck_assert_uint_eq(w.size, 2000);
}
END_TEST

UNIT_MAIN("window", ADD(credit_cannot_be_overrun) ADD(granted_on_consumption_in_quarters) ADD(tiny_windows_work)
	  ADD(growth) ADD(doubles_up_to_the_ceiling) ADD(a_long_path_is_filled)
	  ADD(growth_is_shared)
	  ADD(a_clock_that_stands_or_runs_back_is_no_harm))
