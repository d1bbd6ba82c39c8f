#include "gateway/policy.h"

#include "tests/lib/unit.h"

#include <string.h>

#define F(n, v) { SPAN_INIT(n), SPAN_INIT(v) }

static char detail[POLICY_DETAIL_MAX];

/* ---- the head ---- */

struct head_row {
	const char *what;
	bool allow_query;
	uint32_t reason;
	size_t n;
	struct tp_field fields[6];
};

#define ROW(what, allow_query, reason, ...)                                                                            \
	{                                                                                                              \
		what, allow_query, TP_REASON_##reason,                                                                 \
			sizeof((struct tp_field[]){ __VA_ARGS__ }) / sizeof(struct tp_field), { __VA_ARGS__ }          \
	}
#define EXCHANGE F(":kind", "exchange")

static const struct head_row heads[] = {
	ROW("post", false, NONE, EXCHANGE, F(":method", "POST"), F("Accept", "text/event-stream")),
	ROW("get", false, NONE, EXCHANGE, F(":method", "GET")),
	ROW("delete", false, NONE, EXCHANGE, F(":method", "DELETE"), F("Mcp-Session-Id", "1")),
	ROW("default route", false, NONE, EXCHANGE, F(":route", ""), F(":method", "GET")),
	ROW("no kind", false, REFUSED, F(":method", "GET")),
	ROW("pipe", false, REFUSED, F(":kind", "pipe"), F(":method", "GET")),
	ROW("kind by case", false, REFUSED, F(":kind", "Exchange"), F(":method", "GET")),
	ROW("a route", false, NONE, EXCHANGE, F(":route", "other"), F(":method", "GET")),
	ROW("no method", false, BAD_REQUEST, EXCHANGE),
	ROW("put", false, BAD_REQUEST, EXCHANGE, F(":method", "PUT")),
	ROW("head", false, BAD_REQUEST, EXCHANGE, F(":method", "HEAD")),
	ROW("connect", false, BAD_REQUEST, EXCHANGE, F(":method", "CONNECT")),
	ROW("method by case", false, BAD_REQUEST, EXCHANGE, F(":method", "post")),
	ROW("method with more", false, BAD_REQUEST, EXCHANGE, F(":method", "GET /x HTTP/1.1")),
	ROW("query", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a=1")),
	ROW("empty query", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "")),
	ROW("query allowed", true, NONE, EXCHANGE, F(":method", "GET"), F(":query", "a=1&b=%20?/x")),
	ROW("query with a space", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a b")),
	ROW("query with a tab", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\tb")),
	ROW("query with CR", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\rb")),
	ROW("query with LF", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\nb")),
	ROW("query with NUL", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\0b")),
	ROW("query with DEL", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\x7f")),
	ROW("query beyond ASCII", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a\xc3\xa4")),
	ROW("query with a fragment", true, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":query", "a#b")),
	ROW("space in a name", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A b", "1")),
	ROW("colon in a name", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A:", "1")),
	ROW("LF in a name", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A\nHost", "1")),
	ROW("CR in a value", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A", "1\rHost: x")),
	ROW("LF in a value", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A", "1\nHost: x")),
	ROW("NUL in a value", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A", "1\0")),
	ROW("agent with ESC", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":agent", "a\x1b[1m")),
	ROW("call id with a space behind", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F(":call", "a ")),
	ROW("white space before a value", false, BAD_REQUEST, EXCHANGE, F(":method", "GET"), F("A", " 1")),
	ROW("obs-text is a value", false, NONE, EXCHANGE, F(":method", "GET"), F("A", "\xe4")),
	ROW("empty value", false, NONE, EXCHANGE, F(":method", "GET"), F("A", "")),
	ROW("a charset", false, NONE, EXCHANGE, F(":method", "POST"), F("Content-Type", "application/json;charset=UTF-8")),
	ROW("a charset in quotes", false, NONE, EXCHANGE, F(":method", "POST"), F("content-type", "a/b; Charset=\"utf8\" ; x=y")),
	ROW("another charset", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset=utf-7")),
	ROW("another charset in quotes", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset=\"utf-16\"")),
	ROW("a charset that goes on", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset=utf-80")),
	ROW("a charset of no name", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset")),
	ROW("an empty charset", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset=")),
	ROW("an extended charset", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset*=''utf-8")),
	ROW("a charset with a blank", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset =utf-8")),
	ROW("two charsets", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b; charset=utf-8;charset=utf-7")),
	ROW("two types", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content-Type", "a/b"), F("Content_Type", "a/b;CHARSET=gbk")),
	ROW("a charset of no body", false, NONE, EXCHANGE, F(":method", "GET"), F("Content-Type", "a/b; charset=utf-7")),
	ROW("not coded", false, NONE, EXCHANGE, F(":method", "POST"), F("Content-Encoding", "Identity")),
	ROW("coded", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("content-encoding", "gzip")),
	ROW("coded twice", false, BAD_REQUEST, EXCHANGE, F(":method", "POST"), F("Content_Encoding", "identity, br")),
	ROW("unknown pseudo-field", false, NONE, EXCHANGE, F(":method", "GET"), F(":later", "1")),
};

START_TEST(head)
{
	const struct head_row *row = &heads[_i];
	const struct policy_config cfg = { .allow_query = row->allow_query };
	uint32_t reason;

	detail[0] = '\0';
	reason = policy_check_head(&cfg, row->fields, row->n, detail);
	ck_assert_msg(reason == row->reason, "%s: %s (%s)", row->what, tp_reason_name(reason), detail);
	ck_assert_msg((reason == TP_REASON_NONE) == (detail[0] == '\0'), "%s: %s", row->what, detail);
}
END_TEST

START_TEST(no_such_route)
{
	const struct tp_field fields[] = { EXCHANGE, F(":route", "other"), F(":method", "GET") };

	ck_assert_uint_eq(policy_check_head(NULL, fields, 3, detail), TP_REASON_NO_ROUTE);
	ck_assert_str_eq(detail, "no such route: \"other\"");
	ck_assert_uint_eq(policy_check_head(NULL, fields, 1, detail), TP_REASON_NO_ROUTE);
	ck_assert_uint_eq(policy_check_head(NULL, fields + 1, 2, detail), TP_REASON_REFUSED);
}
END_TEST

START_TEST(long_things_are_cut_in_the_detail)
{
	static char text[POLICY_QUERY_MAX + 1];
	const struct policy_config cfg = { .allow_query = true };
	struct tp_field fields[] = { EXCHANGE, F(":method", ""), F(":query", "") };

	memset(text, 'x', sizeof(text));
	fields[1].value = span_make(text, sizeof(text));
	ck_assert_uint_eq(policy_check_head(&cfg, fields, 3, detail), TP_REASON_BAD_REQUEST);
	ck_assert_uint_lt(strlen(detail), POLICY_DETAIL_MAX);
	fields[1].value = SPAN("GET");
	fields[2].value = span_make(text, POLICY_QUERY_MAX);
	ck_assert_uint_eq(policy_check_head(&cfg, fields, 3, detail), TP_REASON_NONE);
	fields[2].value = span_make(text, POLICY_QUERY_MAX + 1);
	ck_assert_uint_eq(policy_check_head(&cfg, fields, 3, detail), TP_REASON_BAD_REQUEST);
}
END_TEST

START_TEST(fields_that_pass)
{
	static const char *const pass[] = {
		"Accept", "Accept-Encoding", "Authorization", "Content-Type", "Cookie", "Mcp-Session-Id", "Mcp-Method", "Mcp-Name",
		"Mcp-Param-x", "MCP-Protocol-Version", "Last-Event-ID", "traceparent", "tracestate", "baggage", "User-Agent", "X-Host",
		"Mcp-Tunnel", "Mcp-Tunne-l", "Forwarded", "Hos", "Hosts", "T", "TEE",
	};
	static const char *const stay[] = {
		"Host", "host", "HOST", "Origin", "Content-Length", "content-length", "Content_Length", "Connection", "Keep-Alive",
		"Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "transfer_encoding", "Upgrade", "Proxy-Authenticate",
		"Proxy-Authorization", "Expect", "Mcp-Tunnel-", "Mcp-Tunnel-Agent", "mcp-tunnel-call", "MCP-TUNNEL-ANYTHING",
		"Mcp_Tunnel_Agent", "Mcp-Tunnel_Agent", "mcp_tunnel-call",
	};

	for (size_t i = 0; i < ARRAY_LEN(pass); i++)
		ck_assert_msg(policy_field_passes(span_of(pass[i])), "%s", pass[i]);
	for (size_t i = 0; i < ARRAY_LEN(stay); i++)
		ck_assert_msg(!policy_field_passes(span_of(stay[i])), "%s", stay[i]);
}
END_TEST

/* ---- mirrored headers ---- */

#define CALL(method, params) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":{" params "}}"
#define VERSION(v) "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"" v "\"}"

struct mirror_row {
	const char *what;
	bool matches;
	const char *body;
	size_t n;
	struct tp_field fields[3];
};

#define MIRROR(what, matches, body, ...)                                                                               \
	{                                                                                                              \
		what, matches, body, sizeof((struct tp_field[]){ __VA_ARGS__ }) / sizeof(struct tp_field), { __VA_ARGS__ } \
	}

static const struct mirror_row mirrors[] = {
	MIRROR("none", true, CALL("tools/call", "\"name\":\"a\""), F("Accept", "*/*")),
	MIRROR("method", true, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Method", "tools/call")),
	MIRROR("field name by case", false, CALL("tools/call", "\"name\":\"a\""), F("mcp-METHOD", "tools/list")),
	MIRROR("another method", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Method", "tools/list")),
	MIRROR("method by case", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Method", "Tools/Call")),
	MIRROR("empty method", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Method", "")),
	MIRROR("escaped method", true, CALL("tools\\/c\\u0061ll", "\"name\":\"a\""), F("Mcp-Method", "tools/call")),
	MIRROR("name", true, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "a")),
	MIRROR("another name", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "b")),
	MIRROR("beginning of the name", false, CALL("tools/call", "\"name\":\"ab\""), F("Mcp-Name", "a")),
	MIRROR("more than the name", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "ab")),
	MIRROR("empty header", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "")),
	MIRROR("empty header, no name", true, CALL("tools/list", "\"cursor\":\"\""), F("Mcp-Name", "")),
	MIRROR("name that is not there", false, CALL("tools/call", "\"x\":\"a\""), F("Mcp-Name", "a")),
	MIRROR("name that is no string", false, CALL("tools/call", "\"name\":[\"a\"]"), F("Mcp-Name", "a")),
	MIRROR("prompt", true, CALL("prompts/get", "\"name\":\"a\""), F("Mcp-Name", "a")),
	MIRROR("base64", true, CALL("tools/call", "\"name\":\"\xc3\xa4\""), F("Mcp-Name", "=?base64?w6Q=?=")),
	MIRROR("base64 of plain text", true, CALL("tools/call", "\"name\":\"abc\""), F("Mcp-Name", "=?base64?YWJj?=")),
	MIRROR("base64 of another", false, CALL("tools/call", "\"name\":\"abd\""), F("Mcp-Name", "=?base64?YWJj?=")),
	MIRROR("base64 of nothing", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "=?base64?\?=")),
	MIRROR("escaped name", true, CALL("tools/call", "\"name\":\"\\u00e4\""), F("Mcp-Name", "=?base64?w6Q=?=")),
	MIRROR("bad base64", false, CALL("tools/call", "\"name\":\"abc\""), F("Mcp-Name", "=?base64?YWJ?=")),
	MIRROR("bad base64 is not itself", false, CALL("tools/call", "\"name\":\"=?base64?YWJ?=\""), F("Mcp-Name", "=?base64?YWJ?=")),
	MIRROR("base64 that is not UTF-8", false, CALL("tools/call", "\"name\":\"=?base64?/w==?=\""), F("Mcp-Name", "=?base64?/w==?=")),
	MIRROR("NUL inside", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "=?base64?YQBi?=")),
	MIRROR("NUL at the end", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "=?base64?YQA=?=")),
	MIRROR("NUL is not its header", false, CALL("tools/call", "\"name\":\"=?base64?YQA=?=\""), F("Mcp-Name", "=?base64?YQA=?=")),
	MIRROR("looks encoded, by half", true, CALL("tools/call", "\"name\":\"=?base64?x\""), F("Mcp-Name", "=?base64?x")),
	MIRROR("two names", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "a"), F("Mcp-Name", "b")),
	MIRROR("the name twice", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Name", "a"), F("mcp-name", "a")),
	MIRROR("two methods", false, CALL("tools/call", "\"name\":\"a\""), F("Mcp-Method", "tools/call"), F("Mcp-Method", "x")),
	MIRROR("uri", true, CALL("resources/read", "\"uri\":\"file:///x\""), F("Mcp-Name", "file:///x")),
	MIRROR("another uri", false, CALL("resources/read", "\"uri\":\"file:///x\""), F("Mcp-Name", "file:///y")),
	MIRROR("uri, whatever is named", true, CALL("resources/read", "\"name\":\"a\",\"uri\":\"file:///x\""), F("Mcp-Name", "file:///x")),
	MIRROR("name beside a uri", false, CALL("resources/read", "\"name\":\"a\",\"uri\":\"file:///x\""), F("Mcp-Name", "a")),
	MIRROR("uri of a tool call", false, CALL("tools/call", "\"uri\":\"a\""), F("Mcp-Name", "a")),
	MIRROR("version", true, CALL("tools/list", VERSION("2026-07-28")), F("MCP-Protocol-Version", "2026-07-28")),
	MIRROR("another version", false, CALL("tools/list", VERSION("2026-07-28")), F("MCP-Protocol-Version", "2025-06-18")),
	MIRROR("version in the header alone", true, CALL("tools/list", "\"x\":1"), F("MCP-Protocol-Version", "2025-06-18")),
	MIRROR("initialize negotiates", true, CALL("initialize", "\"protocolVersion\":\"2025-11-25\""),
	       F("MCP-Protocol-Version", "2025-06-18")),
	MIRROR("initialize has a method", false, CALL("initialize", "\"protocolVersion\":\"2025-11-25\""), F("Mcp-Method", "ping")),
	MIRROR("notification", false, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}", F("Mcp-Method", "notifications/y")),
	MIRROR("a response has no method", true, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", F("Mcp-Method", "tools/call")),
	MIRROR("a batch has many", true, "[" CALL("tools/call", "\"name\":\"a\"") "]", F("Mcp-Name", "b")),
	MIRROR("all three", true, CALL("tools/call", "\"name\":\"a\"," VERSION("2026-07-28")), F("Mcp-Method", "tools/call"),
	       F("Mcp-Name", "a"), F("MCP-Protocol-Version", "2026-07-28")),
};

START_TEST(mirror)
{
	const struct mirror_row *row = &mirrors[_i];
	struct policy_mirror m;
	struct mcp_scan *scan;
	struct mcp_view view;
	uint32_t reason;

	ck_assert_int_ge(policy_mirror_init(&m, row->fields, row->n), 0);
	ck_assert_int_eq(mcp_scan_new(&scan), 0);
	ck_assert_int_eq(mcp_scan_feed(scan, row->body, strlen(row->body)), 0);
	mcp_scan_finish(scan, &view);
	ck_assert_msg(!mcp_scan_bad(scan), "%s: %s", row->what, mcp_scan_bad(scan));
	reason = policy_check_message(&m, &view, detail);
	ck_assert_msg(reason == (row->matches ? TP_REASON_NONE : TP_REASON_HEADER_MISMATCH), "%s: %s", row->what,
		      tp_reason_name(reason));
	policy_mirror_done(&m);
	mcp_scan_free(scan);
}
END_TEST

START_TEST(no_mirror_costs_nothing)
{
	static const struct tp_field fields[] = { F("Accept", "*/*"), F("Mcp-Session-Id", "1") };
	struct policy_mirror m;

	ck_assert_int_eq(policy_mirror_init(&m, fields, ARRAY_LEN(fields)), POLICY_MIRROR_NONE);
	ck_assert_ptr_null(m.method);
	ck_assert_ptr_null(m.name);
	ck_assert_ptr_null(m.protocol_version);
	policy_mirror_done(&m);
	policy_mirror_done(&m);
}
END_TEST

#define ADD_ROWS(fn, rows) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(rows));

UNIT_MAIN("policy", ADD_ROWS(head, heads) ADD(no_such_route) ADD(long_things_are_cut_in_the_detail) ADD(fields_that_pass) ADD_ROWS(mirror, mirrors)
	  ADD(no_mirror_costs_nothing))
