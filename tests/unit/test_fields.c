#include "proto/fields.h"

#include "tests/lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "base/encode.h"

/* A span as a constant initializer. */
#define S(lit)                                                                                                         \
	{                                                                                                              \
		"" lit, sizeof(lit) - 1                                                                                \
	}

static struct tp_field out[TP_FIELDS_COUNT_MAX];
static size_t n_out;

/* In memory of its own, so that a sanitizer sees every step outside. */
static const char *decode(const void *p, size_t len, uint8_t **ret_copy)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (len)
		memcpy(copy, p, len);
	*ret_copy = copy;
	return fields_decode(copy, len, out, &n_out);
}

static const struct tp_field sample[] = {
	{ S(":kind"), S("exchange") },
	{ S(":empty"), S("") },
	{ S("Accept"), S("*/*") },
	{ S("accept"), S("again, with \t and \x80\xff") },
	{ S("x"), S("") },
};

START_TEST(round_trip)
{
	size_t size = fields_size(sample, ARRAY_LEN(sample));
	uint8_t bytes[512], *copy;

	ck_assert_uint_gt(size, 0);
	ck_assert_uint_le(size, sizeof(bytes));
	fields_encode(bytes, sample, ARRAY_LEN(sample));
	ck_assert_ptr_null(decode(bytes, size, &copy));
	ck_assert_uint_eq(n_out, ARRAY_LEN(sample));
	for (size_t i = 0; i < n_out; i++) {
		ck_assert(span_eq(out[i].name, sample[i].name));
		ck_assert(span_eq(out[i].value, sample[i].value));
		ck_assert_ptr_nonnull(out[i].value.p);
	}
	ck_assert(span_is(tp_field_get(out, n_out, ":kind"), "exchange"));
	ck_assert(span_is(tp_field_get(out, n_out, "Accept"), "*/*"));
	ck_assert_ptr_nonnull(tp_field_get(out, n_out, ":empty").p);
	ck_assert_ptr_null(tp_field_get(out, n_out, ":kin").p);
	ck_assert_ptr_null(tp_field_get(out, n_out, "ACCEPT").p);
	free(copy);
}
END_TEST

START_TEST(bytes_on_the_wire)
{
	static const struct tp_field f[] = { { S(":a"), S("xyz") } };
	static const uint8_t want[] = { 0, 2, 0, 3, ':', 'a', 'x', 'y', 'z' };
	uint8_t bytes[sizeof(want)];

	ck_assert_uint_eq(fields_size(f, 1), sizeof(want));
	fields_encode(bytes, f, 1);
	ck_assert_mem_eq(bytes, want, sizeof(want));
	ck_assert_uint_eq(fields_size(NULL, 0), 0);
	ck_assert_ptr_null(fields_decode(bytes, 0, out, &n_out));
	ck_assert_uint_eq(n_out, 0);
}
END_TEST

/* Every prefix that does not end between two fields is refused, and nothing behind it is read. */
START_TEST(cut_at_every_byte)
{
	size_t size = fields_size(sample, ARRAY_LEN(sample)), whole = 0;
	uint8_t bytes[512], *copy;

	fields_encode(bytes, sample, ARRAY_LEN(sample));
	for (size_t len = 0; len < size; len++) {
		const char *bad = decode(bytes, len, &copy);

		if (bad)
			ck_assert_str_eq(bad, "field cut short");
		else
			whole++;
		free(copy);
	}
	ck_assert_uint_eq(whole, ARRAY_LEN(sample));
}
END_TEST

static char long_value[70000], long_name[TP_FIELD_NAME_MAX + 2];

