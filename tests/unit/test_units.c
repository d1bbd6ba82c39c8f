#include "base/units.h"

#include "base/check.h"
#include "tests/lib/unit.h"

#include <errno.h>

struct row {
	const char *text;
	int result;
	uint64_t value;
};

static void check(const struct row *t, size_t n, int (*parse)(struct span s, uint64_t *ret))
{
	for (size_t i = 0; i < n; i++) {
		uint64_t v = 77;

		ck_assert_msg(parse(span_of(t[i].text), &v) == t[i].result, "result of \"%s\"", t[i].text);
		ck_assert_uint_eq(v, t[i].result ? 77 : t[i].value);
	}
}

START_TEST(durations)
{
	static const struct row t[] = {
		{ "250ms", 0, 250 },
		{ "20s", 0, 20000 },
		{ "5m", 0, 300000 },
		{ "2h", 0, 7200000 },
		{ "0", 0, 0 },
		{ "0s", 0, 0 },
		{ "18446744073709551615ms", 0, UINT64_MAX },
		{ "18446744073709551615s", -ERANGE, 0 },
		{ "5124095576031h", -ERANGE, 0 },
		{ "18446744073709551616ms", -ERANGE, 0 },
		{ "20", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
		{ "s", -EINVAL, 0 },
		{ "20 s", -EINVAL, 0 },
		{ "20S", -EINVAL, 0 },
		{ "20sec", -EINVAL, 0 },
		{ "1.5s", -EINVAL, 0 },
		{ "-1s", -EINVAL, 0 },
		{ "1m30s", -EINVAL, 0 },
		{ "1d", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
	};

	check(t, ARRAY_LEN(t), parse_duration_ms);
}
END_TEST

START_TEST(sizes)
{
	static const struct row t[] = {
		{ "0", 0, 0 },
		{ "16384", 0, 16384 },
		{ "64k", 0, 65536 },
		{ "16M", 0, 16 << 20 },
		{ "2G", 0, UINT64_C(2) << 30 },
		{ "17179869183G", 0, UINT64_C(17179869183) << 30 },
		{ "17179869184G", -ERANGE, 0 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "M", -EINVAL, 0 },
		{ "16m", -EINVAL, 0 },
		{ "16K", -EINVAL, 0 },
		{ "16MB", -EINVAL, 0 },
		{ "16 M", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "1.5M", -EINVAL, 0 },
	};

	check(t, ARRAY_LEN(t), parse_size_bytes);
}
END_TEST

UNIT_MAIN("units", ADD(durations) ADD(sizes))
