/* Asks an MCP server for any answer at all: OPTIONS on its endpoint, which starts nothing there. For a server that takes
 * connections and is silent on them, where one that can be opened says nothing.
 */
#pragma once

#include "gateway/upstream.h"

enum { UPSTREAM_ASK_MS = 5 * 1000 }; /* for the head of the answer */

struct upstream_ask {
	unsigned magic;
	struct upstream *upstream;
	char *authority, *target; /* as in the requests of calls */
	struct upstream_call *call; /* under way */
	struct event *timer;
	/* TP_REASON_NONE: there was an answer, of whatever kind. */
	void (*fn)(struct upstream *u, uint32_t reason, const char *detail);
};

int upstream_ask_init(struct upstream_ask *a, struct loop *l, struct upstream *u, const char *authority, const char *target,
		      void (*fn)(struct upstream *u, uint32_t reason, const char *detail));
void upstream_ask_done(struct upstream_ask *a);
/* One at a time; fn comes later, unless there is no memory. */
void upstream_ask_start(struct upstream_ask *a);
