#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/audit_record.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

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

#define HEAD(event, id, priority, seq)                                                                                 \
	"\"message_id\":\"" id "\",\"priority\":\"" priority "\",\"syslog_identifier\":\"mcp-tunnel-gateway\","            \
	"\"mcp_schema\":\"1\",\"mcp_event\":\"" event "\",\"mcp_side\":\"gateway\","                                       \
	"\"mcp_gateway_version\":\"" MCP_TUNNEL_VERSION "\",\"mcp_chain_id\":\"*\",\"mcp_seq\":\"" seq "\","               \
	"\"mcp_time\":\"*\","

#define FACTS                                                                                                          \
	"\"mcp_tunnel_id\":\"acme\",\"mcp_tunnel_session\":\"00ff\",\"mcp_peer\":\"192.0.2.1:443\","                       \
	"\"mcp_call_id\":\"" CALL_ID "\",\"mcp_kind\":\"request\",\"mcp_method\":\"tools/call\","                          \
	"\"mcp_tool\":\"get_weather\",\"mcp_jsonrpc_id\":\"7\",\"mcp_agent_id\":\"alice@example.com\","                    \
	"\"mcp_agent_auth\":\"mtls\","

#define REQUEST_LINE                                                                                                   \
	"{\"message\":\"MCPAUDIT v=1 ev=call.request seq=0 call=" CALL_ID " agent=\\\"alice@example.com\\\" "              \
	"method=tools/call tool=\\\"get_weather\\\" args=" ARGS_HASH " decision=allow chain=*\","                         \
	HEAD("call.request", "b841c1811f564dbba297bc18d8dee8aa", "6", "0") FACTS                                           \
	"\"mcp_args_hash\":\"" ARGS_HASH "\",\"mcp_decision\":\"allow\","                                                  \
	"\"mcp_session_hash\":\"hmac-sha256:4267500d:00112233\","                                                          \
	"\"mcp_trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"mcp_req_bytes\":\"123\","                                 \
	"\"mcp_upstream\":\"http://127.0.0.1:3000/mcp\",\"mcp_protocol_version\":\"2026-07-28\","                          \
	"\"mcp_agent_claimed\":\"agent-app\",\"mcp_chain_prev\":\"" ZEROS "\",\"mcp_chain\":\"*\"}"

#define RESPONSE_LINE                                                                                                  \
	"{\"message\":\"MCPAUDIT v=1 ev=call.response seq=1 call=" CALL_ID " agent=\\\"alice@example.com\\\" "             \
	"method=tools/call tool=\\\"get_weather\\\" status=ok reason=none http=200 duration_us=* resp_bytes=45 "          \
	"chain=*\","                                                                                                       \
	HEAD("call.response", "ba9050821cf242d4a0d3709bbfbe2dbc", "6", "1") FACTS                                          \
	"\"mcp_status\":\"ok\",\"mcp_reason\":\"none\",\"mcp_http_status\":\"200\",\"mcp_duration_us\":\"*\","             \
	"\"mcp_ttfb_us\":\"678\",\"mcp_resp_bytes\":\"45\",\"mcp_chain_prev\":\"*\",\"mcp_chain\":\"*\"}"

static void blank_common(char *line)
{
	blank(line, " chain=", '"');
	blank(line, "\"mcp_chain_id\":\"", '"');
	blank(line, "\"mcp_time\":\"", '"');
	blank(line, "\"mcp_chain\":\"", '"');
}

