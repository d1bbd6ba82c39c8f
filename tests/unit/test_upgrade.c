#include "daemon/upgrade.h"

#include "proto/tunnel.h"
#include "tests/lib/head.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

/* RFC 6455, section 1.3. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

static struct buf out;
static struct http1_reader reader;

static void setup(void)
{
	buf_init(&out, 8192);
	http1_reader_init(&reader, HTTP1_REQUEST);
}

static void teardown(void)
{
	http1_reader_done(&reader);
	buf_done(&out);
}

static const struct http1_head *read_out(enum http1_kind kind)
{
	_cleanup_(freep) char *text = span_dup(buf_span(&out));

	return head_read(&reader, kind, text);
}

static const struct upgrade_request request = {
	.authority = "relay.example:8443",
	.target = "/v1/tunnel?x=1",
	.token = "mtt_a_secret",
	.tunnel_id = "a",
};

/* ---- both ends ---- */

START_TEST(request_says_all)
{
	static const struct {
		const char *name, *value;
	} rows[] = {
		{ "Host", "relay.example:8443" },
		{ "Connection", "Upgrade" },
		{ "Upgrade", "websocket" },
		{ "Sec-WebSocket-Version", "13" },
		{ "Sec-WebSocket-Protocol", "mcp-tunnel.v1" },
		{ "Authorization", "Bearer mtt_a_secret" },
		{ "Mcp-Tunnel", "a" },
	};
	char key[UPGRADE_KEY_LEN + 1];
	const struct http1_head *h;
	size_t n;

	ck_assert_int_eq(upgrade_write_request(&out, &request, key), 0);
	h = read_out(HTTP1_REQUEST);
	ck_assert(span_is(h->method, "GET"));
	ck_assert(span_is(h->target, "/v1/tunnel?x=1"));
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ck_assert_msg(span_is(http1_field_get(h, rows[i].name, &n), rows[i].value), "%s", rows[i].name);
		ck_assert_uint_eq(n, 1);
	}
	ck_assert(span_is(http1_field_get(h, "Sec-WebSocket-Key", NULL), key));
	ck_assert_ptr_null(http1_field_get(h, "Sec-WebSocket-Extensions", NULL).p);
}
END_TEST

START_TEST(each_request_has_its_own_key)
{
	char a[UPGRADE_KEY_LEN + 1], b[UPGRADE_KEY_LEN + 1];

	ck_assert_int_eq(upgrade_write_request(&out, &request, a), 0);
	ck_assert_int_eq(upgrade_write_request(&out, &request, b), 0);
	ck_assert_uint_eq(strlen(a), UPGRADE_KEY_LEN);
	ck_assert_str_ne(a, b);
}
END_TEST

START_TEST(both_ends_agree)
{
	char key[UPGRADE_KEY_LEN + 1], detail[256];
	const struct http1_head *h;
	unsigned status, retry_after_s = 0;
	struct buf answer;

	ck_assert_int_eq(upgrade_write_request(&out, &request, key), 0);
	h = read_out(HTTP1_REQUEST);
	ck_assert_ptr_null(upgrade_check_request(h, &status));
	buf_init(&answer, 4096);
	ck_assert_int_eq(upgrade_write_response(&answer, h, 784111777), 0);
	http1_reader_done(&reader);
	buf_done(&out);
	out = answer;
	h = read_out(HTTP1_RESPONSE);
	ck_assert_int_eq(upgrade_check_response(h, key, detail, sizeof(detail), &retry_after_s), UPGRADE_OK);
	key[0] = key[0] == 'A' ? 'B' : 'A';
	ck_assert_int_eq(upgrade_check_response(h, key, detail, sizeof(detail), &retry_after_s), UPGRADE_NOT_WEBSOCKET);
}
END_TEST

START_TEST(the_example_of_the_rfc)
{
	const struct http1_head *h = head_read(&reader, HTTP1_REQUEST,
					       "GET /v1/tunnel HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: " KEY "\r\n\r\n");

	ck_assert_int_eq(upgrade_write_response(&out, h, 784111777), 0);
	http1_reader_done(&reader);
	h = read_out(HTTP1_RESPONSE);
	ck_assert_uint_eq(h->status, 101);
	ck_assert(span_is(http1_field_get(h, "Sec-WebSocket-Accept", NULL), ACCEPT));
}
END_TEST

START_TEST(a_key_that_is_none)
{
	char text[512], key[300];
	const struct http1_head *h;

	memset(key, 'A', sizeof(key));
	snprintf(text, sizeof(text), "GET /v1/tunnel HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: %.*s\r\n\r\n", (int)sizeof(key), key);
	h = head_read(&reader, HTTP1_REQUEST, text);
	ck_assert_int_eq(upgrade_write_response(&out, h, 784111777), -EINVAL);
}
END_TEST

