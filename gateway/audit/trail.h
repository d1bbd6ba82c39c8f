/* The audit trail of a gateway, of a relay, or of both: every record that verify reads goes in here, and findings come out.
 * Memory is for the chains (one a process start), the calls that are open, and the newest records' hashes.
 */
#pragma once

#include "gateway/audit/calls.h"

enum { TRAIL_CHAINS_MAX = 65536 };

struct trail;

/* f: where findings go; outlives it. n_newest: how many of the gateway's hashes are kept (HEADS_NEWEST; a power of two).
 * -ENOMEM, or no random bytes. */
int trail_new(struct findings *f, size_t n_newest, struct trail **ret);
struct trail *trail_free(struct trail *t);
DEFINE_CLEANUP(struct trail *, trail_free)

/* Both sides' records will come. Otherwise that is found out when they do, which may be too late for the first of them. */
void trail_expect_both(struct trail *t);
/* -errno: out of memory, or no digest. */
int trail_add(struct trail *t, const struct log_record *r);
/* A head that a state file has; before any record of its chain. */
int trail_claim(struct trail *t, const struct log_head *head, uint64_t time_us);

struct trail_sums {
	uint64_t n_records[SIDE_N], n_requests[SIDE_N], n_denied[SIDE_N];
	size_t n_chains[SIDE_N];
	uint64_t first_us[SIDE_N], last_us[SIDE_N];
	uint64_t claims_agree, claims_differ, n_matched;
	struct calls_left calls;
};

/* Nothing more comes: what only the whole tells. Once. -errno. */
int trail_finish(struct trail *t, struct trail_sums *ret);
