#include "proto/mcp_list.h"

#include "base/check.h"
#include "proto/mcp.h"
#include "tests/lib/unit.h"

#include <malloc.h>

#define BAD NULL
#define A "{\"name\":\"a\",\"x\":[{\"name\":\"no\"}]}"
#define B "{\"description\":\"b\",\"name\":\"b\"}"
#define NO "{\"name\":\"no\"}"
#define LATE "{\"x\":{\"name\":\"a\"},\"name\":\"no\"}"
#define RESULT(members) "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{" members "}}"
#define TOOLS(entries) RESULT("\"tools\":[" entries "],\"nextCursor\":\"c\"")

enum { ALL = (1 << MCP_LIST_KIND_N) - 1 };

/* All names are allowed but "no" and what begins with "no:"; of a name that is cut, none. */
static bool allows(void *user, enum mcp_list_kind kind, struct span name)
{
	size_t *asked = user;

	ck_assert(kind < MCP_LIST_KIND_N);
	if (asked)
		asked[kind]++;
	return name.p && !span_is(name, "no") && !span_starts(name, "no:");
}

static struct mcp_list *list_new(unsigned kinds, size_t *asked)
{
	const struct mcp_list_policy policy = { .kinds = kinds, .allows = allows, .user = asked };
	struct mcp_list *l;

	ck_assert_int_eq(mcp_list_new(&policy, &l), 0);
	return l;
}

/* Each piece in memory of its own, so that a sanitizer sees a look beyond it. What a bad piece added is thrown away. */
static int feed(struct mcp_list *l, const char *p, size_t n, struct buf *out)
{
	char *copy = malloc(n ? n : 1);
	struct buf piece;
	int r;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, p, n);
	buf_init(&piece, n + mcp_list_held(l));
	r = mcp_list_feed(l, copy, n, &piece);
	ck_assert(r == 0 || r == MCP_LIST_BAD);
	if (r == 0 && buf_len(&piece))
		ck_assert_int_eq(buf_add(out, buf_bytes(&piece), buf_len(&piece)), 0);
	buf_done(&piece);
	free(copy);
	return r;
}

/* The first `cut` bytes, then pieces of `step`. */
static void filter_cut(unsigned kinds, struct span body, size_t cut, size_t step, const char *want, const char *why)
{
	struct mcp_list *l = list_new(kinds, NULL);
	struct buf out;
	int r;

	buf_init(&out, 2 * body.len + 1);
	r = feed(l, body.p, cut, &out);
	for (size_t at = cut; at < body.len && r == 0; at += step)
		r = feed(l, body.p + at, MIN(step, body.len - at), &out);
	if (r == 0)
		r = mcp_list_finish(l);
	ck_assert_msg((r == 0) == (want != BAD), "cut at %zu, step %zu: %s: %.*s", cut, step, mcp_list_bad(l), SPAN_FMT(body));
	ck_assert_msg(want == BAD || span_is(buf_span(&out), want), "cut at %zu: %.*s, not %s", cut, SPAN_FMT(buf_span(&out)), want);
	ck_assert_msg(want != BAD || !why || strstr(mcp_list_bad(l), why), "%s: %.*s", mcp_list_bad(l), SPAN_FMT(body));
	ck_assert_msg(want != BAD || !buf_len(&out) || !memmem(buf_bytes(&out), buf_len(&out), "SECRET", 6), "%.*s", SPAN_FMT(body));
	ck_assert_int_eq(mcp_list_finish(l), r);
	buf_done(&out);
	mcp_list_free(l);
}

static void check(unsigned kinds, struct span body, const char *want, const char *why)
{
	for (size_t cut = 0; cut <= body.len; cut++)
		filter_cut(kinds, body, cut, SIZE_MAX / 2, want, why);
	for (size_t step = 1; step <= 3; step++)
		filter_cut(kinds, body, 0, step, want, why);
}

struct row {
	const char *body, *want;
};

static void check_rows(const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check(ALL, span_of(rows[i].body), rows[i].want, NULL);
}

