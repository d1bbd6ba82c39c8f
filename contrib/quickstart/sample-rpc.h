/* One JSON-RPC message that came in a POST, and the ways to answer it. */
#pragma once

#include "base/check.h"
#include "base/span.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>

enum {
	RPC_PARSE = -32700,
	RPC_INVALID_REQUEST = -32600,
	RPC_NO_METHOD = -32601,
	RPC_INVALID_PARAMS = -32602,
	RPC_HEADER_MISMATCH = -32020,
	RPC_VERSION = -32022,
};

/* The spans are raw JSON inside the body, which lives as long as the request. */
struct rpc {
	struct evhttp_request *req;
	struct span id; /* absent: a notification */
	struct span method;
	struct span version; /* params.protocolVersion (initialize) */
	struct span name;
	struct span arguments;
	struct span token; /* params._meta.progressToken */
	bool modern;       /* revision 2026-07-28: everything is in the request, and results say their type */
};

/* Reads the body of req and answers it, now or later. */
void rpc_handle(struct evhttp_request *req);

/* {"jsonrpc":"2.0","id":ID,"result":{ and what the revision wants inside; the caller goes on with members and "}}". */
void rpc_open_result(const struct rpc *m, struct evbuffer *out);
void rpc_add(struct evbuffer *out, struct span s);

/* Complete answers; the request is gone afterwards. */
void rpc_send(const struct rpc *m, struct evbuffer *json);
void rpc_fail(const struct rpc *m, int http_status, int code, const char *message);

/* Starts a text/event-stream answer that no idle timer ends. */
void sse_start(struct evhttp_request *req);

/* sample-tools.c: answers a tools/call, at once or as a stream. */
extern const char tools_list_json[];
void tool_call(const struct rpc *m);
void tool_listen(const struct rpc *m);
/* A stream with nothing to say, open until the client closes it. */
void tool_idle(struct evhttp_request *req);
