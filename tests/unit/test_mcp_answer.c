#include "proto/mcp_answer.h"

#include "base/check.h"
#include "tests/lib/answer_oracle.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <malloc.h>
#include <time.h>

enum { TEXT_MAX = 512 };

#define OK "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"
#define TOOL_ERROR "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[],\"isError\":true}}"
#define RPC_ERROR "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"no\"}}"

/* What was said, as text: "ok", "tool", "rpc CODE" or "-" for each id, and the number of events. */
static void describe(const struct mcp_answer *a, size_t n_ids, char to[TEXT_MAX])
{
	struct mcp_outcome o;
	size_t len = 0;

	for (size_t i = 0; i < n_ids; i++) {
		if (!mcp_answer_outcome(a, i, &o))
			len += (size_t)snprintf(to + len, TEXT_MAX - len, "- ");
		else if (o.has_rpc_error)
			len += (size_t)snprintf(to + len, TEXT_MAX - len, "rpc %lld ", (long long)o.rpc_error_code);
		else
			len += (size_t)snprintf(to + len, TEXT_MAX - len, o.is_error ? "tool " : "ok ");
	}
	snprintf(to + len, TEXT_MAX - len, "%llu", (unsigned long long)mcp_answer_events(a));
}

/* ids: raw, one space between them. */
static struct mcp_answer *expecting(enum mcp_answer_form form, const char *ids, size_t *ret_n)
{
	struct span rest = span_of(ids);
	struct mcp_answer *a;

	ck_assert_int_eq(mcp_answer_new(&a), 0);
	*ret_n = 0;
	while (rest.p && rest.len) {
		ck_assert_int_eq(mcp_answer_expect(a, span_split(&rest, ' ')), 0);
		(*ret_n)++;
	}
	mcp_answer_feed(a, "before it begins", 16);
	mcp_answer_begin(a, form);
	return a;
}

/* Each piece in memory of its own, so that a sanitizer sees a look beyond it. */
static void feed(struct mcp_answer *a, const char *p, size_t n)
{
	char *copy = malloc(n ? n : 1);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, p, n);
	mcp_answer_feed(a, copy, n);
	free(copy);
}

/* The first `cut` bytes, then pieces of `step`. */
static void read_cut(enum mcp_answer_form form, const char *ids, struct span body, size_t cut, size_t step, char said[TEXT_MAX])
{
	struct mcp_answer *a;
	size_t n_ids;

	a = expecting(form, ids, &n_ids);
	feed(a, body.p, cut);
	for (size_t at = cut; at < body.len; at += step)
		feed(a, body.p + at, MIN(step, body.len - at));
	mcp_answer_finish(a);
	describe(a, n_ids, said);
	mcp_answer_free(a);
}

static void check(enum mcp_answer_form form, const char *ids, struct span body, const char *want)
{
	char said[TEXT_MAX];

	for (size_t cut = 0; cut <= body.len; cut++) {
		read_cut(form, ids, body, cut, SIZE_MAX / 2, said);
		ck_assert_msg(strcmp(said, want) == 0, "cut at %zu: %s, not %s: %.*s", cut, said, want, SPAN_FMT(body));
	}
	for (size_t step = 1; step <= 3; step++) {
		read_cut(form, ids, body, 0, step, said);
		ck_assert_msg(strcmp(said, want) == 0, "in pieces of %zu: %s, not %s: %.*s", step, said, want, SPAN_FMT(body));
	}
}

struct row {
	const char *ids, *body, *want;
};

/* What a tree made by somebody else says about the only request. */
static void check_oracle(const struct row *row)
{
	struct oracle_said said = oracle_document(row->body, strlen(row->body), row->ids);
	char want[TEXT_MAX];

	if (!said.known)
		return;
	if (!said.answered)
		snprintf(want, sizeof(want), "- 0");
	else if (said.has_error)
		snprintf(want, sizeof(want), "rpc %lld 0", (long long)said.code);
	else
		snprintf(want, sizeof(want), said.is_error ? "tool 0" : "ok 0");
	ck_assert_msg(strcmp(row->want, want) == 0, "jansson: %s, not %s: %s", want, row->want, row->body);
}

static void check_rows(enum mcp_answer_form form, const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		check(form, rows[i].ids, span_of(rows[i].body), rows[i].want);
		if (form == MCP_ANSWER_JSON && *rows[i].ids && !strchr(rows[i].ids, ' '))
			check_oracle(&rows[i]);
	}
}

