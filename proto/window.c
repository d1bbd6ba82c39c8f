#include "proto/window.h"

void window_init(struct window *w, uint32_t initial, uint32_t max)
{
	*w = (struct window){ .size = initial, .max = MAX(initial, max), .granted = initial };
}

bool window_receive(struct window *w, size_t len)
{
	if (len > w->granted - w->received)
		return false;
	w->received += len;
	return true;
}

static void grow(struct window *w, uint64_t now_us, uint64_t rtt_us, uint64_t *extra_left)
{
	bool within = w->round_us && now_us - w->round_us <= rtt_us;
	uint32_t more = MIN(w->size, w->max - w->size);

	if (within && w->consumed - w->round_consumed < w->size / 2)
		return;
	if (within && more <= *extra_left) {
		*extra_left -= more;
		w->size += more;
	}
	w->round_us = now_us;
	w->round_consumed = w->consumed;
}

uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, uint64_t rtt_us, uint64_t *extra_left)
{
	uint64_t outstanding, grant;

	w->consumed += len;
	assert(w->consumed <= w->received);
	if (rtt_us)
		grow(w, now_us, rtt_us, extra_left);
	outstanding = w->granted - w->consumed;
	if (outstanding > w->size - w->size / 4 || outstanding == w->size)
		return 0;
	grant = w->size - outstanding;
	w->granted += grant;
	return (uint32_t)grant;
}

uint32_t window_extra(const struct window *w, uint32_t initial)
{
	return w->size - initial;
}
