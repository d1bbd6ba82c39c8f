/* What agents may ask the MCP server for: lists of patterns that the operator wrote. Pure.
 *
 * A kind of thing is open without rules of that kind, and closed to all but what is allowed once there is an allow rule. A deny
 * rule wins. Rules look at the message alone, decoded as the server will decode it, never at a header.
 */
#pragma once

#include "proto/mcp.h"

enum rules_kind {
	RULES_METHOD, /* of every request and notification */
	RULES_TOOL,   /* params.name of tools/call */
	RULES_PROMPT, /* params.name of prompts/get, and the prompt of completion/complete */
	RULES_SCHEME, /* of params.uri, in lower case: of every method resources/... but the two that list; of the resource of
		       * completion/complete, and those of subscriptions/listen */
	RULES_KIND_N,
};

enum rules_side { RULES_ALLOW, RULES_DENY, RULES_SIDE_N };

enum {
	RULES_MAX = 128,         /* of one kind and side: an option's 64, and the gateway's for each route */
	RULES_PATTERN_MAX = 128, /* bytes */
	RULES_TEXT_MAX = 192,
};

struct rules_list {
	size_t n;
	const char *patterns[RULES_MAX]; /* borrowed */
};

struct rules {
	struct rules_list lists[RULES_KIND_N][RULES_SIDE_N];
};

/* "allow-tool": the option that a rule comes from. */
const char *rules_option(enum rules_kind kind, enum rules_side side);

/* pattern: UTF-8 without control characters; `*` stands for any characters, `?` for one, all others for themselves. That of a
 * scheme has only what a scheme may have (RFC 3986, section 3.1); its case does not matter. It stays borrowed. -EINVAL, -ENOSPC. */
int rules_add(struct rules *r, enum rules_kind kind, enum rules_side side, const char *pattern);

/* Rules of one route on top of those of all: denials of both; of a kind that r allows something of, r's allowances alone, else
 * common's. Each of the two has been made by options, so that there is room. */
void rules_merge(struct rules *r, const struct rules *common);

/* Whether a message that is no batch may pass. Where not, text is the rule, for people: `--deny-tool "rm*"`. A name or scheme
 * that is not there or could not be taken passes only where there is no rule of its kind. */
bool rules_allow(const struct rules *r, const struct mcp_view *view, char text[RULES_TEXT_MAX]);
