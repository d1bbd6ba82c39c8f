#include "proto/window.h"

#include "tests/lib/unit.h"

enum { K = 1024, MS = 1000 };

static struct window w;
static struct window_session session;

/* The peer sends n bytes and the next hop takes them: what is granted for it. */
static uint32_t pass(size_t n, uint64_t now_us, uint64_t rtt_us)
{
	ck_assert(window_receive(&w, n));
	session.rtt_us = rtt_us;
	return window_consume(&w, n, now_us, &session);
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

START_TEST(granted_on_consumption_in_eighths)
{
	session = (struct window_session){ .extra_left = 0 };
	window_init(&w, 1000, 1000);
	ck_assert(window_receive(&w, 1000));
	ck_assert_uint_eq(window_consume(&w, 0, 1, &session), 0);
	ck_assert_uint_eq(window_consume(&w, 124, 1, &session), 0);
	ck_assert_uint_eq(window_consume(&w, 1, 1, &session), 125);
	ck_assert_uint_eq(window_consume(&w, 500, 1, &session), 500);
	ck_assert_uint_eq(window_consume(&w, 124, 1, &session), 0);
	ck_assert_uint_eq(window_consume(&w, 1, 1, &session), 125);
	ck_assert(window_receive(&w, 750));
	ck_assert(!window_receive(&w, 1));
}
END_TEST

START_TEST(tiny_windows_work)
{
	for (uint32_t size = 1; size < 6; size++) {
		session = (struct window_session){ .extra_left = 0 };
		window_init(&w, size, size);
		for (uint64_t got = 0, credit = size; got < 100; got++) {
			ck_assert_uint_gt(credit, 0);
			credit += pass(1, 1, 0);
			credit--;
		}
	}
}
END_TEST

static void check(uint64_t all)
{
	ck_assert_uint_eq(session.extra_left + window_extra(&w), all);
	ck_assert_uint_le(w.size, w.max);
	ck_assert_uint_ge(w.size, w.initial);
	ck_assert_uint_le(w.granted - w.consumed, w.size);
}

/* At the start it stays ahead of what passes, within its ceiling and what the session allows. */
START_TEST(growth)
{
	static const struct {
		uint64_t rtt_us;
		uint32_t max;
		uint64_t extra;
		uint32_t size_after;
	} rows[] = {
		{ 150 * MS, 8192 * K, 65536 * K, 256 * K + 11 * 48 * K },
		{ 0, 8192 * K, 65536 * K, 256 * K },      /* nothing measured yet */
		{ 150 * MS, 256 * K, 65536 * K, 256 * K }, /* at its ceiling */
		{ 150 * MS, 300 * K, 65536 * K, 300 * K }, /* up to its ceiling */
		{ 150 * MS, 8192 * K, 100 * K, 356 * K },  /* the session allows no more */
		{ 150 * MS, 8192 * K, 0, 256 * K },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		session = (struct window_session){ .extra_left = rows[i].extra };
		window_init(&w, 256 * K, rows[i].max);
		for (uint64_t n = 0; n < 12; n++) {
			pass(128 * K, 1000 * MS + 10 * MS * n, rows[i].rtt_us);
			check(rows[i].extra);
		}
		ck_assert_msg(w.size == rows[i].size_after, "row %zu: %u", i, w.size);
	}
}
END_TEST

/* A reader that takes as much in every round trip gets a little more than that, and what it does not need goes back. */
START_TEST(follows_what_passes)
{
	static const uint32_t rates[] = { 2000 * K, 1000 * K, 10 * K, 3000 * K };
	uint64_t now = 1000 * MS;

	session = (struct window_session){ .extra_left = 65536 * K };
	window_init(&w, 256 * K, 8192 * K);
	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		for (int trip = 0; trip < 200; trip++) {
			/* As much as there is credit for, but no more than the rate allows. */
			for (int j = 0; j < 10; j++, now += 5 * MS)
				pass(MIN(rates[i] / 10, w.granted - w.received), now, 50 * MS);
			check(65536 * K);
		}
		ck_assert_uint_ge(w.size, MAX(256 * K, rates[i] + rates[i] / 8));
		ck_assert_uint_le(w.size, MAX(256 * K, rates[i] * 13 / 10));
	}
}
END_TEST

/* A slow stream, however long, needs no more than it has. */
START_TEST(slow_ones_do_not_grow)
{
	session = (struct window_session){ .extra_left = 65536 * K };
	window_init(&w, 256 * K, 8192 * K);
	for (uint64_t now = 1000 * MS; w.consumed < 20000 * K; now += 10 * MS)
		pass(12 * K, now, 50 * MS);
	ck_assert_uint_le(w.size, 300 * K);
}
END_TEST

