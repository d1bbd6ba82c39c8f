/* Two ends of the tunnel in one process, joined by a wire in memory. The wire cuts bytes into pieces, delays them, and can be
 * cut itself: what is in flight is lost. The clock is virtual, entropy comes from a seed. Everything the ends tell is noted,
 * and what streams carry is collected, so that a test looks at results.
 *
 * The relay side does what a relay does: each connection starts on a fresh tp_conn, and its HELLO is answered with welcome or
 * resume.
 */
#pragma once

#include "base/buf.h"
#include "proto/tunnel.h"

enum pair_side { PAIR_GATEWAY, PAIR_RELAY };

enum { PAIR_STREAMS = 4096, PAIR_NOTES = 8192, PAIR_TEXT = 128 };

struct pair_note {
	enum pair_side side;
	enum tp_event_type type;
	uint32_t id;
	size_t len;
	bool end, fatal, resumed;
	uint32_t reason, last_id;
	uint64_t frames, bytes;
	uint8_t replaces[TP_SESSION_ID_BYTES]; /* HELLO */
	char text[PAIR_TEXT]; /* detail; name=value;... of NOTE */
};

/* One end of a stream; the user pointer of its tp_stream. */
struct pair_stream {
	struct tp_stream *s; /* NULL: released */
	uint32_t id;
	struct buf got;      /* all DATA */
	size_t unconsumed;
	bool head, end, reset;
	uint32_t reason;
	unsigned writable;
	char fields[PAIR_TEXT]; /* name=value;... of OPEN or HEAD */
	void *model;
};

struct pair_end {
	struct tp_conn *conn;  /* the session; the relay's is NULL before the first HELLO */
	struct tp_conn *fresh; /* relay: the connection whose HELLO has not come */
	struct buf wire;       /* sent by this end, not yet delivered */
	struct buf record;     /* all bytes this connection ever carried from this end, when `recording` */
	struct pair_stream *streams;
	size_t n_streams;
};

struct pair {
	struct tp_config cfg[2];
	struct pair_end end[2];
	bool up;
	bool recording;
	bool keep_data;        /* collect DATA in pair_stream.got */
	bool auto_consume;     /* at once; otherwise pair_consume() */
	bool forget_sessions;  /* the relay knows no session any more */
	bool fail_detaches;    /* FAILED and CLOSED cut the wire */
	size_t chunk;          /* bytes of one delivery; 0: all there is */
	size_t pull;           /* bytes of one pull */
	size_t budget;         /* bytes that may still be delivered in all; then the wire is cut by itself */
	uint64_t now_us;
	uint64_t delay_us;     /* added to the clock by each exchange */
	uint8_t next_session;
	struct pair_note *notes;
	size_t n_notes;
	/* Each event after it was noted; may be NULL. */
	void (*on_event)(struct pair *p, enum pair_side side, const struct tp_event *ev, struct pair_stream *ps);
	void *user;
};

/* Deterministic; also for tests without a pair. */
void pair_seed(uint64_t seed);
uint64_t pair_random64(void);
uint32_t pair_below(uint32_t n); /* 0 .. n - 1 */
int pair_entropy(void *dst, size_t len);

/* Defaults; change p->cfg and the switches before pair_connect(). */
void pair_init(struct pair *p);
void pair_done(struct pair *p);

/* A new connection; a gateway that is still attached leaves the old one. The old connection's relay end stays as it is. */
void pair_connect(struct pair *p);
/* The connection is gone, what is in flight is lost, both ends know. */
void pair_cut(struct pair *p);
/* Bytes go both ways until nothing moves. */
void pair_run(struct pair *p);
/* One pull of one end, then delivery of what lies on its wire (at most `max` bytes): false when nothing moved. */
bool pair_move(struct pair *p, enum pair_side from, size_t max);
/* Events of that end that need no bytes. */
void pair_events(struct pair *p, enum pair_side side);
/* Connect and run until both are attached. */
void pair_up(struct pair *p);
/* Time passes; both ends' timers fire when due. */
void pair_advance(struct pair *p, uint64_t ms);

/* The relay opens a stream; asserts that it may. NULL when it is busy or going away. */
struct pair_stream *pair_open(struct pair *p, bool end);
/* The other end of it, NULL when it has not been told. */
struct pair_stream *pair_peer(struct pair *p, enum pair_side side, uint32_t id);
void pair_head(struct pair_stream *ps, bool end);
/* Bytes of the pattern of a stream and direction, checked by pair_check_pattern(). */
void pair_send(struct pair_stream *ps, enum pair_side from, size_t len, bool end);
void pair_send_at(struct pair_stream *ps, enum pair_side from, uint64_t at, size_t len, bool end);
void pair_consume(struct pair *p, struct pair_stream *ps, size_t len);
void pair_release(struct pair_stream *ps);
uint8_t pair_pattern(uint32_t id, enum pair_side from, uint64_t at);
bool pair_pattern_ok(const uint8_t *p, size_t len, uint32_t id, enum pair_side from, uint64_t at);

size_t pair_count(const struct pair *p, enum pair_side side, enum tp_event_type type);
/* The last note of that kind, NULL: none. */
const struct pair_note *pair_last(const struct pair *p, enum pair_side side, enum tp_event_type type);
void pair_forget_notes(struct pair *p);

/* A frame of a recorded connection: where it starts in the byte stream, and what it says. */
struct pair_frame {
	size_t at;
	uint8_t type, flags;
	uint32_t id;
	size_t len;
	uint8_t payload[16]; /* its start */
};
/* Decodes what `side` sent in this connection; control frames of WebSocket are left out. Returns how many. */
size_t pair_frames(struct pair *p, enum pair_side side, struct pair_frame *ret, size_t max);
