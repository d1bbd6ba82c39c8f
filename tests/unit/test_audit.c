#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/audit.h"
#include "daemon/audit_record.h"
#include "proto/reasons.h"
#include "tests/lib/unit.h"

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

#define SECRET "mcptun_secret"
#define CALL_ID "0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a"
#define ARGS "{\"b\":1,\"a\":\"x\"}"
/* Computed with Python's hmac and hashlib. */
#define ARGS_HASH "hmac-sha256-jcs:4267500d:befc32efbb452524936b6c7dd3b09a03fab1103238bf97de5f3d51ce2df319f0"

/* SPAN() where only a constant may stand. */
#define BYTES(literal)                                                                                                 \
	{                                                                                                              \
		literal, sizeof(literal) - 1                                                                           \
	}

enum { TEXT_BYTES = 1 << 20, FIELDS_MAX = 64 };

static char dir[64], path[100], err[200];
static char text[TEXT_BYTES]; /* what the sink got */
static struct loop *loop;
static struct audit *audit;

static int n_warnings, n_notices;
static char last_notice[300];

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	n_warnings += level == LOG_LEVEL_WARNING;
	n_notices += level == LOG_LEVEL_NOTICE;
	if (level == LOG_LEVEL_NOTICE)
		snprintf(last_notice, sizeof(last_notice), "%s", message);
}

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test_audit.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/audit", dir);
	log_set_sink(on_log, NULL);
}

static int start(enum audit_sink sink, const char *at)
{
	const struct audit_config cfg = {
		.sink = sink,
		.path = at,
		.identifier = "mcp-tunnel-gateway",
		.hash_secret = SPAN(SECRET),
		.tunnel_id = "acme",
	};

	ck_assert_int_eq(loop_new(&loop), 0);
	return audit_new(loop, &cfg, err, sizeof(err), &audit);
}

static void setup_file(void)
{
	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
}

static void teardown(void)
{
	char other[120];

	audit = audit_free(audit);
	loop = loop_free(loop);
	log_set_sink(NULL, NULL);
	snprintf(other, sizeof(other), "%s.1", path);
	unlink(other);
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

static const char *read_file(const char *name)
{
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	close(fd);
	return text;
}

/* The nth line, from 0; NULL after the last. */
static char *line_at(char *all, size_t n)
{
	char *line = NULL;

	for (size_t i = 0; i <= n; i++) {
		line = strsep(&all, "\n");
		if (!all)
			return NULL;
	}
	return line;
}

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

static struct mcp_view tool_view(void)
{
	return (struct mcp_view){
		.kind = MCP_REQUEST,
		.method = SPAN("tools/call"),
		.id = SPAN("7"),
		.name = SPAN("get_weather"),
		.uri = SPAN("file:///never/recorded"),
		.protocol_version = SPAN("2026-07-28"),
		.client_name = SPAN("agent-app"),
		.has_arguments = true,
	};
}

static struct audit_call tool_call(const struct mcp_view *v)
{
	return (struct audit_call){
		.call_id = SPAN(CALL_ID),
		.agent = SPAN("alice@example.com"),
		.agent_auth = SPAN("mtls"),
		.trace = SPAN("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		.upstream = "http://127.0.0.1:3000/mcp",
		.view = v,
		.arguments = SPAN(ARGS),
		.request_bytes = 123,
	};
}

static const struct audit_ending complete = { .http_status = 200, .response_bytes = 45, .ttfb_us = 678 };

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

static void assert_has(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) != NULL, "%s is not in %s", part, line);
}