START_TEST(pair)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open;
	char *copy, *line;
	struct stat st;
	struct tm tm;

	setup_file();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	ck_assert_str_eq(audit_head(audit), "");
	open = request_ok(&call);
	ck_assert_str_eq(audit_head(audit) + 32 + 3, value_at(0, "mcp_chain"));
	copy = strdup(read_file(path));
	line = line_at(copy, 0);
	ck_assert_ptr_nonnull(line);
	ck_assert_ptr_nonnull(strptime(strstr(line, "mcp_time\":\"") + 11, "%Y-%m-%dT%H:%M:%S", &tm));
	ck_assert_str_eq(strchr(strstr(line, "mcp_time\":\""), '.') + 7, strstr(line, "Z\",\"mcp_tunnel_id"));
	blank_common(line);
	ck_assert_str_eq(line, REQUEST_LINE);
	free(copy);

	respond(open);
	copy = strdup(read_file(path));
	line = line_at(copy, 1);
	ck_assert_ptr_nonnull(line);
	blank_common(line);
	blank(line, "\"mcp_chain_prev\":\"", '"');
	blank(line, "duration_us=", ' ');
	blank(line, "\"mcp_duration_us\":\"", '"');
	ck_assert_str_eq(line, RESPONSE_LINE);
	free(copy);
	ck_assert_ptr_null(line_at(text, 2));
	ck_assert_uint_eq(audit_counters(audit)->written, 2);
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
	turn();
	line = line_at((char *)read_file(path), 0);
	assert_has(line, "ev=call.denied seq=0 call=" CALL_ID " agent=");
	assert_has(line, " decision=deny reason=header-mismatch rule=\\\"Mcp-Name is \\\\\\\"other\\\\\\\"\\\" chain=");
	assert_has(line, "\"message_id\":\"af8637b252624887ae3c855d6fa56728\",\"priority\":\"4\"");
	assert_has(line, "\"mcp_decision\":\"deny\",");
	assert_has(line, "\"mcp_reason\":\"header-mismatch\",\"mcp_rule\":\"Mcp-Name is \\\"other\\\"\",");
	assert_lacks(line, "never/recorded");
	teardown();
}
END_TEST

START_TEST(little_known)
{
	struct mcp_view view = { .kind = MCP_NOTIFICATION, .method = SPAN("prompts/get"), .name = SPAN("p") };
	struct audit_call call = { .call_id = SPAN(CALL_ID), .agent = SPAN(""), .trace = SPAN("00-x"), .view = &view };
	static const char *const absent[] = { "mcp_tool\"", "jsonrpc", "trace", "route", "upstream", "mcp_tunnel",
					      "mcp_peer", "args", "session" };
	char *line;

	setup_file();
	respond(request_ok(&call));
	line = line_at((char *)read_file(path), 0);
	assert_has(line, "\"mcp_kind\":\"notification\",\"mcp_method\":\"prompts/get\",\"mcp_prompt\":\"p\",");
	assert_has(line, "\"mcp_agent_id\":\"unknown\",\"mcp_agent_auth\":\"none\",\"mcp_decision\"");
	assert_has(line, "agent=\\\"unknown\\\" method=prompts/get prompt=\\\"p\\\" decision=allow");
	for (size_t i = 0; i < ARRAY_LEN(absent); i++)
		assert_lacks(line, absent[i]);
	call.view = NULL;
	audit_denied(audit, &call, TP_REASON_BAD_REQUEST, NULL);
	turn();
	line = line_at((char *)read_file(path), 2);
	assert_lacks(line, "mcp_kind");
	assert_lacks(line, "mcp_method");
	assert_lacks(line, "mcp_rule");
	teardown();
}
END_TEST

