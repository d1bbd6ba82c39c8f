/* Shared by audit.c (life and calls), audit_event.c (what each record says), audit_entry.c (a record that waits, and
 * how it becomes whole), audit_queue.c (queue, flush, verdicts), audit_trouble.c (sinks that fail, gaps, recovery),
 * audit_sync.c (fdatasync) and audit_prev.c (the record before the first); for nobody else.
 */
#pragma once

#include <event2/event_struct.h>

#include "daemon/audit.h"
#include "daemon/audit_chain.h"
#include "daemon/audit_record.h"
#include "daemon/audit_state.h"
#include "daemon/audit_watch.h"
#include "daemon/audit_writer.h"

enum {
	AUDIT_MAGIC = 0x41554454,
	AUDIT_OPEN_MAGIC = 0x41554f50,
	AUDIT_QUEUE_RECORDS = 20000,
	AUDIT_QUEUE_BYTES = 4 * 1024 * 1024,
	AUDIT_CHAIN_ID_LEN = 32,
	AUDIT_DETAIL_MAX = 320,
	/* Cut at this length, a value is escaped and cut to the same text as the whole. */
	AUDIT_FACT_KEEP = AUDIT_NAME_MAX + 8,
	AUDIT_FACTS_MAX = 11,
};

/* ---- A record that waits: compact, without its number and its place in the chain ---- */

struct audit_kind {
	const char *name, *message_id;
};

enum audit_role {
	AUDIT_ROLE_FACT,
	AUDIT_ROLE_REQUEST,
	AUDIT_ROLE_RESPONSE,
	AUDIT_ROLE_CHECKPOINT,
	AUDIT_ROLE_GAP,
	AUDIT_ROLE_GAP_TOLD, /* the last about the calls of the process before */
};

struct audit_entry {
	TAILQ_ENTRY(audit_entry) link;
	const struct audit_kind *kind;
	enum audit_role role;
	char priority;
	struct audit_open *open; /* AUDIT_ROLE_REQUEST */
	uint32_t slot;           /* AUDIT_ROLE_RESPONSE: of the call that is over */
	uint64_t queued_us;
	uint64_t seq;            /* of what is in the list of gaps */
	size_t bytes;            /* all of this */
	uint16_t n_line, n_fields;
	struct audit_entry_field {
		const char *name;
		uint16_t at, len;
	} fields[]; /* then the words of MESSAGE and the values */
};
TAILQ_HEAD(audit_entry_list, audit_entry);

/* NULL: out of memory. */
struct audit_entry *audit_entry_new(const struct audit_record *r, const struct audit_kind *kind, enum audit_role role,
				    char priority);
/* MCP_TIME anew; of the same length. */
void audit_entry_stamp(struct audit_entry *e, struct span time);

/* What is the same in every record of a process. */
struct audit_origin {
	char identifier[32];
	const char *side;
	char chain_id[AUDIT_CHAIN_ID_LEN + 1];
};

/* A whole record; its values are in here, in the entry and in the origin. */
struct audit_whole {
	size_t n;
	struct journal_field fields[AUDIT_FIELDS_MAX + 13];
	size_t n_line;
	char line[AUDIT_MESSAGE_MAX];
	char seq[AUDIT_U64_DIGITS];
	char chain[AUDIT_CHAIN_HEX + 1];
};
/* prev: 64 digits that outlive it. Errors of audit_chain(). */
int audit_entry_complete(const struct audit_entry *e, const struct audit_origin *o, uint64_t seq, const char *prev,
			 struct audit_whole *out);

/* ---- A call ---- */

enum audit_open_state {
	AUDIT_OPEN_QUEUED,
	AUDIT_OPEN_WRITTEN, /* waits for fdatasync */
	AUDIT_OPEN_JUDGED,  /* the verdict is to be told */
	AUDIT_OPEN_ALLOWED, /* it was told */
};