START_TEST(no_room)
{
	char key[UPGRADE_KEY_LEN + 1];
	struct buf small;

	buf_init(&small, 64);
	ck_assert_int_eq(upgrade_write_request(&small, &request, key), -ENOBUFS);
	ck_assert_uint_eq(buf_len(&small), 0);
	buf_done(&small);
}
END_TEST

/* ---- the server's look at a request ---- */

struct request_row {
	const char *line, *fields;
	unsigned status; /* 0: good */
	const char *what; /* part of the phrase */
};

#define LINE "GET /v1/tunnel HTTP/1.1"
#define UP "Connection: Upgrade\r\nUpgrade: websocket\r\n"
#define VERSION "Sec-WebSocket-Version: 13\r\n"
#define KEY_FIELD "Sec-WebSocket-Key: " KEY "\r\n"
#define PROTOCOL "Sec-WebSocket-Protocol: mcp-tunnel.v1\r\n"

static const struct request_row requests[] = {
	{ LINE, UP VERSION KEY_FIELD PROTOCOL, 0, NULL },
	{ LINE, "connection: keep-alive, upgrade\r\nupgrade: WebSocket\r\n" VERSION KEY_FIELD PROTOCOL, 0, NULL },
	{ LINE, UP VERSION KEY_FIELD "Sec-WebSocket-Protocol: other, mcp-tunnel.v1\r\n", 0, NULL },
	{ LINE, UP VERSION KEY_FIELD PROTOCOL "Sec-WebSocket-Extensions: permessage-deflate\r\n", 0, NULL },
	{ "POST /v1/tunnel HTTP/1.1", UP VERSION KEY_FIELD PROTOCOL, 400, "GET" },
	{ LINE, VERSION KEY_FIELD PROTOCOL, 426, "WebSocket upgrades only" },
	{ LINE, "Connection: close\r\nUpgrade: websocket\r\n" VERSION KEY_FIELD PROTOCOL, 426, "upgrades only" },
	{ LINE, "Upgrade: websocket\r\n" VERSION KEY_FIELD PROTOCOL, 426, "upgrades only" },
	{ LINE, "Connection: Upgrade\r\n" VERSION KEY_FIELD PROTOCOL, 426, "upgrades only" },
	{ LINE, "Connection: Upgrade\r\nUpgrade: h2c\r\n" VERSION KEY_FIELD PROTOCOL, 426, "upgrades only" },
	{ "GET /v1/tunnel HTTP/1.0", UP VERSION KEY_FIELD PROTOCOL, 426, "upgrades only" },
	{ LINE, UP KEY_FIELD PROTOCOL, 426, "version 13" },
	{ LINE, UP "Sec-WebSocket-Version: 8\r\n" KEY_FIELD PROTOCOL, 426, "version 13" },
	{ LINE, UP "Sec-WebSocket-Version: 13, 8\r\n" KEY_FIELD PROTOCOL, 426, "version 13" },
	{ LINE, UP VERSION PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION "Sec-WebSocket-Key:\r\n" PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION "Sec-WebSocket-Key: abcd\r\n" PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSEh\r\n" PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!\r\n" PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==AAAA\r\n" PROTOCOL, 400, "Sec-WebSocket-Key" },
	{ LINE, UP VERSION KEY_FIELD, 400, "subprotocol" },
	{ LINE, UP VERSION KEY_FIELD "Sec-WebSocket-Protocol: mcp-tunnel.v2\r\n", 400, "subprotocol" },
	{ LINE, UP VERSION KEY_FIELD "Sec-WebSocket-Protocol: xmcp-tunnel.v1\r\n", 400, "subprotocol" },
	{ LINE, UP VERSION KEY_FIELD PROTOCOL "Content-Length: 2\r\n", 400, "no body" },
	{ LINE, UP VERSION KEY_FIELD PROTOCOL "Transfer-Encoding: chunked\r\n", 400, "no body" },
	{ LINE, UP VERSION KEY_FIELD PROTOCOL "Content-Length: 0\r\n", 400, "no body" },
};

START_TEST(server)
{
	const struct request_row *row = &requests[_i];
	unsigned status = 0;
	const char *bad;
	char text[1024];

	snprintf(text, sizeof(text), "%s\r\nHost: relay.example\r\n%s\r\n", row->line, row->fields);
	bad = upgrade_check_request(head_read(&reader, HTTP1_REQUEST, text), &status);
	ck_assert_msg((bad == NULL) == (row->status == 0), "%s: %s", text, bad);
	if (!bad)
		return;
	ck_assert_msg(status == row->status, "%s: %u", text, status);
	ck_assert_msg(strstr(bad, row->what), "%s: %s", text, bad);
}
END_TEST

/* ---- the client's look at an answer ---- */

struct response_row {
	const char *head;
	enum upgrade_result result;
	unsigned retry_after_s;
	const char *detail;
};

#define SWITCH "HTTP/1.1 101 Switching Protocols\r\n"
#define ACCEPT_FIELD "Sec-WebSocket-Accept: " ACCEPT "\r\n"

static const struct response_row responses[] = {
	{ SWITCH UP ACCEPT_FIELD PROTOCOL, UPGRADE_OK, 0, NULL },
	{ SWITCH "connection: UPGRADE\r\nupgrade: WebSocket\r\n" ACCEPT_FIELD PROTOCOL, UPGRADE_OK, 0, NULL },
	{ SWITCH UP PROTOCOL, UPGRADE_NOT_WEBSOCKET, 0, "not valid WebSocket" },
	{ SWITCH UP "Sec-WebSocket-Accept: c3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" PROTOCOL, UPGRADE_NOT_WEBSOCKET, 0, "not valid" },
	{ SWITCH UP "Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n" PROTOCOL, UPGRADE_NOT_WEBSOCKET, 0, "not valid" },
	{ SWITCH "Connection: Upgrade\r\nUpgrade: h2c\r\n" ACCEPT_FIELD PROTOCOL, UPGRADE_NOT_WEBSOCKET, 0, "not valid" },
	{ SWITCH "Upgrade: websocket\r\n" ACCEPT_FIELD PROTOCOL, UPGRADE_NOT_WEBSOCKET, 0, "not valid" },
	{ SWITCH UP ACCEPT_FIELD PROTOCOL "Sec-WebSocket-Extensions: permessage-deflate\r\n", UPGRADE_NOT_WEBSOCKET, 0, "not valid" },
	{ SWITCH UP ACCEPT_FIELD, UPGRADE_NO_SUBPROTOCOL, 0, "subprotocol" },
	{ SWITCH UP ACCEPT_FIELD "Sec-WebSocket-Protocol: mcp-tunnel.v2\r\n", UPGRADE_NO_SUBPROTOCOL, 0, "subprotocol" },
	{ "HTTP/1.1 401 Unauthorized\r\n", UPGRADE_REFUSED_TOKEN, 0, "HTTP 401" },
	{ "HTTP/1.1 403 Forbidden\r\n", UPGRADE_REFUSED_TOKEN, 0, "HTTP 403" },
	{ "HTTP/1.1 429 Slow\r\nRetry-After: 17\r\n", UPGRADE_TRY_LATER, 17, "HTTP 429" },
	{ "HTTP/1.1 503 Later\r\nRetry-After: 2\r\n", UPGRADE_TRY_LATER, 2, "HTTP 503" },
	{ "HTTP/1.1 503 Later\r\n", UPGRADE_TRY_LATER, 0, "HTTP 503" },
	{ "HTTP/1.1 503 Later\r\nRetry-After: 99999999999999999999\r\n", UPGRADE_TRY_LATER, 0, "HTTP 503" },
	{ "HTTP/1.1 503 Later\r\nRetry-After: 999999\r\n", UPGRADE_TRY_LATER, 86400, "HTTP 503" },
	{ "HTTP/1.1 503 Later\r\nRetry-After: -1\r\n", UPGRADE_TRY_LATER, 0, "HTTP 503" },
	{ "HTTP/1.1 503 Later\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", UPGRADE_TRY_LATER, 0, "HTTP 503" },
	{ "HTTP/1.1 200 OK\r\n", UPGRADE_NOT_WEBSOCKET, 0, "HTTP 200" },
	{ "HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n", UPGRADE_NOT_WEBSOCKET, 0, "HTTP 302" },
	{ "HTTP/1.1 404 Not Found\r\n", UPGRADE_NOT_WEBSOCKET, 0, "HTTP 404" },
	{ "HTTP/1.1 407 Proxy\r\n", UPGRADE_NOT_WEBSOCKET, 0, "HTTP 407" },
	{ "HTTP/1.1 426 Upgrade Required\r\n", UPGRADE_NOT_WEBSOCKET, 0, "HTTP 426" },
	{ "HTTP/1.1 502 Bad Gateway\r\nRetry-After: 5\r\n", UPGRADE_NOT_WEBSOCKET, 5, "HTTP 502" },
};

START_TEST(client)
{
	const struct response_row *row = &responses[_i];
	char text[1024], detail[256] = "";
	unsigned retry_after_s = 0;
	enum upgrade_result result;

	snprintf(text, sizeof(text), "%s\r\n", row->head);
	result = upgrade_check_response(head_read(&reader, HTTP1_RESPONSE, text), KEY, detail, sizeof(detail), &retry_after_s);
	ck_assert_msg(result == row->result, "%s: %d %s", text, (int)result, detail);
	ck_assert_msg(retry_after_s == row->retry_after_s, "%s: %u", text, retry_after_s);
	if (row->detail)
		ck_assert_msg(strstr(detail, row->detail), "%s: %s", text, detail);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);
#define ADD_ROWS(fn, list) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(list));

UNIT_MAIN("upgrade", FIXTURE ADD(request_says_all) ADD(each_request_has_its_own_key) ADD(both_ends_agree)
	  ADD(the_example_of_the_rfc) ADD(a_key_that_is_none) ADD(no_room) ADD_ROWS(server, requests)
	  ADD_ROWS(client, responses))
