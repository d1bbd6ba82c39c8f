#include "proto/mcp.h"

#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

#define CALL(members) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{" members "}}"

/* Everything the scan says about a body, as text. */
static void put_view(char *to, size_t cap, size_t *len, struct span body, const struct mcp_view *v)
{
	static const char *const kinds[] = { "none", "request", "notification", "response", "batch" };
	const struct {
		const char *what;
		struct span s;
	} texts[] = { { "method", v->method },
		      { "id", v->id },
		      { "name", v->name },
		      { "uri", v->uri },
		      { "version", v->protocol_version },
		      { "client", v->client_name } };

	*len += (size_t)snprintf(to + *len, cap - *len, "%s", kinds[v->kind]);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i].s.p)
			*len += (size_t)snprintf(to + *len, cap - *len, " %s=%.*s", texts[i].what,
						 SPAN_FMT(texts[i].s));
	if (v->name_bad)
		*len += (size_t)snprintf(to + *len, cap - *len, " name_bad");
	if (v->has_arguments)
		*len += (size_t)snprintf(to + *len, cap - *len, " arguments=%.*s", (int)v->arguments_len,
					 body.p + v->arguments_at);
}

static void describe(const struct mcp_scan *s, struct span body, const struct mcp_view *v, char *to, size_t cap)
{
	struct mcp_view one;
	size_t len = 0;

	put_view(to, cap, &len, body, v);
	for (size_t i = 0; v->kind == MCP_BATCH && i < mcp_scan_count(s); i++) {
		mcp_scan_message(s, i, &one);
		len += (size_t)snprintf(to + len, cap - len, "; ");
		put_view(to, cap, &len, body, &one);
	}
	if (mcp_scan_bad(s))
		snprintf(to + len, cap - len, " !%s", mcp_scan_bad(s));
}

/* Fed in two pieces, or byte by byte when cut is SIZE_MAX. */
static void scan(struct span body, size_t cut, char *to, size_t cap)
{
	struct mcp_scan *s;
	struct mcp_view v;

	ck_assert_int_eq(mcp_scan_new(&s), 0);
	if (cut == SIZE_MAX) {
		for (size_t i = 0; i < body.len; i++)
			ck_assert_int_eq(mcp_scan_feed(s, body.p + i, 1), 0);
	} else {
		ck_assert_int_eq(mcp_scan_feed(s, body.p, cut), 0);
		ck_assert_int_eq(mcp_scan_feed(s, body.p + cut, body.len - cut), 0);
	}
	mcp_scan_finish(s, &v);
	describe(s, body, &v, to, cap);
	mcp_scan_free(s);
}

static void expect_span(struct span body, const char *want)
{
	static char got[16384];

	scan(body, SIZE_MAX, got, sizeof(got));
	ck_assert_str_eq(got, want);
	for (size_t cut = 0; cut <= body.len; cut += body.len > 2000 ? 97 : 1) {
		scan(body, cut, got, sizeof(got));
		ck_assert_str_eq(got, want);
	}
}

static void expect(const char *body, const char *want)
{
	expect_span(span_of(body), want);
}

START_TEST(kinds)
{
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", "request method=ping id=1");
	expect("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
	       "notification method=notifications/initialized");
	expect("{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}", "response id=\"x\"");
	expect("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-1}}", "response id=null");
	expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":1,\"error\":2}", "none id=7");
	expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"a\",\"result\":2}", "none method=a id=7");
	expect("{\"jsonrpc\":\"2.0\",\"result\":{}}", "none");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1}", "none id=1");
	expect("{\"id\":1,\"method\":\"ping\"}", "none method=ping id=1");
	expect("{\"jsonrpc\":2.0,\"id\":1,\"method\":\"ping\"}", "none method=ping id=1");
	expect("{\"jsonrpc\":\"2.00\",\"id\":1,\"method\":\"ping\"}", "none method=ping id=1");
	expect("{\"jsonrpc\":\"2\",\"id\":1,\"method\":\"ping\"}", "none method=ping id=1");
	expect("{\"jsonrpc\":\"\\u0032.0\",\"id\":1,\"method\":\"ping\"}", "request method=ping id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", "none id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":[\"ping\"]}", "none id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":null,\"result\":1}", "none id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"Method\":\"ping\",\"result\":1}", "none id=1");
	expect("{\"jsonrpc\":\"2.0\",\"METHO\\u0064\":5,\"id\":1,\"error\":1}", "none id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"Method\":\"ping\"}}", "response id=1");
	expect("[{\"METHOD\":1},{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}]", "batch; none; response id=1");
	expect("{}", "none");
	expect("42", "none");
	expect("\"text\"", "none");
	expect("null ", "none");
	expect("", "none !empty");
	expect("{", "none !ends too early");
}
END_TEST