static void assert_lacks(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) == NULL, "%s is in %s", part, line);
}

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
	assert_has(line, "\"mcp_decision\":\"deny\",\"mcp_reason\":\"header-mismatch\",\"mcp_rule\":\"Mcp-Name is \\\"other\\\"\"}");
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
		snprintf(expect, sizeof(expect), "seq=%d call=call-%d agent=\\\"alice@example.com\\\" method=tools/call tool=\\\"tool-%d\\\" ",
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

/* ---- Injection ---- */

struct parsed {
	size_t n;
	struct {
		char name[64];
		struct span value;
	} fields[FIELDS_MAX];
};

/* As journald reads it: NAME \n, 64 bits of length, value, \n. */
static void parse_journal(struct span record, struct parsed *p)
{
	p->n = 0;
	while (record.len) {
		struct span name = span_split(&record, '\n');
		uint64_t len;

		ck_assert(p->n < FIELDS_MAX && name.len < 64 && record.len > sizeof(len));
		ck_assert_ptr_null(memchr(name.p, '=', name.len));
		memcpy(&len, record.p, sizeof(len));
		len = le64toh(len);
		ck_assert_uint_lt(len, record.len - sizeof(len));
		snprintf(p->fields[p->n].name, 64, "%.*s", SPAN_FMT(name));
		p->fields[p->n++].value = span_make(record.p + sizeof(len), len);
		record = span_make(record.p + sizeof(len) + len, record.len - sizeof(len) - len);
		ck_assert_int_eq(record.p[0], '\n');
		record = span_make(record.p + 1, record.len - 1);
	}
}

static void check_values(const struct parsed *p, const struct parsed *like)
{
	ck_assert_uint_eq(p->n, like->n);
	for (size_t i = 0; i < p->n; i++) {
		struct span v = p->fields[i].value;

		ck_assert_str_eq(p->fields[i].name, like->fields[i].name);
		ck_assert_uint_le(v.len, i ? 256 : AUDIT_MESSAGE_MAX);
		for (size_t k = 0; k < v.len; k++)
			ck_assert(((unsigned char)v.p[k] >= 0x20 && v.p[k] != 0x7f));
	}
	ck_assert_str_eq(p->fields[0].name, "MESSAGE");
}

/* Every value that comes from outside. */
static void emit_with(struct span evil)
{
	_cleanup_(freep) char *copy = span_dup(evil);
	const char *z = *copy ? copy : "x";
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;

	view.id = view.client_name = view.protocol_version = evil;
	call.call_id = call.agent = call.agent_auth = call.route = call.trace = call.arguments = evil;
	call.upstream = z;
	audit_set_session(audit, z, z);
	view.name = evil;
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	audit_response(audit, open, &complete);
	view.method = evil;
	audit_denied(audit, &call, TP_REASON_POLICY, z);
}

static const struct span evils[] = {
	BYTES("plain"),
	BYTES("a\nMCP_DECISION=deny\nPRIORITY=0"),
	BYTES("a\",\"mcp_decision\":\"deny"),
	BYTES("a\" decision=deny x=\""),
	BYTES("a decision=deny"),
	BYTES("\\\" decision=deny"),
	BYTES("\0\0\0\0\0\0\0\1"),
	BYTES("\xff\xfe\x80"),
	BYTES("="),
	BYTES("MCP_AGENT_ID\n\x01\0\0\0\0\0\0\0x\n"),
	BYTES("\xe2\x80\xa8\xe2\x80\xae\x1b[2J"),
};

static char big[6][65536];

static size_t all_evils(struct span out[32])
{
	static const char fill[] = { 'a', '\n', '"', '\\', '\xff', '\0' };
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(evils); i++)
		out[n++] = evils[i];
	for (size_t i = 0; i < ARRAY_LEN(big); i++) {
		memset(big[i], fill[i], sizeof(big[i]));
		out[n++] = span_make(big[i], sizeof(big[i]));
	}
	return n;
}

static int serve(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* Key and value pairs of MESSAGE, as a logfmt parser reads them: the keys in order. */
static void line_keys(struct span line, char *out, size_t size)
{
	size_t n = 0, i = strlen("MCPAUDIT");

	ck_assert(span_starts(line, "MCPAUDIT "));
	while (i < line.len) {
		ck_assert_int_eq(line.p[i++], ' ');
		while (line.p[i] != '=' && n + 2 < size)
			out[n++] = line.p[i++];
		out[n++] = ' ';
		if (line.p[++i] != '"') {
			while (i < line.len && line.p[i] != ' ')
				ck_assert(line.p[i] != '=' && line.p[i++] != '"');
			continue;
		}
		for (i++; line.p[i] != '"'; i++) {
			i += line.p[i] == '\\';
			ck_assert_uint_lt(i, line.len - 1);
		}
		i++;
	}
	out[n] = '\0';
}

START_TEST(injection_journal)
{
	static char got[3][16384];
	struct parsed like[3], p;
	struct span all[32];
	size_t n = all_evils(all);
	char keys[3][300], these[300];
	int fd;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	for (size_t i = 0; i < n; i++) {
		emit_with(all[i]);
		for (size_t k = 0; k < 3; k++) {
			ssize_t len = recv(fd, i ? text : got[k], 16384, 0);

			ck_assert_int_gt(len, 0);
			ck_assert_int_lt(len, 4096);
			parse_journal(span_make(i ? text : got[k], (size_t)len), i ? &p : &like[k]);
			check_values(i ? &p : &like[k], &like[k]);
			line_keys((i ? &p : &like[k])->fields[0].value, i ? these : keys[k], sizeof(these));
			if (i)
				ck_assert_str_eq(these, keys[k]);
		}
	}
	ck_assert_str_eq(keys[0], "v ev seq call agent method tool args decision ");
	ck_assert_str_eq(keys[2], "v ev seq call agent method args decision reason rule ");
	close(fd);
	teardown();
}
END_TEST

#ifdef HAVE_ORACLE
static size_t count_strings(const char *line, bool want_deny)
{
	json_error_t e;
	json_t *tree = json_loads(line, JSON_REJECT_DUPLICATES, &e), *value;
	const char *key;
	size_t n;

	ck_assert_msg(tree != NULL, "%s: %s", e.text, line);
	n = json_object_size(tree);
	json_object_foreach(tree, key, value)
		ck_assert_msg(json_is_string(value), "%s", key);
	value = json_object_get(tree, "mcp_decision");
	ck_assert(!value || strcmp(json_string_value(value), want_deny ? "deny" : "allow") == 0);
	json_decref(tree);
	return n;
}
#else
/* What can be said without a parser: as many strings, and nothing that ends one too early. */
static size_t count_strings(const char *line, bool want_deny)
{
	size_t n = 0;

	for (const char *p = line; *p; p++) {
		p += p[0] == '\\' && p[1];
		n += *p == '"';
	}
	return n;
}
#endif

START_TEST(injection_file)
{
	size_t expect[3] = { 0 }, n;
	struct span all[32];
	char *line;

	setup_file();
	n = all_evils(all);
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		emit_with(all[i]);
		for (size_t k = 0; k < 3; k++) {
			line = line_at((char *)read_file(path), k);
			ck_assert_ptr_nonnull(line);
			if (i == 0)
				expect[k] = count_strings(line, k == 2);
			ck_assert_uint_eq(count_strings(line, k == 2), expect[k]);
		}
		ck_assert_ptr_null(line_at((char *)read_file(path), 3));
	}
	teardown();
}
END_TEST

