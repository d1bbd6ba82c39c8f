/* What an MCP message says, read in one strict pass over the body as it arrives (proto/json.h is the scanner below it).
 * No tree, no copy of the body: offsets and a few short captured strings.
 */
#pragma once

#include "base/buf.h"

enum {
	MCP_METHOD_MAX = 256,   /* longer methods, names and ids make the body bad */
	MCP_NAME_MAX = 1024,
	MCP_ID_MAX = 256,
	MCP_SCHEME_MAX = 65,    /* bytes kept of a URI of which the scheme matters, the colon being one of them */
	MCP_DEPTH_MAX = 64,
};

enum mcp_kind {
	MCP_NOT_JSONRPC,  /* JSON, but no JSON-RPC 2.0 message (or no JSON at all, or no body: see scan->bad), or one that some servers
			   * take for another: its method in another case */
	MCP_REQUEST,      /* method and id */
	MCP_NOTIFICATION, /* method, no id */
	MCP_RESPONSE,     /* result or error, with an id: the answer to a server's request */
	MCP_BATCH,        /* an array (2025-03-26) */
};

/* One message. Spans point into memory of the scan; offsets count from the first byte of the body. */
struct mcp_view {
	enum mcp_kind kind;
	struct span method;           /* decoded (escapes resolved) */
	struct span id;               /* raw JSON as received, without white space around: 1, "1", null; absent when none */
	struct span name;             /* decoded params.name (tools/call, prompts/get) */
	struct span uri;              /* decoded params.uri (resources/ *) */
	struct span protocol_version; /* decoded params.protocolVersion (initialize) or
	                                 params._meta["io.modelcontextprotocol/protocolVersion"] */
	struct span client_name;      /* decoded params.clientInfo.name or
	                                 params._meta["io.modelcontextprotocol/clientInfo"].name */
	bool has_arguments;
	uint64_t arguments_at, arguments_len; /* the raw JSON value of params.arguments */
	/* completion/complete: decoded params.ref; of the uri, its first MCP_SCHEME_MAX bytes. */
	struct mcp_ref {
		struct span type, name, uri;
	} ref;
	/* subscriptions/listen: params.notifications.resourceSubscriptions, each URI up to its first colon and at most MCP_SCHEME_MAX
	 * bytes, equal ones once, a NUL behind each; schemes_bad: there may be others (no strings, too many, a key in another case). */
	struct span schemes;
	bool schemes_bad;
	/* For the error answers of this product: true when `name` could not be taken (not a string, too long). */
	bool name_bad;
};

struct mcp_scan; /* opaque; freed after use: some KB */

int mcp_scan_new(struct mcp_scan **ret);
struct mcp_scan *mcp_scan_free(struct mcp_scan *s);

/* Bytes in order, any split. 0 also when the body turns out bad (see mcp_scan_bad); -ENOMEM. */
int mcp_scan_feed(struct mcp_scan *s, const void *p, size_t len);

/* The body is complete. *ret is valid until mcp_scan_free(). */
void mcp_scan_finish(struct mcp_scan *s, struct mcp_view *ret);

/* NULL, or what is wrong with the body, static text for people: "duplicate key", "not UTF-8", "nested deeper than 64",
 * "bytes after the message" ... Strict RFC 8259 and I-JSON: duplicate keys at the levels that are looked at (top,
 * params, _meta, clientInfo, ref, notifications), keys that are looked at and come in another case, too, lone surrogates in captured strings, invalid UTF-8 anywhere, NUL, depth. */
const char *mcp_scan_bad(const struct mcp_scan *s);

/* Batches: how many messages, and each of them (index < count; at most MCP_BATCH_MAX are kept, more makes it bad). */
enum { MCP_BATCH_MAX = 100 };
size_t mcp_scan_count(const struct mcp_scan *s);
void mcp_scan_message(const struct mcp_scan *s, size_t index, struct mcp_view *ret);

/* The id of the message if it has been seen so far, also before the end and in a bad body; absent otherwise. */
struct span mcp_scan_id(const struct mcp_scan *s);

/* Whether a name of a message can be like that: it is UTF-8 (RFC 3629). */
bool mcp_text_ok(struct span s);

/* Decodes Mcp-Name / Mcp-Param header text: plain, or =?base64?...?= (2026-07-28). 0, -EINVAL, -ENOMEM, -ENOBUFS. */
int mcp_header_decode(struct span value, struct buf *out);