START_TEST(ids)
{
	expect("{\"id\" : -1.5e3 ,\"jsonrpc\":\"2.0\",\"method\":\"m\"}", "request method=m id=-1.5e3");
	expect("{\"id\":\"\\u0061\\\"b\",\"jsonrpc\":\"2.0\",\"method\":\"m\"}",
	       "request method=m id=\"\\u0061\\\"b\"");
	expect("{\"id\":{},\"jsonrpc\":\"2.0\"}", "none !id is neither a string nor a number nor null");
	expect("{\"id\":[1]}", "none !id is neither a string nor a number nor null");
	expect("{\"id\":true}", "none !id is neither a string nor a number nor null");
	expect("{\"id\":1,\"id\":2}", "none id=1 !duplicate key");
	expect("{\"id\":\"\\ud800\"}", "none !lone surrogate");
}
END_TEST

START_TEST(id_before_the_end)
{
	static const char body[] = "{\"id\":12,\"method\":\"tools/call\",";
	struct mcp_scan *s;

	ck_assert_int_eq(mcp_scan_new(&s), 0);
	mcp_scan_feed(s, body, 7);
	ck_assert_ptr_null(mcp_scan_id(s).p);
	mcp_scan_feed(s, body + 7, 2);
	ck_assert(span_is(mcp_scan_id(s), "12"));
	mcp_scan_feed(s, "!", 1);
	ck_assert_ptr_nonnull(mcp_scan_bad(s));
	ck_assert(span_is(mcp_scan_id(s), "12"));
	mcp_scan_free(s);
	ck_assert_int_eq(mcp_scan_new(&s), 0);
	mcp_scan_feed(s, "[{\"id\":12}", 10);
	ck_assert_ptr_null(mcp_scan_id(s).p);
	mcp_scan_free(s);
	ck_assert_ptr_null(mcp_scan_free(NULL));
}
END_TEST

START_TEST(tool_calls)
{
	expect(CALL("\"name\":\"get\",\"arguments\":{\"a\":[1,2]}"),
	       "request method=tools/call id=1 name=get arguments={\"a\":[1,2]}");
	expect(CALL("\"arguments\": 12 ,\"name\":\"get\""), "request method=tools/call id=1 name=get arguments=12");
	expect(CALL("\"arguments\":\"x\\\"y\""), "request method=tools/call id=1 arguments=\"x\\\"y\"");
	expect(CALL("\"arguments\":null"), "request method=tools/call id=1 arguments=null");
	expect(CALL("\"arguments\":[]"), "request method=tools/call id=1 arguments=[]");
	expect(CALL("\"name\":\"\""), "request method=tools/call id=1 name=");
	expect(CALL("\"name\":7"), "request method=tools/call id=1 name_bad");
	expect(CALL("\"name\":{\"name\":\"x\"}"), "request method=tools/call id=1 name_bad");
	expect(CALL("\"arguments\":{\"name\":\"x\",\"name\":\"x\"}"),
	       "request method=tools/call id=1 arguments={\"name\":\"x\",\"name\":\"x\"}");
	expect(CALL("\"uri\":\"file:///a\""), "request method=tools/call id=1 uri=file:///a");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":[{\"name\":\"x\"}]}",
	       "request method=m id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"result\":0,\"params\":\"x\"}", "none method=m id=1");
	expect("{\"name\":\"x\",\"arguments\":1,\"params\":{\"params\":{\"name\":\"y\"}}}", "none");
}
END_TEST