START_TEST(statuses)
{
	static const struct {
		struct audit_ending e;
		const char *status;
		char priority;
	} rows[] = {
		{ { .reason = TP_REASON_NONE, .http_status = 200 }, "ok", '6' },
		{ { .reason = TP_REASON_NONE, .http_status = 202 }, "ok", '6' },
		{ { .reason = TP_REASON_NONE, .http_status = 399 }, "ok", '6' },
		{ { .reason = TP_REASON_NONE, .http_status = 400 }, "http_error", '4' },
		{ { .reason = TP_REASON_NONE, .http_status = 200, .has_answer = true }, "ok", '6' },
		{ { .http_status = 200, .has_answer = true, .is_error = true }, "tool_error", '5' },
		{ { .http_status = 200, .has_answer = true, .has_rpc_error = true, .rpc_error_code = -32602 },
		  "rpc_error",
		  '5' },
		{ { .http_status = 400, .has_answer = true, .has_rpc_error = true, .rpc_error_code = 1 },
		  "rpc_error",
		  '5' },
		{ { .reason = TP_REASON_UPSTREAM_TIMEOUT }, "timeout", '4' },
		{ { .reason = TP_REASON_DEADLINE, .http_status = 200 }, "timeout", '4' },
		{ { .reason = TP_REASON_UPSTREAM_UNREACHABLE }, "upstream_unreachable", '4' },
		{ { .reason = TP_REASON_CANCELLED, .http_status = 200, .has_answer = true }, "cancelled", '4' },
		{ { .reason = TP_REASON_SESSION_LOST }, "session_lost", '4' },
		{ { .reason = TP_REASON_RELAY_STOPPED }, "session_lost", '4' },
		{ { .reason = TP_REASON_GATEWAY_STOPPED }, "gateway_stopped", '4' },
		{ { .reason = TP_REASON_UPSTREAM_CLOSED, .http_status = 200 }, "http_error", '4' },
		{ { .reason = TP_REASON_INTERNAL }, "http_error", '4' },
	};
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open;
	char expect[200], *line;

	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct audit_ending *e = &rows[i].e;

		open = request_ok(&call);
		end_call(open, e);
		turn();
		line = line_at((char *)read_file(path), 2 * i + 1);
		snprintf(expect, sizeof(expect), "\"mcp_status\":\"%s\",\"mcp_reason\":\"%s\",", rows[i].status,
			 tp_reason_name(e->reason));
		assert_has(line, expect);
		snprintf(expect, sizeof(expect), "\"priority\":\"%c\"", rows[i].priority);
		assert_has(line, expect);
		ck_assert((strstr(line, "mcp_http_status") != NULL) == (e->http_status != 0));
		ck_assert((strstr(line, "mcp_ttfb_us") != NULL) == (e->http_status != 0));
		ck_assert((strstr(line, "mcp_is_error") != NULL) == (e->has_answer && !e->has_rpc_error));
		snprintf(expect, sizeof(expect), "\"mcp_rpc_error_code\":\"%d\"", (int)e->rpc_error_code);
		ck_assert((strstr(line, expect) != NULL) == e->has_rpc_error);
	}
	teardown();
}
END_TEST

START_TEST(answers)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_ending e = { .http_status = 200, .response_events = 3, .has_answer = true };
	char head[AUDIT_HEAD_MAX], chain_id[33];

	memset(chain_id, 'a', 32);
	chain_id[32] = '\0';
	setup_file();
	snprintf(head, sizeof(head), "%s:18446744073709551615:%s", chain_id, ZEROS);
	e.peer_head = span_of(head);
	end_call(request_ok(&call), &e);
	turn();
	ck_assert_str_eq(value_at(1, "mcp_resp_events"), "3");
	ck_assert_str_eq(value_at(1, "mcp_is_error"), "false");
	ck_assert_str_eq(value_at(1, "mcp_peer_chain_id"), chain_id);
	ck_assert_str_eq(value_at(1, "mcp_peer_seq"), "18446744073709551615");
	ck_assert_str_eq(value_at(1, "mcp_peer_chain"), ZEROS);
	/* What is no head is nothing. */
	for (size_t cut = 0; cut < strlen(head); cut += 7) {
		ck_assert_int_eq(truncate(path, 0), 0);
		e.peer_head = span_make(head, cut);
		e.response_events = 0;
		end_call(request_ok(&call), &e);
		turn();
		assert_lacks(read_file(path), "peer_chain");
		assert_lacks(read_file(path), "resp_events");
	}
	head[33] = 'x';
	e.peer_head = span_of(head);
	end_call(request_ok(&call), &e);
	turn();
	assert_lacks(read_file(path), "peer_chain");
	teardown();
}
END_TEST