struct audit_open {
	unsigned magic;
	enum audit_open_state state;
	struct audit_entry *entry; /* AUDIT_OPEN_QUEUED */
	TAILQ_ENTRY(audit_open) link;
	uint64_t seq; /* AUDIT_OPEN_WRITTEN */
	audit_verdict_fn on_verdict;
	void *user;
	int verdict;
	bool recorded; /* the sink has the request, and the response is owed */
	uint32_t slot;
	char call_id[AUDIT_STATE_ID_MAX + 1];
	uint64_t started_us;
	struct span facts[AUDIT_FACTS_MAX];
	char text[];
};
TAILQ_HEAD(audit_open_list, audit_open);

/* ---- The whole ---- */

/* What the next audit.gap will say. */
struct audit_owed {
	bool owed;
	uint64_t records, calls;
	uint64_t from_us; /* wall clock */
	const char *cause;
};

struct audit_sync_job;

struct audit {
	unsigned magic;
	struct loop *loop;
	struct audit_writer *writer; /* NULL: AUDIT_NONE */
	struct audit_state *state;
	struct audit_state_old old;
	struct audit_watch *watch;
	struct audit_origin origin;
	char *path;
	bool allow_on_failure, stopped;
	enum audit_sync sync;
	uint64_t checkpoint_ms, checkpoint_records, refuse_after_ms;
	void (*on_checkpoint)(void *user, const char *head);
	void *user;

	uint64_t started_us;            /* wall clock */
	uint64_t seq;                   /* of the next record */
	char prev[AUDIT_CHAIN_HEX + 1]; /* its MCP_CHAIN_PREV */
	char head[AUDIT_HEAD_MAX];      /* of the newest accepted record */
	struct audit_entry_list queue;
	struct audit_open_list written, judged;
	struct audit_counters counters;
	size_t n_open; /* calls whose request is in the sink, and whose response is not */
	struct loop_task flush;
	bool flushing;
	size_t batch_max; /* records that are offered at once */

	struct event retry, writable, checkpoint;
	bool writable_set;
	bool blocked; /* the sink did not take the last record: nothing is sent before the next try */
	bool failing; /* calls are refused, or made without a record */
	bool touched; /* while failing: a record was taken */
	int error;    /* of the last failure */
	const char *cause;
	uint64_t blocked_from_us; /* wall clock */
	const char *unstored;     /* the watch's cause, NULL while all is well */
	bool unreadable;          /* the watch cannot tell */
	struct audit_entry_list gaps; /* taken by the sink, and not seen in the journal yet */
	size_t n_gaps;
	struct audit_owed owed;
	uint64_t told_refused, told_lost, told_unrecorded; /* of the counters: said in the log */
	bool warned;
	uint64_t warned_us;
	char detail[AUDIT_DETAIL_MAX];

	uint64_t checkpoint_due; /* records since the last */
	bool checkpoint_queued, checkpoint_taken; /* taken: on_checkpoint is to be called */
	uint64_t checkpoint_seq;

	struct worker *worker;
	struct audit_sync_job *sync_job;
	struct event sync_timer;
	uint64_t synced;  /* records before this seq are on disk */
	bool sync_failed; /* and has not succeeded since */

	uint64_t stamp_s; /* the second that stamp is of */
	char stamp[AUDIT_TIME_LEN + 1];
	struct audit_record record;
	struct audit_whole whole;
	char batch_heads[AUDIT_BATCH_MAX][AUDIT_CHAIN_HEX + 1];
};

/* audit_event.c: makes a record in a->record and queues it. */
struct audit_gap {
	uint64_t from_us, to_us, count;
	const char *cause;
	const char *call_id; /* may be NULL */
	const char *detail;  /* may be NULL */
	bool last_told;      /* AUDIT_ROLE_GAP_TOLD */
};
void audit_find_facts(const struct audit_call *c, struct span f[AUDIT_FACTS_MAX], struct buf *canonical_id);
/* NULL: no memory, or no room in the queue. */
struct audit_entry *audit_put_request(struct audit *a, const struct audit_call *c,
				      const struct span f[AUDIT_FACTS_MAX]);