/* What one stream has found, the next need not find by filling the path's queues. */
START_TEST(streams_learn_from_each_other)
{
	uint32_t peak = 0;

	session = (struct window_session){ .extra_left = 65536 * K };
	for (int i = 0; i < 2; i++) {
		uint64_t now = 1000 * MS;

		window_init(&w, 256 * K, 8192 * K);
		for (int j = 0; j < 400; j++, now += 5 * MS) {
			/* TCP's slow start, up to what the path carries. */
			pass(MIN(MIN(100 * K, 3u * K << MIN(j / 10, 10)), w.granted - w.received), now, 50 * MS);
			peak = MAX(peak, w.size);
		}
		ck_assert_uint_ge(w.size, 1100 * K);
		ck_assert_uint_le(w.size, 1300 * K);
		ck_assert_uint_eq(session.per_trip, w.per_trip);
		if (i == 1)
			ck_assert_uint_le(peak, 1300 * K);
		else
			ck_assert_uint_ge(peak, 1300 * K);
		peak = 0;
	}
}
END_TEST

/* Credit once given is not taken back: a window shrinks only as it is used, and gives none meanwhile. */
START_TEST(shrinks_on_use)
{
	uint64_t now = 1000 * MS;

	session = (struct window_session){ .extra_left = 65536 * K };
	window_init(&w, 256 * K, 8192 * K);
	for (int i = 0; i < 60; i++, now += 5 * MS)
		pass(MIN(200 * K, w.granted - w.received), now, 50 * MS);
	ck_assert_uint_gt(w.size, 2000 * K);
	pass(1000, now + 10000 * MS, 50 * MS);
	ck_assert_uint_eq(w.target, 256 * K);
	for (uint64_t left = w.granted - w.consumed; left > 300 * K; left = w.granted - w.consumed) {
		ck_assert_uint_eq(w.size, left);
		ck_assert_uint_eq(pass(10 * K, now += 20000 * MS, 50 * MS), 0);
		check(65536 * K);
	}
	pass(200 * K, now + 20000 * MS, 50 * MS);
	ck_assert_uint_lt(w.size, 2000 * K);
	ck_assert_uint_eq(w.granted - w.consumed, w.size);
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

	session = (struct window_session){ .extra_left = UINT64_MAX };
	window_init(&w, initial, 8192 * K);
	for (int i = 0; i < 1000000 && link_us < 60 * rtt_us; i++) {
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
		if (link_us < 40 * rtt_us)
			last = sent;
	}
	ck_assert_msg((sent - last) > bytes_s * 20 * rtt_us / 1000000 * 95 / 100, "%zu of %zu bytes, window %u",
		      (size_t)(sent - last), (size_t)(bytes_s * 20 * rtt_us / 1000000), w.size);
	ck_assert_uint_le(w.size, MAX((uint64_t)initial, bdp * 3 / 2));
}

START_TEST(a_long_path_is_filled)
{
	static const size_t pieces[] = { 1000, 16271, 16384, 65536 };

	for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
		fill_path(256 * K, pieces[i], 80 * MS, 12500000);
		fill_path(256 * K, pieces[i], 20 * MS, 12500000);
		fill_path(256 * K, pieces[i], 20 * MS, 100000000);
		fill_path(4 * pieces[i], pieces[i], 80 * MS, 12500000);
		fill_path(256 * K, pieces[i], 300 * MS, 6000000);
	}
}
END_TEST

/* Many streams: together they never grow by more than the session allows. */
START_TEST(growth_is_shared)
{
	static struct window many[100];
	uint64_t sum = 0;

	session = (struct window_session){ .extra_left = 1000 * K, .rtt_us = 50 * MS };
	for (size_t i = 0; i < ARRAY_LEN(many); i++) {
		window_init(&many[i], 64 * K, 8192 * K);
		for (uint64_t now = 1000 * MS; now < 2000 * MS; now += 10 * MS) {
			ck_assert(window_receive(&many[i], many[i].size / 2));
			window_consume(&many[i], many[i].size / 2, now, &session);
		}
		sum += window_extra(&many[i]);
	}
	ck_assert_uint_eq(sum + session.extra_left, 1000 * K);
	ck_assert_uint_gt(sum, 500 * K);
}
END_TEST

START_TEST(a_clock_that_stands_or_runs_back_is_no_harm)
{
	static const uint64_t clock[] = { 5000, 5000, 4000, 0, 4000, 4010, 4000, UINT64_MAX, 0, 1, UINT64_MAX - 1, 5000 };

	session = (struct window_session){ .extra_left = 1000000 };
	window_init(&w, 1000, 1000000);
	for (size_t i = 0; i < 10 * ARRAY_LEN(clock); i++) {
		pass(500, clock[i % ARRAY_LEN(clock)], 10);
		check(1000000);
	}
}
END_TEST

UNIT_MAIN("window", ADD(credit_cannot_be_overrun) ADD(granted_on_consumption_in_eighths) ADD(tiny_windows_work)
	  ADD(growth) ADD(follows_what_passes) ADD(slow_ones_do_not_grow) ADD(streams_learn_from_each_other)
	  ADD(shrinks_on_use) ADD(a_long_path_is_filled)
	  ADD(growth_is_shared)
	  ADD(a_clock_that_stands_or_runs_back_is_no_harm))