/* ---- Sinks that fail ---- */

static bool healthy(const char *expect_detail)
{
	const char *detail = "";
	bool ok = audit_healthy(audit, &detail);

	ck_assert_str_eq(detail, expect_detail);
	return ok;
}

START_TEST(full)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = (void *)&call;

	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, "/dev/full"), 0);
	ck_assert(healthy(""));
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(audit_request(audit, &call, &open), -ENOSPC);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_ptr_eq(open, (void *)&call);
	ck_assert(!healthy("cannot write /dev/full: No space left on device"));
	ck_assert_int_eq(n_warnings, 1);
	ck_assert_int_eq(n_notices, 0);
	teardown();
}
END_TEST

static void limit_file(rlim_t bytes)
{
	struct rlimit lim;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &lim), 0);
	lim.rlim_cur = bytes;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
}

/* A record of which only a part was written is no record, and the next one is whole. Cut at every byte. */
START_TEST(torn)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *a = NULL, *b;
	size_t len = 1;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	for (size_t cut = 0; cut <= len; cut++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		ck_assert_int_eq(audit_request(audit, &call, &a), 0);
		len = strlen(read_file(path));
		limit_file(len + cut);
		r = audit_request(audit, &call, &b);
		ck_assert_int_eq(r, cut + 1 >= len ? 0 : cut ? -ENOSPC : -EFBIG);
		limit_file(RLIM_INFINITY);
		audit_response(audit, a, &complete);
		if (r == 0)
			audit_response(audit, b, &complete);
		/* The first record, what is left of the second, the third. */
		ck_assert_ptr_nonnull(line_at((char *)read_file(path), 0));
		assert_has(line_at((char *)read_file(path), cut ? 2 : 1), "{\"message\":\"MCPAUDIT v=1 ev=call.response");
		ck_assert_ptr_null(line_at((char *)read_file(path), r == 0 ? 4 : cut ? 3 : 2));
		if (cut)
			ck_assert_uint_eq(strlen(line_at((char *)read_file(path), 1)), MIN(cut, len - 1));
	}
	ck_assert_int_eq(n_warnings, (int)len - 1);
	ck_assert_int_eq(n_notices, (int)len - 1);
	assert_has(last_notice, "in between 1 calls were refused and 0 records");
	teardown();
}
END_TEST

/* A lost ending leaves a hole in the sequence, a refused call does not. */
START_TEST(sequence)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *a = NULL, *b = NULL;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	ck_assert_int_eq(audit_request(audit, &call, &a), 0);
	limit_file(strlen(read_file(path)));
	ck_assert_int_eq(audit_request(audit, &call, &b), -EFBIG);
	ck_assert_int_eq(audit_request(audit, &call, &b), -EFBIG);
	audit_response(audit, a, &complete);
	limit_file(RLIM_INFINITY);
	ck_assert_int_eq(audit_request(audit, &call, &b), 0);
	assert_has(line_at((char *)read_file(path), 0), "ev=call.request seq=0 ");
	assert_has(line_at((char *)read_file(path), 1), "ev=call.request seq=2 ");
	assert_has(last_notice, "in between 2 calls were refused and 1 records");
	audit_response(audit, b, &complete);
	teardown();
}
END_TEST

