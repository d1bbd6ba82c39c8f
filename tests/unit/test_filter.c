#include "gateway/filter.h"

#include "base/check.h"
#include "proto/mcp_list.h"
#include "tests/lib/unit.h"

#define HEAD "{\"result\":{\"tools\":["

static struct rules deny(enum rules_kind kind, const char *pattern)
{
	struct rules rules = { 0 };

	ck_assert_int_eq(rules_add(&rules, kind, RULES_DENY, pattern), 0);
	return rules;
}

START_TEST(wanted_where_rules_leave_something_out)
{
	enum { TOOLS = 1 << MCP_LIST_TOOLS, PROMPTS = 1 << MCP_LIST_PROMPTS };
	enum { RESOURCES = 1 << MCP_LIST_RESOURCES | 1 << MCP_LIST_TEMPLATES };
	static const struct {
		enum rules_kind kind;
		enum rules_side side;
		const char *pattern;
		unsigned lists;
	} rows[] = {
		{ RULES_TOOL, RULES_ALLOW, "*", TOOLS },
		{ RULES_TOOL, RULES_DENY, "x", TOOLS },
		{ RULES_PROMPT, RULES_DENY, "x", PROMPTS },
		{ RULES_SCHEME, RULES_ALLOW, "file", RESOURCES },
		{ RULES_METHOD, RULES_DENY, "completion/*", 0 },
		{ RULES_METHOD, RULES_DENY, "tools/*", TOOLS },
		{ RULES_METHOD, RULES_DENY, "tools/list", 0 },
		{ RULES_METHOD, RULES_DENY, "resources/subscribe", 0 },
		{ RULES_METHOD, RULES_DENY, "resources/read", RESOURCES },
		{ RULES_METHOD, RULES_ALLOW, "tools/*", PROMPTS | RESOURCES },
		{ RULES_METHOD, RULES_ALLOW, "*", 0 },
	};
	struct policy_config cfg = { 0 };
	struct rules rules;

	ck_assert(!filter_wanted(&cfg));
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		rules = (struct rules){ 0 };
		cfg.rules = &rules;
		ck_assert(!filter_wanted(&cfg));
		ck_assert_int_eq(rules_add(&rules, rows[i].kind, rows[i].side, rows[i].pattern), 0);
		ck_assert_uint_eq(policy_lists(&cfg), rows[i].lists);
		ck_assert(filter_wanted(&cfg) == (rows[i].lists != 0));
	}
}
END_TEST

START_TEST(entries_are_judged_as_their_calls)
{
	struct rules rules = deny(RULES_TOOL, "rm*");
	const struct policy_config cfg = { .rules = &rules };

	ck_assert_int_eq(rules_add(&rules, RULES_PROMPT, RULES_ALLOW, "p?"), 0);
	ck_assert_int_eq(rules_add(&rules, RULES_SCHEME, RULES_ALLOW, "file"), 0);
	ck_assert(policy_lists_entry(&cfg, MCP_LIST_TOOLS, SPAN("ls")));
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_TOOLS, SPAN("rmdir")));
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_TOOLS, (struct span){ NULL, 0 }));
	ck_assert(policy_lists_entry(&cfg, MCP_LIST_PROMPTS, SPAN("p1")));
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_PROMPTS, SPAN("p12")));
	ck_assert(policy_lists_entry(&cfg, MCP_LIST_RESOURCES, SPAN("FILE:///x")));
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_RESOURCES, SPAN("https://x")));
	ck_assert(policy_lists_entry(&cfg, MCP_LIST_TEMPLATES, SPAN("file:///{path}")));
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_TEMPLATES, SPAN("{scheme}://x")));
	ck_assert_int_eq(rules_add(&rules, RULES_METHOD, RULES_DENY, "tools/call"), 0);
	ck_assert(!policy_lists_entry(&cfg, MCP_LIST_TOOLS, SPAN("ls")));
	ck_assert(policy_lists_entry(&cfg, MCP_LIST_PROMPTS, SPAN("p1")));
}
END_TEST

