#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/audit_record.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

static const struct audit_ending complete = { .http_status = 200, .response_bytes = 45, .ttfb_us = 678 };

/* Replaces the value of what differs each time by "*". */
static void blank(char *line, const char *before, char until)
{
	char *at = strstr(line, before), *end;

	ck_assert_msg(at != NULL, "%s is not in %s", before, line);
	at += strlen(before);
	end = strchr(at, until);
	ck_assert_ptr_nonnull(end);
	*at = '*';
	memmove(at + 1, end, strlen(end) + 1);
}

/* ---- Exact records ---- */

#define REQUEST_LINE                                                                                                   \
	"{\"message\":\"MCPAUDIT v=1 ev=call.request seq=0 call=" CALL_ID " agent=\\\"alice@example.com\\\" "              \
	"method=tools/call tool=\\\"get_weather\\\" args=" ARGS_HASH " decision=allow\","                                 \
	"\"message_id\":\"b841c1811f564dbba297bc18d8dee8aa\",\"priority\":\"6\","                                         \
	"\"syslog_identifier\":\"mcp-tunnel-gateway\",\"mcp_schema\":\"1\",\"mcp_event\":\"call.request\","                \
	"\"mcp_time\":\"*\",\"mcp_gateway_version\":\"" MCP_TUNNEL_VERSION "\",\"mcp_seq\":\"0\","                         \
	"\"mcp_tunnel_id\":\"acme\",\"mcp_tunnel_session\":\"00ff\",\"mcp_peer\":\"192.0.2.1:443\","                       \
	"\"mcp_call_id\":\"" CALL_ID "\",\"mcp_kind\":\"request\",\"mcp_method\":\"tools/call\","                          \
	"\"mcp_tool\":\"get_weather\",\"mcp_agent_id\":\"alice@example.com\",\"mcp_agent_auth\":\"mtls\","                 \
	"\"mcp_jsonrpc_id\":\"7\",\"mcp_args_hash\":\"" ARGS_HASH "\",\"mcp_agent_claimed\":\"agent-app\","                \
	"\"mcp_protocol_version\":\"2026-07-28\",\"mcp_trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\","                   \
	"\"mcp_upstream\":\"http://127.0.0.1:3000/mcp\",\"mcp_req_bytes\":\"123\",\"mcp_decision\":\"allow\"}"

#define RESPONSE_LINE                                                                                                  \
	"{\"message\":\"MCPAUDIT v=1 ev=call.response seq=1 call=" CALL_ID " agent=\\\"alice@example.com\\\" "             \
	"method=tools/call tool=\\\"get_weather\\\" status=ok reason=none http=200 duration_us=* resp_bytes=45\","        \
	"\"message_id\":\"ba9050821cf242d4a0d3709bbfbe2dbc\",\"priority\":\"6\","                                         \
	"\"syslog_identifier\":\"mcp-tunnel-gateway\",\"mcp_schema\":\"1\",\"mcp_event\":\"call.response\","               \
	"\"mcp_time\":\"*\",\"mcp_gateway_version\":\"" MCP_TUNNEL_VERSION "\",\"mcp_seq\":\"1\","                         \
	"\"mcp_tunnel_id\":\"acme\",\"mcp_tunnel_session\":\"00ff\",\"mcp_peer\":\"192.0.2.1:443\","                       \
	"\"mcp_call_id\":\"" CALL_ID "\",\"mcp_kind\":\"request\",\"mcp_method\":\"tools/call\","                          \
	"\"mcp_tool\":\"get_weather\",\"mcp_agent_id\":\"alice@example.com\",\"mcp_agent_auth\":\"mtls\","                 \
	"\"mcp_status\":\"ok\",\"mcp_reason\":\"none\",\"mcp_http_status\":\"200\",\"mcp_duration_us\":\"*\","             \
	"\"mcp_ttfb_us\":\"678\",\"mcp_resp_bytes\":\"45\"}"

START_TEST(pair)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	char *copy, *line;
	struct stat st;
	struct tm tm;

	setup_file();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	audit_set_session(audit, "00ff", "192.0.2.1:443");
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_ptr_nonnull(open);
	copy = strdup(read_file(path));
	line = line_at(copy, 0);
	ck_assert_ptr_nonnull(line);
	ck_assert_ptr_nonnull(strptime(strstr(line, "mcp_time\":\"") + 11, "%Y-%m-%dT%H:%M:%S", &tm));
	ck_assert_str_eq(strchr(strstr(line, "mcp_time\":\""), '.') + 7, strstr(line, "Z\",\"mcp_gateway"));
	blank(line, "\"mcp_time\":\"", '"');
	ck_assert_str_eq(line, REQUEST_LINE);
	free(copy);

	audit_response(audit, open, &complete);
	copy = strdup(read_file(path));
	line = line_at(copy, 1);
	ck_assert_ptr_nonnull(line);
	blank(line, "\"mcp_time\":\"", '"');
	blank(line, "duration_us=", ' ');
	blank(line, "\"mcp_duration_us\":\"", '"');
	ck_assert_str_eq(line, RESPONSE_LINE);
	free(copy);
	ck_assert_ptr_null(line_at(text, 2));
	teardown();
}
END_TEST

