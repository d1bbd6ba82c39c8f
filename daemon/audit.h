/* The audit record (schema version 1): a chain of records, one before a call goes on, exactly one when it has ended. A
 * sink that does not take the request record refuses the call (fail closed), unless told to go on.
 *
 * Sinks: the journal by its native protocol (daemon/journal.h), or a file of JSON lines (daemon/audit_writer.h).
 * Neither is ever waited for: records are queued, and one flush at the end of the loop's turn hands the batch to the
 * sink; then the verdicts come.
 *
 * A record gets its number (MCP_SEQ, from 0 in each process), its place in the chain (MCP_CHAIN_ID, MCP_CHAIN_PREV,
 * MCP_CHAIN) and the words `seq=` and `chain=` of MESSAGE only when it is sent: what is withdrawn before leaves no
 * hole.
 *
 * This module knows nothing of HTTP or of hashing arguments; daemon/audit_calls.h joins it to them.
 */
#pragma once

#include "base/span.h"
#include "daemon/loop.h"
#include "proto/mcp.h"

struct audit;
struct audit_open; /* a call whose request record is queued or written, and whose response record is owed */
struct state_dir;
struct worker;

enum audit_sink { AUDIT_NONE, AUDIT_JOURNALD, AUDIT_FILE };

enum audit_sync {
	AUDIT_SYNC_OFF,
	AUDIT_SYNC_INTERVAL, /* fdatasync once a second when something was written, off the loop */
	AUDIT_SYNC_EACH,     /* a record is accepted when fdatasync, off the loop, has returned; many share one */
};

enum audit_read_back {
	AUDIT_READ_BACK_DISK, /* records must be seen in the journal, on disk */
	AUDIT_READ_BACK_ANY,  /* in memory will do */
	AUDIT_READ_BACK_OFF,
};

struct audit_config {
	enum audit_sink sink;
	const char *path; /* AUDIT_FILE; AUDIT_JOURNALD: another socket than its own, and then nothing is read back */
	const char *side; /* "gateway" or "relay": MCP_SIDE; SYSLOG_IDENTIFIER is mcp-tunnel-SIDE. Static. */
	struct state_dir *state_dir; /* borrowed; NULL: no state is kept from one process to the next */
	struct worker *worker; /* borrowed; needed for AUDIT_FILE with a sync other than off, and for reading back */
	bool allow_on_failure; /* --audit-on-failure continue */
	enum audit_sync sync;  /* AUDIT_FILE */
	enum audit_read_back read_back; /* AUDIT_JOURNALD */
	uint64_t checkpoint_ms, checkpoint_records; /* 0: 60 s, 1000 */
	uint64_t refuse_after_ms; /* how long a request waits for a sink that says "later"; 0: 1000 */
	/* After a checkpoint was accepted. head: see audit_head(). May be NULL; may call back into audit_*. */
	void (*on_checkpoint)(void *user, const char *head);
	void *user;
};

/* Opens the sink. err gets one line for people. 0, -errno. */
int audit_new(struct loop *l, const struct audit_config *cfg, char *err, size_t err_size, struct audit **ret);
/* gateway.start (SEQ 0). Its MCP_CHAIN_PREV is the sink's last record, else the state's, else zeros and an audit.gap;
 * then an audit.gap for each call that the process before left open. Call it once, before any other record. */
void audit_start(struct audit *a);
/* gateway.stop with why; what is queued gets up to a second. Every call has ended before; nothing may follow but
 * audit_free(). */
void audit_stop(struct audit *a, const char *why);
/* Not from inside a callback of it. Verdicts that have not come do not come any more. */
struct audit *audit_free(struct audit *a);
/* SIGHUP: opens the file anew, so that it can be rotated. */
void audit_reopen(struct audit *a);
/* Whether the sink takes records, as far as is known; *ret_detail says why not. */
bool audit_healthy(const struct audit *a, const char **ret_detail);

/* Who is attached: tunnel, tunnel session, address of the peer. Absent spans are left out. Borrowed during the call. */
struct audit_where {
	struct span tunnel_id, session_id, peer;
};

/* Facts of a call, borrowed during the call of the function. Absent spans are left out. */
struct audit_call {
	struct audit_where where;
	struct span call_id, agent, agent_auth, route;
	struct span trace;           /* a traceparent header; anything else is left out */
	const char *upstream;        /* scheme, host, port and path; no query. NULL at the relay */
	const struct mcp_view *view; /* one message; NULL (audit_denied() only): what came is no single message */
	struct span args_hash;       /* text of audit_hash_arguments() */
	struct span session_hash;    /* text */
	const char *rule;            /* that would have denied the call, were it in force; NULL: none. Not looked at by audit_denied() */
	uint64_t request_bytes;
	uint64_t began_us;           /* loop_now_us() when it came, which MCP_DURATION_US counts from; 0: now */
};