/* What must not be sent is what must not be received. */
START_TEST(rules)
{
	static const struct {
		struct tp_field f[3];
		size_t n;
		const char *bad;
	} cases[] = {
		{ { { S(""), S("x") } }, 1, "field without a name" },
		{ { { S("a b"), S("x") } }, 1, "field name that is not a token" },
		{ { { S("a:"), S("x") } }, 1, "field name that is not a token" },
		{ { { S("a\0b"), S("x") } }, 1, "field name that is not a token" },
		{ { { S("\xc3\xa4"), S("x") } }, 1, "field name that is not a token" },
		{ { { S(":"), S("x") } }, 1, "field name that is not a token" },
		{ { { S("::a"), S("x") } }, 1, "field name that is not a token" },
		{ { { S("a"), S("x\r\ny: z") } }, 1, "field value with CR, LF or NUL" },
		{ { { S("a"), S("\n") } }, 1, "field value with CR, LF or NUL" },
		{ { { S("a"), S("\r") } }, 1, "field value with CR, LF or NUL" },
		{ { { S(":a"), S("x\0y") } }, 1, "field value with CR, LF or NUL" },
		{ { { S("a"), S("x") }, { S(":b"), S("y") } }, 2, "pseudo-field after an ordinary one" },
		{ { { S(":b"), S("x") }, { S(":c"), S("x") }, { S(":b"), S("y") } }, 3, "pseudo-field twice" },
	};
	uint8_t bytes[64], *copy;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t size = 0;

		ck_assert_uint_eq(fields_size(cases[i].f, cases[i].n), 0);
		for (size_t k = 0; k < cases[i].n; k++)
			size += 4 + cases[i].f[k].name.len + cases[i].f[k].value.len;
		fields_encode(bytes, cases[i].f, cases[i].n);
		n_out = 77;
		ck_assert_str_eq(decode(bytes, size, &copy), cases[i].bad);
		ck_assert_uint_eq(n_out, 77);
		free(copy);
	}
}
END_TEST

START_TEST(name_length)
{
	uint8_t bytes[TP_FIELD_NAME_MAX + 8], *copy;

	memset(long_name, 'n', sizeof(long_name));
	for (size_t len = TP_FIELD_NAME_MAX; len <= TP_FIELD_NAME_MAX + 1; len++) {
		const struct tp_field f = { span_make(long_name, len), S("") };
		const char *bad;

		ck_assert_uint_eq(fields_size(&f, 1), len > TP_FIELD_NAME_MAX ? 0 : len + 4);
		fields_encode(bytes, &f, 1);
		bad = decode(bytes, len + 4, &copy);
		if (len > TP_FIELD_NAME_MAX)
			ck_assert_str_eq(bad, "field name too long");
		else
			ck_assert_ptr_null(bad);
		free(copy);
	}
}
END_TEST

START_TEST(number_of_fields)
{
	static struct tp_field many[TP_FIELDS_COUNT_MAX + 1];
	uint8_t bytes[5 * (TP_FIELDS_COUNT_MAX + 1)], *copy;

	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (struct tp_field){ S("a"), S("") };
	fields_encode(bytes, many, ARRAY_LEN(many));
	ck_assert_uint_eq(fields_size(many, TP_FIELDS_COUNT_MAX), 5 * TP_FIELDS_COUNT_MAX);
	ck_assert_ptr_null(decode(bytes, 5 * TP_FIELDS_COUNT_MAX, &copy));
	ck_assert_uint_eq(n_out, TP_FIELDS_COUNT_MAX);
	free(copy);
	ck_assert_uint_eq(fields_size(many, TP_FIELDS_COUNT_MAX + 1), 0);
	ck_assert_str_eq(decode(bytes, sizeof(bytes), &copy), "too many fields");
	free(copy);
}
END_TEST

START_TEST(total_size)
{
	static uint8_t bytes[TP_FIELDS_BYTES_MAX + 1];
	struct tp_field f = { S("a"), span_make(long_value, TP_FIELDS_BYTES_MAX - 5) };
	uint8_t *copy;

	memset(long_value, 'v', sizeof(long_value));
	ck_assert_uint_eq(fields_size(&f, 1), TP_FIELDS_BYTES_MAX);
	fields_encode(bytes, &f, 1);
	ck_assert_ptr_null(decode(bytes, TP_FIELDS_BYTES_MAX, &copy));
	free(copy);
	f.value.len++;
	ck_assert_uint_eq(fields_size(&f, 1), 0);
	ck_assert_str_eq(decode(bytes, TP_FIELDS_BYTES_MAX + 1, &copy), "fields too long");
	free(copy);
	f.value.len = 65536; /* would not fit its length */
	ck_assert_uint_eq(fields_size(&f, 1), 0);
}
END_TEST

UNIT_MAIN("fields", ADD(round_trip) ADD(bytes_on_the_wire) ADD(cut_at_every_byte) ADD(rules) ADD(name_length)
	  ADD(number_of_fields) ADD(total_size))
