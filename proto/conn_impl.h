/* Inside of tp_conn and tp_stream. Private to proto/ and its unit tests.
 *
 *   conn.c     life of a session: new, attach, detach, resume, abandon, time
 *   conn_rx.c  bytes -> WebSocket messages -> frames -> events
 *   conn_tx.c  urgent session frames, kept frames, scheduling of DATA -> bytes
 *   stream.c   what the user of a stream does to it
 */
#pragma once

#include <sys/queue.h>

#include "base/buf.h"
#include "base/idmap.h"
#include "proto/budget.h"
#include "proto/frame.h"
#include "proto/replay.h"
#include "proto/tunnel.h"
#include "proto/websocket.h"
#include "proto/window.h"

#define TP_CONN_MAGIC 0x74706331
#define TP_STREAM_MAGIC 0x74707331

enum {
	ACK_AFTER_BYTES = 64 * 1024,
	ACK_AFTER_FRAMES = 64,
	URGENT_MAX = 256 * 1024, /* session frames waiting to be sent; budgets keep a peer far below */
	SEND_MAX = TP_SEND_QUEUE + 256 * 1024,
	MASK_POOL = 256,
	RESET_RATE = 1000,
	EMPTY_DATA_RATE = 1000,
	PING_RATE = 10,
	NOTE_RATE = 100,
};

struct tp_stream {
	unsigned magic;
	uint32_t id;
	struct tp_conn *conn;
	void *user;
	TAILQ_ENTRY(tp_stream) all_link;    /* in conn->all, from new to free */
	TAILQ_ENTRY(tp_stream) ready_link;  /* in conn->ready: has DATA (or the bare END) that credit allows */
	TAILQ_ENTRY(tp_stream) credit_link; /* in conn->crediting: owes the peer a CREDIT frame */
	TAILQ_ENTRY(tp_stream) event_link;  /* in conn->events: has a RESET or WRITABLE to tell */
	struct buf queue;         /* DATA not yet framed */
	uint64_t credit;          /* bytes the peer lets us send */
	uint32_t credit_owed;     /* bytes for the next CREDIT frame */
	uint32_t reset_reason;    /* of the event that waits */
	struct window window;
	bool is_pipe;
	bool head_done;           /* HEAD sent (gateway) or received (relay) */
	bool end_queued;          /* the user has ended its direction */
	bool end_sent;            /* and the peer has been told */
	bool end_received;
	bool closed;              /* reset by either end, or ended in both directions */
	bool released;            /* nobody looks at it any more */
	bool in_map, in_ready, in_credit, in_events;
	bool stalled; /* has bytes and no credit */
	bool tell_reset, tell_writable;
	bool was_full;
};

/* The connection that carries the session at the moment. */
struct tp_carrier {
	bool up;        /* bytes may flow */
	bool hello_done; /* HELLO received (relay), sent (gateway) */
	bool ready;     /* WELCOME sent or received: streams may flow */
	bool unproven;  /* relay: nothing says yet that the gateway has the WELCOME of a new session */
	bool failed;    /* nothing more is read; the close frame may still go out */
	bool closing;   /* a close frame is queued: nothing after it */
	struct ws_decoder ws;
	uint8_t *in, *in_end; /* borrowed input */
	struct buf partial;   /* the message that has not arrived whole */
	bool partial_in_use;  /* the last event points into it */
	struct buf urgent;    /* items: opcode (1), length (4), payload */
	struct buf note;      /* the payload of the NOTE that waits; empty: none */
	/* the message being written */
	uint8_t head[WS_HEADER_MAX];
	size_t head_len, head_at;
	size_t msg_len, msg_at;
	uint8_t mask[4];
	bool msg_urgent, msg_active;
	uint64_t opened_ms, last_rx_ms, last_ping_ms;
	struct budget pings;
};

