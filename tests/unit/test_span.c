#include "base/span.h"

#include "base/check.h"
#include "tests/lib/unit.h"

#include <errno.h>

static const struct span absent = { NULL, 0 };

START_TEST(makes_views)
{
	ck_assert_uint_eq(SPAN("abc").len, 3);
	ck_assert_uint_eq(SPAN("a\0c").len, 3);
	ck_assert_uint_eq(span_of("abc").len, 3);
	ck_assert_ptr_null(span_of(NULL).p);
	ck_assert_uint_eq(span_of(NULL).len, 0);
	ck_assert_uint_eq(span_make("abcdef", 2).len, 2);
}
END_TEST

START_TEST(compares)
{
	ck_assert(span_eq(SPAN("abc"), span_of("abc")));
	ck_assert(!span_eq(SPAN("abc"), SPAN("abd")));
	ck_assert(!span_eq(SPAN("abc"), SPAN("ab")));
	ck_assert(!span_eq(SPAN("a\0b"), SPAN("a\0c")));
	ck_assert(span_eq(absent, SPAN("")));
	ck_assert(span_is(SPAN("x"), "x"));
	ck_assert(!span_is(SPAN("x\0"), "x"));
	ck_assert(span_starts(SPAN("Bearer x"), "Bearer "));
	ck_assert(!span_starts(SPAN("Bear"), "Bearer"));
	ck_assert(span_starts(SPAN("x"), ""));
}
END_TEST

START_TEST(ignores_ascii_case_only)
{
	ck_assert(span_ieq(SPAN("Content-Length"), SPAN("cONTENT-lENGTH")));
	ck_assert(span_iis(SPAN("AZaz09"), "azAZ09"));
	ck_assert(!span_iis(SPAN("@["), "`{"));
	ck_assert(!span_iis(SPAN("\xc4"), "\xe4"));
	ck_assert(!span_iis(SPAN("abc"), "ab"));
	ck_assert(span_ieq(absent, SPAN("")));
}
END_TEST

START_TEST(trims)
{
	ck_assert(span_is(span_trim(SPAN(" \t a b\t ")), "a b"));
	ck_assert(span_is(span_trim(SPAN("ab")), "ab"));
	ck_assert(span_is(span_trim(SPAN(" \t ")), ""));
	ck_assert(span_is(span_trim(SPAN("\r\na\n")), "\r\na\n"));
	ck_assert_uint_eq(span_trim(absent).len, 0);
}
END_TEST

START_TEST(splits)
{
	struct span rest = SPAN("a,,b,");

	ck_assert(span_is(span_split(&rest, ','), "a"));
	ck_assert(span_is(span_split(&rest, ','), ""));
	ck_assert(span_is(span_split(&rest, ','), "b"));
	ck_assert_ptr_nonnull(rest.p);
	ck_assert(span_is(span_split(&rest, ','), ""));
	ck_assert_ptr_null(rest.p);
	ck_assert_uint_eq(span_split(&rest, ',').len, 0);

	rest = SPAN("whole");
	ck_assert(span_is(span_split(&rest, ','), "whole"));
	ck_assert_ptr_null(rest.p);
}
END_TEST

START_TEST(copies)
{
	_cleanup_(freep) char *a = span_dup(span_make("abcdef", 3)), *b = span_dup(absent);

	ck_assert_str_eq(a, "abc");
	ck_assert_str_eq(b, "");
}
END_TEST

START_TEST(numbers)
{
	static const struct {
		const char *text;
		int result;
		uint64_t value;
	} t[] = {
		{ "0", 0, 0 },
		{ "007", 0, 7 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551620", -ERANGE, 0 },
		{ "99999999999999999999999", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },
		{ "1_0", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "1.0", -EINVAL, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		uint64_t v = 77;

		ck_assert_int_eq(span_u64(span_of(t[i].text), &v), t[i].result);
		ck_assert_uint_eq(v, t[i].result ? 77 : t[i].value);
	}
}
END_TEST

UNIT_MAIN("span", ADD(makes_views) ADD(compares) ADD(ignores_ascii_case_only) ADD(trims) ADD(splits) ADD(copies)
		   ADD(numbers))
