#include "relay/hold.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HOLD_MAGIC 0x686f6c64

struct hold {
	unsigned magic;
	struct loop *loop;
	uint64_t hold_ms;
	size_t bytes;
	struct event *timer;
	TAILQ_HEAD(held_list, held) line; /* by time of arrival, and so by the end of their time */
	struct held_list leaving;         /* let go, not told yet */
	struct hold_counters counters;
};

static void arm(struct hold *h)
{
	struct held *first = TAILQ_FIRST(&h->line);
	uint64_t now = loop_now_ms(h->loop);
	struct timeval tv;

	if (!first) {
		event_del(h->timer);
		return;
	}
	tv = loop_timeval(first->until_ms > now ? first->until_ms - now : 0);
	event_add(h->timer, &tv);
}

/* By the end of its time: one that waits again goes back to its place. */
static void insert(struct hold *h, struct held *w)
{
	struct held *after = TAILQ_LAST(&h->line, held_list);

	while (after && after->until_ms > w->until_ms)
		after = TAILQ_PREV(after, held_list, link);
	if (after)
		TAILQ_INSERT_AFTER(&h->line, after, w, link);
	else
		TAILQ_INSERT_HEAD(&h->line, w, link);
}

bool hold_add(struct hold *h, struct held *w, struct span tunnel_id, size_t bytes)
{
	uint64_t now = loop_now_ms(h->loop);

	assert(!w->hold);
	if (!w->until_ms)
		w->until_ms = now + h->hold_ms;
	if (w->until_ms <= now)
		return false;
	if (h->counters.waiting >= HOLD_CALLS_MAX || bytes > HOLD_BYTES_MAX - h->bytes) {
		h->counters.refused++;
		return false;
	}
	snprintf(w->tunnel_id, sizeof(w->tunnel_id), "%.*s", SPAN_FMT(tunnel_id));
	w->hold = h;
	w->bytes = bytes;
	h->bytes += bytes;
	h->counters.waiting++;
	h->counters.held++;
	insert(h, w);
	arm(h);
	return true;
}

void hold_remove(struct held *w)
{
	struct hold *h = w->hold;

	if (!h)
		return;
	w->hold = NULL;
	if (w->leaving) {
		w->leaving = false;
		TAILQ_REMOVE(&h->leaving, w, link);
		return;
	}
	TAILQ_REMOVE(&h->line, w, link);
	h->bytes -= w->bytes;
	h->counters.waiting--;
	arm(h);
}

void hold_set(struct hold *h, uint64_t hold_ms)
{
	h->hold_ms = hold_ms;
}

void hold_renew(struct held *w)
{
	assert(!w->hold);
	w->until_ms = 0;
}

bool hold_add_bytes(struct held *w, size_t bytes)
{
	struct hold *h = w->hold;

	if (bytes > HOLD_BYTES_MAX - h->bytes) {
		h->counters.refused++;
		hold_remove(w);
		return false;
	}
	w->bytes += bytes;
	h->bytes += bytes;
	return true;
}

static void expire(struct hold *h, uint64_t until_ms)
{
	struct held *w;

	while ((w = TAILQ_FIRST(&h->line)) && w->until_ms <= until_ms) {
		hold_remove(w);
		h->counters.expired++;
		w->on_expired(w->user);
	}
	arm(h);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct hold *h = user;

	CHECK_OBJ(h, HOLD_MAGIC);
	expire(h, loop_now_ms(h->loop));
}

void hold_expire_all(struct hold *h)
{
	expire(h, UINT64_MAX);
}

size_t hold_attached(struct hold *h, const char *tunnel_id)
{
	struct held *w, *next;
	size_t n = 0;

	/* Who has to wait again goes back into the line, not into this round. */
	for (w = TAILQ_FIRST(&h->line); w; w = next) {
		next = TAILQ_NEXT(w, link);
		if (strcmp(w->tunnel_id, tunnel_id) != 0)
			continue;
		hold_remove(w);
		w->hold = h;
		w->leaving = true;
		TAILQ_INSERT_TAIL(&h->leaving, w, link);
	}
	while ((w = TAILQ_FIRST(&h->leaving))) {
		hold_remove(w);
		h->counters.let_go++;
		n++;
		w->on_attached(w->user);
	}
	return n;
}

const struct hold_counters *hold_counters(const struct hold *h)
{
	return &h->counters;
}

int hold_new(struct loop *l, uint64_t hold_ms, struct hold **ret)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->magic = HOLD_MAGIC;
	h->loop = l;
	h->hold_ms = hold_ms;
	TAILQ_INIT(&h->line);
	TAILQ_INIT(&h->leaving);
	h->timer = event_new(loop_base(l), -1, 0, on_timer, h);
	if (!h->timer) {
		free(h);
		return -ENOMEM;
	}
	*ret = h;
	return 0;
}

struct hold *hold_free(struct hold *h)
{
	struct held *w;

	if (!h)
		return NULL;
	CHECK_OBJ(h, HOLD_MAGIC);
	while ((w = TAILQ_FIRST(&h->line)) || (w = TAILQ_FIRST(&h->leaving)))
		hold_remove(w);
	event_free(h->timer);
	h->magic = 0;
	free(h);
	return NULL;
}