/* Queues call.request.
 *
 * 0: on_verdict(user, r) comes later, once, never from inside an audit_ function but audit_stop(). r 0: the call may go
 * on (the sink has the record; or it has not, allow_on_failure is set, and the call counts into the next audit.gap).
 * r negative: refused, and *ret_open is gone. Verdicts that come together come in the order of the requests.
 *
 * AUDIT_AT_ONCE: accepted now, no callback, *ret_open is NULL, nothing is owed (AUDIT_NONE; or the sink fails,
 * allow_on_failure is set, and the call counts into the next audit.gap).
 *
 * Negative: refused now, no callback. */
enum { AUDIT_AT_ONCE = 1 };
typedef void (*audit_verdict_fn)(void *user, int r);
int audit_request(struct audit *a, const struct audit_call *call, audit_verdict_fn on_verdict, void *user,
		  struct audit_open **ret_open);

struct audit_ending {
	uint32_t reason;         /* TP_REASON_NONE: the answer was complete */
	unsigned http_status;    /* 0: no head came */
	uint64_t response_bytes;
	uint64_t ttfb_us;        /* 0: no head came */
	bool has_answer;         /* the response for this call's id was seen in the body: */
	bool is_error;           /* result.isError is true */
	bool has_rpc_error;
	int64_t rpc_error_code;
	uint64_t response_events; /* SSE events; 0 where the answer was no event stream */
	struct span peer_head;    /* at the relay: the gateway's audit_head(), as the response brought it */
};

/* call.response; consumes take_open (NULL is ignored). Before the verdict: on_verdict does not come any more; the
 * request record is withdrawn if the sink has not got it (then nothing is written at all), else the pair is completed.
 * After a negative verdict take_open is already gone: never pass it. */
void audit_response(struct audit *a, struct audit_open *take_open, const struct audit_ending *e);

/* call.denied: nothing went upstream. rule: the rule or limit, for people; NULL or "": none. */
void audit_denied(struct audit *a, const struct audit_call *call, uint32_t reason, const char *rule);

enum audit_event {
	AUDIT_SESSION_OPEN,
	AUDIT_SESSION_CLOSE,
	AUDIT_SESSION_RESUME,
	AUDIT_AUTH_FAILURE,
	AUDIT_CONFIG_RELOAD,
	AUDIT_CANARY,          /* an audit.checkpoint with a nonce */
	AUDIT_PEER_CHECKPOINT, /* an audit.checkpoint with the other end's head */
};

struct audit_note {
	struct audit_where where;
	const char *reason;    /* a name, such as tp_reason_name(); NULL: none */
	const char *detail;    /* for people, no secrets; NULL: none */
	bool bad;              /* raises the priority: an abnormal close, a reload that was rejected */
	struct span peer_head; /* AUDIT_PEER_CHECKPOINT: "CHAINID:SEQ:HEX"; anything else is left out */
	uint64_t replayed_bytes, replayed_frames, down_ms; /* AUDIT_SESSION_RESUME */
	struct span nonce;     /* AUDIT_CANARY */
};

void audit_event(struct audit *a, enum audit_event ev, const struct audit_note *n);

/* "CHAINID:SEQ:HEX" of the newest record that the sink accepted; "" before the first, and with AUDIT_NONE. Valid until
 * the next accepted record. */
enum { AUDIT_HEAD_MAX = 32 + 1 + 20 + 1 + 64 + 1 };
const char *audit_head(const struct audit *a);

/* MESSAGE_ID of audit.checkpoint, which canaries are, too. */
#define AUDIT_CHECKPOINT_ID "ad576026d5844264a281413b1d655da9"

struct audit_counters {
	uint64_t written;     /* records that the sink took */
	uint64_t refused;     /* calls that were refused for want of a record */
	uint64_t unrecorded;  /* calls that were made without one (continue) */
	uint64_t lost;        /* records of endings, denials and events that did not find room */
	uint64_t gaps, checkpoints;
	size_t queued, queued_bytes;
	bool failing;
	const char *cause;    /* the word in MCP_GAP_CAUSE; "" while not failing */
};
const struct audit_counters *audit_counters(const struct audit *a);
