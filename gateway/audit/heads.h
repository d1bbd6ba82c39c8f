/* Which record had which hash: of the newest records of one side, and of what others say about records that are not
 * read yet.
 */
#pragma once

#include "gateway/audit/keymap.h"
#include "gateway/audit/logrecord.h"

enum {
	HEADS_NEWEST = 1 << 20, /* kept, of the gateway; older ones are forgotten */
	HEADS_CLAIMS_MAX = 1 << 20,
	HEADS_HASH_LEN = 16,    /* of each hash; nobody makes another one with these first bytes */
};

/* The newest records' hashes: a ring in which each record has its place. */
struct heads_slot {
	uint32_t chain; /* index of the chain, + 1; 0: free */
	uint32_t seq;   /* its lowest bits */
	uint8_t hash[HEADS_HASH_LEN];
};

struct heads {
	struct heads_slot *slots;
	size_t n; /* a power of two */
};

int heads_init(struct heads *h, size_t n);
void heads_done(struct heads *h);
void heads_put(struct heads *h, uint32_t chain, uint64_t seq, const uint8_t hash[SHA256_LEN]);

enum heads_answer { HEADS_UNKNOWN, HEADS_SAME, HEADS_OTHER };
enum heads_answer heads_ask(const struct heads *h, uint32_t chain, uint64_t seq, const uint8_t hash[SHA256_LEN]);
/* Whose hash it is; the whole ring is looked through. */
bool heads_find(const struct heads *h, const uint8_t hash[SHA256_LEN], uint32_t *ret_chain, uint32_t *ret_seq_low);

/* A head that the relay logged, or that the state file has. */
struct claim {
	uint32_t chain, source; /* the key: index of the chain, enum claim_source */
	uint64_t seq;
	struct place at;
	uint64_t time_us;
	uint8_t hash[HEADS_HASH_LEN];
};
enum claim_source { CLAIM_RELAY = 1, CLAIM_STATE = 2 };