struct audit_entry *audit_put_response(struct audit *a, const struct audit_open *o, const struct audit_ending *e);
struct audit_entry *audit_put_denied(struct audit *a, const struct audit_call *c, const struct span f[AUDIT_FACTS_MAX],
				     uint32_t reason, const char *rule);
struct audit_entry *audit_put_note(struct audit *a, enum audit_event ev, const struct audit_note *n);
struct audit_entry *audit_put_start(struct audit *a);
struct audit_entry *audit_put_stop(struct audit *a, const char *why);
struct audit_entry *audit_put_gap(struct audit *a, const struct audit_gap *g);
struct audit_entry *audit_put_checkpoint(struct audit *a);
/* A record that was sent once and is gone, as a new one. */
void audit_put_again(struct audit *a, struct audit_entry *take_entry);

/* audit_queue.c */
bool audit_queue_has_room(const struct audit *a, size_t bytes);
/* Takes the entry, and asks for a flush. */
void audit_queue_put(struct audit *a, struct audit_entry *take_entry);
/* Takes it out again, and frees it. */
void audit_queue_drop(struct audit *a, struct audit_entry *e);
/* As much as the sink takes now; then the verdicts. */
void audit_flush(struct audit *a);
void audit_on_flush(void *user);
/* One batch from the front of the queue. -errno when a record was not taken. */
int audit_send_batch(struct audit *a);
/* The verdict is told by the next audit_tell(). */
void audit_judge(struct audit *a, struct audit_open *o, int verdict, bool recorded);
void audit_tell(struct audit *a);
/* Everything before seq is accepted; head: MCP_CHAIN of the last of it. */
void audit_accept(struct audit *a, uint64_t seq, const char *head);
/* Out of every list; its entry too. */
struct audit_open *audit_open_free(struct audit *a, struct audit_open *o);

/* audit_trouble.c */
int audit_trouble_init(struct audit *a);
void audit_trouble_done(struct audit *a);
/* A flush ended with r, -errno: waits, or refuses. */
void audit_trouble(struct audit *a, int r);
/* The queue is empty: what is owed after a failure. -errno when it was not taken. */
int audit_settle(struct audit *a);
/* Calls are refused from now on, those in the queue as well. */
void audit_fail(struct audit *a, const char *cause, int r);
void audit_recovered(struct audit *a);
/* Tries the sink again. */
void audit_retry(struct audit *a);
/* Records are missing, or calls went without: the next audit.gap says so. */
void audit_owe(struct audit *a, const char *cause, uint64_t records, uint64_t calls);
/* A call that nothing will be written about; r when it is refused. AUDIT_AT_ONCE or r. */
int audit_go_without(struct audit *a, const char *cause, int r);
/* A record that found no room. */
void audit_lost(struct audit *a);
void audit_on_watch(void *user, const struct audit_watch_result *r);
size_t audit_on_ask(void *user, uint64_t ret_seqs[AUDIT_WATCH_ASKED_MAX]);
/* The sink has this audit.gap. What is read back is kept until it was seen: were it lost, nobody would hear of what it
 * tells. */
void audit_gap_taken(struct audit *a, struct audit_entry *take_entry, uint64_t seq);

/* audit_sync.c */
int audit_sync_new(struct audit *a);
void audit_sync_free(struct audit *a);
/* Records were written, or the last fdatasync failed. */
void audit_sync_want(struct audit *a);
/* The file is about to be opened anew: what is in the old one still counts. */
void audit_sync_keep_old(struct audit *a);
/* Waits for the disk; for the end. */
int audit_sync_now(struct audit *a);

/* audit_prev.c */
/* Sets a->prev. False: nothing was found to go on from. *ret_missing: records that are known to be gone; else
 * untouched. */
bool audit_find_prev(struct audit *a, uint64_t *ret_missing);
/* The last whole record of a file of JSON lines. -ENOENT: none. */
struct audit_last {
	char chain_id[AUDIT_CHAIN_ID_LEN + 1];
	uint64_t seq;
	char head[AUDIT_CHAIN_HEX + 1];
};
int audit_last_in_file(const char *path, struct audit_last *ret);
