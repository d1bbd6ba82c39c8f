#include "proto/json.h"

#include <endian.h>

enum {
	EXPECT_VALUE,
	EXPECT_ELEMENT, /* after [ : a value or ] */
	EXPECT_MEMBER,  /* after { : a key or } */
	EXPECT_KEY,
	EXPECT_COLON,
	EXPECT_NEXT, /* after a value inside of a container */
	EXPECT_NOTHING,
	IN_STRING,
	IN_NUMBER,
	IN_LITERAL,
	FAILED,
};

enum { STRING_PLAIN, STRING_UTF8, STRING_ESCAPE, STRING_HEX };

enum {
	NUMBER_MINUS,
	NUMBER_ZERO,
	NUMBER_INT,
	NUMBER_POINT,
	NUMBER_FRACTION,
	NUMBER_E,
	NUMBER_SIGN,
	NUMBER_EXPONENT,
	NUMBER_OVER,
	NUMBER_BAD,
};

#define FNV_OFFSET UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)
#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

void json_init(struct json *j, unsigned flags)
{
	*j = (struct json){ .flags = (uint8_t)flags, .loud = JSON_DEPTH_MAX };
	json_feed(j, NULL, 0);
}

void json_feed(struct json *j, const void *p, size_t len)
{
	j->piece_at += (uint64_t)(j->p - j->piece);
	j->piece = len ? p : (const void *)"";
	j->p = j->mark = j->piece;
	j->end = j->p + len;
}

void json_finish(struct json *j)
{
	j->finished = true;
}

void json_capture(struct json *j, enum json_capture how, char *dst, size_t cap)
{
	j->wanted = how;
	j->wanted_dst = dst;
	j->wanted_cap = cap;
}

void json_quiet(struct json *j)
{
	j->loud = j->depth - 1;
}

const char *json_bad(const struct json *j)
{
	return j->bad;
}

static enum json_type fail(struct json *j, const char *why)
{
	j->state = FAILED;
	j->bad = why;
	return JSON_BAD;
}

static uint64_t offset(const struct json *j)
{
	return j->piece_at + (uint64_t)(j->p - j->piece);
}

static bool in_object(const struct json *j)
{
	return j->depth && (j->objects >> (j->depth - 1) & 1);
}

/* A bit in each byte that a run of plain ASCII ends at, exact for the lowest of them: ", \, controls, 0x80 and up. */
static uint64_t stops(const uint8_t *p)
{
	uint64_t v, quote, backslash;

	memcpy(&v, p, sizeof(v));
	v = le64toh(v);
	quote = v ^ EACH('"');
	backslash = v ^ EACH('\\');
	return (v | (quote - EACH(1)) | (backslash - EACH(1)) | (v - EACH(0x20))) & EACH(0x80);
}

static const uint8_t *skip_ascii(const uint8_t *p, const uint8_t *end)
{
	uint64_t m;

	while ((size_t)(end - p) >= 32 && !(stops(p) | stops(p + 8) | stops(p + 16) | stops(p + 24)))
		p += 32;
	while ((size_t)(end - p) >= 8) {
		m = stops(p);
		if (m)
			return p + __builtin_ctzll(m) / 8;
		p += 8;
	}
	while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\')
		p++;
	return p;
}

static bool is_tail(uint8_t c)
{
	return (c & 0xc0) == 0x80;
}

/* Bytes of the whole, valid sequence of two or more at p; 0 when it is neither. */
static unsigned utf8_sequence(const uint8_t *p, const uint8_t *end)
{
	size_t left = (size_t)(end - p);
	unsigned c;

	if (p[0] < 0xe0)
		return p[0] >= 0xc2 && left >= 2 && is_tail(p[1]) ? 2 : 0;
	if (p[0] < 0xf0) {
		if (left < 3 || !is_tail(p[1]) || !is_tail(p[2]))
			return 0;
		c = (p[0] & 0x0fU) << 6 | (p[1] & 0x3fU);
		return c >= 0x800 >> 6 && (c & 0x3e0) != 0xd800 >> 6 ? 3 : 0;
	}
	if (left < 4 || !is_tail(p[1]) || !is_tail(p[2]) || !is_tail(p[3]))
		return 0;
	c = (p[0] & 0x0fU) << 6 | (p[1] & 0x3fU);
	return c >= 0x10000 >> 12 && c <= 0x10ffff >> 12 ? 4 : 0;
}

