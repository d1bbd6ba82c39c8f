/* mcp-tunnel.v1, sans I/O: bytes and the time in, events and bytes out. proto/PROTOCOL.md is the specification.
 *
 * A `tp_conn` is one end of one session. It outlives the connection that carries it: tp_conn_attach() gives it a fresh
 * connection (after the WebSocket upgrade), tp_conn_detach() takes it away, and streams live on in between.
 *
 * Receiving:  tp_conn_feed(c, bytes, len);  while (tp_conn_next(c, now, &ev)) handle(&ev);
 * Sending:    while (tp_conn_wants_write(c)) { n = tp_conn_pull(c, dst, room); send(dst, n); }
 * Time:       tp_conn_deadline() says when tp_conn_tick() wants to be called next.
 *
 * All times are milliseconds of one monotonic clock, except where a name says _us.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"
#include "proto/reasons.h"

#define TP_SUBPROTOCOL "mcp-tunnel.v1"
#define TP_PATH "/v1/tunnel"

enum {
	TP_PAYLOAD_MIN = 1024,
	TP_PAYLOAD_DEFAULT = 16 * 1024,
	TP_PAYLOAD_CEILING = 64 * 1024,
	TP_FIELDS_BYTES_MAX = 32 * 1024,
	TP_FIELDS_COUNT_MAX = 192,
	TP_FIELD_NAME_MAX = 256,
	TP_DETAIL_MAX = 512,
	TP_NOTE_MAX = 1024, /* the fields of a note, encoded */
	TP_WINDOW_INITIAL = 256 * 1024,
	TP_WINDOW_CEILING = 8 * 1024 * 1024,
	TP_SEND_QUEUE = 64 * 1024, /* bytes a stream queues before tp_stream_wants_data() turns false */
	TP_SESSION_ID_BYTES = 16,
	TP_GRACE_MAX_MS = 10 * 60 * 1000, /* no relay is counted on for longer: there may be others that serve */
	TP_STREAM_ID_MAX = 0x7fffffff,
};

enum tp_role { TP_GATEWAY, TP_RELAY };

struct tp_config {
	enum tp_role role;
	uint64_t keepalive_ms;
	uint64_t handshake_ms;     /* from attach to HELLO or WELCOME */
	uint64_t grace_ms;         /* how long a detached session is kept (by the caller); announced by the relay, assumed by the gateway until
				      it is told */
	uint32_t max_streams;      /* open at once: what the gateway serves; what the relay opens at most */
	uint32_t max_payload;      /* of DATA; TP_PAYLOAD_MIN .. TP_PAYLOAD_CEILING; the smaller of both ends holds */
	uint32_t window_initial;   /* credit that this end gives to a new stream */
	uint32_t window_max;       /* to which it may grow */
	uint64_t window_extra_max; /* all growth of a session together */
	size_t replay_max;         /* bytes of frames kept for resumption before DATA waits; at least 64 KiB */
	size_t *kept;              /* those of several sessions together, which are counted here; NULL: of this one alone */
	size_t kept_max;           /* for all of them; a session may always keep 64 KiB, so that none stands still for the others */
	int (*random)(void *dst, size_t len); /* entropy for masks and pings; 0 or -errno */
	const char *version;       /* software name and version, sent for the log of the other end; may be NULL */
	const char *region;        /* gateway: sent for the log of the relay; may be NULL */
};

/* Defaults for everything but role and random. */
void tp_config_init(struct tp_config *cfg, enum tp_role role, int (*random)(void *dst, size_t len));

struct tp_field {
	struct span name; /* pseudo-names start with ':' and come first */
	struct span value;
};

/* The value of the first field of exactly that name; absent span when there is none. */
struct span tp_field_get(const struct tp_field *fields, size_t n, const char *name);

struct tp_conn;
struct tp_stream;

