/* What an MCP server's answer says about each request that it answers, read from the bytes of the body as they pass: one JSON
 * document, or an event stream (WHATWG HTML, section 9.2.6). Nothing of the body is kept but short texts, and a few
 * hundred bytes are all it takes, whatever comes.
 *
 * An answer is a message with that id (JSON-RPC 2.0), with `result` or `error` and without `method`; the first one counts.
 * Of keys that are there twice the last one counts, as in every JSON library that clients use. An error without an id, or with
 * the id null, is about the only request that there is. A body, or an event, that is no JSON text (proto/json.h) says
 * nothing, nor does an event of another type than `message`, or one that the stream ends in the middle of.
 */
#pragma once

#include "base/span.h"

enum mcp_answer_form { MCP_ANSWER_OTHER, MCP_ANSWER_JSON, MCP_ANSWER_SSE };

/* Of a Content-Type: application/json or text/event-stream in any case, parameters ignored; anything else says nothing. */
enum mcp_answer_form mcp_answer_form(struct span content_type);

struct mcp_answer;

int mcp_answer_new(struct mcp_answer **ret);
struct mcp_answer *mcp_answer_free(struct mcp_answer *a);

/* Before mcp_answer_begin(): a request whose answer is waited for; its id is raw JSON as in struct mcp_view. They are numbered
 * from 0 in the order of these calls. -EINVAL: neither a string nor a number; -ENOMEM. */
int mcp_answer_expect(struct mcp_answer *a, struct span raw_id);

/* The form is known; bytes that come before that are passed over. */
void mcp_answer_begin(struct mcp_answer *a, enum mcp_answer_form form);
/* Any split. */
void mcp_answer_feed(struct mcp_answer *a, const void *p, size_t len);
void mcp_answer_finish(struct mcp_answer *a);

struct mcp_outcome {
	bool is_error;          /* result.isError is true */
	bool has_rpc_error;     /* there is an error */
	int64_t rpc_error_code; /* 0 when its code is no integer of 64 bits */
};

/* Of the request with that number. False: nothing was said so far. */
bool mcp_answer_outcome(const struct mcp_answer *a, size_t index, struct mcp_outcome *ret);

/* Events that were complete, of any type. */
uint64_t mcp_answer_events(const struct mcp_answer *a);
