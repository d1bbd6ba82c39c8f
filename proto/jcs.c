#include "proto/jcs.h"

#include "proto/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

/* The canonical text is written in the order of the input; when an object ends, its members, which by then are
 * canonical themselves, are put in order. Nothing is kept of arrays, and of objects only while they are open.
 */

enum {
	TEXT_MAX_BYTES = 256 << 20, /* so that 32 bits count what comes out */
	DIGITS_MAX = 20,
	NUMBER_BYTES = 40,
	NUMBER_COPY = 64,
};

struct member {
	uint32_t at, end; /* "key":value in the output, from where our output begins */
	uint32_t key_at;  /* the decoded key, in the output or in keys */
	uint32_t key_len : 31;
	uint32_t in_keys : 1;
};

struct jcs {
	struct json json;
	const char *in;
	struct buf *out;
	size_t base;     /* where our output begins */
	struct buf keys; /* decoded text of keys that have escapes */
	struct buf scratch;
	struct member *members; /* of the objects that are open, outermost first */
	size_t n, cap;
	size_t first[JCS_DEPTH_MAX]; /* of each container that is open: its first member */
	bool object[JCS_DEPTH_MAX];
	bool filled[JCS_DEPTH_MAX]; /* it has a member or an element: a comma is due */
	unsigned depth;
};

static const char *out_text(const struct jcs *c)
{
	return (const char *)buf_bytes(c->out) + c->base;
}

static uint32_t out_at(const struct jcs *c)
{
	return (uint32_t)(buf_len(c->out) - c->base);
}

/* ---- Strings ---- */

static uint32_t hex4(const char *p)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 4 | ((uint32_t)p[i] <= '9' ? (uint32_t)p[i] - '0' : ((uint32_t)p[i] | 0x20) - 'a' + 10);
	return v;
}

/* *p is after the backslash of an escape that the scanner has found valid. */
static uint32_t unescape(const char **p)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	const char *at;
	uint32_t c = (uint8_t)**p;

	(*p)++;
	if (c != 'u') {
		at = strchr(from, (int)c);
		return at ? (uint32_t)to[at - from] : c;
	}
	c = hex4(*p);
	*p += 4;
	if ((c & 0xfc00) != 0xd800)
		return c;
	c = 0x10000 + ((c & 0x3ff) << 10) + (hex4(*p + 2) & 0x3ff);
	*p += 6;
	return c;
}

/* RFC 8785, section 3.2.2.2. */
static size_t escape(uint32_t c, char dst[8])
{
	static const char from[] = "\b\f\n\r\t\"\\", to[] = "bfnrt\"\\";
	const char *at = c && c < 0x80 ? strchr(from, (int)c) : NULL;

	if (at) {
		dst[0] = '\\';
		dst[1] = to[at - from];
		return 2;
	}
	if (c < 0x20)
		return (size_t)snprintf(dst, 8, "\\u%04x", (unsigned)c);
	return json_utf8_encode(c, dst);
}

