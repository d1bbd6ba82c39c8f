#include "sample-rpc.h"

#include "sample-json.h"

#include <event2/bufferevent.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <sys/random.h>

#define MODERN "2026-07-28"
#define META "io.modelcontextprotocol/"
#define SERVER_INFO "{\"name\":\"sample-mcp-server\",\"version\":\"" MCP_TUNNEL_VERSION "\"}"
#define CAPABILITIES "\"capabilities\":{\"tools\":{}}"

void rpc_add(struct evbuffer *out, struct span s)
{
	evbuffer_add(out, s.p, s.len);
}

static void add_header(const struct rpc *m, const char *name, const char *value)
{
	evhttp_add_header(evhttp_request_get_output_headers(m->req), name, value);
}

void rpc_open_result(const struct rpc *m, struct evbuffer *out)
{
	rpc_add(out, SPAN("{\"jsonrpc\":\"2.0\",\"id\":"));
	rpc_add(out, m->id);
	rpc_add(out, SPAN(",\"result\":{"));
	if (m->modern)
		rpc_add(out, SPAN("\"resultType\":\"complete\",\"_meta\":{\"" META "serverInfo\":" SERVER_INFO "},"));
}

void rpc_send(const struct rpc *m, struct evbuffer *json)
{
	add_header(m, "Content-Type", "application/json");
	evhttp_send_reply(m->req, 200, "OK", json);
}

static void fail_with(const struct rpc *m, int http_status, int code, const char *message, const char *data)
{
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);

	rpc_add(out, SPAN("{\"jsonrpc\":\"2.0\",\"id\":"));
	rpc_add(out, m->id.p ? m->id : SPAN("null"));
	evbuffer_add_printf(out, ",\"error\":{\"code\":%d,\"message\":\"%s\"%s}}", code, message, data);
	add_header(m, "Content-Type", "application/json");
	evhttp_send_reply(m->req, http_status, NULL, NULL);
}

void rpc_fail(const struct rpc *m, int http_status, int code, const char *message)
{
	fail_with(m, http_status, code, message, "");
}

void sse_start(struct evhttp_request *req)
{
	struct bufferevent *bev = evhttp_connection_get_bufferevent(evhttp_request_get_connection(req));
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);

	evhttp_add_header(headers, "Content-Type", "text/event-stream");
	evhttp_add_header(headers, "Cache-Control", "no-cache");
	evhttp_send_reply_start(req, 200, "OK");
	bufferevent_set_timeouts(bev, NULL, NULL);
}

static void send_empty_result(const struct rpc *m)
{
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);

	rpc_add(out, SPAN("{\"jsonrpc\":\"2.0\",\"id\":"));
	rpc_add(out, m->id);
	rpc_add(out, SPAN(",\"result\":{}}"));
	rpc_send(m, NULL);
}

/* The sessions carry no state, but a client is entitled to an id that is its own. */
static void add_session_id(const struct rpc *m)
{
	uint64_t r[2] = { 0, 0 };
	char id[33];

	if (getrandom(r, sizeof(r), 0) != sizeof(r))
		return;
	snprintf(id, sizeof(id), "%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
	add_header(m, "Mcp-Session-Id", id);
}

static void do_initialize(const struct rpc *m)
{
	static const char *const known[] = { "2025-03-26", "2025-06-18", "2025-11-25" };
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);
	const char *version = "2025-11-25";

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (json_string_is(m->version, known[i]))
			version = known[i];
	}
	rpc_open_result(m, out);
	evbuffer_add_printf(out, "\"protocolVersion\":\"%s\"," CAPABILITIES ",\"serverInfo\":" SERVER_INFO "}}",
			    version);
	add_session_id(m);
	rpc_send(m, NULL);
}

static void do_discover(const struct rpc *m)
{
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);

	rpc_open_result(m, out);
	rpc_add(out, SPAN("\"ttlMs\":0,\"cacheScope\":\"public\",\"supportedVersions\":[\"" MODERN
			  "\"]," CAPABILITIES "}}"));
	rpc_send(m, NULL);
}

static void do_tools_list(const struct rpc *m)
{
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);

	rpc_open_result(m, out);
	if (m->modern)
		rpc_add(out, SPAN("\"ttlMs\":0,\"cacheScope\":\"public\","));
	evbuffer_add_printf(out, "\"tools\":%s}}", tools_list_json);
	rpc_send(m, NULL);
}