/* Nobody gets past a policy by another spelling of a key or a name. */
START_TEST(spellings)
{
	expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"m\\u0065thod\":\"tools\\/"
	       "c\\u0061ll\",\"p\\u0061rams\":{\"\\u006eame\":\"r\\u006d\"}}",
	       "request method=tools/call id=1 name=rm");
	expect("{\"method\":\"a\",\"m\\u0065thod\":\"b\"}", "none method=a !duplicate key");
	expect("{\"params\":{\"name\":\"a\",\"n\\u0061me\":\"b\"}}", "none name=a !duplicate key");
	expect("{\"params\":{},\"params\":{}}", "none !duplicate key");
	expect("{\"x\":1,\"\\u0078\":2}", "none !duplicate key");
	expect("{\"params\":{\"_meta\":{\"a\":1,\"a\":2}}}", "none !duplicate key");
	expect("{\"params\":{\"clientInfo\":{\"a\":1,\"a\":2}}}", "none !duplicate key");
	expect("{\"params\":{\"_meta\":{\"io.modelcontextprotocol/clientInfo\":{\"a\":1,\"a\":2}}}}",
	       "none !duplicate key");
	expect("{\"a\":{\"a\":1,\"a\":2},\"params\":{\"a\":1,\"_meta\":{\"a\":1}}}", "none");
	expect("{\"Method\":\"a\",\"METHOD\":\"a\"}", "none");
	expect("{\"method\":\"a\",\"METHOD\":\"a\"}", "none method=a !duplicate key but for case");
	expect("{\"Method\":\"a\",\"m\\u0065thod\":\"a\"}", "none !duplicate key but for case");
	expect(CALL("\"name\":\"a\",\"nAme\":\"b\""), "none method=tools/call id=1 name=a !duplicate key but for case");
	expect(CALL("\"uri\":\"a\",\"ur\\u0131\":\"b\""), "none method=tools/call id=1 uri=a !duplicate key but for case");
	expect("{\"params\":{\"name\":\"a\"},\"param\\u017f\":{\"name\":\"b\"}}", "none name=a !duplicate key but for case");
	expect("{\"params\":{\"name\":\"a\"},\"Name\":\"b\"}", "none name=a");
	expect(CALL("\"name\":\"a\",\"namen\":\"b\",\"nam\":1,\"arguments\":{\"Name\":1,\"name\":1}"),
	       "request method=tools/call id=1 name=a arguments={\"Name\":1,\"name\":1}");
	expect("[" CALL("\"name\":\"a\"") "," CALL("\"Name\":\"b\"") "]",
	       "batch; request method=tools/call id=1 name=a; request method=tools/call id=1");
	expect("{\"method\\u0000\":\"a\"}", "none !NUL in a key");
	expect("{\"method\":\"a\\u0000b\"}", "none !NUL in a name");
	expect(CALL("\"name\":\"a\\u0000b\""), "none method=tools/call id=1 name_bad !NUL in a name");
	expect(CALL("\"arguments\":{\"\\u0000\":\"\\u0000\\ud800\"}"),
	       "request method=tools/call id=1 arguments={\"\\u0000\":\"\\u0000\\ud800\"}");
	expect(CALL("\"name\":\"\\ud800\""), "none method=tools/call id=1 !lone surrogate");
	expect(CALL("\"\\ud800\":1"), "none method=tools/call id=1 !lone surrogate");
	expect(CALL("\"arguments\":{\"a\":\"\xc0\x80\"}"), "none method=tools/call id=1 arguments= !not UTF-8");
	expect(CALL("") "{}", "none method=tools/call id=1 !bytes after the message");
	expect(CALL("") " \r\n", "request method=tools/call id=1");
}
END_TEST

START_TEST(versions_and_clients)
{
	expect("{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-06-18\","
	       "\"capabilities\":{},\"clientInfo\":{\"name\":\"inspector\",\"version\":\"1\"}}}",
	       "request method=initialize id=0 version=2025-06-18 client=inspector");
	expect(CALL("\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","
		    "\"io.modelcontextprotocol/"
		    "clientInfo\":{\"version\":\"1\",\"name\":\"agent\"},\"progressToken\":1}"),
	       "request method=tools/call id=1 version=2026-07-28 client=agent");
	/* Only initialize says them outside of _meta. */
	expect(CALL("\"protocolVersion\":\"1\",\"clientInfo\":{\"name\":\"x\"}"), "request method=tools/call id=1");
	expect(CALL("\"_meta\":7,\"clientInfo\":\"x\""), "request method=tools/call id=1");
	expect("{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"protocolVersion\":5,"
	       "\"clientInfo\":[]}}",
	       "request method=initialize id=0");
}
END_TEST

