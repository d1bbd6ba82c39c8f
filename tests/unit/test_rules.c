#include "gateway/rules.h"

#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

#define MESSAGE(method, params) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":" params "}"
#define TOOL(name) MESSAGE("tools/call", "{\"name\":" name "}")
#define READ(uri) MESSAGE("resources/read", "{\"uri\":" uri "}")
#define COMPLETE(ref) MESSAGE("completion/complete", "{\"ref\":{" ref "},\"argument\":{\"name\":\"a\",\"value\":\"v\"}}")
#define LISTEN(uris) MESSAGE("subscriptions/listen", "{\"notifications\":{\"toolsListChanged\":true,\"resourceSubscriptions\":" uris "}}")

static char text[RULES_TEXT_MAX];

/* "allow-tool=a deny-tool=b*": a pattern has no space here. */
static void add_all(struct rules *rules, const char *written, char *copy, size_t size)
{
	char *save = NULL;

	ck_assert_uint_lt(strlen(written), size);
	strcpy(copy, written);
	for (char *one = strtok_r(copy, " ", &save); one; one = strtok_r(NULL, " ", &save)) {
		char *pattern = strchr(one, '=');
		bool known = false;

		ck_assert_ptr_nonnull(pattern);
		*pattern++ = '\0';
		for (enum rules_kind kind = 0; kind < RULES_KIND_N; kind++)
			for (enum rules_side side = 0; side < RULES_SIDE_N; side++)
				if (strcmp(rules_option(kind, side), one) == 0) {
					ck_assert_int_eq(rules_add(rules, kind, side, pattern), 0);
					known = true;
				}
		ck_assert_msg(known, "%s", one);
	}
}

static bool allowed(const struct rules *rules, const char *body)
{
	struct mcp_scan *scan;
	struct mcp_view view;
	bool ok;

	ck_assert_int_eq(mcp_scan_new(&scan), 0);
	ck_assert_int_eq(mcp_scan_feed(scan, body, strlen(body)), 0);
	mcp_scan_finish(scan, &view);
	ck_assert_msg(!mcp_scan_bad(scan), "%s: %s", body, mcp_scan_bad(scan));
	text[0] = '\0';
	ok = rules_allow(rules, &view, text);
	mcp_scan_free(scan);
	return ok;
}

/* ---- messages ---- */

