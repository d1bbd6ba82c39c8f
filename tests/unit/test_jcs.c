#include "proto/jcs.h"

#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

static void expect_span(struct span json, const char *want)
{
	struct buf out;

	buf_init(&out, 1 << 20);
	ck_assert_int_eq(buf_add_str(&out, "before:"), 0);
	ck_assert_int_eq(jcs_canonicalize(json, &out), 0);
	ck_assert_int_eq(buf_add(&out, "", 1), 0);
	ck_assert_str_eq((const char *)buf_bytes(&out) + 7, want);
	buf_done(&out);
}

static void expect(const char *json, const char *want)
{
	expect_span(span_of(json), want);
}

static void expect_uncovered(const char *json)
{
	struct buf out;

	buf_init(&out, 1 << 20);
	ck_assert_msg(jcs_canonicalize(span_of(json), &out) == JCS_UNCOVERED, "%s", json);
	buf_done(&out);
}

/* RFC 8785, section 3.2.2, and the bytes of section 3.2.4. */
START_TEST(rfc_sample)
{
	static const char want[] = "\x7b\x22\x6c\x69\x74\x65\x72\x61\x6c\x73\x22\x3a\x5b\x6e\x75\x6c\x6c\x2c\x74\x72"
				   "\x75\x65\x2c\x66\x61\x6c\x73\x65\x5d\x2c\x22\x6e\x75\x6d\x62\x65\x72\x73\x22\x3a"
				   "\x5b\x33\x33\x33\x33\x33\x33\x33\x33\x33\x2e\x33\x33\x33\x33\x33\x33\x33\x2c\x31"
				   "\x65\x2b\x33\x30\x2c\x34\x2e\x35\x2c\x30\x2e\x30\x30\x32\x2c\x31\x65\x2d\x32\x37"
				   "\x5d\x2c\x22\x73\x74\x72\x69\x6e\x67\x22\x3a\x22\xe2\x82\xac\x24\x5c\x75\x30\x30"
				   "\x30\x66\x5c\x6e\x41\x27\x42\x5c\x22\x5c\x5c\x5c\x5c\x5c\x22\x2f\x22\x7d";

	expect("{\n  \"numbers\": [333333333.33333329, 1E30, 4.50,\n              2e-3, "
	       "0.000000000000000000000000001],\n"
	       "  \"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n"
	       "  \"literals\": [null, true, false]\n}\n",
	       want);
}
END_TEST

/* RFC 8785, section 3.2.3. */
START_TEST(rfc_sorting)
{
	expect("{\n  \"\\u20ac\": \"Euro Sign\",\n  \"\\r\": \"Carriage Return\",\n"
	       "  \"\\ufb33\": \"Hebrew Letter Dalet With Dagesh\",\n  \"1\": \"One\",\n"
	       "  \"\\ud83d\\ude00\": \"Emoji: Grinning Face\",\n  \"\\u0080\": \"Control\",\n"
	       "  \"\\u00f6\": \"Latin Small Letter O With Diaeresis\"\n}",
	       "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":\"Control\","
	       "\"\xc3\xb6\":\"Latin Small Letter O With Diaeresis\",\"\xe2\x82\xac\":\"Euro Sign\","
	       "\"\xf0\x9f\x98\x80\":\"Emoji: Grinning Face\",\"\xef\xac\xb3\":\"Hebrew Letter Dalet With Dagesh\"}");
}
END_TEST

