#include "proto/window.h"

enum {
	PAUSE_TRIPS = 32,
	SLACK_BYTES = 64 * 1024, /* for what lies in sockets, and the pieces in which it moves */
};

void window_init(struct window *w, uint32_t initial, uint32_t max)
{
	*w = (struct window){ .initial = initial, .size = initial, .target = initial, .max = MAX(initial, max), .granted = initial };
}

bool window_receive(struct window *w, size_t len)
{
	if (len > w->granted - w->received)
		return false;
	w->received += len;
	return true;
}

static void end_round(struct window *w, uint64_t took_us, uint64_t rtt_us)
{
	uint64_t passed = (w->consumed - w->round_consumed) * rtt_us / took_us;

	if (passed <= w->initial / 4)
		w->start_consumed = w->consumed;
	else if (passed < w->per_trip + w->per_trip / 4)
		w->found = true;
	w->per_trip = MAX(passed, w->per_trip - w->per_trip / 32);
}

static void measure(struct window *w, uint64_t now_us, uint64_t rtt_us)
{
	uint64_t took_us = now_us - w->round_us, target;

	if (!w->round_us || took_us > PAUSE_TRIPS * rtt_us) {
		w->per_trip = 0;
		w->found = false;
		w->start_consumed = w->consumed;
	} else if (took_us >= rtt_us) {
		end_round(w, took_us, rtt_us);
	}
	if (!w->round_us || took_us >= rtt_us) {
		w->round_us = now_us;
		w->round_consumed = w->consumed;
	}
	target = w->found ? w->per_trip * 6 / 5 + SLACK_BYTES : w->initial + (w->consumed - w->start_consumed) / 2;
	w->target = (uint32_t)MIN(MAX(target, w->initial), w->max);
}

static void resize(struct window *w, uint64_t outstanding, uint64_t *extra_left)
{
	uint64_t size = MAX(w->target, outstanding);

	if (size > w->size)
		size = w->size + MIN(size - w->size, *extra_left);
	*extra_left = *extra_left + w->size - size;
	w->size = (uint32_t)size;
}

uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, uint64_t rtt_us, uint64_t *extra_left)
{
	uint64_t outstanding, grant;

	w->consumed += len;
	assert(w->consumed <= w->received);
	outstanding = w->granted - w->consumed;
	if (rtt_us)
		measure(w, now_us, rtt_us);
	if (w->size != w->target)
		resize(w, outstanding, extra_left);
	if (outstanding > w->size - w->size / 8)
		return 0;
	grant = w->size - outstanding;
	w->granted += grant;
	return (uint32_t)grant;
}

uint32_t window_extra(const struct window *w)
{
	return w->size - w->initial;
}