enum tp_event_type {
	TP_EV_NONE,
	TP_EV_HELLO,    /* relay: a gateway says hello: answer with tp_conn_welcome() or tp_conn_resume() */
	TP_EV_ATTACHED, /* the session is up on this connection; `resumed` says whether it went on where it was. At a relay a new
	                   session is up when the gateway's first frame shows that it has the WELCOME: open streams from then on */
	TP_EV_OPEN,     /* gateway: stream, fields, end. Attach your pointer with tp_stream_set_user() */
	TP_EV_HEAD,     /* relay: stream, fields, end */
	TP_EV_DATA,     /* stream, data, len, end */
	TP_EV_RESET,    /* stream, reason, detail: the stream is over at both ends; release it */
	TP_EV_WRITABLE, /* stream: tp_stream_wants_data() has become true again */
	TP_EV_GOAWAY,   /* reason, detail: no new streams after last_id */
	TP_EV_NOTE,     /* relay: fields that the gateway wants to be known */
	TP_EV_CLOSED,   /* the peer closed the WebSocket in order: reason, detail. Detach; `fatal` as in FAILED. */
	TP_EV_FAILED,   /* this connection is unusable: reason, detail. Flush (a close frame waits), detach.
	                   When `fatal`, the session is over too: tp_conn_abandon(). */
};

struct tp_event {
	enum tp_event_type type;
	struct tp_stream *stream;
	uint8_t *data; /* valid until the next call of tp_conn_next() */
	size_t len;
	bool end; /* the peer sends nothing more on this stream */
	uint32_t reason;
	struct span detail;
	bool fatal;
	bool resumed;
	uint64_t replayed_frames, replayed_bytes; /* ATTACHED: what this end sends again */
	uint32_t last_id;
	uint8_t session[TP_SESSION_ID_BYTES]; /* HELLO (all zero: a new session), ATTACHED */
	uint8_t replaces[TP_SESSION_ID_BYTES]; /* HELLO: a session whose gateway is dead; all zero: none */
	struct span version, region;          /* HELLO */
	size_t n_fields;
	struct tp_field fields[TP_FIELDS_COUNT_MAX]; /* spans valid until the next call of tp_conn_next() */
};

int tp_conn_new(const struct tp_config *cfg, struct tp_conn **ret);
/* Streams die without an event; their users must not touch them any more. */
struct tp_conn *tp_conn_free(struct tp_conn *c);

/* A connection is there, upgraded. The gateway's HELLO is queued. Detaches first when need be. */
int tp_conn_attach(struct tp_conn *c, uint64_t now_ms);
void tp_conn_detach(struct tp_conn *c);
/* Gateway: the session of a process that is dead and whose place this one takes. Named in every HELLO until a WELCOME comes, so that
 * the relay ends it at once. */
void tp_conn_replaces(struct tp_conn *c, const uint8_t session[TP_SESSION_ID_BYTES]);
bool tp_conn_is_attached(const struct tp_conn *c); /* between TP_EV_ATTACHED and detach or failure */

/* Relay, after TP_EV_HELLO on `fresh`: */
/* - a new session with this id; */
int tp_conn_welcome(struct tp_conn *fresh, const uint8_t session[TP_SESSION_ID_BYTES], uint64_t now_ms);
/* - or the session `c` that the gateway named: c takes the connection over from fresh (which is only to be freed now), from
 *   its old connection too. Positive TP_RESUME_IMPOSSIBLE when the counts do not fit: abandon c, welcome fresh. */
enum { TP_RESUME_IMPOSSIBLE = 1 };
int tp_conn_resume(struct tp_conn *c, struct tp_conn *fresh, uint64_t now_ms);

/* The session is over: every open stream ends with that reason (TP_EV_RESET by tp_conn_next()). A gateway's next attach asks for a new session. */
void tp_conn_abandon(struct tp_conn *c, uint32_t reason);

/* Bytes from the WebSocket, changed in place. They are borrowed until tp_conn_next() has returned false. */
void tp_conn_feed(struct tp_conn *c, uint8_t *p, size_t len);
bool tp_conn_next(struct tp_conn *c, uint64_t now_us, struct tp_event *ret);
/* Whether tp_conn_next() has something to tell without any new bytes. */
bool tp_conn_has_event(const struct tp_conn *c);

bool tp_conn_wants_write(const struct tp_conn *c);
/* Writes at most room bytes, returns how many. */
size_t tp_conn_pull(struct tp_conn *c, uint8_t *dst, size_t room);

