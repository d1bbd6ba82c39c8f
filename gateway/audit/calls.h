/* Calls by their id: each call.request has its call.response, and what one log says about a call the other log says too.
 * A call is forgotten as soon as all of that is settled, so memory is for the calls that are open, or that one log lacks.
 */
#pragma once

#include "gateway/audit/chain.h"

enum {
	CALLS_MAX = 3 << 19,         /* not settled at once; 96 bytes each */
	CALLS_ONE_SIDED_MAX = 65536, /* kept while only one side's records were seen, in case that the other's follow */
	CALLS_TUNNELS_MAX = 64,
};

struct calls {
	struct keymap map;
	bool cross;     /* both sides are in the input */
	bool dropped;   /* settled calls of one side were forgotten, so the other side's cannot be compared */
	bool full;
	uint32_t tunnels[CALLS_TUNNELS_MAX]; /* hashes of the names in the gateway's calls */
	size_t n_tunnels;
	uint64_t n_requests[SIDE_N], n_denied[SIDE_N];
	uint64_t n_not_reached;
	uint64_t n_matched; /* with the same hash of arguments on both sides */
};

int calls_init(struct calls *cs);
void calls_done(struct calls *cs);

/* A record of a call (call.request, call.response, call.denied), or an audit.gap about one; others are ignored. -ENOMEM,
 * -EIO. */
int calls_add(struct calls *cs, uint32_t chain, const struct log_record *r);

struct calls_view {
	struct chain *const *chains;
	size_t n_chains;
	uint64_t first_us[SIDE_N], last_us[SIDE_N]; /* of all records of a side */
};

struct calls_left {
	uint64_t n_open[SIDE_N];       /* where the log ends */
	uint64_t n_before[SIDE_N];     /* endings of calls that began before the log does */
	uint64_t n_outside;            /* in one log, at a time that the other does not cover */
	uint64_t n_not_reached;        /* the relay's, which no gateway answered */
	uint64_t n_other_tunnel;
	uint64_t n_not_comparable;     /* hashes made with different keys */
};

/* Nothing more comes: says what is not settled. -ENOMEM. */
int calls_finish(struct calls *cs, struct findings *f, const struct calls_view *v, struct calls_left *ret);