START_TEST(left_torn)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	int fd;

	make_dir();
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	ck_assert_int_eq(write(fd, "{}\n{\"mess", 9), 9);
	close(fd);
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	audit_reopen(audit);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_str_eq(line_at((char *)read_file(path), 1), "{\"mess");
	assert_has(line_at((char *)read_file(path), 2), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=0");
	assert_has(line_at((char *)read_file(path), 3), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=1");
	ck_assert_ptr_null(line_at((char *)read_file(path), 4));
	teardown();
}
END_TEST

START_TEST(reopen)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	char moved[120], hidden[120];

	setup_file();
	snprintf(moved, sizeof(moved), "%s.1", path);
	snprintf(hidden, sizeof(hidden), "%s.2", dir);
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_int_eq(rename(path, moved), 0);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_int_eq(access(path, F_OK), -1);
	audit_reopen(audit);
	audit_response(audit, open, &complete);
	assert_has(line_at((char *)read_file(moved), 1), "ev=call.denied seq=1 ");
	ck_assert_ptr_null(line_at((char *)read_file(moved), 2));
	assert_has(line_at((char *)read_file(path), 0), "ev=call.response seq=2 ");
	/* What cannot be opened leaves the old one in use. */
	ck_assert_int_eq(rename(dir, hidden), 0);
	audit_reopen(audit);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_int_eq(rename(hidden, dir), 0);
	ck_assert(healthy(""));
	assert_has(line_at((char *)read_file(path), 1), "ev=call.denied seq=3 ");
	teardown();
}
END_TEST

START_TEST(no_sink)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = (void *)&call;

	make_dir();
	ck_assert_int_eq(start(AUDIT_NONE, NULL), 0);
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_ptr_null(open);
	audit_response(audit, open, &complete);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	audit_reopen(audit);
	ck_assert(healthy(""));
	teardown();
	ck_assert_ptr_null(audit_free(NULL));
}
END_TEST

START_TEST(bad_start)
{
	char expect[200];

	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, "/nonexistent/audit"), -ENOENT);
	ck_assert_str_eq(err, "audit: cannot open the file /nonexistent/audit: No such file or directory");
	loop_free(loop);
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), -ENOENT);
	snprintf(expect, sizeof(expect), "audit: cannot reach journald at %s: No such file or directory", path);
	ck_assert_str_eq(err, expect);
	loop_free(loop);
	ck_assert_int_eq(start(AUDIT_FILE, dir), -EISDIR);
	teardown();
}
END_TEST

/* The queue is full: refused at once. Then journald is gone, comes back, is restarted. */
START_TEST(journal_fails)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	uint64_t before;
	int fd, n = 0;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	before = clock_now_us();
	while (n++ < 100000 && audit_request(audit, &call, &open) == 0)
		audit_response(audit, open, &complete);
	ck_assert_int_eq(audit_request(audit, &call, &open), -EAGAIN);
	ck_assert_uint_lt(clock_now_us() - before, 20 * 1000000);
	ck_assert(!healthy("the queue of journald is full"));
	ck_assert_int_eq(n_warnings, 1);
	while (recv(fd, text, sizeof(text), 0) > 0)
		;
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert(healthy(""));
	ck_assert_int_eq(n_notices, 1);
	audit_response(audit, open, &complete);

	close(fd);
	ck_assert_int_eq(audit_request(audit, &call, &open), -ECONNREFUSED);
	ck_assert(!healthy("journald is not running: Connection refused"));
	unlink(path);
	ck_assert_int_eq(audit_request(audit, &call, &open), -ENOENT);
	ck_assert_int_eq(n_warnings, 2);
	fd = serve();
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_int_eq(n_notices, 2);
	close(fd);
	unlink(path);
	fd = serve();
	audit_response(audit, open, &complete);
	ck_assert(healthy(""));
	ck_assert_int_eq(n_warnings, 2);
	close(fd);
	teardown();
}
END_TEST

UNIT_MAIN("audit", ADD(pair) ADD(denied) ADD(little_known) ADD(statuses) ADD(interleaved) ADD(hash) ADD(jsonrpc_id)
		   ADD(escaping) ADD(cutting) ADD(traceparent) ADD(injection_journal) ADD(injection_file) ADD(full)
		   ADD(torn) ADD(sequence) ADD(left_torn) ADD(reopen) ADD(no_sink) ADD(bad_start) ADD(journal_fails))