struct tp_conn {
	unsigned magic;
	struct tp_config cfg;
	struct tp_carrier carrier;
	bool has_session;
	bool broken; /* while detached a frame could not be kept: this session cannot go on */
	uint8_t session[TP_SESSION_ID_BYTES];
	uint8_t replaces[TP_SESSION_ID_BYTES];
	struct idmap streams;
	uint32_t last_id;      /* highest stream id opened */
	uint32_t open_streams; /* not closed */
	uint32_t max_payload;  /* agreed */
	uint32_t peer_window;  /* credit that new streams start with */
	uint32_t peer_max_streams;
	uint64_t grace_ms;     /* of the relay */
	uint64_t hello_received; /* relay: the count in the HELLO of a connection without a session yet */
	struct window_session windows;
	struct replay replay;
	uint64_t rx_count;       /* counted frames received in this session */
	uint64_t rx_acked;       /* of which the peer has been told */
	size_t rx_bytes_unacked;
	uint64_t answer_count;   /* the number of the last HEAD or DATA */
	uint64_t stalls;         /* of all its sessions */
	bool goaway_sent, goaway_received;
	uint64_t ping_sent_us;
	uint8_t ping_token[8];
	bool ping_open;
	struct budget resets, empties, notes;
	TAILQ_HEAD(tp_all_head, tp_stream) all; /* those of an abandoned session too, which the map no longer knows */
	TAILQ_HEAD(tp_ready_head, tp_stream) ready;
	TAILQ_HEAD(tp_credit_head, tp_stream) crediting;
	TAILQ_HEAD(tp_event_head, tp_stream) events;
	bool tell_attached, tell_failed, tell_closed;
	struct {
		bool resumed, fatal;
		uint32_t reason;
		uint64_t frames, bytes;
		char detail[TP_DETAIL_MAX];
	} told;
	uint8_t entropy[MASK_POOL];
	size_t entropy_left;
};

/* conn.c */
void conn_fail(struct tp_conn *c, uint32_t reason, bool fatal, const char *detail);
/* Every stream ends with that reason, and the session is forgotten; the connection stays. */
void conn_end_session(struct tp_conn *c, uint32_t reason);
void conn_forget_session(struct tp_conn *c);
void conn_queue_event(struct tp_stream *s);
int conn_random(struct tp_conn *c, void *dst, size_t len);

/* conn_tx.c */
int conn_send_urgent(struct tp_conn *c, enum ws_opcode op, const void *head, size_t head_len, const void *p, size_t len);
int conn_send_session_frame(struct tp_conn *c, uint8_t type, const void *payload, size_t len);
int conn_send_session_fields(struct tp_conn *c, uint8_t type, const struct tp_field *fields, size_t n);
int conn_send_frame(struct tp_conn *c, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t len);
int conn_send_fields(struct tp_conn *c, uint8_t type, uint8_t flags, uint32_t id, const struct tp_field *fields, size_t n);
int conn_send_coded(struct tp_conn *c, uint8_t type, uint32_t id, const uint32_t *words, size_t n_words, const char *detail);
int conn_send_ping(struct tp_conn *c, uint64_t now_us);
/* Whether another frame may be kept: below so many times the bounds of the session and of all who share its room. */
bool conn_may_keep(const struct tp_conn *c, size_t times);
bool conn_may_send_data(const struct tp_conn *c);
/* One DATA frame out of bytes at p. */
int conn_send_data(struct tp_stream *s, const void *p, size_t len, bool end);

/* stream.c */
int stream_new(struct tp_conn *c, uint32_t id, struct tp_stream **ret);
void stream_free(struct tp_stream *s);
/* After any change of the queue, the credit or END. */
void stream_update_ready(struct tp_stream *s);
/* Both directions are over: gives back its place; frees it when nobody looks at it. */
void stream_close(struct tp_stream *s);
/* After END went or came. May free a released stream. */
void stream_maybe_close(struct tp_stream *s);
/* The stream ends by reset; the user is told. */
void stream_tell_reset(struct tp_stream *s, uint32_t reason);

/* conn_check.c: asserts what always holds; walks every stream. For tests. */
void tp_conn_check(const struct tp_conn *c);