START_TEST(forms)
{
	static const struct {
		const char *type;
		enum mcp_answer_form form;
	} rows[] = {
		{ "application/json", MCP_ANSWER_JSON },
		{ "Application/JSON ; charset=utf-8", MCP_ANSWER_JSON },
		{ "text/event-stream", MCP_ANSWER_SSE },
		{ " TEXT/Event-Stream;charset=utf-8", MCP_ANSWER_SSE },
		{ "application/json-seq", MCP_ANSWER_OTHER },
		{ "application/jsonx", MCP_ANSWER_OTHER },
		{ "text/html", MCP_ANSWER_OTHER },
		{ "", MCP_ANSWER_OTHER },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert_msg(mcp_answer_form(span_of(rows[i].type)) == rows[i].form, "%s", rows[i].type);
	ck_assert_int_eq(mcp_answer_form((struct span){ NULL, 0 }), MCP_ANSWER_OTHER);
}
END_TEST

START_TEST(documents)
{
	static const struct row rows[] = {
		{ "1", OK, "ok 0" },
		{ "1", TOOL_ERROR, "tool 0" },
		{ "1", RPC_ERROR, "rpc -32601 0" },
		{ "1", " \r\n" TOOL_ERROR "\n", "tool 0" },
		{ "1", "\xef\xbb\xbf" TOOL_ERROR, "tool 0" },
		{ "1", "\xef\xbb" TOOL_ERROR, "- 0" },
		{ "1", "\xef\xbb\xbf", "- 0" },
		{ "1", "\xef\xbb", "- 0" },
		{ "1", "", "- 0" },
		{ "", TOOL_ERROR, "0" },
		/* the order of keys */
		{ "1", "{\"result\":{\"isError\":true},\"id\":1}", "tool 0" },
		{ "1", "{\"error\":{\"message\":\"m\",\"code\":7},\"id\":1}", "rpc 7 0" },
		/* not JSON, or cut short */
		{ "1", "{\"id\":1,\"result\":{\"isError\":true}", "- 0" },
		{ "1", TOOL_ERROR "x", "- 0" },
		{ "1", TOOL_ERROR TOOL_ERROR, "- 0" },
		{ "1", "<html>" TOOL_ERROR, "- 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":true},\"x\":\"\xff\"}", "- 0" },
		/* not an answer */
		{ "1", "{\"id\":1,\"method\":\"ping\",\"result\":{\"isError\":true}}", "- 0" },
		{ "1", "{\"id\":1,\"method\":\"ping\"}", "- 0" },
		{ "1", "{\"id\":1}", "- 0" },
		{ "1", "[]", "- 0" },
		{ "1", "1", "- 0" },
		{ "1", "\"id\"", "- 0" },
		{ "1", "{}", "- 0" },
	};

	check_rows(MCP_ANSWER_JSON, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(is_error_is_told_by_its_place)
{
	static const struct row rows[] = {
		{ "1", "{\"id\":1,\"isError\":true,\"result\":{}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{},\"isError\":true}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"id\":2,\"method\":\"m\",\"error\":{\"code\":1}}}", "ok 0" },
		{ "1", "{\"id\":1,\"error\":{\"id\":2,\"isError\":true}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"result\":{\"structuredContent\":{\"isError\":true}}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"content\":[{\"isError\":true},[{\"isError\":true}]]}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"content\":[{\"text\":\"\\\"isError\\\":true\"}]}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":[{\"isError\":true}]}", "ok 0" },
		{ "1", "{\"id\":1,\"params\":{\"isError\":true},\"result\":{}}", "ok 0" },
		{ "1", "{\"id\":1,\"x\":{\"result\":{\"isError\":true}},\"result\":{}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":\"true\"}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":1}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":{\"isError\":true}}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":false}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"iserror\":true}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError \":true}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"content\":[{\"a\":{}},[]],\"isError\":true,\"_meta\":{}}}", "tool 0" },
		{ "1", "{\"id\":1,\"result\":{\"is\\u0045rror\":true}}", "tool 0" },
		{ "1", "{\"\\u0069d\":1,\"r\\u0065sult\":{\"\\u0069sError\":true}}", "tool 0" },
		{ "1", "{\"id\":1,\"result\":true}", "ok 0" },
		/* the code of an error, too */
		{ "1", "{\"id\":1,\"error\":{\"data\":{\"code\":5},\"code\":6}}", "rpc 6 0" },
		{ "1", "{\"id\":1,\"code\":5,\"error\":{\"data\":{\"code\":5}}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":{\"c\\u006fde\":6}}", "rpc 6 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":-3.26e4}}", "rpc -32600 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":1.5}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":\"5\"}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":99999999999999999999}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":9223372036854775807}}", "rpc 9223372036854775807 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":10000000000000000000000000000000000000000000000000000000001}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":\"no\"}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":null}", "- 0" },
		{ "1", "{\"id\":1,\"error\":null,\"result\":{\"isError\":true}}", "tool 0" },
		{ "1", "{\"id\":1,\"result\":null,\"error\":{\"code\":3}}", "rpc 3 0" },
	};

	check_rows(MCP_ANSWER_JSON, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(the_last_of_equal_keys_counts)
{
	static const struct row rows[] = {
		{ "1", "{\"id\":1,\"result\":{\"isError\":true,\"isError\":false}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":false,\"isError\":true}}", "tool 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":true},\"result\":{}}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{\"isError\":true},\"result\":[]}", "ok 0" },
		{ "1", "{\"id\":2,\"result\":{},\"id\":1}", "ok 0" },
		{ "1", "{\"id\":1,\"result\":{},\"id\":2}", "- 0" },
		{ "1", "{\"id\":1,\"result\":{},\"id\":{}}", "- 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":1,\"code\":2}}", "rpc 2 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":1},\"error\":{}}", "rpc 0 0" },
		{ "1", "{\"id\":1,\"error\":{\"code\":1},\"error\":null,\"result\":{}}", "ok 0" },
	};

	check_rows(MCP_ANSWER_JSON, rows, ARRAY_LEN(rows));
}
END_TEST

