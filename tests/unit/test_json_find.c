#include "proto/json_find.h"

#include "proto/http1.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *doc;
	const char *path[4];
	int result;
	const char *value;
} rows[] = {
	{ "{\"a\":\"x\"}", { "a" }, 0, "x" },
	{ "{\"a\":17}", { "a" }, 0, "17" },
	{ "{\"a\":true,\"b\":null}", { "b" }, 0, "null" },
	{ "{\"a\":\"\\u00e9\\n\"}", { "a" }, 0, "\u00e9\n" },
	{ "{\"a\":{\"b\":{\"c\":\"deep\"}}}", { "a", "b", "c" }, 0, "deep" },
	{ "{\"x\":{\"b\":\"no\"},\"a\":{\"y\":{\"b\":\"no\"},\"b\":\"yes\"}}", { "a", "b" }, 0, "yes" },
	{ "{\"x\":[{\"a\":\"no\"}],\"a\":\"yes\"}", { "a" }, 0, "yes" },
	{ "{\"a\":[{\"b\":\"no\"}],\"b\":\"no\"}", { "a", "b" }, -ENOENT, NULL },
	{ "{\"a\":{\"b\":1}}", { "a" }, -ENOENT, NULL },
	{ "{\"a\":{\"b\":\"x\"},\"c\":1}", { "a", "c" }, -ENOENT, NULL },
	{ "{\"a\":{},\"a\":{\"b\":\"second\"}}", { "a", "b" }, 0, "second" },
	{ "{\"a\":\"first\",\"a\":\"second\"}", { "a" }, 0, "first" },
	{ "{\"a\":{\"a\":\"x\"}}", { "a", "a" }, 0, "x" },
	{ "\"a\"", { "a" }, -ENOENT, NULL },
	{ "[\"a\",\"b\"]", { "a" }, -ENOENT, NULL },
	{ "", { "a" }, -EINVAL, NULL },
	{ "<html>", { "a" }, -EINVAL, NULL },
	{ "{\"a\":{\"b\":1}", { "a", "c" }, -EINVAL, NULL },
	{ "{\"a\":\"0123456789abcdef0123\"}", { "a" }, 0, "0123456789abcde" },
};

START_TEST(finds_one_value)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char out[16] = "";
		size_t n = 0;

		while (n < 4 && rows[i].path[n])
			n++;
		ck_assert_msg(json_find(span_of(rows[i].doc), rows[i].path, n, out, sizeof(out)) == rows[i].result, "%s", rows[i].doc);
		if (rows[i].value)
			ck_assert_str_eq(out, rows[i].value);
	}
}
END_TEST

static void add_name(void *user, const char *name)
{
	strcat(strcat(user, name), " ");
}

START_TEST(names_the_members)
{
	static const char *const path[] = { "a", "b" };
	static const struct {
		const char *doc, *names;
		size_t n;
		int result;
	} cases[] = {
		{ "{\"x\":1,\"a\":{\"b\":{\"c\":{\"no\":1},\"d\":[{\"no\":1}],\"e\":2},\"f\":3},\"g\":4}", "c d e ", 2, 0 },
		{ "{\"x\":1,\"a\":{\"b\":{},\"f\":3},\"g\":4}", "b f ", 1, 0 },
		{ "{\"x\":{\"no\":1},\"a\":2}", "x a ", 0, 0 },
		{ "{\"x\":{\"b\":{\"no\":1}},\"a\":[{\"b\":{\"no\":1}}]}", "", 2, 0 },
		{ "{\"a\":{\"b\":{\"c\":1", "c ", 2, -EINVAL },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char names[100] = "";

		ck_assert_int_eq(json_names(span_of(cases[i].doc), path, cases[i].n, add_name, names), cases[i].result);
		ck_assert_str_eq(names, cases[i].names);
	}
}
END_TEST

START_TEST(dates_are_printed_and_read)
{
	static const char *const bad[] = { "", "Sun, 06 Nov 1994 08:49:37 UTC", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
					   "Sun, 06 Nov 1994 08:49:37 GMT ", "Sun, 06 Nov 1994 08:49:3x GMT", "Sun, 06 Nov 1894 08:49:37 GMT" };
	char text[HTTP1_DATE_LEN + 1];
	uint64_t s = 0;

	http1_date_print(784111777, text);
	ck_assert_str_eq(text, "Sun, 06 Nov 1994 08:49:37 GMT");
	ck_assert_int_eq(http1_date_parse(span_of(text), &s), 0);
	ck_assert_uint_eq(s, 784111777);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(http1_date_parse(span_of(bad[i]), &s) == -EINVAL, "%s", bad[i]);
}
END_TEST

UNIT_MAIN("json_find", ADD(finds_one_value) ADD(names_the_members) ADD(dates_are_printed_and_read))
