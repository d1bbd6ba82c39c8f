/* The counted frames of one direction, in order: first those sent and not yet acknowledged, then those not yet sent. It is
 * the send queue and the memory of resumption in one, so that a frame is stored once. */
#pragma once

#include <sys/queue.h>

#include "base/check.h"
#include "base/span.h"

struct replay_chunk;

struct replay {
	TAILQ_HEAD(replay_head_t, replay_chunk) chunks;
	uint64_t acked; /* frames that the peer has acknowledged; the first kept frame has this number */
	uint64_t sent;  /* frames handed to the current connection */
	uint64_t count; /* frames ever appended */
	size_t bytes;   /* kept */
	size_t *total;  /* the same of all who share it; NULL: nobody does */
	size_t unsent_bytes;
	struct replay_chunk *cursor_chunk; /* where frame number `sent` lies */
	size_t cursor_at;
	struct replay_chunk *spare;
};

/* total may be NULL. */
void replay_init(struct replay *r, size_t *total);
void replay_done(struct replay *r);

/* Room for a frame of len bytes at the end; it is appended. -ENOMEM. */
int replay_append(struct replay *r, size_t len, uint8_t **ret);

/* The next unsent frame, stable until it is acknowledged; absent when all are sent. */
struct span replay_peek(const struct replay *r);
void replay_advance(struct replay *r);

/* The peer has received `count` frames. False when that cannot be. */
bool replay_ack(struct replay *r, uint64_t count);

/* A new connection on which the peer says it has received `count`: acknowledges them, and the rest counts as not sent.
 * False when that cannot be. */
bool replay_rewind(struct replay *r, uint64_t count);

/* The session is over: drops everything, counts from zero. */
void replay_clear(struct replay *r);
