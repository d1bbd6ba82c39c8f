/* The receiving side of a stream's flow control: what was promised, what came, what the next hop has taken. Credit is
 * given on consumption, in steps of a quarter of a window: in larger ones, a sender that has used its credit up would wait with
 * most of the window idle. The window doubles when half of it is consumed within a round trip, so it ends between two and
 * four times what the path carries in that time. */
#pragma once

#include "base/check.h"

struct window {
	uint32_t size, max;
	uint64_t granted;  /* bytes the peer may have sent since the stream opened */
	uint64_t received;
	uint64_t consumed;
	uint64_t round_us; /* when the present round trip's measuring began; 0: not yet */
	uint64_t round_consumed; /* of `consumed`, then */
};

void window_init(struct window *w, uint32_t initial, uint32_t max);

/* False when the peer overran its credit. */
bool window_receive(struct window *w, size_t len);

/* How much credit to give now (0: none yet). *extra_left is what the session still allows windows to grow; growth is taken
 * from it. */
uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, uint64_t rtt_us, uint64_t *extra_left);

/* What the growth of this window took from the session. */
uint32_t window_extra(const struct window *w, uint32_t initial);