/* The test data that the RFC's appendix names. */
START_TEST(reference_data)
{
	expect("[\n  56,\n  {\n    \"d\": true,\n    \"10\": null,\n    \"1\": [ ]\n  }\n]",
	       "[56,{\"1\":[],\"10\":null,\"d\":true}]");
	expect("{\"peach\": \"This sorting order\",\n\"p\xc3\xa9"
	       "ch\xc3\xa9\": \"is wrong according to French\",\n\"p\xc3\xaa"
	       "che\": \"but canonicalization MUST\",\n\"sin\":   \"ignore locale\"}",
	       "{\"peach\":\"This sorting order\",\"p\xc3\xa9"
	       "ch\xc3\xa9\":\"is wrong according to French\",\"p\xc3\xaa"
	       "che\":\"but canonicalization MUST\",\"sin\":\"ignore locale\"}");
	expect("{\"1\": {\"f\": {\"f\": \"hi\",\"F\": 5} ,\"\\n\": 56.0},\n\"10\": { },\n\"\": \"empty\",\n\"a\": { "
	       "},\n"
	       "\"111\": [ {\"e\": \"yes\",\"E\": \"no\" } ],\n\"A\": { }}",
	       "{\"\":\"empty\",\"1\":{\"\\n\":56,\"f\":{\"F\":5,\"f\":\"hi\"}},\"10\":{},\"111\":[{\"E\":\"no\",\"e\":"
	       "\"yes\"}],"
	       "\"A\":{},\"a\":{}}");
	expect("{\"Unnormalized Unicode\":\"A\\u030a\"}", "{\"Unnormalized Unicode\":\"A\xcc\x8a\"}");
	expect("{\"\\u20ac\": \"Euro Sign\",\"\\r\": \"Carriage Return\",\"\\u000a\": \"Newline\",\"1\": \"One\","
	       "\"\\u0080\": \"Control\\u007f\",\"\\ud83d\\ude02\": \"Smiley\",\"\\u00f6\": \"Latin\",\"\\ufb33\": "
	       "\"Hebrew\","
	       "\"</script>\": \"Browser Challenge\"}",
	       "{\"\\n\":\"Newline\",\"\\r\":\"Carriage Return\",\"1\":\"One\",\"</script>\":\"Browser Challenge\","
	       "\"\xc2\x80\":\"Control\x7f\",\"\xc3\xb6\":\"Latin\",\"\xe2\x82\xac\":\"Euro "
	       "Sign\",\"\xf0\x9f\x98\x82\":\"Smiley\","
	       "\"\xef\xac\xb3\":\"Hebrew\"}");
}
END_TEST

/* RFC 8785, appendix B; then doubles whose shortest digits are easily missed. */
START_TEST(rfc_numbers)
{
	static const struct {
		uint64_t bits;
		const char *want;
	} cases[] = {
		{ 0x0000000000000000, "0" },
		{ 0x8000000000000000, "0" },
		{ 0x0000000000000001, "5e-324" },
		{ 0x8000000000000001, "-5e-324" },
		{ 0x7fefffffffffffff, "1.7976931348623157e+308" },
		{ 0xffefffffffffffff, "-1.7976931348623157e+308" },
		{ 0x4340000000000000, "9007199254740992" },
		{ 0xc340000000000000, "-9007199254740992" },
		{ 0x4430000000000000, "295147905179352830000" },
		{ 0x44b52d02c7e14af5, "9.999999999999997e+22" },
		{ 0x44b52d02c7e14af6, "1e+23" },
		{ 0x44b52d02c7e14af7, "1.0000000000000001e+23" },
		{ 0x444b1ae4d6e2ef4e, "999999999999999700000" },
		{ 0x444b1ae4d6e2ef4f, "999999999999999900000" },
		{ 0x444b1ae4d6e2ef50, "1e+21" },
		{ 0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7" },
		{ 0x3eb0c6f7a0b5ed8d, "0.000001" },
		{ 0x41b3de4355555553, "333333333.3333332" },
		{ 0x41b3de4355555554, "333333333.33333325" },
		{ 0x41b3de4355555555, "333333333.3333333" },
		{ 0x41b3de4355555556, "333333333.3333334" },
		{ 0x41b3de4355555557, "333333333.33333343" },
		{ 0xbecbf647612f3696, "-0.0000033333333333333333" },
		{ 0x43143ff3c1cb0959, "1424953923781206.2" },
		{ 0x3d30000000000000,
		  "5.684341886080802e-14" }, /* 2^-44: the nearest 16 digits do not read back, the next do */
		{ 0x0010000000000000, "2.2250738585072014e-308" },
		{ 0x000fffffffffffff, "2.225073858507201e-308" },
		{ 0x000ffffffffffffd, "2.2250738585072e-308" },
		{ 0x0000000000000002, "1e-323" },
		{ 0x3fd3333333333333, "0.3" },
		{ 0x3fd3333333333334, "0.30000000000000004" },
	};
	char json[64];
	double x;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		memcpy(&x, &cases[i].bits, sizeof(x));
		snprintf(json, sizeof(json), "%.17e", x);
		expect(json, cases[i].want);
		snprintf(json, sizeof(json), " %.25E\n", x);
		expect(json, cases[i].want);
	}
}
END_TEST

