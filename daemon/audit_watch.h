/* Reads the journal back: what journald's socket accepted is not stored for that reason alone. Rate limits,
 * MaxLevelStore, Storage=none, Storage=volatile and a full disk are invisible to the sender. Every few seconds a
 * worker thread counts the records of this process in the journal; the loop never waits for it.
 *
 * "On disk" means in a file under /var/log/journal. When journald calls fsync() is its own affair (SyncIntervalSec).
 */
#pragma once

#include "daemon/worker.h"

enum { AUDIT_WATCH_ASKED_MAX = 256 };

enum audit_watch_state {
	AUDIT_WATCH_WHOLE, /* every record that was due is in the journal, and on disk if that is needed */
	/* Some are not; also when reading takes longer than stuck_ms, so that nobody can tell. It ends when a newer
	 * record is visible, or the missing ones are: so write one (the audit.gap) at once, whatever else is refused.
	 */
	AUDIT_WATCH_MISSING,
	/* All are there, but not on disk: Storage=volatile, or a full disk, when journald goes on in memory. */
	AUDIT_WATCH_VOLATILE,
	AUDIT_WATCH_UNREADABLE, /* it could not be told: no permission, no descriptors. No failure of the sink. */
};
/* MCP_GAP_CAUSE: "read-back-missing", "volatile-storage", "read-back-unreadable"; "whole". */
const char *audit_watch_cause(enum audit_watch_state state);

struct audit_watch_result {
	bool ok; /* AUDIT_WATCH_WHOLE */
	enum audit_watch_state state;
	const char *cause; /* as above; NULL when ok */
	/* Not told before. A tail of records that is not visible yet is told as missing once; when it turns up after
	 * all, it counts as late and the state is whole again. The oldest records, which journald gives up for new
	 * ones, are not missing. */
	uint64_t missing;
	uint64_t first_missing, last_missing; /* MCP_SEQ, when missing > 0; not all between them need be missing */
	/* When missing > 0: wall clock, between which they were written; from_us 0: since the start. */
	uint64_t from_us, to_us;
	uint64_t late;
	bool any; /* newest_seq is known */
	uint64_t newest_seq; /* seen in the journal */
	/* Of the records that on_ask() named, those below answered_to were looked for; they are in the journal, but
	 * for those in lost[]. The others are for another check: nothing that is as new was seen yet. */
	uint64_t answered_to;
	size_t n_lost;
	uint64_t lost[AUDIT_WATCH_ASKED_MAX];
	uint64_t took_us; /* on the thread */
	char detail[160]; /* for people; empty when ok */
};

struct audit_watch_config {
	const char *chain_id; /* 32 digits, MCP_CHAIN_ID */
	const char *directory; /* of journal files, which then counts as the disk; NULL: this machine's journal */
	bool need_disk;
	/* After every check but one that found nothing new to check and was whole before, and but
	 * AUDIT_WATCH_UNREADABLE after AUDIT_WATCH_UNREADABLE. May call audit_watch_told(), not audit_watch_free(). */
	void (*on_result)(void *user, const struct audit_watch_result *r);
	/* Before a check: which records are to be looked for each by itself, ascending; returns how many. Checks go on
	 * as long as there are any. May be NULL. */
	size_t (*on_ask)(void *user, uint64_t ret_seqs[AUDIT_WATCH_ASKED_MAX]);
	void *user;
	/* 0: 1.5 s after the first told, 10 s, 2 s after a bad result, 2 s (1 s for the first check), 15 s. */
	uint64_t first_ms, every_ms, retry_ms, settle_ms, stuck_ms;
};

struct audit_watch;

/* Copies what it needs. Reads nothing yet. worker: outlives it. -EINVAL, -ENOMEM. */
int audit_watch_new(struct loop *l, struct worker *worker, const struct audit_watch_config *cfg,
		    struct audit_watch **ret);
/* No on_result any more. Does not wait for a check that is running; that ends by itself soon, and worker_free() waits
 * for it. */
struct audit_watch *audit_watch_free(struct audit_watch *w);
/* The sink accepted everything up to this seq. Cheap: for every record, or for every batch. The first starts the
 * clock. */
void audit_watch_told(struct audit_watch *w, uint64_t seq);
/* The last of on_result, or what would have been; state AUDIT_WATCH_WHOLE and any false before the first check. */
const struct audit_watch_result *audit_watch_latest(const struct audit_watch *w);

/* The newest audit record of an identifier in this machine's journal, for MCP_CHAIN_PREV of a start. */
struct audit_watch_head {
	char chain_id[33];
	uint64_t seq;
	char head[65];
	uint64_t time_us; /* wall clock, by journald */
	bool stop; /* it is gateway.stop: nothing was cut off */
};
/* Of this process's own unit, when it runs in a service, else of its user id: others cannot put theirs in between.
 * Reads on a thread of its own and waits max_ms for it at most: for the start, not for a running loop. directory: as
 * above. -ENOENT: none; -EACCES: the journal may not be read; -ETIMEDOUT; others of reading. */
int audit_watch_last(const char *identifier, const char *directory, unsigned max_ms, struct audit_watch_head *ret);

/* Whether a record with that MCP_NONCE is in the journal, or gets there before the time is over; on_disk: in a file that outlasts a
 * reboot. -ENOENT: not so; others as audit_watch_last(). */
int audit_watch_find(const char *nonce, bool on_disk, unsigned max_ms);