/* {"...KEY":"xxx"} with a value of n bytes; the caller frees it. */
static char *with_value(const char *head, size_t n, const char *tail)
{
	char *body;

	ck_assert_int_ge(asprintf(&body, "%s%0*d%s", head, (int)n, 0, tail), 0);
	return body;
}

START_TEST(limits)
{
	static const struct {
		const char *head, *tail;
		size_t max;
		const char *bad;
	} cases[] = {
		{ "{\"method\":\"", "\"}", MCP_METHOD_MAX, "none !method longer than 256" },
		{ "{\"id\":\"", "\"}", MCP_ID_MAX - 2, "none !id longer than 256" },
		{ "{\"params\":{\"name\":\"", "\"}}", MCP_NAME_MAX, "none name_bad !params.name longer than 1024" },
		{ "{\"params\":{\"uri\":\"", "\"}}", 4096, "none !params.uri longer than 4096" },
		{ "{\"params\":{\"clientInfo\":{\"name\":\"", "\"}}}", 1024, "none !clientInfo.name longer than 1024" },
	};
	static char got[16384];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		_cleanup_(freep) char *good = with_value(cases[i].head, cases[i].max, cases[i].tail);
		_cleanup_(freep) char *bad = with_value(cases[i].head, cases[i].max + 1, cases[i].tail);

		scan(span_of(good), 0, got, sizeof(got));
		ck_assert_ptr_null(strchr(got, '!'));
		expect(bad, cases[i].bad);
	}
}
END_TEST

static void nested(char to[256], const char *before, int depth, const char *after)
{
	char open[MCP_DEPTH_MAX], close[MCP_DEPTH_MAX];

	memset(open, '[', sizeof(open));
	memset(close, ']', sizeof(close));
	snprintf(to, 256, "%s%.*s%.*s%s", before, depth, open, depth, close, after);
}

START_TEST(depths)
{
	char body[256], want[256];

	nested(body, "{\"params\":{\"arguments\":", MCP_DEPTH_MAX - 2, "}}");
	nested(want, "none arguments=", MCP_DEPTH_MAX - 2, "");
	expect(body, want);
	nested(body, "{\"params\":{\"arguments\":", MCP_DEPTH_MAX - 1, "}}");
	expect(body, "none arguments= !nested deeper than 64");
}
END_TEST

static void put_tail(char *body, size_t cap, size_t at, const char *tail)
{
	snprintf(body + at, cap - at, "%s", tail);
}

START_TEST(many_keys)
{
	static char body[100000];
	size_t len = 0;

	body[len++] = '{';
	for (int i = 0; i < 4096; i++)
		len += (size_t)snprintf(body + len, sizeof(body) - len, "%s\"k%d\":0", i ? "," : "", i);
	put_tail(body, sizeof(body), len, "}");
	expect(body, "none");
	put_tail(body, sizeof(body), len, ",\"k77\":1}");
	expect(body, "none !too many keys");
	put_tail(body, sizeof(body), len - strlen(",\"k4095\":0"), ",\"k77\":1}");
	expect(body, "none !duplicate key");
}
END_TEST

START_TEST(batches)
{
	static char body[8192], want[8192];
	size_t len = 0, out = 0;
	struct mcp_scan *s;
	struct mcp_view v;

	expect("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"arguments\":{}}},"
	       "{\"jsonrpc\":\"2.0\",\"method\":\"n\"}, 5, [{\"id\":1}], \"x\", "
	       "{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":{}}]",
	       "batch; request method=tools/call id=1 name=a arguments={}; notification method=n; none; none; none; "
	       "response id=null");
	expect("[]", "none");
	expect("[{\"a\":1},{\"a\":1}]", "batch; none; none");
	expect("[{\"a\":1,\"a\":1}]", "none !duplicate key");
	expect("[{\"id\":1}", "none !ends too early");
	out += (size_t)snprintf(want, sizeof(want), "batch");
	for (int i = 0; i < MCP_BATCH_MAX; i++) {
		len += (size_t)snprintf(body + len, sizeof(body) - len, "%c{\"id\":%d}", i ? ',' : '[', i);
		out += (size_t)snprintf(want + out, sizeof(want) - out, "; none id=%d", i);
	}
	put_tail(body, sizeof(body), len, "]");
	expect(body, want);
	put_tail(body, sizeof(body), len, ",{\"id\":100}]");
	expect(body, "none !more than 100 messages in a batch");

	ck_assert_int_eq(mcp_scan_new(&s), 0);
	mcp_scan_feed(s, CALL(""), strlen(CALL("")));
	mcp_scan_finish(s, &v);
	ck_assert_uint_eq(mcp_scan_count(s), 1);
	mcp_scan_message(s, 0, &v);
	ck_assert_int_eq(v.kind, MCP_REQUEST);
	mcp_scan_free(s);
}
END_TEST