START_TEST(denied)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	char *line;

	setup_file();
	audit_denied(audit, &call, TP_REASON_HEADER_MISMATCH, "Mcp-Name is \"other\"");
	line = line_at((char *)read_file(path), 0);
	assert_has(line, "ev=call.denied seq=0 call=" CALL_ID " agent=");
	assert_has(line, " decision=deny reason=header-mismatch rule=\\\"Mcp-Name is \\\\\\\"other\\\\\\\"\\\"\"");
	assert_has(line, "\"message_id\":\"af8637b252624887ae3c855d6fa56728\",\"priority\":\"4\"");
	assert_has(line, "\"mcp_decision\":\"deny\",\"mcp_reason\":\"header-mismatch\","
			 "\"mcp_rule\":\"Mcp-Name is \\\"other\\\"\"}");
	assert_lacks(line, "mcp_tunnel_session");
	assert_lacks(line, "never/recorded");
	teardown();
}
END_TEST

START_TEST(little_known)
{
	struct mcp_view view = { .kind = MCP_NOTIFICATION, .method = SPAN("prompts/get"), .name = SPAN("p") };
	struct audit_call call = { .call_id = SPAN(CALL_ID), .agent = SPAN(""), .trace = SPAN("00-x"), .view = &view };
	struct audit_open *open = NULL;
	char *line;

	setup_file();
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	audit_response(audit, open, &complete);
	line = line_at((char *)read_file(path), 0);
	assert_has(line, "\"mcp_kind\":\"notification\",\"mcp_method\":\"prompts/get\",\"mcp_prompt\":\"p\",");
	assert_has(line, "\"mcp_agent_id\":\"unknown\",\"mcp_agent_auth\":\"none\",\"mcp_args_hash\":\"none\"");
	assert_has(line, "agent=\\\"unknown\\\" method=prompts/get prompt=\\\"p\\\" args=none decision=allow");
	for (size_t i = 0; i < 5; i++)
		assert_lacks(line, ((const char *[]){ "mcp_tool\"", "jsonrpc", "trace", "route", "upstream" })[i]);
	call.view = NULL;
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	audit_response(audit, open, &complete);
	line = line_at((char *)read_file(path), 2);
	assert_has(line, "\"mcp_kind\":\"batch\"");
	assert_lacks(line, "mcp_method");
	assert_lacks(line, "args");
	teardown();
}
END_TEST

START_TEST(statuses)
{
	static const struct {
		uint32_t reason;
		unsigned http;
		const char *status;
		char priority;
	} rows[] = {
		{ TP_REASON_NONE, 200, "ok", '6' },
		{ TP_REASON_NONE, 202, "ok", '6' },
		{ TP_REASON_NONE, 399, "ok", '6' },
		{ TP_REASON_NONE, 400, "http_error", '4' },
		{ TP_REASON_UPSTREAM_TIMEOUT, 0, "timeout", '4' },
		{ TP_REASON_DEADLINE, 200, "timeout", '4' },
		{ TP_REASON_UPSTREAM_UNREACHABLE, 0, "upstream_unreachable", '4' },
		{ TP_REASON_CANCELLED, 200, "cancelled", '4' },
		{ TP_REASON_SESSION_LOST, 0, "session_lost", '4' },
		{ TP_REASON_GATEWAY_STOPPED, 0, "gateway_stopped", '4' },
		{ TP_REASON_UPSTREAM_CLOSED, 200, "http_error", '4' },
		{ TP_REASON_INTERNAL, 0, "http_error", '4' },
	};
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	char expect[200], *line;

	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct audit_ending e = { .reason = rows[i].reason, .http_status = rows[i].http };

		ck_assert_int_eq(audit_request(audit, &call, &open), 0);
		audit_response(audit, open, &e);
		line = line_at((char *)read_file(path), 2 * i + 1);
		snprintf(expect, sizeof(expect), "\"mcp_status\":\"%s\",\"mcp_reason\":\"%s\",%s", rows[i].status,
			 tp_reason_name(rows[i].reason), rows[i].http ? "\"mcp_http_status\"" : "\"mcp_duration_us\"");
		assert_has(line, expect);
		snprintf(expect, sizeof(expect), "\"priority\":\"%c\"", rows[i].priority);
		assert_has(line, expect);
		if (!rows[i].http)
			assert_lacks(line, "ttfb");
	}
	teardown();
}
END_TEST

