#include "proto/json.h"

#include "tests/lib/unit.h"

#include <string.h>

/* What the scanner says, as text: one word a token, with its place, then how it ended. */
struct trace {
	char text[4096];
	size_t len;
};

static void say(struct trace *t, struct json *j, enum json_capture how, size_t cap)
{
	static const char *const names[] = {
		[JSON_OBJECT_BEGIN] = "{", [JSON_OBJECT_END] = "}",  [JSON_ARRAY_BEGIN] = "[", [JSON_ARRAY_END] = "]",
		[JSON_KEY] = "key",	   [JSON_STRING] = "string", [JSON_NUMBER] = "number", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false",	   [JSON_NULL] = "null",
	};
	static char captured[256];
	struct json_token tok;
	enum json_type type;

	for (;;) {
		if (how != JSON_CAPTURE_NONE)
			json_capture(j, how, captured, cap);
		type = json_next(j, &tok);
		if (type <= JSON_MORE)
			break;
		t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "%s@%d-%d", names[type],
					   (int)tok.at, (int)tok.end);
		if (tok.text.p)
			t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "(%.*s)",
						   SPAN_FMT(tok.text));
		if (tok.text_len > tok.text.len)
			t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "+%d",
						   (int)(tok.text_len - tok.text.len));
		t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, " ");
	}
	if (type == JSON_BAD && !strchr(t->text, '!'))
		t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "!%s", json_bad(j));
	if (type == JSON_END)
		t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, ".");
}

static void scan(struct trace *t, unsigned flags, enum json_capture how, size_t cap, struct span s, size_t cut)
{
	struct json j;

	memset(t, 0, sizeof(*t));
	json_init(&j, flags);
	if (cut == SIZE_MAX) {
		for (size_t i = 0; i < s.len; i++) {
			json_feed(&j, s.p + i, 1);
			say(t, &j, how, cap);
		}
	} else {
		json_feed(&j, s.p, cut);
		say(t, &j, how, cap);
		json_feed(&j, s.p + cut, s.len - cut);
		say(t, &j, how, cap);
	}
	json_finish(&j);
	say(t, &j, how, cap);
}

static void expect_as(unsigned flags, enum json_capture how, size_t cap, struct span s, const char *want)
{
	static struct trace t;

	scan(&t, flags, how, cap, s, SIZE_MAX);
	ck_assert_str_eq(t.text, want);
	for (size_t cut = 0; cut <= s.len; cut++) {
		scan(&t, flags, how, cap, s, cut);
		ck_assert_str_eq(t.text, want);
	}
}

static void expect(const char *s, const char *want)
{
	expect_as(0, JSON_CAPTURE_NONE, 0, span_of(s), want);
}

START_TEST(tokens)
{
	expect("{}", "{@0-1 }@1-2 .");
	expect(" [ ] ", "[@1-2 ]@3-4 .");
	expect("[1,\"a\" ,true,false,null]", "[@0-1 number@1-2 string@3-6 true@8-12 false@13-18 null@19-23 ]@23-24 .");
	expect("{\"a\":1,\"b\":[{}]}",
	       "{@0-1 key@1-4(a) number@5-6 key@7-10(b) [@11-12 {@12-13 }@13-14 ]@14-15 }@15-16 .");
	expect("\t\r\n {\"\":\"\"}", "{@4-5 key@5-7() string@8-10 }@10-11 .");
	expect("null", "null@0-4 .");
	expect("-0.5e+10", "number@0-8 .");
}
END_TEST

START_TEST(numbers)
{
	static const char *const good[] = { "0",    "-0",  "1",	  "10",	  "-123",  "0.1",
					    "1.50", "1e5", "1E5", "1e+5", "0e-05", "1.0E0" };
	static const char *const bad[] = { "-",	  "01",	 "-01",	  "1.",	   ".1", "+1",	 "1e",	     "1e+", "1.e5",
					   "0x1", "--1", "1.2.3", "1e5.5", "-a", "1ee5", "Infinity", "NaN", "1_0" };
	static struct trace t;

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		char want[64];

		snprintf(want, sizeof(want), "number@0-%d .", (int)strlen(good[i]));
		expect(good[i], want);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		scan(&t, 0, JSON_CAPTURE_NONE, 0, span_of(bad[i]), SIZE_MAX);
		ck_assert_msg(strchr(t.text, '!') != NULL, "%s: %s", bad[i], t.text);
	}
}
END_TEST

