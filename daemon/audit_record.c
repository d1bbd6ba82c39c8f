#include "daemon/audit_record.h"

#include <stdio.h>
#include <time.h>

enum { ESCAPED_UNIT_MAX = 16, CUT_MARK_LEN = 3 };

static const char cut_mark[] = "\xe2\x80\xa6";

static bool is_unsafe(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Length of the well-formed character at the front (Unicode, table 3-7), 0 when there is none. */
static size_t utf8_unit(struct span s, uint32_t *ret_c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = (const uint8_t *)s.p;
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
	uint32_t c = n > 1 ? p[0] & (0x7fu >> n) : p[0];

	if (n == 0 || n > s.len)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret_c = c;
	return n;
}

static size_t put_hex(const char *p, size_t n, char *dst)
{
	for (size_t i = 0; i < n; i++) {
		*dst++ = '\\';
		*dst++ = 'x';
		*dst++ = "0123456789abcdef"[(uint8_t)p[i] >> 4];
		*dst++ = "0123456789abcdef"[(uint8_t)p[i] & 15];
	}
	return 4 * n;
}

/* The escaped form of the character at the front; *ret_used bytes of s go into it. */
static size_t escape_unit(struct span s, bool quoted, char dst[ESCAPED_UNIT_MAX], size_t *ret_used)
{
	uint32_t c = 0;
	size_t n = utf8_unit(s, &c);

	*ret_used = n ? n : 1;
	if (n == 0 || is_unsafe(c) || (c == '\\' && !quoted && s.len > 1 && s.p[1] == 'x'))
		return put_hex(s.p, *ret_used, dst);
	if (quoted && (c == '"' || c == '\\')) {
		dst[0] = '\\';
		dst[1] = (char)c;
		return 2;
	}
	memcpy(dst, s.p, n);
	return n;
}

/* How many bytes at the front stand for themselves. */
static size_t plain_prefix(struct span s)
{
	size_t n = 0;

	while (n < s.len && s.p[n] >= ' ' && s.p[n] < 0x7f && s.p[n] != '\\' && s.p[n] != '"')
		n++;
	return n;
}

size_t audit_escape(struct span in, char *dst, size_t max, bool quoted)
{
	size_t n = plain_prefix(in), used, unit_len, mark = 0;
	char unit[ESCAPED_UNIT_MAX];

	/* Nearly every value is plain and fits. */
	if (n == in.len && n <= max) {
		if (n)
			memcpy(dst, in.p, n);
		return n;
	}
	n = 0;
	for (size_t i = 0; i < in.len; i += used) {
		uint8_t c = (uint8_t)in.p[i];

		if (n <= max - CUT_MARK_LEN)
			mark = n;
		if (c >= ' ' && c < 0x7f && c != '\\' && c != '"') {
			unit[0] = (char)c;
			used = unit_len = 1;
		} else {
			unit_len = escape_unit(span_make(in.p + i, in.len - i), quoted, unit, &used);
		}
		if (n + unit_len > max) {
			memcpy(dst + mark, cut_mark, CUT_MARK_LEN);
			return mark + CUT_MARK_LEN;
		}
		for (size_t k = 0; k < unit_len; k++)
			dst[n++] = unit[k];
	}
	return n;
}

size_t audit_put_u64(uint64_t value, char dst[AUDIT_U64_DIGITS])
{
	char digits[AUDIT_U64_DIGITS];
	size_t n = 0;

	do {
		digits[AUDIT_U64_DIGITS - ++n] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	memcpy(dst, digits + AUDIT_U64_DIGITS - n, n);
	return n;
}

/* The sign, and then the digits. */
static size_t put_i64(int64_t value, char dst[1 + AUDIT_U64_DIGITS])
{
	if (value >= 0)
		return audit_put_u64((uint64_t)value, dst);
	dst[0] = '-';
	return 1 + audit_put_u64(0 - (uint64_t)value, dst + 1);
}

void audit_format_time(uint64_t wall_us, char dst[AUDIT_TIME_LEN + 1])
{
	time_t s = (time_t)(wall_us / 1000000);
	char fraction[8];
	struct tm tm;

	gmtime_r(&s, &tm);
	if (strftime(dst, AUDIT_TIME_LEN + 1, "%Y-%m-%dT%H:%M:%S.000000Z", &tm) != AUDIT_TIME_LEN)
		memcpy(dst, "1970-01-01T00:00:00.000000Z", AUDIT_TIME_LEN + 1);
	snprintf(fraction, sizeof(fraction), "%06u", (unsigned)(wall_us % 1000000));
	memcpy(dst + AUDIT_TIME_LEN - 7, fraction, 6);
}

void audit_record_begin(struct audit_record *r)
{
	r->n_fields = r->n_text = r->n_values = r->n_line = 0;
}

void audit_record_add(struct audit_record *r, const char *name, struct span value)
{
	assert(r->n_fields < AUDIT_FIELDS_MAX);
	r->fields[r->n_fields++] = (struct journal_field){ name, value };
}

void audit_record_text(struct audit_record *r, const char *name, struct span value, size_t max)
{
	char *at = r->text + r->n_text;
	size_t n;

	if (!value.p)
		return;
	max = MIN(max, MIN(AUDIT_VALUES_MAX - r->n_values, AUDIT_TEXT_BYTES - r->n_text));
	n = max < CUT_MARK_LEN ? 0 : audit_escape(value, at, max, false);
	r->n_text += n;
	r->n_values += n;
	audit_record_add(r, name, span_make(at, n));
}

static void add_copy(struct audit_record *r, const char *name, const char *p, size_t n)
{
	char *at = r->text + r->n_text;

	assert(AUDIT_TEXT_BYTES - r->n_text >= n);
	/* cppcheck-suppress uninitvar ; the callers write the text in the argument behind it. */
	memcpy(at, p, n);
	r->n_text += n;
	audit_record_add(r, name, span_make(at, n));
}

void audit_record_u64(struct audit_record *r, const char *name, uint64_t value)
{
	char text[AUDIT_U64_DIGITS];

	add_copy(r, name, text, audit_put_u64(value, text));
}

void audit_record_i64(struct audit_record *r, const char *name, int64_t value)
{
	char text[1 + AUDIT_U64_DIGITS];

	add_copy(r, name, text, put_i64(value, text));
}

void audit_record_time(struct audit_record *r, const char *name, uint64_t wall_us)
{
	char text[AUDIT_TIME_LEN + 1];

	audit_format_time(wall_us, text);
	add_copy(r, name, text, AUDIT_TIME_LEN);
}

/* A pair is there whole or not at all. */
static void line_add(struct audit_record *r, const char *key, struct span value, bool quoted)
{
	size_t key_len = strlen(key), need = key_len + value.len + 2 + (quoted ? 2 : 0);
	char *at = r->line + r->n_line;

	if (need > AUDIT_WORDS_MAX - r->n_line)
		return;
	*at++ = ' ';
	memcpy(at, key, key_len);
	at += key_len;
	*at++ = '=';
	if (quoted)
		*at++ = '"';
	if (value.len)
		memcpy(at, value.p, value.len);
	at += value.len;
	if (quoted)
		*at = '"';
	r->n_line += need;
}

static bool is_bare_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '-' && c <= ':') || c == '_' || c == '$';
}