/* Each response goes with its own request, whatever became of the memory of the request. */
START_TEST(interleaved)
{
	enum { CALLS = 50 };
	struct audit_open *open[CALLS];
	char id[40], name[40], expect[200], *line;
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	setup_file();
	for (int i = 0; i < CALLS; i++) {
		snprintf(id, sizeof(id), "call-%d", i);
		snprintf(name, sizeof(name), "tool-%d", i);
		call.call_id = span_of(id);
		view.name = span_of(name);
		ck_assert_int_eq(audit_request(audit, &call, &open[i]), 0);
	}
	memset(id, '!', sizeof(id));
	memset(name, '!', sizeof(name));
	for (int i = 0; i < CALLS; i++)
		audit_response(audit, open[i * 7 % CALLS], &complete);
	for (int i = 0; i < CALLS; i++) {
		line = line_at((char *)read_file(path), (size_t)(CALLS + i));
		snprintf(expect, sizeof(expect),
			 "seq=%d call=call-%d agent=\\\"alice@example.com\\\" method=tools/call tool=\\\"tool-%d\\\" ",
			 CALLS + i, i * 7 % CALLS, i * 7 % CALLS);
		assert_has(line, expect);
	}
	teardown();
}
END_TEST

/* ---- The hash of the arguments ---- */

static const char *hash_of(struct span arguments)
{
	static char hash[200];
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	char *at;

	ck_assert_int_eq(truncate(path, 0), 0);
	call.arguments = arguments;
	audit_denied(audit, &call, TP_REASON_POLICY, "");
	at = strstr(read_file(path), "\"mcp_args_hash\":\"");
	ck_assert_ptr_nonnull(at);
	snprintf(hash, sizeof(hash), "%.*s", (int)strcspn(at + 17, "\""), at + 17);
	return hash;
}

START_TEST(hash)
{
	static const char *const same[] = {
		"{\"a\":\"x\",\"b\":1}",
		" { \"b\" : 1.0 ,\r\n\t\"a\" : \"\\u0078\" } ",
		"{\"\\u0062\":10e-1,\"a\":\"x\"}",
	};
	static const char *const others[] = { "{\"a\":\"x\",\"b\":2}", "{\"a\":\"x\",\"b\":\"1\"}", "{}", "null" };
	char huge[1000];

	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(same); i++)
		ck_assert_str_eq(hash_of(span_of(same[i])), ARGS_HASH);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		ck_assert_str_ne(hash_of(span_of(others[i])), ARGS_HASH);
	ck_assert_str_eq(hash_of(span_of(NULL)), "none");
	ck_assert_str_eq(hash_of(SPAN("{\"a\":1,\"a\":2}")),
			 "hmac-sha256-raw:4267500d:332ea06403762e902bc6aa6e9067b92f279807bb6e0081866966a0d87a00212e");
	assert_has(hash_of(SPAN("9007199254740993")), "hmac-sha256-raw:4267500d:");
	assert_has(hash_of(SPAN("\"\\ud800\"")), "hmac-sha256-raw:4267500d:");
	memset(huge, '[', sizeof(huge));
	assert_has(hash_of(span_make(huge, sizeof(huge))), "hmac-sha256-raw:4267500d:");
	/* Short numbers whose canonical form is the longest there is. */
	for (size_t i = 0; i + 5 <= sizeof(huge); i += 5)
		memcpy(huge + i, i ? ",1e15" : "[1e15", 5);
	huge[sizeof(huge) - 1] = ']';
	assert_has(hash_of(span_make(huge, sizeof(huge))), "hmac-sha256-jcs:4267500d:");
	teardown();
}
END_TEST

START_TEST(jsonrpc_id)
{
	static const struct {
		const char *id, *expect;
	} rows[] = {
		{ "1", "\"mcp_jsonrpc_id\":\"1\"," },
		{ "1.0", "\"mcp_jsonrpc_id\":\"1\"," },
		{ "\"1\"", "\"mcp_jsonrpc_id\":\"\\\"1\\\"\"," },
		{ "\"\\u0041\\n\"", "\"mcp_jsonrpc_id\":\"\\\"A\\\\n\\\"\"," },
		{ "null", "\"mcp_jsonrpc_id\":\"null\"," },
		{ "90071992547409930", "\"mcp_jsonrpc_id\":\"90071992547409930\"," },
	};
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		view.id = span_of(rows[i].id);
		audit_denied(audit, &call, TP_REASON_POLICY, "");
		assert_has(read_file(path), rows[i].expect);
	}
	teardown();
}
END_TEST