START_TEST(entries_and_commas)
{
	static const struct row rows[] = {
		{ TOOLS(""), TOOLS("") },
		{ TOOLS(A), TOOLS(A) },
		{ TOOLS(A "," B), TOOLS(A "," B) },
		{ TOOLS(NO), TOOLS("") },
		{ TOOLS(NO "," NO), TOOLS("") },
		{ TOOLS(NO "," A), TOOLS(A) },
		{ TOOLS(A "," NO), TOOLS(A) },
		{ TOOLS(A "," NO "," B), TOOLS(A "," B) },
		{ TOOLS(NO "," A "," NO "," LATE "," B "," NO), TOOLS(A "," B) },
		{ TOOLS(" " A " , " B " "), TOOLS(" " A " , " B " ") },
		{ TOOLS("\n  " NO ",\n  " A "\n"), TOOLS("\n  " A "\n") },
		{ TOOLS("\n  " A ",\n  " NO "\n"), TOOLS("\n  " A "\n") },
		{ TOOLS("\n  " A " , \t" NO ",\n\n  " B "\n"), TOOLS("\n  " A ",\n\n  " B "\n") },
		{ TOOLS(" " NO " "), TOOLS(" ") },
	};

	check_rows(rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(told_by_shape)
{
	static const struct row rows[] = {
		{ RESULT("\"prompts\":[" NO "," A "]"), RESULT("\"prompts\":[" A "]") },
		{ RESULT("\"resources\":[{\"name\":\"no\",\"uri\":\"a:b\"},{\"uri\":\"no:b\"}]"),
		  RESULT("\"resources\":[{\"name\":\"no\",\"uri\":\"a:b\"}]") },
		{ RESULT("\"resourceTemplates\":[{\"uriTemplate\":\"no:{b}\"},{\"uriTemplate\":\"a:{b}\",\"uri\":7}]"),
		  RESULT("\"resourceTemplates\":[{\"uriTemplate\":\"a:{b}\",\"uri\":7}]") },
		{ RESULT("\"tools\":[" NO "],\"prompts\":[" NO "," A "],\"_meta\":{\"tools\":[" NO "]}"),
		  RESULT("\"tools\":[],\"prompts\":[" A "],\"_meta\":{\"tools\":[" NO "]}") },
		/* a list is where it is, whatever else the message has */
		{ "{\"result\":{\"tools\":[" NO "]},\"id\":null,\"method\":\"x\"}", "{\"result\":{\"tools\":[]},\"id\":null,\"method\":\"x\"}" },
		{ " {\"result\" : { \"tools\" : [" NO "] } } \n", " {\"result\" : { \"tools\" : [] } } \n" },
		/* and nowhere else */
		{ "{\"tools\":[" NO "]}", "{\"tools\":[" NO "]}" },
		{ "{\"params\":{\"tools\":[" NO ",1]}}", "{\"params\":{\"tools\":[" NO ",1]}}" },
		{ "{\"error\":{\"tools\":[" NO "]}}", "{\"error\":{\"tools\":[" NO "]}}" },
		{ "{\"result\":[{\"tools\":[" NO "]}]}", "{\"result\":[{\"tools\":[" NO "]}]}" },
		{ "{\"result\":[\"tools\",[" NO "]]}", "{\"result\":[\"tools\",[" NO "]]}" },
		{ RESULT("\"x\":[" NO "]"), RESULT("\"x\":[" NO "]") },
		{ RESULT("\"x\":{\"tools\":[" NO "]}"), RESULT("\"x\":{\"tools\":[" NO "]}") },
		{ RESULT("\"capabilities\":{\"tools\":{\"listChanged\":true}}"), RESULT("\"capabilities\":{\"tools\":{\"listChanged\":true}}") },
		{ RESULT("\"tools\":{\"name\":\"no\"}"), RESULT("\"tools\":{\"name\":\"no\"}") },
		{ RESULT("\"tools\":\"no\",\"x\":[" NO "]"), RESULT("\"tools\":\"no\",\"x\":[" NO "]") },
		/* batches */
		{ "[" TOOLS(NO) "," RESULT("") "," TOOLS(A "," NO) "]", "[" TOOLS("") "," RESULT("") "," TOOLS(A) "]" },
		{ "[[" TOOLS(NO) "],1]", "[[" TOOLS(NO) "],1]" },
		{ "[]", "[]" },
	};

	check_rows(rows, ARRAY_LEN(rows));
}
END_TEST

START_TEST(only_lists_that_have_rules)
{
	static const char both[] = RESULT("\"tools\":[" NO "],\"prompts\":[" NO "]");
	static const char odd[] = RESULT("\"tools\":[1],\"tools\":7,\"TOOLS\":8,\"prompts\":[]");

	check(1 << MCP_LIST_TOOLS, SPAN(RESULT("\"tools\":[" NO "],\"prompts\":[" NO "]")), RESULT("\"tools\":[],\"prompts\":[" NO "]"), NULL);
	check(1 << MCP_LIST_PROMPTS, span_of(both), RESULT("\"tools\":[" NO "],\"prompts\":[]"), NULL);
	check(1 << MCP_LIST_PROMPTS, span_of(odd), odd, NULL);
}
END_TEST

START_TEST(names)
{
	static const struct row rows[] = {
		{ TOOLS("{\"name\":\"n\\u006f\"}"), TOOLS("") },
		{ TOOLS("{\"name\":\"\\u006eo\"}," A), TOOLS(A) },
		{ TOOLS("{\"name\":\"\"}"), TOOLS("{\"name\":\"\"}") },
		{ TOOLS("{\"name\":\"No\"}"), TOOLS("{\"name\":\"No\"}") },
		{ TOOLS("{\"name\" : \"n\xc3\xb6\"}"), TOOLS("{\"name\" : \"n\xc3\xb6\"}") },
		{ RESULT("\"resources\":[{\"uri\":\"n\\u006f:\\u0041\"}]"), RESULT("\"resources\":[]") },
	};

	check_rows(rows, ARRAY_LEN(rows));
}
END_TEST

static char *text_of(const char *head, size_t n, const char *tail)
{
	char *text = malloc(strlen(head) + n + strlen(tail) + 1);

	ck_assert_ptr_nonnull(text);
	memcpy(text, head, strlen(head));
	memset(text + strlen(head), 'a', n);
	memcpy(text + strlen(head) + n, tail, strlen(tail) + 1);
	return text;
}

START_TEST(long_names)
{
	char *fits = text_of("{\"result\":{\"tools\":[{\"name\":\"", MCP_NAME_MAX, "\"}]}}");
	char *cut = text_of("{\"result\":{\"tools\":[{\"name\":\"", MCP_NAME_MAX + 1, "\"}]}}");
	char *uri = text_of("{\"result\":{\"resources\":[{\"uri\":\"no:", 4 * MCP_NAME_MAX, "\"}]}}");
	char *long_uri = text_of("{\"result\":{\"resources\":[{\"uri\":\"data:", 4 * MCP_NAME_MAX, "\"}]}}");

	filter_cut(ALL, span_of(fits), 0, 7, fits, NULL);
	filter_cut(ALL, span_of(cut), 0, 7, "{\"result\":{\"tools\":[]}}", NULL);
	filter_cut(ALL, span_of(uri), 0, 7, "{\"result\":{\"resources\":[]}}", NULL);
	filter_cut(ALL, span_of(long_uri), 0, 7, long_uri, NULL);
	free(fits);
	free(cut);
	free(uri);
	free(long_uri);
}
END_TEST

/* With the text that says why; the word SECRET never passes. */
START_TEST(bad_bodies)
{
#define SECRET "{\"name\":\"no\",\"x\":\"SECRET\"}"
	static const struct {
		const char *body, *why;
	} rows[] = {
		/* no JSON, or cut short */
		{ "{", "ends too early" },
		{ "{\"result\":{\"tools\":[" SECRET, "ends too early" },
		{ "{\"result\":{\"tools\":[" SECRET "]}", "ends too early" },
		{ TOOLS(A) "x", "bytes after the message" },
		{ TOOLS(A) "{\"result\":{\"tools\":[" SECRET "]}}", "bytes after the message" },
		{ TOOLS(A ",]") , "unexpected" },
		{ TOOLS(A "," "]," SECRET), "unexpected" },
		{ TOOLS(A SECRET), "unexpected" },
		{ TOOLS("," SECRET), "unexpected" },
		{ TOOLS("/**/" SECRET), "unexpected" },
		{ "{'result':{'tools':[{'name':'SECRET'}]}}", "unexpected" },
		{ "{result:{tools:[{name:\"SECRET\"}]}}", "unexpected" },
		{ "{\"x\":NaN,\"result\":{\"tools\":[" SECRET "]}}", "unexpected" },
		{ TOOLS(A ",{\"name\":\"\xff\",\"x\":\"SECRET\"}"), "not UTF-8" },
		{ TOOLS("{\"name\":\"\\ud800\",\"x\":\"SECRET\"}"), "surrogate" },
		/* there twice */
		{ "{\"result\":{},\"result\":{\"tools\":[" SECRET "]}}", "twice" },
		{ "{\"result\":1,\"x\":2,\"result\":{\"tools\":[" SECRET "]}}", "twice" },
		{ RESULT("\"tools\":[" A "],\"tools\":[" SECRET "]"), "twice" },
		{ RESULT("\"tools\":{},\"tools\":[" SECRET "]"), "twice" },
		{ TOOLS("{\"name\":\"a\",\"name\":\"SECRET\"}"), "twice" },
		{ TOOLS("{\"name\":\"no\",\"name\":\"SECRET\"}"), "twice" },
		/* another spelling */
		{ "{\"r\\u0065sult\":{\"tools\":[" SECRET "]}}", "escapes" },
		{ RESULT("\"t\\u006fols\":[" SECRET "]"), "escapes" },
		{ TOOLS("{\"n\\u0061me\":\"SECRET\"}"), "escapes" },
		{ TOOLS("{\"name\":\"a\",\"n\\u0061me\":\"SECRET\"}"), "escapes" },
		{ "{\"Result\":{\"tools\":[" SECRET "]}}", "another case" },
		{ RESULT("\"TOOLS\":[" SECRET "]"), "another case" },
		{ RESULT("\"tool\xc5\xbf\":[" SECRET "]"), "another case" },
		{ RESULT("\"resourcetemplates\":[" SECRET "]"), "another case" },
		{ TOOLS("{\"Name\":\"SECRET\"}"), "another case" },
		{ TOOLS("{\"name\":\"a\",\"NAME\":\"SECRET\"}"), "another case" },
		/* entries */
		{ TOOLS("1"), "no object" },
		{ TOOLS("\"SECRET\""), "no object" },
		{ TOOLS("null," SECRET), "no object" },
		{ TOOLS("[" SECRET "]"), "no object" },
		{ TOOLS(A ",[]"), "no object" },
		{ TOOLS("{}"), "has no name" },
		{ TOOLS("{\"uri\":\"SECRET\"}"), "has no name" },
		{ RESULT("\"resources\":[{\"name\":\"SECRET\"}]"), "has no name" },
		{ RESULT("\"resourceTemplates\":[{\"uri\":\"SECRET\"}]"), "has no name" },
		{ TOOLS("{\"name\":7,\"x\":\"SECRET\"}"), "no string" },
		{ TOOLS("{\"name\":null,\"x\":\"SECRET\"}"), "no string" },
		{ TOOLS("{\"name\":{\"name\":\"SECRET\"}}"), "no string" },
		{ TOOLS("{\"name\":[\"SECRET\"]}"), "no string" },
		{ TOOLS("{\"name\":\"a\\u0000\",\"x\":\"SECRET\"}"), "NUL in the name" },
		{ TOOLS("{\"name\\u0000\":\"SECRET\"}"), "NUL in a key" },
		{ "{\"result\\u0000\":{\"tools\":[" SECRET "]}}", "NUL in a key" },
		/* events */
		{ "data: {\"result\":{\"tools\":[" SECRET "]}\n\n", "ends too early" },
		{ "data: {\"result\":{\"tools\":[{\"name\":\"SEC\ndata: RET\"}]}}\n\n", "control character" },
		{ "data: " TOOLS(A) "\ndata: " TOOLS(SECRET) "\n\n", "bytes after the message" },
		/* a first line that some clients pass over */
		{ " data: x\ndata: " TOOLS(SECRET) "\n\n", "goes on" },
		{ "\xef\xbb\xbf" "data: x\r\ndata: " TOOLS(SECRET) "\r\n\r\n", "goes on" },
		{ "\r\n\r\xc2\xa0" "data\r: x\rdata: " TOOLS(SECRET) "\r\r", "goes on" },
		{ "data: {\"result\":{\"tools\":[" A "," SECRET "", "in the middle of a list" },
		{ "data: {\"result\":{\"tools\":[" A "\n", "in the middle of a list" },
		{ "event: other\ndata: {x}\n\n", "unexpected" },
		{ "data: \x0b" TOOLS(SECRET) "\n\n", "no text begins with" },
		{ "\x1f\x8bSECRET", "no text begins with" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		check(ALL, span_of(rows[i].body), BAD, rows[i].why);
	check(ALL, SPAN("\xff\xfe{\0\"\0S\0E\0C\0R\0E\0T"), BAD, "unexpected");
	check(ALL, SPAN("\xfe\xff\0{\0\"SECRET"), BAD, "no text begins with");
	check(ALL, SPAN("{\0\"\0r\0"), BAD, "unexpected");
}
END_TEST

START_TEST(no_messages)
{
	static const char *const rows[] = {
		"", " \r\n", "Accepted", "<html>{\"result\":{\"tools\":[" NO "]}}", "7", "\"{\"", "\xe9\x94\x99", "\xef\xbb\xbf", "\xef\xbb",
		"\n\n", ": ping\n\n", "id: 1\ndata: \n\n", "data\n\n", "data: ping\n\n", "data: 2026-11-29\ndata: {\n\n",
		"event: endpoint\ndata: /messages?id=1\n\n", "retry: 10\r\n\r\n", "data: \"{\"\n\n", "data: \xe9\x94\x99\n\n",
		"data: {\"a\"", "data: {\"result\":{\"x\":[{\n",
		"\xef\xbb\xbf: x\ndata: x\ndata: {\n\n", " data: x\n\ndata: x\ndata: {\n\n", " \n\r\ndata: x\ndata: {\n\n", " x",
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		check(ALL, span_of(rows[i]), rows[i], NULL);
}
END_TEST

START_TEST(event_streams)
{
#define OTHER "data: {\"method\":\"notifications/progress\",\"params\":{\"tools\":[" NO "]}}"
	static const struct row rows[] = {
		{ "data: " TOOLS(NO "," A) "\n\n", "data: " TOOLS(A) "\n\n" },
		{ "data:" TOOLS(NO "," A) "\r\n\r\n", "data:" TOOLS(A) "\r\n\r\n" },
		{ "data:  " TOOLS(A "," NO) "\r\r", "data:  " TOOLS(A) "\r\r" },
		{ "\xef\xbb\xbf" "data: " TOOLS(NO) "\n\n", "\xef\xbb\xbf" "data: " TOOLS("") "\n\n" },
		{ "data: \xef\xbb\xbf" TOOLS(NO) "\n\n", "data: \xef\xbb\xbf" TOOLS("") "\n\n" },
		{ "data: \xc2\xa0" TOOLS(NO) "\n\n", "data: \xc2\xa0" TOOLS("") "\n\n" },
		{ "event: message\nid: 7\ndata: " TOOLS(NO) "\nretry: 1\n\n", "event: message\nid: 7\ndata: " TOOLS("") "\nretry: 1\n\n" },
		{ "data: " TOOLS(NO) "\nevent: other\n\n", "data: " TOOLS("") "\nevent: other\n\n" },
		{ OTHER "\n\ndata: " TOOLS(NO) "\n\n" OTHER "\n\n", OTHER "\n\ndata: " TOOLS("") "\n\n" OTHER "\n\n" },
		{ "data: [" TOOLS(NO) "," TOOLS(A) "]\n\n", "data: [" TOOLS("") "," TOOLS(A) "]\n\n" },
		/* complete, but for the end of its event */
		{ "data: " TOOLS(NO), "data: " TOOLS("") },
		/* of many lines; what is between them stays where it was */
		{ "data: {\"result\":{\"tools\":[\ndata: " NO ",\ndata: " A "\ndata: ]}}\n\n",
		  "data: {\"result\":{\"tools\":[\ndata: \ndata: " A "\ndata: ]}}\n\n" },
		{ "data: {\"result\":{\"tools\":[" A "\r\ndata:,{\"name\":\r\n: comment\r\ndata:\"no\"\r\nid: 9\r\ndata:}\r\ndata: , " B "]}}\r\n\r\n",
		  "data: {\"result\":{\"tools\":[" A "\r\ndata:\r\n: comment\r\ndata:\r\nid: 9\r\ndata:\r\ndata: , " B "]}}\r\n\r\n" },
		{ "data: {\"result\":{\"tools\":[" A ",{\"x\":1,\n: c\rdata:\"name\":\"b\"\ndata}]}}\ndata: }]}}\n\n",
		  "data: {\"result\":{\"tools\":[" A ",{\"x\":1,\n: c\rdata:\"name\":\"b\"\ndata}]}}\ndata: }]}}\n\n" },
		{ "data: {\"result\":\ndata\ndata: {\"tools\":[" NO "]}}\n\n", "data: {\"result\":\ndata\ndata: {\"tools\":[]}}\n\n" },
		/* no data */
		{ ": data: " TOOLS(NO) "\n\nData: " TOOLS(NO) "\n\n", ": data: " TOOLS(NO) "\n\nData: " TOOLS(NO) "\n\n" },
	};

	check_rows(rows, ARRAY_LEN(rows));
}
END_TEST

static size_t passed(struct mcp_list *l, const char *text, struct buf *out)
{
	size_t before = buf_len(out);

	ck_assert_int_eq(feed(l, text, strlen(text), out), 0);
	return buf_len(out) - before;
}

START_TEST(nothing_waits_but_an_entry_without_a_name)
{
	struct mcp_list *l = list_new(ALL, NULL);
	struct buf out;

	buf_init(&out, 4096);
	ck_assert_uint_eq(passed(l, "data: {\"method\":\"x\",\"par", &out), 24);
	ck_assert_uint_eq(passed(l, "ams\":{\"tools\":[{\"n", &out), 18);
	ck_assert_uint_eq(passed(l, "ame\":\"no\"}]}}\n\n", &out), 15);
	ck_assert_uint_eq(passed(l, "data: {\"result\":{\"tools\":[ ", &out), 26);
	ck_assert_uint_eq(passed(l, "{\"description\":\"", &out), 1);
	ck_assert_uint_eq(mcp_list_held(l), 16);
	ck_assert_uint_eq(passed(l, "x\",\"name\":\"a\"", &out), 29);
	ck_assert_uint_eq(mcp_list_held(l), 0);
	ck_assert_uint_eq(passed(l, ",\"inputSchema\":{", &out), 16);
	ck_assert_uint_eq(passed(l, "}} , ", &out), 2);
	ck_assert_uint_eq(passed(l, "{\"name\":\"no\",", &out), 0);
	ck_assert_uint_eq(mcp_list_held(l), 0);
	ck_assert_uint_eq(passed(l, "\"x\":1}", &out), 0);
	ck_assert_uint_eq(mcp_list_removed(l), 1);
	ck_assert_uint_eq(passed(l, "\n]", &out), 2);
	buf_done(&out);
	mcp_list_free(l);
	ck_assert_ptr_null(mcp_list_free(NULL));
}
END_TEST

/* That much in front of the name, in pieces of 64 KiB. */
static int read_late_name(size_t bytes, size_t *ret_most)
{
	static const char block[64 * 1024] = { 0 };
	struct mcp_list *l = list_new(ALL, NULL);
	char *text = malloc(sizeof(block));
	struct buf out;
	int r;

	ck_assert_ptr_nonnull(text);
	memset(text, 'x', sizeof(block));
	buf_init(&out, 2 * bytes + 4096);
	r = feed(l, "{\"result\":{\"tools\":[{\"x\":\"", 26, &out);
	*ret_most = 0;
	for (size_t done = 0; r == 0 && done < bytes; done += sizeof(block)) {
		r = feed(l, text, sizeof(block), &out);
		*ret_most = MAX(*ret_most, mcp_list_held(l));
	}
	if (r == 0)
		r = feed(l, "\",\"name\":\"a\"}]}}", 16, &out);
	ck_assert(r || buf_len(&out) == bytes + 26 + 16);
	if (r == 0)
		r = mcp_list_finish(l);
	free(text);
	buf_done(&out);
	mcp_list_free(l);
	return r;
}

START_TEST(what_is_held_is_bounded)
{
	size_t most;

	ck_assert_int_eq(read_late_name(MCP_LIST_HELD_MAX - 64 * 1024, &most), 0);
	ck_assert_int_eq(read_late_name(MCP_LIST_HELD_MAX, &most), MCP_LIST_BAD);
	ck_assert_uint_le(most, MCP_LIST_HELD_MAX);
	ck_assert_int_eq(read_late_name(64 * MCP_LIST_HELD_MAX, &most), MCP_LIST_BAD);
	ck_assert_uint_le(most, MCP_LIST_HELD_MAX);
}
END_TEST

/* However much comes, of what no list is nothing is kept; nor of entries, whether they pass or not. */
START_TEST(bulk_needs_no_memory)
{
	static const struct {
		const char *head, *fill, *tail;
	} rows[] = {
		{ "{\"result\":{\"content\":[{\"text\":\"", "lorem ipsum dolor sit amet ", "\"}]}}" },
		{ "data: {\"result\":{\"content\":[{\"text\":\"", "lorem ipsum dolor sit amet ", "\"}]}}\n\n" },
		{ "{\"result\":{\"tools\":[{\"name\":\"a\",\"x\":\"", "lorem ipsum", "\"}]}}" },
		{ "{\"result\":{\"tools\":[{\"name\":\"no\",\"x\":\"", "lorem ipsum", "\"}]}}" },
		{ "{\"result\":{\"tools\":[" NO, "," NO, "]}}" },
		{ "{\"result\":{\"tools\":[" NO, "," A, "]}}" },
		{ "{\"result\":{\"tools\":[" NO, "   ", "]}}" },
		{ "", ": comment\n\n", "" },
		{ "", "data: " TOOLS(NO) "\n\n", "" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct mcp_list *l = list_new(ALL, NULL);
		size_t before = 0;
		struct buf out;

		buf_init(&out, 1 << 20);
		passed(l, rows[i].head, &out);
		for (size_t n = 0; n < 5000; n++) {
			passed(l, rows[i].fill, &out);
			buf_clear(&out);
			if (n == 10)
				before = mallinfo2().uordblks;
		}
		ck_assert_uint_eq(mallinfo2().uordblks, before);
		passed(l, rows[i].tail, &out);
		ck_assert_int_eq(mcp_list_finish(l), 0);
		buf_done(&out);
		mcp_list_free(l);
	}
}
END_TEST

START_TEST(each_entry_is_asked_for_once)
{
	static const char body[] = RESULT("\"tools\":[" A "," NO "," B "],\"resourceTemplates\":[{\"uriTemplate\":\"a:\"}]");
	size_t asked[MCP_LIST_KIND_N] = { 0 };
	struct mcp_list *l = list_new(ALL, asked);
	struct buf out;

	buf_init(&out, 4096);
	for (size_t i = 0; i < strlen(body); i++)
		ck_assert_int_eq(feed(l, body + i, 1, &out), 0);
	ck_assert_int_eq(mcp_list_finish(l), 0);
	ck_assert_uint_eq(asked[MCP_LIST_TOOLS], 3);
	ck_assert_uint_eq(asked[MCP_LIST_PROMPTS] + asked[MCP_LIST_RESOURCES], 0);
	ck_assert_uint_eq(asked[MCP_LIST_TEMPLATES], 1);
	ck_assert_uint_eq(mcp_list_removed(l), 1);
	buf_done(&out);
	mcp_list_free(l);
}
END_TEST

UNIT_MAIN("mcp_list", ADD(entries_and_commas) ADD(told_by_shape) ADD(only_lists_that_have_rules) ADD(names) ADD(long_names)
			ADD(bad_bodies) ADD(no_messages) ADD(event_streams) ADD(nothing_waits_but_an_entry_without_a_name)
			ADD(what_is_held_is_bounded) ADD(bulk_needs_no_memory) ADD(each_entry_is_asked_for_once))