#define ANSWER(id) "{\"id\":" id ",\"result\":{\"isError\":true}}"

START_TEST(ids)
{
	static const struct row rows[] = {
		{ "1", ANSWER("\"1\""), "- 0" },
		{ "\"1\"", ANSWER("1"), "- 0" },
		{ "1", ANSWER("1.0"), "tool 0" },
		{ "1.0", ANSWER("1"), "tool 0" },
		{ "10", ANSWER("1e1"), "tool 0" },
		{ "0", ANSWER("-0"), "tool 0" },
		{ "-0", ANSWER("0"), "tool 0" },
		{ "1", ANSWER("2"), "- 0" },
		{ "1", ANSWER("1.5"), "- 0" },
		{ "1.5", ANSWER("1.50"), "tool 0" },
		{ "9007199254740993", ANSWER("9007199254740993"), "tool 0" },
		{ "9007199254740993", ANSWER("9007199254740992"), "- 0" },
		{ "1e400", ANSWER("1e400"), "tool 0" },
		{ "\"1\"", ANSWER("\"\\u0031\""), "tool 0" },
		{ "\"\\u0031\"", ANSWER("\"1\""), "tool 0" },
		{ "\"\xc3\xa4\"", ANSWER("\"\\u00e4\""), "tool 0" },
		{ "\"\"", ANSWER("\"\""), "tool 0" },
		{ "\"\\u0000\"", ANSWER("\"\\u0000\""), "tool 0" },
		{ "\"\\u0000\"", ANSWER("\"\""), "- 0" },
		{ "1", ANSWER("true"), "- 0" },
		{ "1", ANSWER("[1]"), "- 0" },
		{ "1", ANSWER("{\"id\":1}"), "- 0" },
		{ "1 1", ANSWER("1"), "tool tool 0" },
		{ "1 2", ANSWER("2"), "- tool 0" },
		/* without an id */
		{ "1", "{\"id\":null,\"error\":{\"code\":-32700}}", "rpc -32700 0" },
		{ "1", "{\"error\":{\"code\":-32700}}", "rpc -32700 0" },
		{ "1 2", "{\"id\":null,\"error\":{\"code\":-32700}}", "- - 0" },
		{ "1", "{\"id\":null,\"result\":{\"isError\":true}}", "- 0" },
		{ "1", "[{\"id\":null,\"error\":{\"code\":5}}," ANSWER("1") "]", "tool 0" },
		{ "1", "{\"id\":null,\"error\":{\"code\":-32700}", "- 0" },
	};

	check_rows(MCP_ANSWER_JSON, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(ids_that_are_none)
{
	static const char *const raw[] = { "", "null", "true", "[]", "{}", "x", "\"\\ud800\"" };
	struct mcp_answer *a;

	ck_assert_int_eq(mcp_answer_new(&a), 0);
	for (size_t i = 0; i < ARRAY_LEN(raw); i++)
		ck_assert_int_eq(mcp_answer_expect(a, span_of(raw[i])), -EINVAL);
	mcp_answer_free(a);
	ck_assert_ptr_null(mcp_answer_free(NULL));
}
END_TEST

START_TEST(long_ids)
{
	char raw[1700], body[2000];
	size_t len = 0;

	/* Escapes of an answer may make a valid id longer than the request spelled it. */
	raw[len++] = '"';
	for (int i = 0; i < 250; i++)
		len += (size_t)snprintf(raw + len, sizeof(raw) - len, "\\u0061");
	memcpy(raw + len, "\"", 2);
	snprintf(body, sizeof(body), "{\"id\":%s,\"result\":{\"isError\":true}}", raw);
	memset(raw + 1, 'a', 250);
	memcpy(raw + 251, "\"", 2);
	check(MCP_ANSWER_JSON, raw, span_of(body), "tool 0");
	/* One that no request can have. */
	memset(raw + 1, 'a', 300);
	memcpy(raw + 301, "\"", 2);
	snprintf(body, sizeof(body), "{\"id\":%s,\"result\":{\"isError\":true}}", raw);
	raw[257] = '\0';
	raw[256] = '"';
	check(MCP_ANSWER_JSON, raw, span_of(body), "- 0");
}
END_TEST

START_TEST(batches)
{
	static const struct row rows[] = {
		{ "1 \"1\" 2 3", "[" TOOL_ERROR ",{\"id\":\"1\",\"result\":{}},{\"id\":2,\"error\":{\"code\":-1}}]", "tool ok rpc -1 - 0" },
		{ "1 2", "[" TOOL_ERROR ",{\"id\":2,\"result\":{}}", "- - 0" },
		{ "1 2", "[7,[" TOOL_ERROR "],null,{\"id\":2,\"result\":{}}]", "- ok 0" },
		{ "1", "[" OK "," TOOL_ERROR "]", "ok 0" },
		{ "1", "[[" TOOL_ERROR "]]", "- 0" },
		{ "1 2", "[{\"id\":1,\"result\":{\"isError\":true}},{\"id\":2,\"x\":{},\"result\":{}}]", "tool ok 0" },
	};

	check_rows(MCP_ANSWER_JSON, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(event_streams)
{
	static const struct row rows[] = {
		{ "1", "data: " TOOL_ERROR "\n\n", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\r\n\r\n", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\r\r", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\n\r\n", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\r\n\n", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\n\r", "tool 1" },
		{ "1", "data:" TOOL_ERROR "\n\n", "tool 1" },
		{ "1", "\xef\xbb\xbf" "data: " TOOL_ERROR "\n\n", "tool 1" },
		{ "1", "data: \xef\xbb\xbf" TOOL_ERROR "\n\n", "- 1" },
		{ "1", "event: message\nid: 7\ndata: " TOOL_ERROR "\nretry: 10\n\n", "tool 1" },
		{ "1", "data: " TOOL_ERROR "\nevent:message\n\n", "tool 1" },
		{ "1", "event\ndata: " TOOL_ERROR "\n\n", "tool 1" },
		{ "1", "event: x\nevent: message\ndata: " TOOL_ERROR "\n\n", "tool 1" },
		/* complete or not */
		{ "1", "data: " TOOL_ERROR "\n", "- 0" },
		{ "1", "data: " TOOL_ERROR, "- 0" },
		{ "1", "", "- 0" },
		{ "1", "\n\n\n", "- 0" },
		{ "1", "id: 1\n\n", "- 0" },
		{ "1", "data\n\ndata:\n\ndata: \n\n", "- 3" },
		/* events of another type are not messages */
		{ "1", "event: ping\ndata: " TOOL_ERROR "\n\n", "- 1" },
		{ "1", "event: messages\ndata: " TOOL_ERROR "\n\n", "- 1" },
		{ "1", "event: messag\ndata: " TOOL_ERROR "\n\n", "- 1" },
		{ "1", "event: messagemessage\ndata: " TOOL_ERROR "\n\n", "- 1" },
		{ "1", "data: " TOOL_ERROR "\nevent: x\n\n", "- 1" },
		{ "1", "event: x\n\ndata: " TOOL_ERROR "\n\n", "tool 1" },
		/* comments and other fields */
		{ "1", ": data: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", ":\n:ping\n\ndata: " TOOL_ERROR "\n: x\n\n", "tool 1" },
		{ "1", "xdata: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", "datas: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", "datadata: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", "Data: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", " data: " TOOL_ERROR "\n\n", "- 0" },
		{ "1", "data : " TOOL_ERROR "\n\n", "- 0" },
		{ "1", "dat\n" TOOL_ERROR "\n\n", "- 0" },
		/* several events */
		{ "1", "data: {\"method\":\"notifications/progress\",\"params\":{}}\n\ndata: " TOOL_ERROR "\n\n", "tool 2" },
		{ "1", "data: not JSON\n\ndata: " TOOL_ERROR "\n\n", "tool 2" },
		{ "1", "data: " TOOL_ERROR "x\n\ndata: " OK "\n\n", "ok 2" },
		{ "1", "data: " OK "\n\ndata: " TOOL_ERROR "\n\n", "ok 2" },
		{ "1 2", "data: " OK "\n\ndata: {\"id\":2,\"error\":{\"code\":4}}\n\ndata: x\n\n", "ok rpc 4 3" },
		{ "1", "data: {\"id\":1,\"method\":\"sampling/createMessage\",\"params\":{}}\n\ndata: " TOOL_ERROR "\n\n", "tool 2" },
		{ "1", "data: {\"id\":null,\"error\":{\"code\":4}}\n\ndata: " TOOL_ERROR "\n\n", "tool 2" },
		{ "1 2", "data: [" OK ",{\"id\":2,\"result\":{}}]\n\n", "ok ok 1" },
		{ "", "data: " OK "\n\ndata: x\n\n", "2" },
	};

	check_rows(MCP_ANSWER_SSE, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(data_of_many_lines)
{
	static const struct row rows[] = {
		{ "1", "data: {\"id\":1,\r\ndata:   \"result\": {\r\ndata: \"isError\":true}\r\ndata:}\r\n\r\n", "tool 1" },
		{ "1", "data: {\"id\":1,\n: between\nid: 9\ndata: \"result\":{}}\n\n", "ok 1" },
		{ "1", "data\ndata: " TOOL_ERROR "\ndata\n\n", "tool 1" },
		/* the end of a line is white space: it ends a number, and may not be in a string */
		{ "1", "data: {\"id\":1,\"result\":{\"isError\":tr\ndata:ue}}\n\n", "- 1" },
		{ "12", "data: {\"id\":1\ndata:2,\"result\":{}}\n\n", "- 1" },
		{ "1", "data: {\"id\":1,\"result\":{\"x\":\"a\ndata: b\"}}\n\n", "- 1" },
	};

	check_rows(MCP_ANSWER_SSE, rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(other_forms_say_nothing)
{
	check(MCP_ANSWER_OTHER, "1", SPAN(TOOL_ERROR), "- 0");
	check(MCP_ANSWER_OTHER, "1", SPAN("data: " TOOL_ERROR "\n\n"), "- 0");
}
END_TEST

/* ---- much ---- */

static double cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct bulk {
	enum mcp_answer_form form;
	const char *what, *head, *fill, *tail, *want;
	size_t bytes, piece; /* piece 0: 64 KiB */
};

/* Its fill is repeated to that many bytes. CPU seconds that those took; not a byte of memory. */
static double read_bulk(const struct bulk *b)
{
	static char block[64 * 1024];
	size_t fill = strlen(b->fill), used = (b->piece ? b->piece : sizeof(block)) / fill * fill, n, before;
	char said[TEXT_MAX];
	struct mcp_answer *a;
	double t;

	for (size_t i = 0; i < used; i++)
		block[i] = b->fill[i % fill];
	a = expecting(b->form, "1", &n);
	feed(a, b->head, strlen(b->head));
	before = mallinfo2().uordblks;
	t = cpu_seconds();
	for (size_t done = 0; done < b->bytes; done += used)
		mcp_answer_feed(a, block, used);
	t = cpu_seconds() - t;
	ck_assert_uint_eq(mallinfo2().uordblks, before);
	feed(a, b->tail, strlen(b->tail));
	mcp_answer_finish(a);
	describe(a, n, said);
	ck_assert_msg(strcmp(said, b->want) == 0, "%s: %s", b->what, said);
	mcp_answer_free(a);
	return t;
}

/* The figures are for people: no two machines have the same. */
START_TEST(bulk_needs_no_memory)
{
	enum { MIB = 1024 * 1024 };
	static const char json[] = "{\"id\":1,\"result\":{\"content\":[{\"text\":\"", end[] = "\"}],\"isError\":true}}";
	static const char sse[] = "data: {\"id\":1,\"result\":{\"content\":[{\"text\":\"", sse_end[] = "\"}],\"isError\":true}}\n\n";
	const struct bulk rows[] = {
		{ MCP_ANSWER_JSON, "plain text", json, "lorem ipsum dolor sit amet ", end, "tool 0", 256 * MIB },
		{ MCP_ANSWER_SSE, "plain text, event", sse, "lorem ipsum dolor sit amet ", sse_end, "tool 1", 256 * MIB },
		{ MCP_ANSWER_JSON, "text with \\n", json, "twenty or so words in a row of some length\\n", end, "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "text that is not ASCII", json, "\xe3\x81\x82\xc3\xa4", end, "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "numbers", "{\"id\":1,\"x\":[1", ",12.5", "],\"result\":{\"isError\":true}}", "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "keys", "{\"id\":1", ",\"a\":0", ",\"result\":{\"isError\":true}}", "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "a long key", "{\"id\":1,\"result\":{\"", "aaaaaaaa", "\":1,\"isError\":true}}", "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "a long id", "{\"result\":{},\"id\":\"", "aaaaaaaa", "\"}", "- 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "white space", "", " \n", "{\"id\":1,\"result\":{\"isError\":true}}", "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "messages", "[{}", ",{\"id\":7,\"result\":{}}", ",{\"id\":1,\"result\":{\"isError\":true}}]", "tool 0", 16 * MIB },
		{ MCP_ANSWER_JSON, "no JSON", "x", "x", "", "- 0", 256 * MIB },
		{ MCP_ANSWER_SSE, "comments", "", ": a comment\n", "\n", "- 0", 16 * MIB },
		{ MCP_ANSWER_SSE, "lines that end in CR", "", "\r", "", "- 0", 16 * MIB },
		{ MCP_ANSWER_SSE, "lines that end in LF", "", "\n", "", "- 0", 16 * MIB },
		{ MCP_ANSWER_SSE, "a line without an end", "", "aaaaaaaa", "\n\n", "- 0", 256 * MIB },
		{ MCP_ANSWER_SSE, "a type without an end", "event:", "aaaaaaaa", "\n\n", "- 0", 256 * MIB },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		printf("# %-24s %8.0f MB/s\n", rows[i].what, (double)rows[i].bytes / 1e6 / (read_bulk(&rows[i]) + 1e-9));
}
END_TEST

/* However short its lines and long its pieces are: each byte is looked at a few times, not once for each line. */
START_TEST(short_lines_in_long_pieces)
{
	static const char *const ends[] = { "\r", "\n", "\r\n" };
	struct bulk b = { MCP_ANSWER_SSE, "lines", "", NULL, "", "- 0", 4 << 20 };
	double small, large;

	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		b.fill = ends[i];
		b.piece = 1024;
		small = read_bulk(&b);
		b.piece = 0;
		large = read_bulk(&b);
		ck_assert_msg(large < 10 * small + 0.01, "%.3f s, in small pieces %.3f s", large, small);
	}
}
END_TEST

UNIT_MAIN("mcp_answer", ADD(forms) ADD(documents) ADD(is_error_is_told_by_its_place) ADD(the_last_of_equal_keys_counts) ADD(ids)
			ADD(ids_that_are_none) ADD(long_ids) ADD(batches) ADD(event_streams) ADD(data_of_many_lines)
			ADD(other_forms_say_nothing) ADD(bulk_needs_no_memory) ADD(short_lines_in_long_pieces))