static const struct row {
	const char *rules;
	const char *body;
	const char *rule; /* NULL: passes */
} rows[] = {
	/* open */
	{ "", TOOL("\"rm\""), NULL },
	{ "", TOOL("7"), NULL },
	{ "", READ("\"file:///x\""), NULL },
	/* deny */
	{ "deny-tool=rm*", TOOL("\"ls\""), NULL },
	{ "deny-tool=rm*", TOOL("\"rm\""), "--deny-tool \"rm*\"" },
	{ "deny-tool=rm*", TOOL("\"rmdir\""), "--deny-tool \"rm*\"" },
	{ "deny-tool=rm*", TOOL("\"r\\u006ddir\""), "--deny-tool \"rm*\"" },
	{ "deny-tool=rm*", "{\"jsonrpc\":\"2.0\",\"id\":1,\"m\\u0065thod\":\"tools\\/call\",\"p\\u0061rams\":{\"n\\u0061me\":\"rm\"}}",
	  "--deny-tool \"rm*\"" },
	{ "deny-tool=x deny-tool=rm*", TOOL("\"rm\""), "--deny-tool \"rm*\"" },
	{ "deny-tool=*", TOOL("\"\""), "--deny-tool \"*\"" },
	{ "deny-tool=rm", "{\"jsonrpc\":\"2.0\",\"method\":\"tools/call\",\"params\":{\"name\":\"rm\"}}", "--deny-tool \"rm\"" },
	/* closed once something is allowed */
	{ "allow-tool=ls", TOOL("\"ls\""), NULL },
	{ "allow-tool=ls", TOOL("\"LS\""), "--allow-tool: no pattern matches" },
	{ "allow-tool=ls", TOOL("\"rm\""), "--allow-tool: no pattern matches" },
	{ "allow-tool=ls allow-tool=rm", TOOL("\"rm\""), NULL },
	{ "allow-tool=ls", TOOL("\"\""), "--allow-tool: no pattern matches" },
	/* deny wins, in any order */
	{ "allow-tool=* deny-tool=rm", TOOL("\"rm\""), "--deny-tool \"rm\"" },
	{ "deny-tool=rm allow-tool=rm", TOOL("\"rm\""), "--deny-tool \"rm\"" },
	{ "allow-tool=* deny-tool=rm", TOOL("\"ls\""), NULL },
	/* a name that cannot be told */
	{ "deny-tool=rm", TOOL("7"), "--deny-tool: the message does not say which" },
	{ "deny-tool=rm", TOOL("[\"rm\"]"), "--deny-tool: the message does not say which" },
	{ "deny-tool=rm", TOOL("null"), "--deny-tool: the message does not say which" },
	{ "allow-tool=*", TOOL("{\"name\":\"ls\"}"), "--allow-tool: the message does not say which" },
	{ "deny-tool=rm", MESSAGE("tools/call", "{}"), "--deny-tool: the message does not say which" },
	{ "deny-tool=rm", MESSAGE("tools/call", "[\"rm\"]"), "--deny-tool: the message does not say which" },
	{ "deny-tool=rm", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"}", "--deny-tool: the message does not say which" },
	{ "deny-tool=rm", MESSAGE("tools/call", "{\"uri\":\"ls\",\"arguments\":{\"name\":\"ls\"}}"),
	  "--deny-tool: the message does not say which" },
	{ "deny-prompt=rm allow-resource-scheme=x allow-prompt=x", TOOL("7"), NULL },
	/* each kind has its own */
	{ "allow-tool=a", MESSAGE("prompts/get", "{\"name\":\"b\"}"), NULL },
	{ "allow-prompt=a", TOOL("\"b\""), NULL },
	{ "deny-prompt=b*", MESSAGE("prompts/get", "{\"name\":\"bc\"}"), "--deny-prompt \"b*\"" },
	{ "allow-prompt=a", MESSAGE("prompts/get", "{\"name\":\"b\"}"), "--allow-prompt: no pattern matches" },
	{ "allow-prompt=a", MESSAGE("prompts/get", "{\"name\":1}"), "--allow-prompt: the message does not say which" },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("initialize", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("ping", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("tools/list", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("resources/list", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("resources/templates/list", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("server/discover", "{}"), NULL },
	{ "allow-tool=a allow-prompt=a allow-resource-scheme=a", MESSAGE("logging/setLevel", "{\"name\":\"b\"}"), NULL },
	{ "allow-tool=a allow-method=tools/*", "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"name\":\"b\"}}", NULL },
	/* schemes */
	{ "allow-resource-scheme=file", READ("\"file:///x\""), NULL },
	{ "allow-resource-scheme=file", READ("\"FiLe:///x\""), NULL },
	{ "allow-resource-scheme=FILE", READ("\"filE:///x\""), NULL },
	{ "deny-resource-scheme=F*E", READ("\"file:///x\""), "--deny-resource-scheme \"F*E\"" },
	{ "allow-resource-scheme=git*", READ("\"git+ssh://x\""), NULL },
	{ "allow-resource-scheme=file", READ("\"files:///x\""), "--allow-resource-scheme: no pattern matches" },
	{ "deny-resource-scheme=file", READ("\"FILE:x\""), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", READ("\"http://x/file:\""), NULL },
	{ "deny-resource-scheme=file", READ("\" file:///x\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"fi\\tle:///x\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"/etc/passwd\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"file\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\":x\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"1x:y\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("[\"x:y\"]"), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", READ("\"\\uff46ile:///x\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", MESSAGE("resources/subscribe", "{\"uri\":\"file:x\"}"), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", MESSAGE("resources/unsubscribe", "{\"uri\":\"file:x\"}"), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", MESSAGE("resources/unheard-of", "{\"uri\":\"file:x\"}"), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", MESSAGE("tools/call", "{\"uri\":\"file:x\"}"), NULL },
	/* completion, of what may not be had */
	{ "deny-prompt=p* deny-resource-scheme=file", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"q\""), NULL },
	{ "deny-prompt=p*", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"pq\""), "--deny-prompt \"p*\"" },
	{ "deny-prompt=p*", COMPLETE("\"name\":\"pq\",\"t\\u0079pe\":\"ref\\/prompt\""), "--deny-prompt \"p*\"" },
	{ "allow-prompt=q", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"pq\""), "--allow-prompt: no pattern matches" },
	{ "allow-prompt=q", COMPLETE("\"type\":\"ref/prompt\",\"name\":7"), "--allow-prompt: the message does not say which" },
	{ "allow-prompt=q", COMPLETE("\"type\":\"ref/prompt\""), "--allow-prompt: the message does not say which" },
	{ "allow-prompt=q", COMPLETE("\"type\":\"ref/resource\",\"uri\":\"x:y\""), NULL },
	{ "deny-prompt=p", COMPLETE("\"type\":\"ref/resource\",\"uri\":\"x:y\",\"name\":\"p\""), "--deny-prompt \"p\"" },
	{ "deny-resource-scheme=file", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"p\""), NULL },
	{ "deny-resource-scheme=file", COMPLETE("\"type\":\"ref/resource\",\"uri\":\"File:///{path}\""), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", COMPLETE("\"type\":\"ref/resource\",\"uri\":\"{any}://x\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-resource-scheme=file", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"p\",\"uri\":\"file:x\""), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", COMPLETE("\"type\":\"ref/other\""), "--deny-resource-scheme: the message does not say which" },
	{ "deny-prompt=p", MESSAGE("completion/complete", "{\"ref\":\"p\"}"), "--deny-prompt: the message does not say which" },
	{ "deny-prompt=p", MESSAGE("completion/complete", "{\"Ref\":{\"type\":\"ref/prompt\",\"name\":\"p\"}}"),
	  "--deny-prompt: the message does not say which" },
	{ "deny-tool=p", COMPLETE("\"type\":\"ref/prompt\",\"name\":\"p\""), NULL },
	{ "", COMPLETE("\"type\":7"), NULL },
	/* being told of changes */
	{ "deny-resource-scheme=file", LISTEN("[\"x:1\",\"y:2\",\"x:3\"]"), NULL },
	{ "deny-resource-scheme=file", LISTEN("[\"x:1\",\"y:2\",\"FILE:x\",\"z:1\"]"), "--deny-resource-scheme \"file\"" },
	{ "deny-resource-scheme=file", LISTEN("[\"x:1\",\"f\\u0069le:x\"]"), "--deny-resource-scheme \"file\"" },
	{ "allow-resource-scheme=x", LISTEN("[\"x:1\",\"y:2\"]"), "--allow-resource-scheme: no pattern matches" },
	{ "allow-resource-scheme=x", LISTEN("[]"), NULL },
	{ "allow-resource-scheme=x", LISTEN("null"), NULL },
	{ "allow-resource-scheme=*", LISTEN("[\"x:1\",7]"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", LISTEN("[\"x:1\",[\"y:1\"],\"z:1\"]"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", LISTEN("[\"\"]"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", LISTEN("[\"x:\\u0000\"]"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", LISTEN("{\"0\":\"x:1\"}"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", LISTEN("\"x:1\""), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", MESSAGE("subscriptions/listen", "{\"notifications\":[]}"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", MESSAGE("subscriptions/listen", "{\"notifications\":{\"ResourceSubscriptions\":[]}}"),
	  "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=*", MESSAGE("subscriptions/listen", "{\"Notifications\":{}}"), "--allow-resource-scheme: the message does not say which" },
	{ "allow-resource-scheme=x", MESSAGE("subscriptions/listen", "{\"notifications\":{\"toolsListChanged\":true}}"), NULL },
	{ "allow-resource-scheme=x", MESSAGE("subscriptions/listen", "{}"), NULL },
	{ "deny-tool=x", LISTEN("[7]"), NULL },
	{ "deny-resource-scheme=file", MESSAGE("other", "{\"notifications\":{\"resourceSubscriptions\":[\"file:x\"]}}"), NULL },
	/* methods, needed for a session or not */
	{ "allow-method=tools/*", TOOL("\"a\""), NULL },
	{ "allow-method=tools/*", MESSAGE("initialize", "{}"), "--allow-method: no pattern matches" },
	{ "allow-method=tools/* allow-method=initialize", MESSAGE("initialize", "{}"), NULL },
	{ "deny-method=notifications/*", "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}", "--deny-method \"notifications/*\"" },
	{ "deny-method=ping", MESSAGE("ping", "{}"), "--deny-method \"ping\"" },
	{ "deny-method=ping", MESSAGE("p\\u0069ng", "{}"), "--deny-method \"ping\"" },
	{ "allow-method=tools/call allow-tool=a", TOOL("\"b\""), "--allow-tool: no pattern matches" },
	{ "deny-method=tools/call allow-tool=a", TOOL("\"a\""), "--deny-method \"tools/call\"" },
};

START_TEST(messages)
{
	const struct row *row = &rows[_i];
	struct rules rules = { 0 };
	char copy[256];
	bool ok;

	add_all(&rules, row->rules, copy, sizeof(copy));
	ok = allowed(&rules, row->body);
	ck_assert_msg(ok == !row->rule, "%s: %s: %s", row->rules, row->body, ok ? "passes" : text);
	ck_assert_msg(ok || strcmp(text, row->rule) == 0, "%s: %s: %s", row->rules, row->body, text);
}
END_TEST

/* ---- patterns ---- */

static const struct {
	const char *pattern, *name;
	bool match;
} globs[] = {
	{ "a", "a", true }, { "a", "b", false }, { "a", "ab", false }, { "ab", "a", false }, { "a", "", false },
	{ "*", "", true }, { "*", "abc", true }, { "**", "abc", true }, { "*c", "abc", true }, { "*b", "abc", false },
	{ "a*", "a", true }, { "a*c", "abbc", true }, { "a*c", "abcb", false }, { "a*b*c", "a-b-b-c", true },
	{ "*ab", "aab", true }, { "*aab", "aaaab", true }, { "a*a", "a", false }, { "?", "a", true }, { "?", "", false },
	{ "?", "ab", false }, { "a?c", "abc", true }, { "*?", "", false }, { "?*", "abc", true }, { "?", "\xc3\xa4", true },
	{ "??", "\xc3\xa4", false }, { "*??", "\xe2\x82\xac", false }, { "*??", "a\xe2\x82\xac", true }, { "?", "\xf0\x9d\x84\x9e", true },
	{ "[ab]", "a", false }, { "[ab]", "[ab]", true }, { "\\*", "*", false }, { "\\*", "\\x", true }, { "{a,b}", "a", false },
	{ "A", "a", false }, { "a.c", "abc", false }, { "*", "\n", true }, { "?", "\n", true }, { "/*", "/x/y", true },
};

START_TEST(patterns)
{
	struct rules rules = { 0 };
	struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("tools/call"), .name = span_of(globs[_i].name) };

	ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_ALLOW, globs[_i].pattern), 0);
	ck_assert_msg(rules_allow(&rules, &view, text) == globs[_i].match, "%s, %s", globs[_i].pattern, globs[_i].name);
}
END_TEST

START_TEST(patterns_that_are_none)
{
	static const char *const bad[] = { "", "a\nb", "a\x7f", "\xff", "a\xc3" };
	static const char *const no_scheme[] = { "file:", "file://", "a b", "\xc3\xa4", "a/b" };
	struct rules rules = { 0 };
	char longest[RULES_PATTERN_MAX + 2];

	for (enum rules_kind kind = 0; kind < RULES_KIND_N; kind++)
		for (size_t i = 0; i < ARRAY_LEN(bad); i++)
			ck_assert_int_eq(rules_add(&rules, kind, RULES_DENY, bad[i]), -EINVAL);
	for (size_t i = 0; i < ARRAY_LEN(no_scheme); i++)
		ck_assert_int_eq(rules_add(&rules, RULES_SCHEME, RULES_ALLOW, no_scheme[i]), -EINVAL);
	memset(longest, 'x', sizeof(longest));
	longest[RULES_PATTERN_MAX + 1] = '\0';
	ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_DENY, longest), -EINVAL);
	longest[RULES_PATTERN_MAX] = '\0';
	for (size_t i = 0; i < RULES_MAX; i++)
		ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_DENY, longest), 0);
	ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_DENY, "x"), -ENOSPC);
	ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_ALLOW, "x"), 0);
}
END_TEST

