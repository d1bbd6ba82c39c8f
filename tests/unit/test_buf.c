#include "base/buf.h"

#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

static void assert_holds(const struct buf *b, const char *want)
{
	ck_assert_uint_eq(buf_len(b), strlen(want));
	ck_assert(span_is(buf_span(b), want));
}

START_TEST(starts_empty)
{
	struct buf b;

	buf_init(&b, 10);
	ck_assert_uint_eq(buf_len(&b), 0);
	ck_assert_uint_eq(buf_room(&b), 10);
	ck_assert_ptr_null(buf_bytes(&b));
	ck_assert_uint_eq(buf_span(&b).len, 0);
	buf_drop(&b, 0);
	buf_done(&b);
}
END_TEST

START_TEST(adds_and_drops)
{
	struct buf b;

	buf_init(&b, 100);
	ck_assert_int_eq(buf_add(&b, "hel", 3), 0);
	ck_assert_int_eq(buf_add_str(&b, "lo "), 0);
	ck_assert_int_eq(buf_add_span(&b, SPAN("wor")), 0);
	ck_assert_int_eq(buf_printf(&b, "%s%d", "ld", 42), 0);
	assert_holds(&b, "hello world42");
	buf_drop(&b, 6);
	assert_holds(&b, "world42");
	buf_drop(&b, 7);
	assert_holds(&b, "");
	ck_assert_uint_eq(buf_room(&b), 100);
	buf_done(&b);
}
END_TEST

START_TEST(limit_is_all_or_nothing)
{
	struct buf b;
	uint8_t *at = NULL;

	buf_init(&b, 8);
	ck_assert_int_eq(buf_add_str(&b, "123456789"), -ENOBUFS);
	ck_assert_int_eq(buf_add_str(&b, "12345"), 0);
	ck_assert_int_eq(buf_add_str(&b, "6789"), -ENOBUFS);
	ck_assert_int_eq(buf_printf(&b, "%04d", 7), -ENOBUFS);
	ck_assert_int_eq(buf_reserve(&b, 4, &at), -ENOBUFS);
	ck_assert_int_eq(buf_reserve(&b, SIZE_MAX, &at), -ENOBUFS);
	ck_assert_ptr_null(at);
	assert_holds(&b, "12345");
	ck_assert_int_eq(buf_add_str(&b, "678"), 0);
	ck_assert_uint_eq(buf_room(&b), 0);
	ck_assert_int_eq(buf_add(&b, "x", 1), -ENOBUFS);
	ck_assert_int_eq(buf_add(&b, NULL, 0), 0);
	buf_drop(&b, 2);
	ck_assert_int_eq(buf_add_str(&b, "90"), 0);
	assert_holds(&b, "34567890");
	buf_done(&b);
}
END_TEST

START_TEST(zero_limit_takes_nothing)
{
	struct buf b;

	buf_init(&b, 0);
	ck_assert_int_eq(buf_add(&b, "", 0), 0);
	ck_assert_int_eq(buf_add(&b, "x", 1), -ENOBUFS);
	buf_done(&b);
}
END_TEST

START_TEST(reserve_then_commit)
{
	struct buf b;
	uint8_t *at;

	buf_init(&b, 1000);
	ck_assert_int_eq(buf_reserve(&b, 600, &at), 0);
	ck_assert_uint_eq(buf_len(&b), 0);
	memset(at, 'a', 600);
	buf_commit(&b, 3);
	assert_holds(&b, "aaa");
	ck_assert_int_eq(buf_reserve(&b, 997, &at), 0);
	memset(at, 'b', 997);
	buf_commit(&b, 997);
	ck_assert_uint_eq(buf_len(&b), 1000);
	ck_assert_mem_eq(buf_bytes(&b), "aaabbb", 6);
	buf_done(&b);
}
END_TEST

START_TEST(empty_gives_memory_back)
{
	static char big[100000];
	struct buf b;

	buf_init(&b, sizeof(big));
	ck_assert_int_eq(buf_add(&b, big, sizeof(big)), 0);
	ck_assert_uint_ge(b.cap, sizeof(big));
	buf_drop(&b, sizeof(big));
	ck_assert_ptr_null(b.data);
	ck_assert_uint_eq(b.cap, 0);
	ck_assert_int_eq(buf_add(&b, big, 5), 0);
	buf_clear(&b);
	ck_assert_ptr_null(b.data);
	ck_assert_uint_eq(buf_room(&b), sizeof(big));
	buf_done(&b);
}
END_TEST

/* A queue that passes megabytes through must not grow: the front is reclaimed. */
START_TEST(capacity_stays_bounded)
{
	char piece[100];
	struct buf b;

	memset(piece, 'x', sizeof(piece));
	buf_init(&b, 1 << 20);
	ck_assert_int_eq(buf_add(&b, piece, 50), 0);
	for (int i = 0; i < 50000; i++) {
		ck_assert_int_eq(buf_add(&b, piece, sizeof(piece)), 0);
		buf_drop(&b, sizeof(piece));
	}
	ck_assert_uint_eq(buf_len(&b), 50);
	ck_assert_uint_le(b.cap, 4096);
	buf_done(&b);
}
END_TEST

/* Random additions and drops against an array of bytes. */
START_TEST(same_as_a_plain_array)
{
	enum { MAX = 3000 };
	static uint8_t model[MAX], piece[MAX + 100];
	size_t len = 0;
	unsigned next = 0;
	struct buf b;

	srand(1);
	buf_init(&b, MAX);
	for (int i = 0; i < 50000; i++) {
		size_t n = (size_t)rand() % (i % 50 ? 120 : sizeof(piece));

		if (rand() % 2) {
			for (size_t k = 0; k < n; k++)
				piece[k] = (uint8_t)next++;
			ck_assert_int_eq(buf_add(&b, piece, n), n > MAX - len ? -ENOBUFS : 0);
			if (n <= MAX - len) {
				memcpy(model + len, piece, n);
				len += n;
			}
		} else {
			n = MIN(n, len);
			buf_drop(&b, n);
			memmove(model, model + n, len - n);
			len -= n;
		}
		ck_assert_uint_eq(buf_len(&b), len);
		ck_assert_uint_eq(buf_room(&b), MAX - len);
		if (len)
			ck_assert_mem_eq(buf_bytes(&b), model, len);
	}
	buf_done(&b);
}
END_TEST

UNIT_MAIN("buf", ADD(starts_empty) ADD(adds_and_drops) ADD(limit_is_all_or_nothing) ADD(zero_limit_takes_nothing)
		  ADD(reserve_then_commit) ADD(empty_gives_memory_back) ADD(capacity_stays_bounded)
		  ADD(same_as_a_plain_array))