START_TEST(notes)
{
	static const struct {
		enum audit_event ev;
		const char *name, *id;
		char priority, bad;
	} rows[] = {
		{ AUDIT_SESSION_OPEN, "session.open", "8d1190d8970e4fa788c01af984571d6d", '6', '4' },
		{ AUDIT_SESSION_CLOSE, "session.close", "8302686870ac4ee8bf34a150825741b0", '6', '4' },
		{ AUDIT_SESSION_RESUME, "session.resume", "d81a258d093847ddab1105a431cb462d", '5', '4' },
		{ AUDIT_AUTH_FAILURE, "auth.failure", "c55ef14be89042d78813188eafad2062", '4', '4' },
		{ AUDIT_CONFIG_RELOAD, "config.reload", "b0b293516c8343b0b61abb3d57f9b2d6", '5', '3' },
		{ AUDIT_CANARY, "audit.checkpoint", "ad576026d5844264a281413b1d655da9", '6', '6' },
		{ AUDIT_PEER_CHECKPOINT, "audit.checkpoint", "ad576026d5844264a281413b1d655da9", '6', '6' },
	};
	static const char head[] = "0123456789abcdef0123456789abcdef:7:" ZEROS;
	struct audit_note n = {
		.where = { SPAN("acme"), SPAN("00ff"), SPAN("[2001:db8::1]:443") },
		.reason = "session-lost",
		.detail = "a \"quoted\"\nthing",
		.replayed_bytes = 1,
		.replayed_frames = 2,
		.down_ms = 3,
		.nonce = SPAN("n-1"),
	};

	n.peer_head = span_of(head);
	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char priority[2] = { rows[i].priority, '\0' }, bad[2] = { rows[i].bad, '\0' };

		n.bad = false;
		audit_event(audit, rows[i].ev, &n);
		n.bad = true;
		audit_event(audit, rows[i].ev, &n);
		turn();
		ck_assert_str_eq(value_at(2 * i, "mcp_event"), rows[i].name);
		ck_assert_str_eq(value_at(2 * i, "message_id"), rows[i].id);
		ck_assert_str_eq(value_at(2 * i, "priority"), priority);
		ck_assert_str_eq(value_at(2 * i + 1, "priority"), bad);
		ck_assert_str_eq(value_at(2 * i, "mcp_tunnel_session"), "00ff");
		ck_assert_str_eq(value_at(2 * i, "mcp_reason"), "session-lost");
		ck_assert_str_eq(value_at(2 * i, "mcp_detail"), "a \"quoted\"\\x0athing");
		ck_assert((value_at(2 * i, "mcp_nonce") != NULL) == (rows[i].ev == AUDIT_CANARY));
		ck_assert((value_at(2 * i, "mcp_peer_chain") != NULL) == (rows[i].ev == AUDIT_PEER_CHECKPOINT));
		ck_assert((value_at(2 * i, "mcp_down_ms") != NULL) == (rows[i].ev == AUDIT_SESSION_RESUME));
	}
	ck_assert_str_eq(value_at(4, "mcp_replayed_bytes"), "1");
	ck_assert_str_eq(value_at(4, "mcp_replayed_frames"), "2");
	ck_assert_str_eq(value_at(4, "mcp_down_ms"), "3");
	assert_has(value_at(0, "message"), "ev=session.open seq=0 tunnel=acme session=00ff peer=\"[2001:db8::1]:443\" "
					   "reason=session-lost detail=\"a \\\"quoted\\\"\\x0athing\" chain=");
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
		ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &open[i]), 0);
	}
	memset(id, '!', sizeof(id));
	memset(name, '!', sizeof(name));
	turn();
	for (int i = 0; i < CALLS; i++)
		end_call(open[i * 7 % CALLS], &complete);
	turn();
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

START_TEST(jsonrpc_id)
{
	static const struct {
		const char *id, *expect;
	} rows[] = {
		{ "1", "1" },
		{ "0", "0" },
		{ "-7", "-7" },
		{ "-0", "0" },
		{ "1.0", "1" },
		{ "\"1\"", "\"1\"" },
		{ "\"\\u0041\\n\"", "\"A\\n\"" },
		{ "\"a b\"", "\"a b\"" },
		{ "null", "null" },
		{ "1e3", "1000" },
		{ "123456789012345", "123456789012345" },
		{ "90071992547409930", "90071992547409930" },
	};
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	setup_file();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		view.id = span_of(rows[i].id);
		respond(request_ok(&call));
		ck_assert_str_eq(value_at(2 * i, "mcp_jsonrpc_id"), rows[i].expect);
		ck_assert_str_eq(value_at(2 * i + 1, "mcp_jsonrpc_id"), rows[i].expect);
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

UNIT_MAIN("audit", ADD(pair) ADD(denied) ADD(little_known) ADD(statuses) ADD(answers) ADD(notes) ADD(interleaved)
		   ADD(jsonrpc_id) ADD(escaping) ADD(cutting) ADD(traceparent))