START_TEST(header_values)
{
	static const struct {
		const char *value;
		int r;
		const char *want;
	} cases[] = {
		{ "get_weather", 0, "get_weather" },
		{ "", 0, "" },
		{ "a b\tc", 0, "a b\tc" },
		{ "=?base64?SGVsbG8=?=", 0, "Hello" },
		{ "=?base64?w6k=?=", 0, "\xc3\xa9" },
		{ "=?base64?\?=", 0, "" },
		{ "=?BASE64?SGVsbG8=?=", 0, "=?BASE64?SGVsbG8=?=" },
		{ "=?base64?=", 0, "=?base64?=" },
		{ "=?base64?SGVsbG8=", 0, "=?base64?SGVsbG8=" },
		{ "x=?base64?SGVsbG8=?=", 0, "x=?base64?SGVsbG8=?=" },
		{ "=?base64?SGVsbG8?=", -EINVAL, "" },
		{ "=?base64?SGVs bG8=?=", -EINVAL, "" },
		{ "=?base64?/w==?=", -EINVAL, "" }, /* not UTF-8 */
		{ "\xc3\xa9", -EINVAL, "" },
		{ "a\nb", -EINVAL, "" },
		{ "a\x7f", -EINVAL, "" },
		{ "0123456789abcdef0123456789abcdef!", -ENOBUFS, "" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct buf out;

		buf_init(&out, 32);
		ck_assert_int_eq(mcp_header_decode(span_of(cases[i].value), &out), cases[i].r);
		ck_assert(span_is(buf_span(&out), cases[i].want));
		buf_done(&out);
	}
}
END_TEST

#ifdef HAVE_ORACLE
/* Any prefix, and any one byte changed: what jansson takes, we take, and the other way round. */
static void against_oracle(const char *body, size_t len)
{
	static char got[16384];
	json_error_t e;
	json_t *tree = json_loadb(body, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &e);
	const char *bad;

	scan(span_make(body, len), len / 2, got, sizeof(got));
	bad = strchr(got, '!');
	if (bad && tree)
		ck_assert_msg(strstr(bad, "duplicate key") || strstr(bad, "id is neither") || strstr(bad, "NUL in"),
			      "%.*s: %s", (int)len, body, got);
	if (!bad && !tree)
		ck_assert_msg(json_error_code(&e) == json_error_numeric_overflow ||
				      strncmp(e.text, "invalid Unicode", 15) == 0 ||
				      json_error_code(&e) == json_error_null_byte_in_key,
			      "%.*s: %s", (int)len, body, e.text);
	json_decref(tree);
}

START_TEST(oracle)
{
	static const char *const bodies[] = {
		CALL("\"name\":\"g\\u00e9t\",\"arguments\":{\"a\":[1,-2.5e+3,true,null],\"b\":"
		     "\"\xe2\x82\xac\\ud83d\\ude02\"}"),
		"[{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":[0.0]},{}]",
	};
	static const char bytes[] = "\"\\{}[],:0-.eEtu \x1f\x80\xc3\xed\xff\0x";
	char copy[256];

	for (size_t b = 0; b < ARRAY_LEN(bodies); b++) {
		size_t len = strlen(bodies[b]);

		ck_assert_uint_lt(len, sizeof(copy));
		for (size_t i = 0; i <= len; i++)
			against_oracle(bodies[b], i);
		for (size_t i = 0; i < len; i++)
			for (size_t k = 0; k < sizeof(bytes) - 1; k++) {
				memcpy(copy, bodies[b], len);
				copy[i] = bytes[k];
				against_oracle(copy, len);
			}
	}
}
END_TEST
#define ADD_ORACLE ADD(oracle)
#else
#define ADD_ORACLE
#endif

UNIT_MAIN("mcp", ADD(kinds) ADD(ids) ADD(id_before_the_end) ADD(tool_calls) ADD(spellings) ADD(versions_and_clients)
			 ADD(limits) ADD(depths) ADD(many_keys) ADD(batches) ADD(header_values) ADD_ORACLE)