static bool is_bare(struct span s)
{
	if (s.len == 0 || s.len > AUDIT_WORD_MAX)
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (!is_bare_byte(s.p[i]))
			return false;
	return true;
}

void audit_line_quoted(struct audit_record *r, const char *key, struct span value)
{
	char text[AUDIT_WORD_MAX];

	line_add(r, key, span_make(text, audit_escape(value, text, sizeof(text), true)), true);
}

void audit_line_word(struct audit_record *r, const char *key, struct span value)
{
	if (is_bare(value))
		line_add(r, key, value, false);
	else
		audit_line_quoted(r, key, value);
}

void audit_line_u64(struct audit_record *r, const char *key, uint64_t value)
{
	char text[AUDIT_U64_DIGITS];

	line_add(r, key, span_make(text, audit_put_u64(value, text)), false);
}

void audit_line_i64(struct audit_record *r, const char *key, int64_t value)
{
	char text[1 + AUDIT_U64_DIGITS];

	line_add(r, key, span_make(text, put_i64(value, text)), false);
}

/* Lower-case hex digits, not all of them 0. */
static bool is_id(const char *p, size_t n)
{
	bool zero = true;

	for (size_t i = 0; i < n; i++) {
		if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f')))
			return false;
		zero = zero && p[i] == '0';
	}
	return !zero;
}

static bool is_hex2(const char *p)
{
	return is_id(p, 2) || memcmp(p, "00", 2) == 0;
}

struct span audit_trace_id(struct span traceparent)
{
	enum { TRACE_AT = 3, TRACE_LEN = 32, PARENT_AT = 36, PARENT_LEN = 16, FLAGS_AT = 53, TOTAL = 55 };
	const struct span none = { NULL, 0 };
	const char *p = traceparent.p;

	if (traceparent.len < TOTAL || p[2] != '-' || p[35] != '-' || p[52] != '-')
		return none;
	if (!is_hex2(p) || memcmp(p, "ff", 2) == 0 || !is_hex2(p + FLAGS_AT))
		return none;
	if (traceparent.len > TOTAL && (memcmp(p, "00", 2) == 0 || p[TOTAL] != '-'))
		return none;
	if (!is_id(p + TRACE_AT, TRACE_LEN) || !is_id(p + PARENT_AT, PARENT_LEN))
		return none;
	return span_make(p + TRACE_AT, TRACE_LEN);
}