START_TEST(numbers)
{
	static const struct {
		const char *json, *want;
	} cases[] = {
		{ "0", "0" },
		{ "-0", "0" },
		{ "-0.0", "0" },
		{ "0e99999999999999999999", "0" },
		{ "1e-400", "0" },
		{ "-1e-99999999999999999999", "0" },
		{ "9007199254740991", "9007199254740991" },
		{ "-9007199254740991", "-9007199254740991" },
		{ "10", "10" },
		{ "10.0", "10" },
		{ "1.0e1", "10" },
		{ "100e-2", "1" },
		{ "0.1e1", "1" },
		{ "1e20", "100000000000000000000" },
		{ "1e21", "1e+21" },
		{ "123456789012345e6", "123456789012345000000" },
		{ "1234567890123450e6", "1.23456789012345e+21" },
		{ "0.000001", "0.000001" },
		{ "0.0000001", "1e-7" },
		{ "12e-8", "1.2e-7" },
		{ "-1.50", "-1.5" },
		{ "0.10000000000000000555", "0.1" },
		{ "1.7976931348623157e308", "1.7976931348623157e+308" },
		{ "4.35", "4.35" },
		{ "0.00000000000000000000000000000000000000000000000000000000000000000000000000000000001e83", "1" },
		{ "5e-324", "5e-324" },
		{ "3e-324", "5e-324" },
		{ "2e-324", "0" },
	};
	static const char *const uncovered[] = { "9007199254740992",
						 "-9007199254740992",
						 "100000000000000000000",
						 "18446744073709551616",
						 "1e309",
						 "-1.8e308",
						 "[1e400]",
						 "1e99999999999999999999",
						 "123456789012345678901234567890" };

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		expect(cases[i].json, cases[i].want);
	for (size_t i = 0; i < ARRAY_LEN(uncovered); i++)
		expect_uncovered(uncovered[i]);
}
END_TEST

/* Random doubles: the result reads as the same double, and no form with a digit less does. */
START_TEST(numbers_are_shortest)
{
	uint64_t bits = 88172645463325252;
	char json[64], text[64], less[64];
	struct buf out;
	double x;

	buf_init(&out, 4096);
	for (int i = 0; i < 20000; i++) {
		size_t digits = 0;

		bits ^= bits << 13;
		bits ^= bits >> 7;
		bits ^= bits << 17;
		memcpy(&x, &bits, sizeof(x));
		if ((bits >> 52 & 0x7ff) == 0x7ff)
			continue;
		snprintf(json, sizeof(json), "%.20e", x);
		ck_assert_int_eq(jcs_canonicalize(span_of(json), &out), 0);
		snprintf(text, sizeof(text), "%.*s", SPAN_FMT(buf_span(&out)));
		buf_drop(&out, buf_len(&out));
		ck_assert_msg(strtod(text, NULL) == x, "%s gave %s", json, text);
		for (const char *p = text; *p && *p != 'e'; p++)
			digits += *p >= '0' && *p <= '9';
		if (digits < 2 || !strchr(text, 'e'))
			continue;
		snprintf(less, sizeof(less), "%.*e", (int)digits - 2, x);
		ck_assert_msg(strtod(less, NULL) != x, "%s gave %s", json, text);
	}
	buf_done(&out);
}
END_TEST

START_TEST(strings)
{
	expect("\"\"", "\"\"");
	expect("\"\\u0000\\u0001\\b\\u0008\\u0009\\u000a\\u000b\\u000C\\u000d\\u001F\\u0020\"",
	       "\"\\u0000\\u0001\\b\\b\\t\\n\\u000b\\f\\r\\u001f \"");
	expect("\"\\\"\\\\\\/\\u002f\\u005C\\u0022\"", "\"\\\"\\\\//\\\\\\\"\"");
	expect("\"\\u007f\\u2028\\u00e9\xc3\xa9\"", "\"\x7f\xe2\x80\xa8\xc3\xa9\xc3\xa9\"");
	expect("\"\\uD834\\udd1e\"", "\"\xf0\x9d\x84\x9e\"");
	expect("\"\\ufffe\\uFFFF\"", "\"\xef\xbf\xbe\xef\xbf\xbf\"");
	expect(" true ", "true");
	expect("null", "null");
}
END_TEST

