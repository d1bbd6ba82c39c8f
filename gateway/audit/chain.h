/* One chain: the records of one process, in the order in which they are read. Says which are missing, out of order,
 * changed, there twice or put in between; what lies outside of the chain (the one before, the calls, the relay) is
 * gateway/audit/trail.h's.
 */
#pragma once

#include "gateway/audit/heads.h"

enum { CHAIN_HOLES_MAX = 32 };

/* Records that are not there; they may still come. */
struct chain_hole {
	uint64_t from, to;
	uint8_t before[SHA256_LEN]; /* hash of the record in front of it */
	uint8_t after[SHA256_LEN];  /* what the record behind it says the one before has */
	struct place at;            /* of the record behind it */
	uint64_t from_us, to_us;    /* times of the records around it */
	uint64_t told;              /* so many records of that time are not in the journal, says an audit.gap, or several */
	bool explained;             /* that is all of them */
};

/* One end of what is read, and a second record with the same number. */
struct chain_end {
	uint8_t hash[SHA256_LEN], computed[SHA256_LEN];
	struct place at;
};

struct chain {
	char id[LOG_CHAIN_ID_MAX + 1];
	enum side side;
	uint32_t index;
	uint64_t n_records;
	uint64_t first_seq, next_seq; /* of the records read; next_seq: one more than the highest */
	uint64_t first_us, last_us;
	uint64_t first_no, last_no;   /* numbers of its first and last record among all that were read */
	struct place first_at;
	uint8_t first_prev[SHA256_LEN]; /* MCP_CHAIN_PREV of the record with first_seq */
	struct chain_end last, rival;
	bool has_rival;
	bool stopped, after_stop; /* gateway.stop was read; something behind it, too */
	uint64_t n_faults;        /* said about this chain */
	struct chain_hole holes[CHAIN_HOLES_MAX];
	size_t n_holes;
	uint64_t late_from, late_to, late_after; /* records being read that come too late */
	struct place late_at;
	bool late;
	/* audit.gap records. */
	bool gap_state_missing;
	bool incomplete;        /* they say that records are missing */
	uint64_t n_lost;        /* how many, less the endings that were found missing */
	uint64_t n_cut;         /* records of the process before that it says are not in the log any more */
	uint64_t n_killed;      /* calls of the process before, not named one by one */
	/* The relay and the state file. */
	uint64_t claims_agree, claims_differ;
	uint64_t agreed_seq;    /* the highest that was found to agree, with claims_agree */
	uint64_t claimed_us;    /* when its newest head was logged */
	bool linked;            /* its start goes on from a record that is there */
	uint32_t follower;      /* index + 1 of the chain that goes on from its end; 0: none */
};

enum chain_result { CHAIN_COUNTS, CHAIN_AGAIN /* a record with this number was there before */ };

/* no: number of the record among all. */
enum chain_result chain_add(struct chain *c, struct findings *f, struct heads *h, const struct log_record *r, uint64_t no);
/* An audit.gap that was in this chain. */
void chain_gap(struct chain *c, struct findings *f, const struct log_record *r);
/* Nothing more comes. */
void chain_finish(struct chain *c, struct findings *f);

/* A finding about records of the chain. */
struct finding chain_finding(struct chain *c, enum finding_weight weight, const char *kind, struct place at, uint64_t seq,
			     uint64_t seq_to);