/* Which of the two revisions has the method. */
enum era { LEGACY = 1, MODERN_ONLY = 2, BOTH = 3 };

static const struct method {
	const char *name;
	enum era era;
	void (*answer)(const struct rpc *m);
} methods[] = {
	{ "tools/call", BOTH, tool_call },
	{ "tools/list", BOTH, do_tools_list },
	{ "initialize", LEGACY, do_initialize },
	{ "ping", LEGACY, send_empty_result },
	{ "server/discover", MODERN_ONLY, do_discover },
	{ "subscriptions/listen", MODERN_ONLY, tool_listen },
};

static void dispatch(const struct rpc *m)
{
	enum era era = m->modern ? MODERN_ONLY : LEGACY;

	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		if ((methods[i].era & era) && json_string_is(m->method, methods[i].name)) {
			methods[i].answer(m);
			return;
		}
	}
	rpc_fail(m, m->modern ? 404 : 200, RPC_NO_METHOD, "Method not found");
}

/* A header that mirrors a member of the body (2026-07-28). */
static bool mirrors(const struct rpc *m, const char *header, struct span raw)
{
	const char *value = evhttp_find_header(evhttp_request_get_input_headers(m->req), header);

	return value && json_string_is(raw, value);
}

static bool headers_agree(const struct rpc *m)
{
	if (!mirrors(m, "MCP-Protocol-Version", SPAN("\"" MODERN "\"")) || !mirrors(m, "Mcp-Method", m->method))
		return false;
	return !json_string_is(m->method, "tools/call") || mirrors(m, "Mcp-Name", m->name);
}

/* The _meta of a request says which revision it speaks. 0, or -EINVAL. */
static int read_meta(struct rpc *m, struct span meta, struct span *ret_version)
{
	struct json_want wants[] = { { "progressToken", { 0 } }, { META "protocolVersion", { 0 } } };

	if (meta.p && json_object(meta, wants, ARRAY_LEN(wants)) < 0)
		return -EINVAL;
	m->token = wants[0].raw;
	*ret_version = wants[1].raw;
	return 0;
}

/* 0, or -EINVAL when params is no object, or _meta none. */
static int read_params(struct rpc *m, struct span params, struct span *ret_version)
{
	struct json_want wants[] = {
		{ "name", { 0 } }, { "arguments", { 0 } }, { "_meta", { 0 } }, { "protocolVersion", { 0 } }
	};

	if (params.p && json_object(params, wants, ARRAY_LEN(wants)) < 0)
		return -EINVAL;
	m->name = wants[0].raw;
	m->arguments = wants[1].raw;
	m->version = wants[3].raw;
	return read_meta(m, wants[2].raw, ret_version);
}

static void handle_request(struct rpc *m, struct span version)
{
	m->modern = version.p != NULL;
	if (m->modern && !json_string_is(version, MODERN))
		fail_with(m, 400, RPC_VERSION, "Unsupported protocol version",
			  ",\"data\":{\"supported\":[\"" MODERN "\"]}");
	else if (m->modern && !headers_agree(m))
		rpc_fail(m, 400, RPC_HEADER_MISMATCH, "A header does not say what the body says");
	else
		dispatch(m);
}

void rpc_handle(struct evhttp_request *req)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(req);
	struct span body = span_make(evbuffer_pullup(in, -1), evbuffer_get_length(in));
	struct json_want wants[] = { { "jsonrpc", { 0 } }, { "id", { 0 } }, { "method", { 0 } }, { "params", { 0 } } };
	struct rpc m = { .req = req };
	struct span version;

	if (json_object(body, wants, ARRAY_LEN(wants)) < 0) {
		rpc_fail(&m, 400, RPC_PARSE, "The body is not a JSON object");
		return;
	}
	m.id = wants[1].raw;
	m.method = wants[2].raw;
	if (!json_string_is(wants[0].raw, "2.0"))
		rpc_fail(&m, 400, RPC_INVALID_REQUEST, "Not a JSON-RPC 2.0 message");
	else if (!m.id.p || !m.method.p)
		evhttp_send_reply(req, 202, "Accepted", NULL);
	else if (read_params(&m, wants[3].raw, &version) < 0)
		rpc_fail(&m, 400, RPC_INVALID_PARAMS, "params is not an object");
	else
		handle_request(&m, version);
}