/* UINT64_MAX: none. After tp_conn_tick() look for events. */
uint64_t tp_conn_deadline(const struct tp_conn *c);
void tp_conn_tick(struct tp_conn *c, uint64_t now_ms);

/* No new streams: the peer is told. A relay answers with its own GOAWAY, behind the last OPEN; until then a gateway serves what it
 * opens. Idempotent. */
int tp_conn_goaway(struct tp_conn *c, uint32_t reason, const char *detail);
bool tp_conn_goaway_answered(const struct tp_conn *c); /* sent and received; the gateway's user is not told of an answer */
/* No stream is open, and the peer has acknowledged every HEAD and DATA. */
bool tp_conn_is_delivered(const struct tp_conn *c);
/* Asks for an acknowledgement of what is sent, unless that is under way. */
int tp_conn_ask(struct tp_conn *c, uint64_t now_us);
bool tp_conn_going_away(const struct tp_conn *c); /* sent or received */

/* Gateway: tells the relay something about itself, up to TP_NOTE_MAX bytes. Not reliable: without an attached session it does
 * nothing, what a lost connection swallows is not sent again, and of notes that wait for room on the wire only the newest goes
 * out. Not for each call: the relay ends a session with more than a hundred a second. -EINVAL (fields that are none or break a
 * rule), -EMSGSIZE (too large), -ENOMEM. */
int tp_conn_note(struct tp_conn *c, const struct tp_field *fields, size_t n);

/* Queues a WebSocket close with a reason for people; pull until nothing is left, then close the socket. */
void tp_conn_close(struct tp_conn *c, uint32_t reason, const char *detail);

size_t tp_conn_streams(const struct tp_conn *c);
struct tp_stream *tp_conn_stream(const struct tp_conn *c, uint32_t id);
uint64_t tp_conn_rtt_us(const struct tp_conn *c); /* 0: not measured yet */
/* Times that a stream had bytes to send and no credit left, in all sessions of this tp_conn. */
uint64_t tp_conn_stalls(const struct tp_conn *c);
const uint8_t *tp_conn_session_id(const struct tp_conn *c);
/* How long the relay keeps this session without a connection. */
uint64_t tp_conn_grace_ms(const struct tp_conn *c);
/* Bytes this session holds: kept frames and queues. */
size_t tp_conn_memory(const struct tp_conn *c);

/* Relay. `end`: there is no body. Positive TP_OPEN_BUSY at the limit of streams or kept bytes, TP_OPEN_GOING_AWAY after GOAWAY: nothing was sent. */
enum { TP_OPEN_BUSY = 1, TP_OPEN_GOING_AWAY = 2 };
int tp_stream_open(struct tp_conn *c, const struct tp_field *fields, size_t n, bool end, void *user,
		   struct tp_stream **ret);
/* Gateway: the response head, once. */
int tp_stream_head(struct tp_stream *s, const struct tp_field *fields, size_t n, bool end);
/* Takes all of it (a queue, bounded by TP_SEND_QUEUE plus one call of at most 256 KiB). Stop while tp_stream_wants_data() is false. -ENOBUFS, -ENOMEM. */
int tp_stream_send(struct tp_stream *s, const void *p, size_t len, bool end);
bool tp_stream_wants_data(const struct tp_stream *s);
/* The bytes of TP_EV_DATA have gone to the next hop: gives credit back. */
void tp_stream_consumed(struct tp_stream *s, size_t len, uint64_t now_us);
/* Ends both directions; queued data is dropped. Then release. */
void tp_stream_reset(struct tp_stream *s, uint32_t reason, const char *detail);
/* The owner is done: no more events. Resets (cancelled) what is not over. What a gateway has queued with `end` is still delivered;
 * if the relay has not ended its own direction by then, RESET with TP_REASON_NONE follows: the answer is whole, send no more. */
struct tp_stream *tp_stream_release(struct tp_stream *s);

void tp_stream_set_user(struct tp_stream *s, void *user);
void *tp_stream_user(const struct tp_stream *s);
uint32_t tp_stream_id(const struct tp_stream *s);