START_TEST(objects)
{
	expect(" { } ", "{}");
	expect("{\"b\":1,\"a\":2}", "{\"a\":2,\"b\":1}");
	expect("{\"aa\":1,\"a\":2,\"\":3}", "{\"\":3,\"a\":2,\"aa\":1}");
	expect("{\"b\":{\"d\":[{\"f\":1,\"e\":2}],\"c\":3},\"a\":[]}",
	       "{\"a\":[],\"b\":{\"c\":3,\"d\":[{\"e\":2,\"f\":1}]}}");
	/* Sorted by what the keys say, not by how they are spelled. */
	expect("{\"!\":1,\"\\\"\":2,\"#\":3,\"\\u0021\\u0021\":4,\"[\":5,\"\\\\\":6,\"]\":7,\"\\u005d\\u0000\":8,"
	       "\"\\n\":9}",
	       "{\"\\n\":9,\"!\":1,\"!!\":4,\"\\\"\":2,\"#\":3,\"[\":5,\"\\\\\":6,\"]\":7,\"]\\u0000\":8}");
	/* U+FFFF, U+E000, U+D7FF, U+10000, U+10FFFF in the order of their code units. */
	expect("{\"\\uffff\":1,\"\\ue000\":2,\"\\ud7ff\":3,\"\\udbff\\udfff\":4,\"\xf0\x90\x80\x80\":5,\"x\\uffff\":6,"
	       "\"x\xf0\x90\x80\x80\":7}",
	       "{\"x\xf0\x90\x80\x80\":7,\"x\xef\xbf\xbf\":6,\"\xed\x9f\xbf\":3,\"\xf0\x90\x80\x80\":5,"
	       "\"\xf4\x8f\xbf\xbf\":4,"
	       "\"\xee\x80\x80\":2,\"\xef\xbf\xbf\":1}");
}
END_TEST

START_TEST(not_covered)
{
	static const char *const cases[] = { "",
					     "[",
					     "{\"a\":1,\"a\":1}",
					     "{\"a\":1,\"b\":2,\"\\u0061\":3}",
					     "[1] 2",
					     "\"\\ud800\"",
					     "{\"\\udc00\":1}",
					     "[{\"x\":{\"k\":0,\"z\":0,\"k\":0}}]",
					     "nul",
					     "\"\xff\"",
					     "01",
					     "{\"\":1,\"\":2}" };
	char deep[200];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		expect_uncovered(cases[i]);
	memset(deep, '[', JCS_DEPTH_MAX);
	memset(deep + JCS_DEPTH_MAX, ']', JCS_DEPTH_MAX);
	deep[2 * JCS_DEPTH_MAX] = '\0';
	expect(deep, deep);
	memset(deep, '[', JCS_DEPTH_MAX + 1);
	expect_uncovered(deep);
}
END_TEST

START_TEST(bounded_output)
{
	struct buf out;

	buf_init(&out, 12);
	ck_assert_int_eq(jcs_canonicalize(SPAN("{\"b\":1,\"a\":2}"), &out), -ENOBUFS);
	buf_done(&out);
	buf_init(&out, 13);
	ck_assert_int_eq(jcs_canonicalize(SPAN("{\"b\":1,\"a\":2}"), &out), 0);
	buf_done(&out);
}
END_TEST

/* 100,000 keys in falling order, and then one of them again. */
START_TEST(many_keys)
{
	enum { N = 100000 };
	char *json = malloc(N * 20), *want = malloc(N * 20);
	size_t len = 0, n = 0;
	struct buf out;

	ck_assert(json && want);
	for (int i = N - 1; i >= 0; i--)
		len += (size_t)snprintf(json + len, 20, "%c\"%06d\":0", i == N - 1 ? '{' : ',', i);
	for (int i = 0; i < N; i++)
		n += (size_t)snprintf(want + n, 20, "%c\"%06d\":0", i ? ',' : '{', i);
	want[n++] = '}';
	json[len] = '}';
	buf_init(&out, N * 20);
	ck_assert_int_eq(jcs_canonicalize(span_make(json, len + 1), &out), 0);
	ck_assert(span_eq(buf_span(&out), span_make(want, n)));
	buf_clear(&out);
	len += (size_t)snprintf(json + len, 20, ",\"012345\":1}");
	ck_assert_int_eq(jcs_canonicalize(span_make(json, len), &out), JCS_UNCOVERED);
	buf_done(&out);
	free(json);
	free(want);
}
END_TEST

UNIT_MAIN("jcs",
	  ADD(rfc_sample) ADD(rfc_sorting) ADD(reference_data) ADD(rfc_numbers) ADD(numbers) ADD(numbers_are_shortest)
		  ADD(strings) ADD(objects) ADD(not_covered) ADD(bounded_output) ADD(many_keys))
