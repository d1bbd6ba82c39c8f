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

static void end_round(struct window *w, uint64_t took_us, struct window_session *session)
{
	uint64_t passed = (w->consumed - w->round_consumed) * session->rtt_us / took_us;

	if (passed <= w->initial / 4)
		w->start_consumed = w->consumed;
	else if (passed < w->per_trip + w->per_trip / 4)
		w->found = true;
	w->per_trip = MAX(passed, w->per_trip - w->per_trip / 32);
	if (w->found)
		session->per_trip = MAX(w->per_trip, session->per_trip - session->per_trip / 128);
}

static uint64_t wanted(const struct window *w, const struct window_session *session)
{
	uint64_t start = w->initial + (w->consumed - w->start_consumed) * 3 / 8;

	if (w->found)
		return w->per_trip * 6 / 5 + SLACK_BYTES;
	return session->per_trip ? MIN(start, session->per_trip * 6 / 5 + SLACK_BYTES) : start;
}

static void measure(struct window *w, uint64_t now_us, struct window_session *session)
{
	uint64_t took_us = now_us - w->round_us;

	if (!w->round_us || took_us > PAUSE_TRIPS * session->rtt_us) {
		w->per_trip = 0;
		w->found = false;
		w->start_consumed = w->consumed;
	} else if (took_us >= session->rtt_us) {
		end_round(w, took_us, session);
	}
	if (!w->round_us || took_us >= session->rtt_us) {
		w->round_us = now_us;
		w->round_consumed = w->consumed;
	}
	w->target = (uint32_t)MIN(MAX(wanted(w, session), w->initial), w->max);
}

static void resize(struct window *w, uint64_t outstanding, uint64_t *extra_left)
{
	uint64_t size = MAX(w->target, outstanding);

	if (size > w->size)
		size = w->size + MIN(size - w->size, *extra_left);
	*extra_left = *extra_left + w->size - size;
	w->size = (uint32_t)size;
}

uint32_t window_consume(struct window *w, size_t len, uint64_t now_us, struct window_session *session)
{
	uint64_t outstanding, grant;

	w->consumed += len;
	assert(w->consumed <= w->received);
	outstanding = w->granted - w->consumed;
	if (session->rtt_us)
		measure(w, now_us, session);
	if (w->size != w->target)
		resize(w, outstanding, &session->extra_left);
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
