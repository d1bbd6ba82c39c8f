#include "proto/fields.h"

#include "base/encode.h"

enum { FIELD_HEADER = 4 };

static bool is_pseudo(struct span name)
{
	return name.len && name.p[0] == ':';
}

/* RFC 9110 section 5.6.2: what a name is made of. */
static bool is_token(struct span s)
{
	static const char special[] = "!#$%&'*+-.^_`|~";

	for (size_t i = 0; i < s.len; i++) {
		char c = s.p[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
		    (c == 0 || !strchr(special, c)))
			return false;
	}
	return s.len > 0;
}

/* Bytes that could end a line or a string further on are in no value. */
static bool is_clean(struct span s)
{
	return !s.len || !(memchr(s.p, 0, s.len) || memchr(s.p, '\r', s.len) || memchr(s.p, '\n', s.len));
}

/* The rules that hold for the i-th field, given those before it. */
static const char *check_field(const struct tp_field *fields, size_t i)
{
	struct span name = fields[i].name;

	if (name.len == 0)
		return "field without a name";
	if (name.len > TP_FIELD_NAME_MAX)
		return "field name too long";
	if (!is_token(is_pseudo(name) ? span_make(name.p + 1, name.len - 1) : name))
		return "field name that is not a token";
	if (!is_clean(fields[i].value))
		return "field value with CR, LF or NUL";
	if (!is_pseudo(name))
		return NULL;
	if (i > 0 && !is_pseudo(fields[i - 1].name))
		return "pseudo-field after an ordinary one";
	for (size_t j = 0; j < i; j++)
		if (span_eq(fields[j].name, name))
			return "pseudo-field twice";
	return NULL;
}

size_t fields_size(const struct tp_field *fields, size_t n)
{
	size_t size = 0;

	if (n > TP_FIELDS_COUNT_MAX)
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (check_field(fields, i) || fields[i].value.len > UINT16_MAX)
			return 0;
		size += FIELD_HEADER + fields[i].name.len + fields[i].value.len;
		if (size > TP_FIELDS_BYTES_MAX)
			return 0;
	}
	return size;
}

void fields_encode(uint8_t *dst, const struct tp_field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct tp_field *f = &fields[i];

		put_be16(dst, (uint16_t)f->name.len);
		put_be16(dst + 2, (uint16_t)f->value.len);
		dst += FIELD_HEADER;
		memcpy(dst, f->name.p, f->name.len);
		dst += f->name.len;
		if (f->value.len)
			memcpy(dst, f->value.p, f->value.len);
		dst += f->value.len;
	}
}

const char *fields_decode(const uint8_t *p, size_t len, struct tp_field *ret, size_t *ret_n)
{
	const uint8_t *end = p + len;
	const char *bad;
	size_t n = 0;

	if (len > TP_FIELDS_BYTES_MAX)
		return "fields too long";
	while (p < end) {
		size_t name_len, value_len;

		if (n == TP_FIELDS_COUNT_MAX)
			return "too many fields";
		if (end - p < FIELD_HEADER)
			return "field cut short";
		name_len = get_be16(p);
		value_len = get_be16(p + 2);
		p += FIELD_HEADER;
		if ((size_t)(end - p) < name_len + value_len)
			return "field cut short";
		ret[n].name = span_make(p, name_len);
		ret[n].value = span_make(p + name_len, value_len);
		p += name_len + value_len;
		bad = check_field(ret, n);
		if (bad)
			return bad;
		n++;
	}
	*ret_n = n;
	return NULL;
}

struct span tp_field_get(const struct tp_field *fields, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (span_is(fields[i].name, name))
			return fields[i].value;
	return (struct span){ NULL, 0 };
}
