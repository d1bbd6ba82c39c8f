/* One end of the tunnel against bytes written by hand: what a hostile or broken peer may send. */
#pragma once

#include "base/buf.h"
#include "proto/frame.h"
#include "proto/tunnel.h"
#include "proto/websocket.h"

struct raw {
	struct tp_conn *c;
	enum tp_role role; /* of the end under test */
	uint64_t now_us;
	struct tp_event ev; /* the last one */
	struct tp_event failed; /* FAILED or CLOSED, when `over` */
	char detail[TP_DETAIL_MAX + 1];
	bool over;
	unsigned opens, heads, datas, resets, goaways;
	struct tp_stream *last; /* of the last OPEN */
	struct buf out;         /* what the end under test has sent */
	bool hold;              /* do not pull by itself */
	bool release_opens;     /* each stream is released as soon as it is told */
};

void raw_init(struct raw *r, enum tp_role role);
void raw_init_cfg(struct raw *r, const struct tp_config *cfg);
void raw_done(struct raw *r);

/* Bytes of the wire; events are taken, answers pulled. */
void raw_bytes(struct raw *r, const void *p, size_t len);
/* One WebSocket frame with that first byte (FIN, opcode), masked as the role wants it. */
void raw_ws(struct raw *r, uint8_t first, const void *payload, size_t len);
void raw_frame(struct raw *r, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t len);
void raw_fields(struct raw *r, uint8_t type, uint8_t flags, uint32_t id, const struct tp_field *fields, size_t n);
void raw_u32(struct raw *r, uint8_t type, uint32_t id, uint32_t value);
void raw_ping(struct raw *r, uint64_t count);
void raw_open(struct raw *r, uint32_t id, bool end);

/* A valid HELLO or WELCOME, with one field changed: value NULL leaves it out, name NULL changes nothing. */
void raw_greet_with(struct raw *r, const char *name, const char *value);
void raw_greet(struct raw *r);
/* Relay under test: opens a stream and sends its OPEN. */
struct tp_stream *raw_local_open(struct raw *r, bool end);

/* The last frame of that type that was sent: false when there is none. */
bool raw_sent(struct raw *r, uint8_t type, struct tp_frame *ret);