START_TEST(heads)
{
#define FIELD(n, v) { SPAN_INIT(n), SPAN_INIT(v) }
	static const struct http1_field gzip[] = { FIELD("content-encoding", "gzip") }, identity[] = { FIELD("Content-Encoding", "Identity") };
	static const struct http1_field both[] = { FIELD("Content-Encoding", "identity"), FIELD("Content-Encoding", "br") };
	static const struct http1_field utf8[] = { FIELD("content-type", "a/b; charset=utf-8") }, utf7[] = { FIELD("Content-type", "a/b;charset=utf-7") };
	const struct {
		struct http1_head head;
		int result;
		bool filtered;
	} rows[] = {
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED }, 0, true },
		{ { .status = 200, .body = HTTP1_BODY_UNTIL_CLOSE }, 0, true },
		{ { .status = 500, .body = HTTP1_BODY_LENGTH, .content_length = 1 }, 0, true },
		{ { .status = 202, .body = HTTP1_BODY_LENGTH, .content_length = 0 }, 0, false },
		{ { .status = 204, .body = HTTP1_BODY_NONE }, 0, false },
		{ { .status = 304, .body = HTTP1_BODY_NONE, .fields = gzip, .n_fields = 1 }, 0, false },
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED, .fields = gzip, .n_fields = 1 }, FILTER_REFUSED, false },
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED, .fields = identity, .n_fields = 1 }, 0, true },
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED, .fields = both, .n_fields = 2 }, FILTER_REFUSED, false },
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED, .fields = utf8, .n_fields = 1 }, 0, true },
		{ { .status = 200, .body = HTTP1_BODY_CHUNKED, .fields = utf7, .n_fields = 1 }, FILTER_REFUSED, false },
		{ { .status = 206, .body = HTTP1_BODY_CHUNKED }, FILTER_REFUSED, false },
	};
	struct rules rules = deny(RULES_TOOL, "x");
	const struct policy_config cfg = { .rules = &rules };
	struct filter_totals totals = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct filter *f = NULL;
		const char *why = NULL;

		ck_assert_int_eq(filter_new(&cfg, &rows[i].head, &totals, &why, &f), rows[i].result);
		ck_assert(!f == !rows[i].filtered && !why == !rows[i].result);
		filter_free(f);
	}
	ck_assert(!filter_request_field_passes(SPAN("accept-encoding")) && !filter_request_field_passes(SPAN("Accept_Encoding")));
	ck_assert(!filter_request_field_passes(SPAN("Range")) && filter_request_field_passes(SPAN("Accept")));
	ck_assert(!filter_answer_field_passes(SPAN("Content-Length")) && !filter_answer_field_passes(SPAN("etag")));
	ck_assert(!filter_answer_field_passes(SPAN("Content-Digest")) && filter_answer_field_passes(SPAN("Content-Type")));
}
END_TEST

static struct filter *new_filter(const struct policy_config *cfg, struct filter_totals *totals)
{
	const struct http1_head head = { .status = 200, .body = HTTP1_BODY_CHUNKED };
	struct filter *f = NULL;
	const char *why;

	ck_assert_int_eq(filter_new(cfg, &head, totals, &why, &f), 0);
	return f;
}

static int feed(struct filter *f, const char *text, const char **why)
{
	return filter_feed(f, (const uint8_t *)text, strlen(text), why);
}

START_TEST(bytes_and_entries_are_counted)
{
	struct rules rules = deny(RULES_TOOL, "x");
	const struct policy_config cfg = { .rules = &rules };
	struct filter_totals totals = { 0 };
	struct filter *a = new_filter(&cfg, &totals), *b = new_filter(&cfg, &totals);
	const char *why;

	ck_assert_int_eq(feed(a, HEAD "{\"name\":\"x\"},{\"name\":\"y\"},{\"a\":", &why), 0);
	ck_assert_uint_eq(totals.removed, 1);
	ck_assert(span_is(filter_ready(a), HEAD "{\"name\":\"y\"}"));
	ck_assert_uint_eq(totals.held_bytes, strlen(HEAD "{\"name\":\"y\"},{\"a\":"));
	filter_taken(a, filter_ready(a).len);
	ck_assert_uint_eq(totals.held_bytes, strlen(",{\"a\":"));
	ck_assert_int_eq(feed(b, HEAD "{\"name\":\"x\"}]}}", &why), 0);
	ck_assert_uint_eq(totals.removed, 2);
	ck_assert_int_eq(feed(b, "x", &why), FILTER_REFUSED);
	ck_assert(strstr(why, "bytes after"));
	ck_assert_int_eq(filter_finish(a, &why), FILTER_REFUSED);
	ck_assert(strstr(why, "too early"));
	filter_free(a);
	filter_free(b);
	ck_assert_uint_eq(totals.held_bytes, 0);
	ck_assert_ptr_null(filter_free(NULL));
}
END_TEST

START_TEST(all_together_are_bounded)
{
	enum { MANY = 2 * FILTER_TOTAL_MAX / MCP_LIST_HELD_MAX };
	static char text[MCP_LIST_HELD_MAX - 1024];
	struct rules rules = deny(RULES_TOOL, "x");
	const struct policy_config cfg = { .rules = &rules };
	struct filter_totals totals = { 0 };
	struct filter *all[MANY];
	const char *why;
	size_t n = 0;
	int r = 0;

	memset(text, 'a', sizeof(text) - 1);
	while (n < MANY && r == 0) {
		all[n] = new_filter(&cfg, &totals);
		ck_assert_int_eq(feed(all[n], HEAD "{\"a\":\"", &why), 0);
		r = feed(all[n++], text, &why);
	}
	ck_assert_int_eq(r, FILTER_REFUSED);
	ck_assert(strstr(why, "too many bytes"));
	ck_assert_uint_ge(n, FILTER_TOTAL_MAX / MCP_LIST_HELD_MAX);
	ck_assert_uint_lt(n, MANY);
	while (n)
		filter_free(all[--n]);
	ck_assert_uint_eq(totals.held_bytes, 0);
}
END_TEST

UNIT_MAIN("filter", ADD(wanted_where_rules_leave_something_out) ADD(entries_are_judged_as_their_calls) ADD(heads)
			ADD(bytes_and_entries_are_counted) ADD(all_together_are_bounded))