/* Past everything in a string that needs no second look. */
static const uint8_t *skip_text(const uint8_t *p, const uint8_t *end)
{
	unsigned n;

	for (;;) {
		p = skip_ascii(p, end);
		if (p == end || *p < 0x80)
			return p;
		while (p < end && *p >= 0x80) {
			n = utf8_sequence(p, end);
			if (n == 0)
				return p;
			p += n;
		}
	}
}

bool json_utf8_valid(struct span s)
{
	const uint8_t *p = (const uint8_t *)s.p, *end = p + s.len;
	unsigned n;

	while (p < end) {
		n = *p < 0x80 ? 1 : utf8_sequence(p, end);
		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

size_t json_utf8_encode(uint32_t c, char dst[4])
{
	if (c < 0x80) {
		dst[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		dst[0] = (char)(0xc0 | c >> 6);
		dst[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		dst[0] = (char)(0xe0 | c >> 12);
		dst[1] = (char)(0x80 | (c >> 6 & 0x3f));
		dst[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	dst[0] = (char)(0xf0 | c >> 18);
	dst[1] = (char)(0x80 | (c >> 12 & 0x3f));
	dst[2] = (char)(0x80 | (c >> 6 & 0x3f));
	dst[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

static void keep(struct json *j, const uint8_t *p, size_t n)
{
	if (j->kept_len < j->cap)
		memcpy(j->dst + j->kept_len, p, MIN(n, j->cap - j->kept_len));
	j->kept_len += n;
}

/* Decoded bytes of a string. */
static void text(struct json *j, const uint8_t *p, size_t n)
{
	if (j->capture != JSON_CAPTURE_TEXT || n == 0)
		return;
	keep(j, p, n);
	if (j->value != JSON_KEY)
		return;
	for (size_t i = 0; i < n; i++)
		j->hash = (j->hash ^ p[i]) * FNV_PRIME;
}

static void begin_scalar(struct json *j, uint8_t state, uint8_t sub, enum json_type type)
{
	j->token_at = offset(j);
	j->mark = j->p;
	j->state = state;
	j->sub = sub;
	j->value = type;
	j->kept_len = 0;
	j->escaped = j->nul = false;
	j->high = 0;
	j->capture = j->wanted;
	if (j->wanted == JSON_CAPTURE_EACH)
		j->capture = type == JSON_STRING ? JSON_CAPTURE_TEXT : JSON_CAPTURE_RAW;
	j->dst = j->wanted_dst;
	j->cap = j->wanted_cap;
	j->wanted = JSON_CAPTURE_NONE;
	if (type == JSON_KEY) {
		j->hash = FNV_OFFSET;
		j->capture = j->depth <= j->loud ? JSON_CAPTURE_TEXT : JSON_CAPTURE_NONE;
		j->dst = j->key;
		j->cap = sizeof(j->key);
	}
}

static enum json_type end_scalar(struct json *j)
{
	if (j->value == JSON_KEY)
		j->state = EXPECT_COLON;
	else
		j->state = j->depth ? EXPECT_NEXT : EXPECT_NOTHING;
	if (j->capture == JSON_CAPTURE_RAW)
		keep(j, j->mark, (size_t)(j->p - j->mark));
	return j->value;
}

/* A surrogate without its partner. Nobody looks at the text where that is let pass. */
static bool lone_surrogate_allowed(struct json *j)
{
	j->high = 0;
	if (j->value != JSON_KEY && j->capture == JSON_CAPTURE_NONE && !(j->flags & JSON_STRICT_SURROGATES))
		return true;
	fail(j, "lone surrogate");
	return false;
}

static enum json_type utf8_lead(struct json *j, uint8_t c)
{
	if (c < 0xc2 || c > 0xf4)
		return fail(j, "not UTF-8");
	j->need = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
	j->low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	j->top = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	text(j, &c, 1);
	j->p++;
	j->sub = STRING_UTF8;
	return JSON_NONE;
}

static enum json_type string_utf8(struct json *j)
{
	uint8_t c = *j->p;

	if (c < j->low || c > j->top)
		return fail(j, "not UTF-8");
	text(j, &c, 1);
	j->p++;
	j->low = 0x80;
	j->top = 0xbf;
	if (--j->need == 0)
		j->sub = STRING_PLAIN;
	return JSON_NONE;
}

static enum json_type string_plain(struct json *j)
{
	const uint8_t *from = j->p;
	uint8_t c;

	if (j->high && *from != '\\' && !lone_surrogate_allowed(j))
		return JSON_BAD;
	j->p = skip_text(from, j->end);
	text(j, from, (size_t)(j->p - from));
	if (j->p == j->end)
		return JSON_NONE;
	c = *j->p;
	if (c >= 0x80)
		return utf8_lead(j, c);
	if (c < 0x20)
		return fail(j, "control character in a string");
	j->p++;
	if (c == '"')
		return end_scalar(j);
	j->escaped = true;
	j->sub = STRING_ESCAPE;
	return JSON_NONE;
}

static enum json_type string_escape(struct json *j)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	uint8_t c = *j->p++;
	const char *at;

	if (c == 'u') {
		j->sub = STRING_HEX;
		j->need = 4;
		j->unit = 0;
		return JSON_NONE;
	}
	at = c ? strchr(from, c) : NULL;
	if (!at)
		return fail(j, "unknown escape in a string");
	if (j->high && !lone_surrogate_allowed(j))
		return JSON_BAD;
	text(j, (const uint8_t *)&to[at - from], 1);
	j->sub = STRING_PLAIN;
	return JSON_NONE;
}

/* Four digits after \u are complete. */
static enum json_type string_unit(struct json *j)
{
	uint32_t c = j->unit;
	bool is_low = (c & 0xfc00) == 0xdc00;
	char utf8[4];
	size_t n;

	j->sub = STRING_PLAIN;
	if (is_low && j->high) {
		c = 0x10000 + ((j->high & 0x3ff) << 10) + (c & 0x3ff);
		j->high = 0;
	} else if ((is_low || j->high) && !lone_surrogate_allowed(j)) {
		return JSON_BAD;
	} else if (is_low) {
		return JSON_NONE;
	} else if ((c & 0xfc00) == 0xd800) {
		j->high = c;
		return JSON_NONE;
	}
	if (c == 0)
		j->nul = true;
	n = json_utf8_encode(c, utf8);
	text(j, (const uint8_t *)utf8, n);
	return JSON_NONE;
}

static enum json_type string_hex(struct json *j)
{
	uint8_t c = *j->p++, lower = c | 0x20;
	unsigned digit;

	if (c >= '0' && c <= '9')
		digit = c - '0';
	else if (lower >= 'a' && lower <= 'f')
		digit = lower - 'a' + 10U;
	else
		return fail(j, "unknown escape in a string");
	j->unit = j->unit << 4 | digit;
	return --j->need == 0 ? string_unit(j) : JSON_NONE;
}

static enum json_type at_end(struct json *j)
{
	if (j->capture == JSON_CAPTURE_RAW && j->state >= IN_STRING && j->state <= IN_LITERAL) {
		keep(j, j->mark, (size_t)(j->p - j->mark));
		j->mark = j->p;
	}
	if (!j->finished)
		return JSON_MORE;
	if (j->state == EXPECT_NOTHING)
		return JSON_END;
	return fail(j, j->state == EXPECT_VALUE && j->depth == 0 ? "empty" : "ends too early");
}

static enum json_type in_string(struct json *j)
{
	enum json_type t = JSON_NONE;

	while (t == JSON_NONE) {
		if (j->p == j->end)
			return at_end(j);
		switch (j->sub) {
		case STRING_PLAIN:
			t = string_plain(j);
			break;
		case STRING_UTF8:
			t = string_utf8(j);
			break;
		case STRING_ESCAPE:
			t = string_escape(j);
			break;
		default:
			t = string_hex(j);
		}
	}
	return t;
}

/* Where a byte that is no digit leads. */
static uint8_t number_sign(uint8_t sub, uint8_t c)
{
	bool is_e = c == 'e' || c == 'E';

	switch (sub) {
	case NUMBER_ZERO:
	case NUMBER_INT:
		return c == '.' ? NUMBER_POINT : is_e ? NUMBER_E : NUMBER_OVER;
	case NUMBER_FRACTION:
		return is_e ? NUMBER_E : NUMBER_OVER;
	case NUMBER_E:
		return c == '+' || c == '-' ? NUMBER_SIGN : NUMBER_BAD;
	case NUMBER_EXPONENT:
		return NUMBER_OVER;
	default:
		return NUMBER_BAD;
	}
}

static uint8_t number_digit(uint8_t sub, uint8_t c)
{
	switch (sub) {
	case NUMBER_MINUS:
		return c == '0' ? NUMBER_ZERO : NUMBER_INT;
	case NUMBER_ZERO:
		return NUMBER_BAD;
	case NUMBER_POINT:
		return NUMBER_FRACTION;
	case NUMBER_E:
	case NUMBER_SIGN:
		return NUMBER_EXPONENT;
	default:
		return sub;
	}
}

static enum json_type in_number(struct json *j)
{
	uint8_t c, sub;

	for (; j->p < j->end; j->p++) {
		c = *j->p;
		sub = c >= '0' && c <= '9' ? number_digit(j->sub, c) : number_sign(j->sub, c);
		if (sub == NUMBER_OVER)
			return end_scalar(j);
		if (sub == NUMBER_BAD)
			return fail(j, "malformed number");
		j->sub = sub;
	}
	/* Only here is the end of the input also the end of a token. */
	if (j->finished && number_sign(j->sub, 0) == NUMBER_OVER)
		return end_scalar(j);
	return at_end(j);
}

static enum json_type in_literal(struct json *j)
{
	for (; *j->literal; j->p++) {
		if (j->p == j->end)
			return at_end(j);
		if (*j->p != (uint8_t)*j->literal++)
			return fail(j, "unexpected character");
	}
	return end_scalar(j);
}

static enum json_type open_container(struct json *j, bool object)
{
	uint64_t bit;

	_Static_assert(JSON_DEPTH_MAX == 64, "the text below, and the bits of objects");
	if (j->depth == JSON_DEPTH_MAX)
		return fail(j, "nested deeper than 64");
	bit = UINT64_C(1) << j->depth;
	j->objects = object ? j->objects | bit : j->objects & ~bit;
	j->wanted = JSON_CAPTURE_NONE;
	j->token_at = offset(j);
	j->p++;
	j->depth++;
	j->state = object ? EXPECT_MEMBER : EXPECT_ELEMENT;
	return object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN;
}

static enum json_type close_container(struct json *j, uint8_t c)
{
	bool object = in_object(j);

	if (c != (object ? '}' : ']'))
		return fail(j, "unexpected character");
	j->token_at = offset(j);
	j->p++;
	j->depth--;
	j->state = j->depth ? EXPECT_NEXT : EXPECT_NOTHING;
	return object ? JSON_OBJECT_END : JSON_ARRAY_END;
}

static enum json_type begin_literal(struct json *j, enum json_type type, const char *word)
{
	begin_scalar(j, IN_LITERAL, 0, type);
	j->literal = word;
	return JSON_NONE;
}

static enum json_type begin_value(struct json *j, uint8_t c)
{
	switch (c) {
	case '{':
		return open_container(j, true);
	case '[':
		return open_container(j, false);
	case '"':
		begin_scalar(j, IN_STRING, STRING_PLAIN, JSON_STRING);
		j->p++;
		return JSON_NONE;
	case 't':
		return begin_literal(j, JSON_TRUE, "true");
	case 'f':
		return begin_literal(j, JSON_FALSE, "false");
	case 'n':
		return begin_literal(j, JSON_NULL, "null");
	default:
		if (c != '-' && (c < '0' || c > '9'))
			return fail(j, "unexpected character");
		begin_scalar(j, IN_NUMBER, c == '-' ? NUMBER_MINUS : c == '0' ? NUMBER_ZERO : NUMBER_INT, JSON_NUMBER);
		j->p++;
		return JSON_NONE;
	}
}

static enum json_type begin_key(struct json *j, uint8_t c)
{
	if (c != '"')
		return fail(j, "unexpected character");
	begin_scalar(j, IN_STRING, STRING_PLAIN, JSON_KEY);
	j->p++;
	return JSON_NONE;
}

static enum json_type after_value(struct json *j, uint8_t c)
{
	if (c != ',')
		return close_container(j, c);
	j->p++;
	j->state = in_object(j) ? EXPECT_KEY : EXPECT_VALUE;
	return JSON_NONE;
}

static enum json_type between(struct json *j)
{
	uint8_t c;

	while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
		j->p++;
	if (j->p == j->end)
		return at_end(j);
	c = *j->p;
	switch (j->state) {
	case EXPECT_VALUE:
		return begin_value(j, c);
	case EXPECT_ELEMENT:
		return c == ']' ? close_container(j, c) : begin_value(j, c);
	case EXPECT_MEMBER:
		return c == '}' ? close_container(j, c) : begin_key(j, c);
	case EXPECT_KEY:
		return begin_key(j, c);
	case EXPECT_NEXT:
		return after_value(j, c);
	case EXPECT_COLON:
		if (c != ':')
			return fail(j, "unexpected character");
		j->p++;
		j->state = EXPECT_VALUE;
		return JSON_NONE;
	default:
		return fail(j, "bytes after the message");
	}
}

static enum json_type step(struct json *j)
{
	switch (j->state) {
	case IN_STRING:
		return in_string(j);
	case IN_NUMBER:
		return in_number(j);
	case IN_LITERAL:
		return in_literal(j);
	case FAILED:
		return JSON_BAD;
	default:
		return between(j);
	}
}

/* Begins count for the container they are in, ends too. */
static bool reported(struct json *j, enum json_type t)
{
	unsigned depth = j->depth;

	if (t == JSON_OBJECT_BEGIN || t == JSON_ARRAY_BEGIN)
		depth--;
	if (depth > j->loud)
		return false;
	if (t == JSON_OBJECT_END || t == JSON_ARRAY_END)
		j->loud = JSON_DEPTH_MAX;
	return true;
}

enum json_type json_next(struct json *j, struct json_token *ret)
{
	enum json_type t;

	do {
		t = step(j);
	} while (t == JSON_NONE || (t > JSON_MORE && !reported(j, t)));
	if (t <= JSON_MORE)
		return t;
	*ret = (struct json_token){ .type = t, .at = j->token_at, .end = offset(j) };
	if (t < JSON_KEY)
		return t;
	ret->escaped = j->escaped;
	ret->nul = j->nul;
	ret->hash = j->hash;
	if (j->capture == JSON_CAPTURE_RAW || (j->capture == JSON_CAPTURE_TEXT && t <= JSON_STRING)) {
		ret->text = span_make(j->dst, (size_t)MIN(j->kept_len, j->cap));
		ret->text_len = j->kept_len;
	}
	return t;
}

/* A letter in lower case, with what else folds to one (K, dotted and dotless i, long s), and how many bytes it takes. */
static char folded(struct span s, size_t i, size_t *ret_len)
{
	static const struct {
		struct span form;
		char letter;
	} others[] = { { SPAN_INIT("\u212a"), 'k' }, { SPAN_INIT("\u0130"), 'i' }, { SPAN_INIT("\u0131"), 'i' }, { SPAN_INIT("\u017f"), 's' } };

	for (size_t k = 0; (uint8_t)s.p[i] >= 0x80 && k < ARRAY_LEN(others); k++)
		if (span_eq(others[k].form, span_make(s.p + i, MIN(others[k].form.len, s.len - i)))) {
			*ret_len = others[k].form.len;
			return others[k].letter;
		}
	*ret_len = 1;
	return s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] - 'A' + 'a') : s.p[i];
}

bool json_key_is_similar(struct span wanted, struct span key)
{
	size_t w = 0, k = 0, w_len, k_len;

	for (; w < wanted.len && k < key.len; w += w_len, k += k_len)
		if (folded(wanted, w, &w_len) != folded(key, k, &k_len))
			return false;
	return w == wanted.len && k == key.len;
}
