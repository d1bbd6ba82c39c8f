/* What may pass of an MCP server's answer where a policy says which tools, prompts and resources there are for an agent: bytes in,
 * bytes out. Entries that the policy does not allow are taken out of the lists of the answer; every other byte stays as it is.
 *
 * A list is told by its shape, whatever was asked for, as answers also come on streams of their own: an array `tools`, `prompts`,
 * `resources` or `resourceTemplates` in the object `result` of a message, or of a message of a batch. An entry goes with the comma that
 * belonged to it and the white space beside it. Nothing else in the protocol names what there is: server/discover (2026-07-28) and
 * initialize tell versions, capabilities and a text for people.
 *
 * The body is a JSON text, or an event stream (proto/sse.h) whose events' data are. Its first byte says which, not its Content-Type,
 * as not all clients go by that: what begins with { or [ is JSON, white space and all that is not ASCII before it not counted. An event's
 * data that begins with another character, such as a ping, is no message and passes. The type of an event is not looked at.
 *
 * Bytes pass at once. Only an entry of a list is held back, until its name has been read, and the comma before it: at most
 * MCP_LIST_HELD_MAX bytes. What is in an event between the lines of its data is never taken out.
 *
 * It is bad, and nothing more passes of it, where clients could read something else in it: no JSON (proto/json.h), or
 * cut short; `result`, a list or the name in an entry there twice, or spelled with escapes or in another case; an entry that is no
 * object, or has no name, or one that is no string; a NUL in a key or a name; a control character first (UTF-16); data of more than
 * one line, where what is before the first one belongs to it for some clients only.
 */
#pragma once

#include "base/buf.h"

enum { MCP_LIST_HELD_MAX = 1024 * 1024 };

enum mcp_list_kind { MCP_LIST_TOOLS, MCP_LIST_PROMPTS, MCP_LIST_RESOURCES, MCP_LIST_TEMPLATES, MCP_LIST_KIND_N };

struct mcp_list_policy {
	unsigned kinds; /* 1 << kind of each list to look at; the others pass */
	/* name: decoded; of resources the uri, of templates the uriTemplate, their first MCP_NAME_MAX bytes. Absent: a longer name of a
	 * tool or a prompt. */
	bool (*allows)(void *user, enum mcp_list_kind kind, struct span name);
	void *user;
};

struct mcp_list; /* some hundred bytes while no list comes */

/* policy is copied. */
int mcp_list_new(const struct mcp_list_policy *policy, struct mcp_list **ret);
struct mcp_list *mcp_list_free(struct mcp_list *l);

/* Adds to out what may pass now; any split. MCP_LIST_BAD, for ever: what was added to out since the call before may not be used.
 * -ENOMEM, -ENOBUFS: out is full; it never needs more room than len + mcp_list_held(). */
enum { MCP_LIST_BAD = 1 };
int mcp_list_feed(struct mcp_list *l, const void *p, size_t len, struct buf *out);
/* The body is complete. 0 or MCP_LIST_BAD. */
int mcp_list_finish(struct mcp_list *l);

/* NULL, or static text for people: what is wrong. */
const char *mcp_list_bad(const struct mcp_list *l);
/* Bytes that are held back. */
size_t mcp_list_held(const struct mcp_list *l);
/* Entries that were taken out so far. */
uint64_t mcp_list_removed(const struct mcp_list *l);
