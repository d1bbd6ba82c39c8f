/* The receiving side of a stream's flow control: what was promised, what came, what the next hop has taken. Credit is
 * given on consumption, in steps of an eighth of a window: in large ones, a sender that has used its credit up would wait with
 * much of the window idle.
 *
 * A window follows what its stream passes in a round trip. At the start it grows by three eighths of that each time, hard on the heels of
 * TCP's slow start; once no more passes than before, it is a little larger than the most of the last few round trips. What is beyond that
 * could only wait in queues on the path, before everybody else's bytes, or be lost there. After a pause it starts anew. */
#pragma once

#include "base/check.h"

struct window {
	uint32_t initial, size, max;
	uint32_t target;         /* what the size ought to be; it shrinks only as outstanding credit is used */
	uint64_t granted;        /* bytes the peer may have sent since the stream opened */
	uint64_t received;
	uint64_t consumed;
	uint64_t round_us;       /* when the present round trip began; 0: not yet */
	uint64_t round_consumed; /* of `consumed`, then */
	uint64_t per_trip;       /* consumed in a round trip: the most of the last few */
	uint64_t start_consumed; /* of `consumed`, when fast passage began */
	bool found;              /* what passes in a round trip no longer grows */
};

void window_init(struct window *w, uint32_t initial, uint32_t max);

/* False when the peer overran its credit. */
bool window_receive(struct window *w, size_t len);

/* What the windows of a session share. */
struct window_session {
	uint64_t rtt_us;     /* 0: not measured yet; nothing grows */
	uint64_t extra_left; /* what the session still allows windows to grow; growth is taken from it, and given back */
	uint64_t per_trip;   /* the most that a window has passed in a round trip: no other needs more at its start; 0: unknown */
};

/* How much credit to give now (0: none yet). */
uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, struct window_session *session);

/* What the growth of this window has taken from the session. */
uint32_t window_extra(const struct window *w);