START_TEST(structure)
{
	static const char *const bad[] = { "[",	    "{",     "[1",	  "{\"a\"", "{\"a\":",	  "{\"a\":1",
					   "]",	    "}",     "[}",	  "{]",	    "[1,]",	  "[,1]",
					   "{,}",   "[1 2]", "{\"a\" 1}", "{1:2}",  "{\"a\":1,}", "[1]]",
					   "tru",   "trues", "nul",	  "nulL",   "True",	  "'a'",
					   "\"a",   "\"a\\", "{a:1}",	  "1 2",    "\"\"\"\"",	  "[1;2]",
					   "/**/1", "[1]#",  ",",	  ":",	    "{\"a\"::1}" };
	static struct trace t;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		scan(&t, 0, JSON_CAPTURE_NONE, 0, span_of(bad[i]), SIZE_MAX);
		ck_assert_msg(strchr(t.text, '!') != NULL, "%s: %s", bad[i], t.text);
	}
	expect("", "!empty");
	expect(" \n", "!empty");
	expect("[1] x", "[@0-1 number@1-2 ]@2-3 !bytes after the message");
	expect("[1", "[@0-1 number@1-2 !ends too early");
	expect("\xef\xbb\xbf{}", "!unexpected character");
	expect_as(0, JSON_CAPTURE_NONE, 0, SPAN("[1]\0"), "[@0-1 number@1-2 ]@2-3 !bytes after the message");
	expect_as(0, JSON_CAPTURE_NONE, 0, SPAN("[\0]"), "[@0-1 !unexpected character");
	expect_as(0, JSON_CAPTURE_NONE, 0, SPAN("\"\0\""), "!control character in a string");
	expect("\"\x1f\"", "!control character in a string");
	expect("\"\n\"", "!control character in a string");
	expect("\"\x7f\"", "string@0-3 .");
}
END_TEST

START_TEST(depth)
{
	static struct trace t;
	char text[200];

	memset(text, '[', 64);
	memset(text + 64, ']', 64);
	scan(&t, 0, JSON_CAPTURE_NONE, 0, span_make(text, 128), 10);
	ck_assert_int_eq(t.text[t.len - 1], '.');
	memset(text, '[', 65);
	scan(&t, 0, JSON_CAPTURE_NONE, 0, span_make(text, 65), 10);
	ck_assert_ptr_nonnull(strstr(t.text, "!nested deeper than 64"));
	/* Objects and arrays close what they opened, also at the last level. */
	text[64] = '}';
	scan(&t, 0, JSON_CAPTURE_NONE, 0, span_make(text, 65), 10);
	ck_assert_ptr_nonnull(strstr(t.text, "!unexpected character"));
}
END_TEST

/* Each boundary of the table of well-formed byte sequences (Unicode, table 3-7), from both sides. */
START_TEST(utf8)
{
	static const char *const good[] = { "\xc2\x80",		"\xdf\xbf",	    "\xe0\xa0\x80",    "\xec\xbf\xbf",
					    "\xed\x80\x80",	"\xed\x9f\xbf",	    "\xee\x80\x80",    "\xef\xbf\xbf",
					    "\xf0\x90\x80\x80", "\xf3\xbf\xbf\xbf", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "\x80",
					   "\xbf",
					   "\xc0\x80",
					   "\xc1\xbf",
					   "\xc2\x7f",
					   "\xc2\xc0",
					   "\xdf",
					   "\xe0\x9f\xbf",
					   "\xe0\xa0\x7f",
					   "\xe1\x80",
					   "\xed\xa0\x80",
					   "\xed\xbf\xbf",
					   "\xf0\x8f\xbf\xbf",
					   "\xf0\x90\x80",
					   "\xf4\x90\x80\x80",
					   "\xf5\x80\x80\x80",
					   "\xfe",
					   "\xff",
					   "\xe2\x28\xa1",
					   "\xf0\x28\x8c\xbc",
					   "\xe1\x80\xc0" };
	char text[64], want[64];

	for (size_t pad = 0; pad < 20; pad++)
		for (size_t i = 0; i < ARRAY_LEN(good); i++) {
			int n = snprintf(text, sizeof(text), "\"%.*s%s\"", (int)pad, "abcdefghijklmnopqrst", good[i]);

			snprintf(want, sizeof(want), "string@0-%d .", n);
			expect(text, want);
			ck_assert(json_utf8_valid(span_of(text)));
		}
	for (size_t pad = 0; pad < 20; pad++)
		for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
			snprintf(text, sizeof(text), "\"%.*s%s\"", (int)pad, "abcdefghijklmnopqrst", bad[i]);
			expect(text, "!not UTF-8");
			ck_assert(!json_utf8_valid(span_of(text)));
		}
	expect("\"\xe2\x82", "!ends too early");
}
END_TEST