/* The longest pattern of the longest option is told whole. */
START_TEST(rule_is_told_whole)
{
	struct rules rules = { 0 };
	struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("resources/read"), .uri = SPAN("x:y") };
	char longest[RULES_PATTERN_MAX + 1];

	memset(longest, '*', sizeof(longest));
	longest[RULES_PATTERN_MAX] = '\0';
	ck_assert_int_eq(rules_add(&rules, RULES_SCHEME, RULES_DENY, longest), 0);
	ck_assert(!rules_allow(&rules, &view, text));
	ck_assert_uint_eq(strlen(text), strlen("--deny-resource-scheme \"\"") + RULES_PATTERN_MAX);
	ck_assert_int_eq(text[strlen(text) - 1], '"');
}
END_TEST

/* Of a route, on top of those of all. */
START_TEST(merged)
{
	static const struct {
		const char *tool;
		bool allowed;
	} t[] = { { "own", true }, { "all", false }, { "own-rm", false }, { "own-x", false }, { "ownX", true } };
	struct rules common = { 0 }, route = { 0 };

	rules_add(&common, RULES_TOOL, RULES_ALLOW, "all");
	rules_add(&common, RULES_TOOL, RULES_DENY, "*rm");
	rules_add(&common, RULES_PROMPT, RULES_ALLOW, "p");
	rules_add(&route, RULES_TOOL, RULES_ALLOW, "own*");
	rules_add(&route, RULES_TOOL, RULES_DENY, "own-x");
	rules_merge(&route, &common);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		const struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("tools/call"), .name = span_of(t[i].tool) };

		ck_assert_msg(rules_allow(&route, &view, text) == t[i].allowed, "%s", t[i].tool);
	}
	ck_assert_uint_eq(route.lists[RULES_PROMPT][RULES_ALLOW].n, 1);
	ck_assert_uint_eq(common.lists[RULES_TOOL][RULES_DENY].n, 1);
}
END_TEST

