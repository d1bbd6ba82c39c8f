#include "base/units.h"

#include <errno.h>

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit durations[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { NULL, 0 } };
static const struct unit sizes[] = { { "", 1 }, { "k", 1 << 10 }, { "M", 1 << 20 }, { "G", 1 << 30 }, { NULL, 0 } };

static int parse_with_unit(struct span s, const struct unit *units, uint64_t *ret)
{
	struct span digits = { s.p, 0 };
	uint64_t v;
	int r;

	while (digits.len < s.len && s.p[digits.len] >= '0' && s.p[digits.len] <= '9')
		digits.len++;
	r = span_u64(digits, &v);
	if (r < 0)
		return r;
	s.p += digits.len;
	s.len -= digits.len;
	if (s.len == 0 && v == 0) {
		*ret = 0;
		return 0;
	}
	for (; units->name; units++) {
		if (!span_is(s, units->name))
			continue;
		if (__builtin_mul_overflow(v, units->factor, &v))
			return -ERANGE;
		*ret = v;
		return 0;
	}
	return -EINVAL;
}

int parse_duration_ms(struct span s, uint64_t *ret_ms)
{
	return parse_with_unit(s, durations, ret_ms);
}

int parse_size_bytes(struct span s, uint64_t *ret_bytes)
{
	return parse_with_unit(s, sizes, ret_bytes);
}