/* ---- Values ---- */

START_TEST(escaping)
{
	static const struct {
		struct span in;
		const char *plain, *quoted; /* NULL: as plain */
	} rows[] = {
		{ BYTES("plain = {text}"), "plain = {text}", NULL },
		{ BYTES("a\nb\r\t\0c\x7f"), "a\\x0ab\\x0d\\x09\\x00c\\x7f", NULL },
		{ BYTES("a\"b"), "a\"b", "a\\\"b" },
		{ BYTES("CORP\\alice\\"), "CORP\\alice\\", "CORP\\\\alice\\\\" },
		{ BYTES("\\x0a"), "\\x5cx0a", "\\\\x0a" },
		{ BYTES("\\\n"), "\\\\x0a", "\\\\\\x0a" },
		{ BYTES("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", NULL },
		{ BYTES("\xff\xc3"), "\\xff\\xc3", NULL },
		{ BYTES("\xc0\x80\xe0\x80\x80"), "\\xc0\\x80\\xe0\\x80\\x80", NULL },
		{ BYTES("\xed\xa0\x80\xf4\x90\x80\x80"), "\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80", NULL },
		{ BYTES("\xc2\x85\xc2\x9b"), "\\xc2\\x85\\xc2\\x9b", NULL },
		{ BYTES("\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6"), "\\xe2\\x80\\xa8\\xe2\\x80\\xae\\xe2\\x81\\xa6", NULL },
		{ BYTES(""), "", NULL },
	};
	char out[200];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		out[audit_escape(rows[i].in, out, sizeof(out) - 1, false)] = '\0';
		ck_assert_str_eq(out, rows[i].plain);
		out[audit_escape(rows[i].in, out, sizeof(out) - 1, true)] = '\0';
		ck_assert_str_eq(out, rows[i].quoted ? rows[i].quoted : rows[i].plain);
	}
}
END_TEST

/* Cut at a character, never above the limit, and always a beginning of the whole. */
START_TEST(cutting)
{
	struct span in = SPAN("ab\n\xe2\x82\xac\xc2\x85\\x\xf0\x9f\x98\x80\xff" "end");
	char whole[200], part[200];
	size_t n = audit_escape(in, whole, sizeof(whole), false);

	for (size_t max = 3; max < n; max++) {
		size_t len = audit_escape(in, part, max, false);

		ck_assert_uint_le(len, max);
		ck_assert_uint_ge(len, 3);
		ck_assert_mem_eq(part + len - 3, "\xe2\x80\xa6", 3);
		ck_assert_mem_eq(part, whole, len - 3);
		ck_assert((whole[len - 3] & 0xc0) != 0x80);
	}
	ck_assert_uint_eq(audit_escape(in, part, n, false), n);
	ck_assert_mem_eq(part, whole, n);
}
END_TEST

START_TEST(traceparent)
{
#define ID "4bf92f3577b34da6a3ce929d0e0e4736"
	static const struct {
		const char *in;
		bool ok;
	} rows[] = {
		{ "00-" ID "-00f067aa0ba902b7-01", true },
		{ "cc-" ID "-00f067aa0ba902b7-00", true },
		{ "cc-" ID "-00f067aa0ba902b7-01-more", true },
		{ "cc-" ID "-00f067aa0ba902b7-01.more", false },
		{ "00-" ID "-00f067aa0ba902b7-01-more", false },
		{ "ff-" ID "-00f067aa0ba902b7-01", false },
		{ "00-00000000000000000000000000000000-00f067aa0ba902b7-01", false },
		{ "00-" ID "-0000000000000000-01", false },
		{ "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false },
		{ "00-" ID "-00f067aa0ba902b7-0g", false },
		{ "00-" ID "-00f067aa0ba902b7-0", false },
		{ "00_" ID "-00f067aa0ba902b7-01", false },
		{ "", false },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert_msg(span_is(audit_trace_id(span_of(rows[i].in)), rows[i].ok ? ID : ""), "%s", rows[i].in);
	ck_assert_ptr_null(audit_trace_id(span_of(NULL)).p);
}
END_TEST

UNIT_MAIN("audit", ADD(pair) ADD(denied) ADD(little_known) ADD(statuses) ADD(interleaved) ADD(hash) ADD(jsonrpc_id)
		   ADD(escaping) ADD(cutting) ADD(traceparent))