/* As many of both as options give. */
START_TEST(merged_when_full)
{
	struct rules common = { 0 }, route = { 0 };
	const struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("tools/call"), .name = SPAN("last") };

	for (size_t i = 0; i < RULES_MAX / 2; i++) {
		ck_assert_int_eq(rules_add(&common, RULES_TOOL, RULES_DENY, i == RULES_MAX / 2 - 1 ? "last" : "x"), 0);
		ck_assert_int_eq(rules_add(&route, RULES_TOOL, RULES_DENY, "y"), 0);
	}
	rules_merge(&route, &common);
	ck_assert_uint_eq(route.lists[RULES_TOOL][RULES_DENY].n, RULES_MAX);
	ck_assert(!rules_allow(&route, &view, text));
}
END_TEST

/* The most that a name and the worst pattern can cost. */
START_TEST(work_is_bounded)
{
	static char name[MCP_NAME_MAX];
	char pattern[RULES_PATTERN_MAX + 1];
	struct rules rules = { 0 };
	struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("tools/call"), .name = { name, sizeof(name) } };

	memset(name, 'a', sizeof(name));
	for (size_t i = 0; i < RULES_PATTERN_MAX; i++)
		pattern[i] = i % 2 ? 'a' : '*';
	pattern[RULES_PATTERN_MAX - 1] = 'b';
	pattern[RULES_PATTERN_MAX] = '\0';
	for (size_t i = 0; i < RULES_MAX; i++)
		ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_DENY, pattern), 0);
	for (size_t i = 0; i < MCP_BATCH_MAX; i++)
		ck_assert(rules_allow(&rules, &view, text));
}
END_TEST

#define ADD_ROWS(fn, rows) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(rows));

UNIT_MAIN("rules", ADD_ROWS(messages, rows) ADD_ROWS(patterns, globs) ADD(patterns_that_are_none) ADD(rule_is_told_whole)
	  ADD(work_is_bounded) ADD(merged) ADD(merged_when_full))
