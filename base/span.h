/* A view of bytes that somebody else owns. Not NUL-terminated. An absent span has p == NULL. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
	const char *p;
	size_t len;
};

#define SPAN(lit) ((struct span){ "" lit, sizeof(lit) - 1 })
#define SPAN_INIT(lit) { "" lit, sizeof(lit) - 1 } /* the same, for static tables */
/* For printf: printf("%.*s", SPAN_FMT(s)). */
#define SPAN_FMT(s) (int)(s).len, (s).p ? (s).p : ""

static inline struct span span_of(const char *s)
{
	return (struct span){ s, s ? strlen(s) : 0 };
}

static inline struct span span_make(const void *p, size_t len)
{
	return (struct span){ p, len };
}

static inline bool span_eq(struct span a, struct span b)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a span with a length has bytes. */
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static inline bool span_is(struct span a, const char *s)
{
	return span_eq(a, span_of(s));
}

/* ASCII case is ignored, whatever the locale. */
bool span_ieq(struct span a, struct span b);
bool span_iis(struct span a, const char *s);
bool span_starts(struct span a, const char *prefix);

/* Without leading and trailing SP and HTAB. */
struct span span_trim(struct span s);

/* Splits *rest at the first `sep`: returns the part before it and leaves the part after it. At the end *rest is absent. */
struct span span_split(struct span *rest, char sep);

/* A NUL-terminated copy; NULL when out of memory. */
char *span_dup(struct span s);

/* Decimal digits only, no sign, no overflow: 0, or -EINVAL / -ERANGE. */
int span_u64(struct span s, uint64_t *ret);