/* Every byte value at every place of a word and of four words, alone: what stops the fast loop, and what does not. */
START_TEST(every_byte_everywhere)
{
	char text[48];
	static struct trace t;

	for (size_t at = 1; at < 42; at++)
		for (unsigned c = 1; c < 256; c++) {
			memset(text, 'x', sizeof(text));
			text[0] = text[47] = '"';
			text[at] = (char)c;
			scan(&t, 0, JSON_CAPTURE_NONE, 0, span_make(text, sizeof(text)), 0);
			if (c < 0x20)
				ck_assert_str_eq(t.text, "!control character in a string");
			else if (c == '\\')
				ck_assert_str_eq(t.text, "!unknown escape in a string");
			else if (c == '"')
				ck_assert_ptr_nonnull(strstr(t.text, "!bytes after the message"));
			else if (c < 0x80)
				ck_assert_str_eq(t.text, "string@0-48 .");
			else
				ck_assert_str_eq(t.text, "!not UTF-8");
		}
}
END_TEST

START_TEST(escapes)
{
	static struct trace t;
	static const char *const bad[] = { "\"\\a\"",	"\"\\u12g4\"", "\"\\u123\"", "\"\\U0041\"", "\"\\\n\"",
					   "\"\\x41\"", "\"\\u 041\"", "\"\\u\"",    "\"\\u+123\"", "\"\\'\"" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		scan(&t, 0, JSON_CAPTURE_NONE, 0, span_of(bad[i]), SIZE_MAX);
		ck_assert_msg(strstr(t.text, "!unknown escape") != NULL, "%s: %s", bad[i], t.text);
	}
	expect_as(0, JSON_CAPTURE_TEXT, 64, SPAN("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), "string@0-18(\"\\/\b\f\n\r\t) .");
	expect_as(0, JSON_CAPTURE_TEXT, 64, SPAN("\"m\\u0065thod\""), "string@0-13(method) .");
	expect_as(0, JSON_CAPTURE_TEXT, 64, SPAN("\"\\u00e9\\u20AC\\ud83d\\ude02x\""),
		  "string@0-27(\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x82x) .");
	expect("{\"m\\u0065thod\":1}", "{@0-1 key@1-14(method) number@15-16 }@16-17 .");
}
END_TEST

START_TEST(surrogates)
{
	static const char *const lone[] = { "\"\\ud800\"",	  "\"\\udc00\"",	"\"\\ud800x\"",
					    "\"\\ud800\\n\"",	  "\"\\ud800\\u0041\"", "\"\\ud800\\ud800\\udc00\"",
					    "\"\\udc00\\ud800\"", "\"x\\uDFFF\"",	"\"\\ud800\xc3\xa9\"" };
	char text[80], want[80];

	for (size_t i = 0; i < ARRAY_LEN(lone); i++) {
		snprintf(want, sizeof(want), "string@0-%d .", (int)strlen(lone[i]));
		expect(lone[i], want);
		expect_as(JSON_STRICT_SURROGATES, JSON_CAPTURE_NONE, 0, span_of(lone[i]), "!lone surrogate");
		expect_as(0, JSON_CAPTURE_TEXT, 64, span_of(lone[i]), "!lone surrogate");
		expect_as(0, JSON_CAPTURE_RAW, 64, span_of(lone[i]), "!lone surrogate");
		snprintf(text, sizeof(text), "{%s:1}", lone[i]);
		expect(text, "{@0-1 !lone surrogate");
	}
	expect_as(JSON_STRICT_SURROGATES, JSON_CAPTURE_NONE, 0, SPAN("\"\\ud800\\udc00\\uDBFF\\uDFFF\""),
		  "string@0-26 .");
}
END_TEST

START_TEST(captures)
{
	expect_as(0, JSON_CAPTURE_EACH, 64, SPAN("[\"a\\u0062\",1.0,true]"),
		  "[@0-1 string@1-10(ab) number@11-14(1.0) true@15-19(true) ]@19-20 .");
	expect_as(0, JSON_CAPTURE_TEXT, 3, SPAN("[\"abcdef\",12]"), "[@0-1 string@1-9(abc)+3 number@10-12 ]@12-13 .");
	expect_as(0, JSON_CAPTURE_RAW, 8, SPAN("[\"a\\n\",-1.5,true,null,\"12345678\"]"),
		  "[@0-1 string@1-6(\"a\\n\") number@7-11(-1.5) true@12-16(true) null@17-21(null) "
		  "string@22-32(\"1234567)+2 "
		  "]@32-33 .");
	expect_as(0, JSON_CAPTURE_RAW, 64, SPAN(" 17"), "number@1-3(17) .");
}
END_TEST

static char key_text[2 * JSON_KEY_KEEP + 32];

START_TEST(keys)
{
	struct json_token a, b;
	struct json j;

	snprintf(key_text, sizeof(key_text), "{\"%0*d\":1,\"\\u0000\":2,\"a\":3,\"\\u0061\":4}", JSON_KEY_KEEP + 5, 0);
	json_init(&j, 0);
	json_feed(&j, key_text, strlen(key_text));
	ck_assert_int_eq(json_next(&j, &a), JSON_OBJECT_BEGIN);
	ck_assert_int_eq(json_next(&j, &a), JSON_KEY);
	ck_assert_uint_eq(a.text.len, JSON_KEY_KEEP);
	ck_assert_uint_eq(a.text_len, JSON_KEY_KEEP + 5);
	ck_assert(!a.escaped && !a.nul);
	ck_assert_int_eq(json_next(&j, &a), JSON_NUMBER);
	ck_assert_int_eq(json_next(&j, &a), JSON_KEY);
	ck_assert(a.nul && a.escaped && a.text.len == 1);
	ck_assert_int_eq(json_next(&j, &a), JSON_NUMBER);
	ck_assert_int_eq(json_next(&j, &a), JSON_KEY);
	ck_assert_int_eq(json_next(&j, &b), JSON_NUMBER);
	ck_assert_int_eq(json_next(&j, &b), JSON_KEY);
	ck_assert(a.hash == b.hash && b.escaped && !a.escaped);
	/* FNV-1a 64 of "a". */
	ck_assert_uint_eq(a.hash, UINT64_C(0xaf63dc4c8601ec8c));
}
END_TEST

START_TEST(quiet)
{
	static const char text[] = "{\"a\":{\"b\":[1,{\"c\":\"d\"}]},\"e\":[[]],\"f\":1}";
	static const enum json_type want[] = { JSON_OBJECT_BEGIN, JSON_KEY,	    JSON_OBJECT_BEGIN, JSON_OBJECT_END,
					       JSON_KEY,	  JSON_ARRAY_BEGIN, JSON_ARRAY_END,    JSON_KEY,
					       JSON_NUMBER,	  JSON_OBJECT_END,  JSON_MORE };
	struct json_token tok;
	struct json j;

	json_init(&j, 0);
	json_feed(&j, text, strlen(text));
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		ck_assert_int_eq(json_next(&j, &tok), want[i]);
		if (i == 2 || i == 5)
			json_quiet(&j);
	}
	/* Quiet is not blind. */
	json_init(&j, 0);
	json_feed(&j, "[[1,\"\xff\"]]", 8);
	ck_assert_int_eq(json_next(&j, &tok), JSON_ARRAY_BEGIN);
	json_quiet(&j);
	ck_assert_int_eq(json_next(&j, &tok), JSON_BAD);
	ck_assert_str_eq(json_bad(&j), "not UTF-8");
	ck_assert_int_eq(json_next(&j, &tok), JSON_BAD);
	json_init(&j, 0);
	json_feed(&j, "[{\"\\ud800\":1}]", 14);
	ck_assert_int_eq(json_next(&j, &tok), JSON_ARRAY_BEGIN);
	json_quiet(&j);
	ck_assert_int_eq(json_next(&j, &tok), JSON_BAD);
	ck_assert_str_eq(json_bad(&j), "lone surrogate");
}
END_TEST

START_TEST(utf8_encode)
{
	static const struct {
		uint32_t c;
		const char *utf8;
	} cases[] = { { 'A', "A" },
		      { 0x7f, "\x7f" },
		      { 0x80, "\xc2\x80" },
		      { 0x7ff, "\xdf\xbf" },
		      { 0x800, "\xe0\xa0\x80" },
		      { 0xffff, "\xef\xbf\xbf" },
		      { 0x10000, "\xf0\x90\x80\x80" },
		      { 0x10ffff, "\xf4\x8f\xbf\xbf" } };
	char dst[4];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t n = json_utf8_encode(cases[i].c, dst);

		ck_assert(span_is(span_make(dst, n), cases[i].utf8));
	}
}
END_TEST

UNIT_MAIN("json", ADD(tokens) ADD(numbers) ADD(structure) ADD(depth) ADD(utf8) ADD(every_byte_everywhere) ADD(escapes)
			  ADD(surrogates) ADD(captures) ADD(keys) ADD(quiet) ADD(utf8_encode))
