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
	uint32_t more = MIN(w->size, w->max - w->size);

	if (rtt_us == 0 || w->last_grant_us == 0 || now_us - w->last_grant_us > rtt_us)
		return;
	if (more > *extra_left)
		return;
	*extra_left -= more;
	w->size += more;
}

uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, uint64_t rtt_us, uint64_t *extra_left)
{
	uint64_t outstanding, grant;

	w->consumed += len;
	assert(w->consumed <= w->received);
	outstanding = w->granted - w->consumed;
	if (outstanding > w->size / 2)
		return 0;
	grow(w, now_us, rtt_us, extra_left);
	grant = w->size - outstanding;
	w->granted += grant;
	w->last_grant_us = now_us;
	return (uint32_t)grant;
}

uint32_t window_extra(const struct window *w, uint32_t initial)
{
	return w->size - initial;
}
