#include "relay/request.h"

#include "proto/reasons.h"
#include "tests/lib/head.h"
#include "tests/lib/unit.h"

static struct request_names names;

static void setup(void)
{
	static const char *const all[] = { "relay.example", "Other.Example", "*.tunnels.example", "192.0.2.7", "2001:db8::1",
					   "relay.example" };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		ck_assert_int_eq(request_names_add(&names, all[i]), 0);
}

static void teardown(void)
{
	request_names_done(&names);
	ck_assert_uint_eq(names.n, 0);
}

static bool origin_allowed(const void *user, struct span origin)
{
	return span_is(origin, user);
}

struct row {
	unsigned status; /* 0: taken */
	const char *line;   /* request line, without the version */
	const char *host;
	const char *fields; /* further ones, each with its CRLF */
	const char *expect; /* taken: tunnel|route|query|key, "-" for what is absent; refused: part of the text */
	const char *local;  /* NULL: 198.51.100.1 */
};

#define MCP "POST /t/a/mcp"
#define R "relay.example"

static const struct row rows[] = {
	/* paths */
	{ 0, "POST /t/a/mcp", R, "", "a||-|-" },
	{ 0, "GET /t/a/mcp", R, "", "a||-|-" },
	{ 0, "DELETE /t/a/mcp", R, "", "a||-|-" },
	{ 0, "POST /t/a/other/mcp", R, "", "a|other|-|-" },
	{ 0, "POST /t/tunnel-1/x-2/mcp", R, "", "tunnel-1|x-2|-|-" },
	{ 0, "POST /t/mcp/mcp", R, "", "mcp||-|-" },
	{ 0, "POST /t/mcp/mcp/mcp", R, "", "mcp|mcp|-|-" },
	{ 0, "POST /t/t/mcp", R, "", "t||-|-" },
	{ 404, "POST /", R, "", "no such path" },
	{ 404, "POST /t", R, "", "no such path" },
	{ 404, "POST /t/", R, "", "no such path" },
	{ 404, "POST /t/a", R, "", "no such path" },
	{ 404, "POST /t/a/", R, "", "no such path" },
	{ 404, "POST /t/a/mcp/", R, "", "no such path" },
	{ 404, "POST /t/a/mcp/x", R, "", "no such path" },
	{ 404, "POST /t/a/b/mcp/", R, "", "no such path" },
	{ 404, "POST /t/a/b/c/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/MCP", R, "", "no such path" },
	{ 404, "POST /T/a/mcp", R, "", "no such path" },
	{ 404, "POST /t/A/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/B/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/mcpx", R, "", "no such path" },
	{ 404, "POST /t/a/mc", R, "", "no such path" },
	{ 404, "POST //t/a/mcp", R, "", "no such path" },
	{ 404, "POST /t//a/mcp", R, "", "no such path" },
	{ 404, "POST /t/a//mcp", R, "", "no such path" },
	{ 404, "POST /t/./a/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/./mcp", R, "", "no such path" },
	{ 404, "POST /t/a/../mcp", R, "", "no such path" },
	{ 404, "POST /t/b/../a/mcp", R, "", "no such path" },
	{ 404, "POST /x/../t/a/mcp", R, "", "no such path" },
	{ 404, "POST /t/%61/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/%6dcp", R, "", "no such path" },
	{ 404, "POST /t/a/%2e%2e/mcp", R, "", "no such path" },
	{ 404, "POST /t/a%2fb/mcp", R, "", "no such path" },
	{ 404, "POST /t/a%2Fmcp", R, "", "no such path" },
	{ 404, "POST /t/a/mcp;x=1", R, "", "no such path" },
	{ 404, "POST /t/a_b/mcp", R, "", "no such path" },
	{ 404, "POST /t/-a/mcp", R, "", "no such path" },
	{ 404, "POST /t/a/-b/mcp", R, "", "no such path" },
	{ 404, "POST /t/a.b/mcp", R, "", "no such path" },
	{ 404, "POST /v1/tunnel/", R, "", "no such path" },
	{ 404, "GET /healthz", R, "", "no such path" },
	{ 404, "GET /metrics", R, "", "no such path" },
	{ 400, "POST http://relay.example/t/a/mcp", R, "", "must be a path" },
	{ 400, "OPTIONS *", R, "", "must be a path" },
	/* queries */
	{ 0, "GET /t/a/mcp?x=1", R, "", "a||x=1|-" },
	{ 0, "GET /t/a/mcp?", R, "", "a|||-" },
	{ 0, "GET /t/a/mcp?a?b/../c", R, "", "a||a?b/../c|-" },
	{ 404, "GET /t/a?/mcp", R, "", "no such path" },
	/* methods */
	{ 405, "PUT /t/a/mcp", R, "", "only POST, GET and DELETE" },
	{ 405, "HEAD /t/a/mcp", R, "", "only POST" },
	{ 405, "OPTIONS /t/a/mcp", R, "", "only POST" },
	{ 405, "PATCH /t/a/mcp", R, "", "only POST" },
	{ 405, "post /t/a/mcp", R, "", "only POST" },
	{ 405, "TRACE /t/a/mcp", R, "", "only POST" },
	{ 404, "PUT /t/a", R, "", "no such path" },
	/* Host */
	{ 0, MCP, "RELAY.example", "", "a||-|-" },
	{ 0, MCP, "relay.example:443", "", "a||-|-" },
	{ 0, MCP, "relay.example:8443", "", "a||-|-" },
	{ 0, MCP, "relay.example:", "", "a||-|-" },
	{ 0, MCP, "other.example", "", "a||-|-" },
	{ 0, MCP, "x.tunnels.example", "", "a||-|-" },
	{ 0, MCP, "X.Tunnels.Example:443", "", "a||-|-" },
	{ 0, MCP, "192.0.2.7", "", "a||-|-" },
	{ 0, MCP, "192.0.2.7:8080", "", "a||-|-" },
	{ 0, MCP, "[2001:db8::1]", "", "a||-|-" },
	{ 0, MCP, "[2001:DB8::1]:8443", "", "a||-|-" },
	{ 0, MCP, "198.51.100.1:8443", "", "a||-|-" },
	{ 0, MCP, "[2001:db8::9]:1", "", "a||-|-", "2001:db8::9" },
	{ 421, MCP, "evil.example", "", "this Host" },
	{ 421, MCP, "relay.example.evil.example", "", "this Host" },
	{ 421, MCP, "xrelay.example", "", "this Host" },
	{ 421, MCP, "relay.exampl", "", "this Host" },
	{ 421, MCP, "relay.example.", "", "this Host" },
	{ 421, MCP, "tunnels.example", "", "this Host" },
	{ 421, MCP, ".tunnels.example", "", "this Host" },
	{ 421, MCP, "a.b.tunnels.example", "", "this Host" },
	{ 421, MCP, "*.tunnels.example.evil", "", "this Host" },
	{ 421, MCP, "192.0.2.8", "", "this Host" },
	{ 421, MCP, "[2001:db8::2]", "", "this Host" },
	{ 421, MCP, "[2001:db8::1:443]", "", "this Host" },
	{ 421, MCP, "localhost", "", "this Host" },
	{ 421, MCP, "127.0.0.1", "", "this Host" },
	{ 421, MCP, "198.51.100.1", "", "this Host", "127.0.0.1" },
	{ 0, MCP, "localhost:8080", "", "a||-|-", "127.0.0.1" },
	{ 0, MCP, "LocalHost", "", "a||-|-", "127.5.0.1" },
	{ 0, MCP, "127.0.0.1:8080", "", "a||-|-", "127.0.0.1" },
	{ 0, MCP, "localhost", "", "a||-|-", "::1" },
	{ 0, MCP, "[::1]:8080", "", "a||-|-", "::1" },
	{ 0, MCP, "localhost", "", "a||-|-", "unix" },
	{ 421, MCP, "127.0.0.1", "", "this Host", "::1" },
	{ 421, MCP, "localhost.evil.example", "", "this Host", "127.0.0.1" },
	{ 421, MCP, "localhost", "", "this Host", "10.0.0.1" },
	{ 421, "GET /v1/tunnel", "evil.example", "", "this Host" },
	/* Origin */
	{ 0, MCP, R, "Origin: https://app.example\r\n", "a||-|-" },
	{ 403, MCP, R, "Origin: https://evil.example\r\n", "this Origin" },
	{ 403, MCP, R, "Origin: http://app.example\r\n", "this Origin" },
	{ 403, MCP, R, "Origin: null\r\n", "this Origin" },
	{ 403, MCP, R, "Origin:\r\n", "this Origin" },
	{ 403, MCP, R, "Origin: https://relay.example\r\n", "this Origin" },
	{ 403, MCP, R, "Origin: https://evil.example\r\nOrigin: https://app.example\r\n", "this Origin" },
	{ 403, MCP, R, "Origin: https://app.example\r\nOrigin: https://evil.example\r\n", "this Origin" },
	{ 403, "GET /v1/tunnel", R, "Origin: https://evil.example\r\n", "this Origin" },
	/* keys */
	{ 0, MCP, R, "Authorization: Bearer k1\r\n", "a||-|k1" },
	{ 0, MCP, R, "Authorization: bearer k1\r\n", "a||-|k1" },
	{ 0, MCP, R, "Authorization: BEARER   k1 \r\n", "a||-|k1" },
	{ 0, MCP, R, "Mcp-Tunnel-Authorization: Bearer k2\r\n", "a||-|k2" },
	{ 0, MCP, R, "Authorization: Bearer k1\r\nMcp-Tunnel-Authorization: Bearer k2\r\n", "a||-|k2" },
	{ 0, MCP, R, "Mcp-Tunnel-Authorization: Basic x\r\nAuthorization: Bearer k1\r\n", "a||-|-" },
	{ 0, MCP, R, "Authorization: Basic eDp5\r\n", "a||-|-" },
	{ 0, MCP, R, "Authorization: Bearer\r\n", "a||-|-" },
	{ 0, MCP, R, "Authorization: Bearerk1\r\n", "a||-|-" },
	{ 0, MCP, R, "Authorization:\r\n", "a||-|-" },
	{ 400, MCP, R, "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "more than one Authorization" },
	{ 400, MCP, R, "Authorization: Bearer a\r\nauthorization: Bearer a\r\n", "more than one Authorization" },
	{ 400, MCP, R, "Mcp-Tunnel-Authorization: Bearer a\r\nMcp-Tunnel-Authorization: Bearer b\r\n", "more than one" },
	{ 400, "GET /v1/tunnel", R, "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "more than one" },
	/* a gateway's path */
	{ 0, "GET /v1/tunnel", R, "Authorization: Bearer t\r\n", "attach|-|-|t" },
	{ 0, "POST /v1/tunnel", R, "", "attach|-|-|-" },
	{ 0, "GET /v1/tunnel?x", R, "", "attach|-|x|-" },
};

static void put(char *to, size_t cap, struct span s, const char *sep)
{
	size_t len = strlen(to);

	snprintf(to + len, cap - len, "%s%.*s", sep, s.p ? (int)s.len : 1, s.p ? s.p : "-");
}

static bool check(const struct http1_head *h, const char *local, struct request *q, struct refusal *why)
{
	return request_check(h, &names, local ? local : "198.51.100.1", origin_allowed, "https://app.example", q, why);
}

START_TEST(table)
{
	const struct row *row = &rows[_i];
	struct http1_reader reader;
	struct request q = { 0 };
	struct refusal why = { 0 };
	char text[1024], got[256] = "";
	const struct http1_head *h;

	snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", row->line, row->host, row->fields);
	h = head_read(&reader, HTTP1_REQUEST, text);
	if (check(h, row->local, &q, &why)) {
		put(got, sizeof(got), q.kind == REQUEST_ATTACH ? SPAN("attach") : q.tunnel, "");
		put(got, sizeof(got), q.route, "|");
		put(got, sizeof(got), q.query, "|");
		put(got, sizeof(got), q.key, "|");
		ck_assert_msg(row->status == 0, "%s: taken as %s", text, got);
		ck_assert_msg(strcmp(got, row->expect) == 0, "%s: %s", text, got);
	} else {
		ck_assert_msg(why.status == row->status, "%s: %u %s", text, why.status, why.text);
		ck_assert_msg(strstr(why.text, row->expect), "%s: %s", text, why.text);
		ck_assert_msg((why.extra != NULL) == (why.status == 405), "%s", text);
		ck_assert_uint_eq(why.reason, TP_REASON_BAD_REQUEST);
		ck_assert_int_eq(q.kind, 0);
	}
	http1_reader_done(&reader);
}
END_TEST

START_TEST(allow_names_the_methods)
{
	struct http1_reader reader;
	struct request q;
	struct refusal why;

	ck_assert(!check(head_read(&reader, HTTP1_REQUEST, "PUT /t/a/mcp HTTP/1.1\r\nHost: " R "\r\n\r\n"), NULL, &q, &why));
	ck_assert_str_eq(why.extra, "Allow: POST, GET, DELETE\r\n");
	http1_reader_done(&reader);
}
END_TEST

START_TEST(only_one_version)
{
	static const char *const texts[] = { "POST /t/a/mcp HTTP/1.0\r\nHost: " R "\r\n\r\n", "POST /t/a/mcp HTTP/1.0\r\n\r\n" };

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct http1_reader reader;
		struct request q;
		struct refusal why;

		ck_assert(!check(head_read(&reader, HTTP1_REQUEST, texts[i]), NULL, &q, &why));
		ck_assert_uint_eq(why.status, 505);
		http1_reader_done(&reader);
	}
}
END_TEST

START_TEST(long_ids)
{
	char id[80], text[256];

	memset(id, 'a', sizeof(id));
	for (size_t len = 60; len < 70; len++) {
		struct http1_reader reader;
		struct request q;
		struct refusal why;

		snprintf(text, sizeof(text), "GET /t/t/%.*s/mcp HTTP/1.1\r\nHost: " R "\r\n\r\n", (int)len, id);
		ck_assert_int_eq(check(head_read(&reader, HTTP1_REQUEST, text), NULL, &q, &why), len <= 63);
		http1_reader_done(&reader);
	}
}
END_TEST

/* ---- what travels ---- */

#define ALL                                                                                                            \
	"Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: 2\r\nMcp-Session-Id: 1\r\n"    \
	"Mcp-Method: x\r\nMCP-Protocol-Version: 2025-06-18\r\nLast-Event-ID: 4\r\ntraceparent: 00-1\r\nCookie: a=b\r\n" \
	"User-Agent: x\r\nMcp-Tunnel: x\r\nX-Custom: y\r\n"                                                            \
	"Connection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nTE: trailers\r\n"                       \
	"Proxy-Authorization: Basic x\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nTrailer: X\r\n"                    \
	"Origin: https://app.example\r\nExpect: 100-continue\r\n"                                                      \
	"Mcp-Tunnel-Agent: admin\r\nmcp-tunnel-call: 1\r\nMCP-TUNNEL-: 2\r\n"
#define TRAVELS                                                                                                        \
	"Accept Content-Type Mcp-Session-Id Mcp-Method MCP-Protocol-Version Last-Event-ID traceparent Cookie "         \
	"User-Agent Mcp-Tunnel X-Custom "

struct travel_row {
	const char *fields;
	const char *travels;
};

static const struct travel_row travels[] = {
	{ ALL, TRAVELS },
	{ ALL "Authorization: Bearer k\r\n", TRAVELS },
	{ ALL "Authorization: Basic k\r\n", TRAVELS },
	{ ALL "Mcp-Tunnel-Authorization: Bearer k\r\n", TRAVELS },
	{ ALL "Authorization: Bearer oauth\r\nMcp-Tunnel-Authorization: Bearer k\r\n", TRAVELS "Authorization " },
	{ "Connection: authorization\r\nAuthorization: Bearer oauth\r\nMcp-Tunnel-Authorization: Bearer k\r\n", "" },
	{ "Connection: close\r\nConnection: accept\r\nAccept: x\r\nClose: 1\r\nB: 1\r\n", "B " },
};

START_TEST(fields)
{
	struct http1_reader reader;
	struct request q;
	struct refusal why;
	char text[2048], got[1024] = "";
	const struct http1_head *h;

	snprintf(text, sizeof(text), "POST /t/a/mcp HTTP/1.1\r\nHost: " R "\r\n%s\r\n", travels[_i].fields);
	h = head_read(&reader, HTTP1_REQUEST, text);
	ck_assert_msg(check(h, NULL, &q, &why), "%s", why.text);
	for (size_t i = 0; i < h->n_fields; i++) {
		size_t len = strlen(got);

		if (request_field_travels(h, &q, h->fields[i].name))
			snprintf(got + len, sizeof(got) - len, "%.*s ", SPAN_FMT(h->fields[i].name));
	}
	ck_assert_str_eq(got, travels[_i].travels);
	http1_reader_done(&reader);
}
END_TEST

#define ADD_ROWS(fn, list) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(list));
#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);

UNIT_MAIN("request", FIXTURE ADD_ROWS(table, rows) ADD(allow_names_the_methods) ADD(only_one_version) ADD(long_ids)
	  ADD_ROWS(fields, travels))
