/* Calls that wait for their tunnel: it is detached at the moment, and a gateway may be back soon. In the order of their
 * arrival, for at most --hold, bounded in number and bytes. Nothing of them has been sent, so that whatever comes of it
 * they were not executed until they are let go.
 */
#pragma once

#include "base/span.h"
#include "daemon/loop.h"
#include "daemon/token.h"

struct hold;

enum {
	HOLD_CALLS_MAX = 1024,
	HOLD_BYTES_MAX = 64 * 1024 * 1024,
};

/* Embedded in what waits. Callbacks come once; the entry is out of the line by then. */
struct held {
	TAILQ_ENTRY(held) link;
	struct hold *hold; /* NULL: not waiting */
	bool leaving;      /* about to be told */
	char tunnel_id[TUNNEL_ID_MAX + 1];
	uint64_t until_ms;
	size_t bytes;
	void (*on_attached)(void *user); /* try again; it may have to wait again, with what is left of its time */
	void (*on_expired)(void *user);
	void *user;
};

struct hold_counters {
	size_t waiting;
	uint64_t held, let_go, expired, refused; /* refused: the line was full */
};

int hold_new(struct loop *l, uint64_t hold_ms, struct hold **ret);
struct hold *hold_free(struct hold *h);
/* For those that begin to wait from now on. */
void hold_set(struct hold *h, uint64_t hold_ms);

/* False: not waiting, because the line is full, its time is over, or --hold is 0. A held that waited before keeps its time. */
bool hold_add(struct hold *h, struct held *w, struct span tunnel_id, size_t bytes);
/* More of it has come. False: too much; it is out of the line. */
bool hold_add_bytes(struct held *w, size_t bytes);
/* Out of the line; nothing when it does not wait. */
void hold_remove(struct held *w);
/* A new call: its time begins with the next hold_add(). */
void hold_renew(struct held *w);

/* A gateway of the tunnel has attached: lets its calls go, in order. How many. */
size_t hold_attached(struct hold *h, const char *tunnel_id);
/* Ends all, as if their time were over. */
void hold_expire_all(struct hold *h);

const struct hold_counters *hold_counters(const struct hold *h);