/* The inside of a string, decoded or canonical. */
static int put_text(struct buf *to, const char *p, const char *end, bool canonical)
{
	const char *stop;
	char c[8];
	size_t n;
	uint32_t code;
	int r;

	while (p < end) {
		stop = memchr(p, '\\', (size_t)(end - p));
		r = buf_add(to, p, (size_t)((stop ? stop : end) - p));
		if (r < 0 || !stop)
			return r;
		p = stop + 1;
		code = unescape(&p);
		n = canonical ? escape(code, c) : json_utf8_encode(code, c);
		r = buf_add(to, c, n);
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_string(struct jcs *c, const struct json_token *tok)
{
	const char *p = c->in + tok->at, *end = c->in + tok->end;
	int r;

	if (!tok->escaped)
		return buf_add(c->out, p, (size_t)(end - p));
	r = buf_add(c->out, "\"", 1);
	if (r == 0)
		r = put_text(c->out, p + 1, end - 1, true);
	return r < 0 ? r : buf_add(c->out, "\"", 1);
}

/* ---- Numbers ---- */

/* Significant digits without zeros around them; the value is 0.DIGITS * 10^exponent. */
struct decimal {
	char digits[DIGITS_MAX + 1];
	size_t n; /* 0: zero; more than DIGITS_MAX: digits has the first */
	int exponent;
	bool negative, integer; /* as it is spelled */
};

static int parse_exponent(const char *p, const char *end)
{
	bool negative = p < end && *p == '-';
	int v = 0;

	if (p < end && (*p == '-' || *p == '+'))
		p++;
	for (; p < end; p++)
		if (v < 1 << 20)
			v = v * 10 + (*p - '0');
	return negative ? -v : v;
}

static void parse_decimal(struct span s, struct decimal *d)
{
	const char *p = s.p, *end = p + s.len;
	size_t seen = 0; /* digits from the first that is not 0 */
	int64_t point = 0;
	bool fraction = false;

	*d = (struct decimal){ .integer = true, .negative = *p == '-' };
	for (p += d->negative; p < end && *p != 'e' && *p != 'E'; p++) {
		if (*p == '.') {
			fraction = true;
			continue;
		}
		if (*p == '0' && seen == 0) {
			point -= fraction;
			continue;
		}
		point += !fraction;
		if (seen < DIGITS_MAX)
			d->digits[seen] = *p;
		seen++;
		if (*p != '0')
			d->n = seen;
	}
	d->integer = !fraction && p == end;
	if (p < end)
		point += parse_exponent(p + 1, end);
	d->digits[MIN(d->n, (size_t)DIGITS_MAX)] = '\0';
	d->exponent = point > 1 << 20 ? 1 << 20 : point < -(1 << 20) ? -(1 << 20) : (int)point;
}

/* ECMAScript's Number::toString from its digits (ECMA-262, 6.1.6.1.20). Returns the length. */
static size_t print_decimal(const struct decimal *d, char dst[NUMBER_BYTES])
{
	int k = (int)d->n, n = d->exponent;
	const char *sign = d->negative ? "-" : "";
	int len;

	if (k == 0)
		len = snprintf(dst, NUMBER_BYTES, "0");
	else if (n >= k && n <= 21)
		len = snprintf(dst, NUMBER_BYTES, "%s%s%.*s", sign, d->digits, n - k, "000000000000000000000");
	else if (n > 0 && n <= 21)
		len = snprintf(dst, NUMBER_BYTES, "%s%.*s.%s", sign, n, d->digits, d->digits + n);
	else if (n > -6 && n <= 0)
		len = snprintf(dst, NUMBER_BYTES, "%s0.%.*s%s", sign, -n, "00000", d->digits);
	else
		len = snprintf(dst, NUMBER_BYTES, "%s%c%s%se%+d", sign, d->digits[0], k > 1 ? "." : "", d->digits + 1,
			       n - 1);
	return (size_t)len;
}

/* The decimal of `digits` digits nearest to x, when it reads as x again. */
static bool try_digits(double x, int digits, struct decimal *ret)
{
	char text[NUMBER_BYTES];

	snprintf(text, sizeof(text), "%.*e", digits - 1, x);
	if (strtod(text, NULL) != x)
		return false;
	parse_decimal(span_of(text), ret);
	return true;
}

/* Below a power of two doubles lie closer than above it: the nearest decimal may miss and the next one up hit. */
static bool try_above(double x, int digits, struct decimal *ret)
{
	char text[NUMBER_BYTES], *p;
	int exponent;

	if (fabs(frexp(x, &exponent)) != 0.5)
		return false;
	snprintf(text, sizeof(text), "%.*e", digits - 1, x);
	p = strchr(text, 'e') - 1;
	for (; p > text && (*p == '9' || *p == '.'); p--)
		if (*p == '9')
			*p = '0';
	if (*p < '0' || *p > '8')
		return false;
	(*p)++;
	if (strtod(text, NULL) != x)
		return false;
	parse_decimal(span_of(text), ret);
	return true;
}

/* The shortest digits that read as x again, and of those the nearest. A double has 15 digits that survive at least, so
 * shorter forms are those 15 without zeros at the end; only subnormal numbers have fewer.
 */
static void shortest(double x, struct decimal *ret)
{
	int digits = fpclassify(x) == FP_SUBNORMAL ? 1 : 15;

	for (; digits < 17; digits++)
		if (try_digits(x, digits, ret) || try_above(x, digits, ret))
			return;
	try_digits(x, 17, ret);
}

static int read_double(struct span s, double *ret)
{
	char small[NUMBER_COPY], *copy = small;

	if (s.len >= sizeof(small)) {
		copy = malloc(s.len + 1);
		if (!copy)
			return -ENOMEM;
	}
	memcpy(copy, s.p, s.len);
	copy[s.len] = '\0';
	*ret = strtod(copy, NULL);
	if (copy != small)
		free(copy);
	return 0;
}

static int put_number(struct jcs *c, struct span s)
{
	char text[NUMBER_BYTES];
	struct decimal d;
	uint64_t v;
	double x;
	int r;

	parse_decimal(s, &d);
	if (d.integer && d.n) {
		if (span_u64(span_make(s.p + d.negative, s.len - d.negative), &v) < 0 || v >= UINT64_C(1) << 53)
			return JCS_UNCOVERED;
		return buf_add_span(c->out, s);
	}
	/* Up to 15 digits in the range of normal numbers are what the double prints as. */
	if (d.n > 15 || d.exponent < -300 || d.exponent > 300) {
		r = read_double(s, &x);
		if (r < 0)
			return r;
		if (!isfinite(x))
			return JCS_UNCOVERED;
		if (x == 0)
			d.n = 0;
		else
			shortest(x, &d);
	}
	return buf_add(c->out, text, print_decimal(&d, text));
}

/* ---- Objects ---- */

static struct span key_of(const struct jcs *c, const struct member *m)
{
	return span_make((m->in_keys ? (const char *)buf_bytes(&c->keys) : out_text(c)) + m->key_at, m->key_len);
}

/* Of UTF-8 text, in the order of its UTF-16 code units: what takes two of them (lead bytes from 0xf0) has surrogates,
 * and so comes before U+E000 and up (lead bytes 0xee and 0xef). */
static int compare_utf16(struct span a, struct span b)
{
	size_t n = MIN(a.len, b.len), i = 0;
	uint8_t x, y;

	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a span with a length has bytes. */
	if (n == 0 || memcmp(a.p, b.p, n) == 0)
		return (a.len > b.len) - (a.len < b.len);
	while (a.p[i] == b.p[i])
		i++;
	x = (uint8_t)a.p[i];
	y = (uint8_t)b.p[i];
	if (x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0))
		return x >= 0xf0 ? -1 : 1;
	return x < y ? -1 : 1;
}

static int compare_members(const void *a, const void *b, void *user)
{
	const struct jcs *c = user;

	return compare_utf16(key_of(c, a), key_of(c, b));
}

static int members_push(struct jcs *c, struct member m)
{
	struct member *members;
	size_t cap;

	if (c->n == c->cap) {
		cap = c->cap ? c->cap * 2 : 64;
		members = realloc(c->members, cap * sizeof(*members));
		if (!members)
			return -ENOMEM;
		c->members = members;
		c->cap = cap;
	}
	c->members[c->n++] = m;
	return 0;
}

/* Writes the members over themselves in their new order. They and the commas between them are the end of the output. */
static int reorder(struct jcs *c, const struct member *m, size_t n, uint32_t from)
{
	size_t len = out_at(c) - from;
	uint8_t *at, *to = buf_bytes(c->out) + c->base + from;
	int r;

	buf_drop(&c->scratch, buf_len(&c->scratch));
	r = buf_reserve(&c->scratch, len, &at);
	if (r < 0)
		return r;
	memcpy(at, to, len);
	for (size_t i = 0; i < n; i++) {
		if (i)
			*to++ = ',';
		memcpy(to, at + (m[i].at - from), m[i].end - m[i].at);
		to += m[i].end - m[i].at;
	}
	return 0;
}

static int sort_members(struct jcs *c)
{
	size_t n = c->n - c->first[c->depth];
	struct member *m;
	bool sorted = true;
	uint32_t from;

	if (n < 2)
		return 0;
	m = c->members + c->first[c->depth];
	from = m[0].at;
	for (size_t i = 1; i < n && sorted; i++)
		sorted = compare_members(&m[i - 1], &m[i], c) < 0;
	if (sorted)
		return 0;
	qsort_r(m, n, sizeof(*m), compare_members, c);
	for (size_t i = 1; i < n; i++)
		if (span_eq(key_of(c, &m[i - 1]), key_of(c, &m[i])))
			return JCS_UNCOVERED;
	return reorder(c, m, n, from);
}

/* ---- The walk ---- */

static int put_comma(struct jcs *c)
{
	bool due;

	if (c->depth == 0)
		return 0;
	due = c->filled[c->depth - 1];
	c->filled[c->depth - 1] = true;
	return due ? buf_add(c->out, ",", 1) : 0;
}

static int on_key(struct jcs *c, const struct json_token *tok)
{
	struct member m = { 0 };
	int r = put_comma(c);

	if (r < 0)
		return r;
	m.at = out_at(c);
	m.key_at = m.at + 1;
	m.key_len = (uint32_t)(tok->end - tok->at - 2) & INT32_MAX;
	if (tok->escaped) {
		m.in_keys = 1;
		m.key_at = (uint32_t)buf_len(&c->keys);
		r = put_text(&c->keys, c->in + tok->at + 1, c->in + tok->end - 1, false);
		m.key_len = (uint32_t)(buf_len(&c->keys) - m.key_at) & INT32_MAX;
	}
	if (r == 0)
		r = put_string(c, tok);
	if (r == 0)
		r = buf_add(c->out, ":", 1);
	return r < 0 ? r : members_push(c, m);
}

static int on_begin(struct jcs *c, bool object)
{
	assert(c->depth < JCS_DEPTH_MAX);
	c->object[c->depth] = object;
	c->filled[c->depth] = false;
	c->first[c->depth] = c->n;
	c->depth++;
	return buf_add(c->out, object ? "{" : "[", 1);
}

static int on_end(struct jcs *c)
{
	bool object = c->object[--c->depth];
	int r = object ? sort_members(c) : 0;

	if (r)
		return r;
	c->n = c->first[c->depth];
	return buf_add(c->out, object ? "}" : "]", 1);
}

static int on_value(struct jcs *c, const struct json_token *tok)
{
	switch (tok->type) {
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		return on_begin(c, tok->type == JSON_OBJECT_BEGIN);
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		return on_end(c);
	case JSON_STRING:
		return put_string(c, tok);
	case JSON_NUMBER:
		return put_number(c, span_make(c->in + tok->at, (size_t)(tok->end - tok->at)));
	default:
		return buf_add(c->out, c->in + tok->at, (size_t)(tok->end - tok->at));
	}
}

static int on_token(struct jcs *c, const struct json_token *tok)
{
	bool end = tok->type == JSON_OBJECT_END || tok->type == JSON_ARRAY_END;
	bool begin = tok->type == JSON_OBJECT_BEGIN || tok->type == JSON_ARRAY_BEGIN;
	int r = 0;

	if (tok->type == JSON_KEY)
		return on_key(c, tok);
	if (!end && c->depth && !c->object[c->depth - 1])
		r = put_comma(c);
	if (r == 0)
		r = on_value(c, tok);
	if (r == 0 && !begin && c->depth && c->object[c->depth - 1])
		c->members[c->n - 1].end = out_at(c);
	return r;
}

static int walk(struct jcs *c, struct span json)
{
	struct json_token tok;
	enum json_type t;
	int r;

	json_feed(&c->json, json.p, json.len);
	json_finish(&c->json);
	while ((t = json_next(&c->json, &tok)) > JSON_MORE) {
		r = on_token(c, &tok);
		if (r)
			return r;
		if (buf_len(c->out) - c->base > UINT32_MAX)
			return -ENOBUFS;
	}
	return t == JSON_END ? 0 : JCS_UNCOVERED;
}

int jcs_canonicalize(struct span json, struct buf *out)
{
	struct jcs c = { .in = json.p, .out = out, .base = buf_len(out) };
	int r;

	_Static_assert((int)JCS_DEPTH_MAX == (int)JSON_DEPTH_MAX, "the scanner keeps the limit");
	if (json.len > TEXT_MAX_BYTES)
		return -ENOBUFS;
	json_init(&c.json, JSON_STRICT_SURROGATES);
	buf_init(&c.keys, TEXT_MAX_BYTES);
	buf_init(&c.scratch, UINT32_MAX);
	r = walk(&c, json);
	buf_done(&c.keys);
	buf_done(&c.scratch);
	free(c.members);
	return r;
}
