#include "daemon/loop.h"

#include <errno.h>
#include <time.h>

#include "base/log.h"

enum { LOOP_MAGIC = 0x4c4f4f50, TASK_ROUNDS = 8 };

TAILQ_HEAD(loop_task_list, loop_task);

struct loop_free {
	STAILQ_ENTRY(loop_free) link;
	void (*fn)(void *p);
	void *p;
};

struct loop {
	unsigned magic;
	struct event_base *base;
	struct loop_task_list tasks;
	struct loop_task_list next;
	struct loop_task_list at_free;
	STAILQ_HEAD(, loop_free) frees;
	uint8_t *scratch[4]; /* rx, rx_raw, tx, tx_raw */
	uint64_t now_us;     /* 0: to be taken */
	uint64_t turn_max_us;
	bool running;
	bool stop;
};

static const size_t scratch_bytes[] = { LOOP_RX_BYTES, LOOP_RX_BYTES, LOOP_TX_BYTES, LOOP_TX_RAW_BYTES };

static uint64_t clock_us(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t clock_now_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

uint64_t clock_wall_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

uint64_t loop_now_us(struct loop *l)
{
	/* Outside of a turn nobody would refresh it. */
	if (!l->running)
		return clock_now_us();
	if (!l->now_us)
		l->now_us = clock_now_us();
	return l->now_us;
}

uint64_t loop_now_ms(struct loop *l)
{
	return loop_now_us(l) / 1000;
}

static struct event_base *base_new(void)
{
	struct event_config *cfg = event_config_new();
	struct event_base *base;

	if (!cfg)
		return NULL;
	/* Channels rely on edges and on EV_CLOSED; nothing here is ever called from another thread. */
	event_config_require_features(cfg, EV_FEATURE_O1 | EV_FEATURE_ET | EV_FEATURE_EARLY_CLOSE);
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK);
	base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	return base;
}

static void run_frees(struct loop *l)
{
	struct loop_free *f;

	while ((f = STAILQ_FIRST(&l->frees))) {
		STAILQ_REMOVE_HEAD(&l->frees, link);
		f->fn(f->p);
		free(f);
	}
}

struct loop *loop_free(struct loop *l)
{
	struct loop_task *t;

	if (!l)
		return NULL;
	CHECK_OBJ(l, LOOP_MAGIC);
	while ((t = TAILQ_FIRST(&l->at_free))) {
		loop_task_cancel(l, t);
		t->run(t->user);
	}
	run_frees(l);
	if (l->base)
		event_base_free(l->base);
	for (size_t i = 0; i < ARRAY_LEN(l->scratch); i++)
		free(l->scratch[i]);
	l->magic = 0;
	free(l);
	return NULL;
}

int loop_new(struct loop **ret)
{
	struct loop *l = calloc(1, sizeof(*l));
	bool complete = l;

	if (!l)
		return -ENOMEM;
	l->magic = LOOP_MAGIC;
	TAILQ_INIT(&l->tasks);
	TAILQ_INIT(&l->next);
	TAILQ_INIT(&l->at_free);
	STAILQ_INIT(&l->frees);
	l->base = base_new();
	complete = l->base;
	for (size_t i = 0; i < ARRAY_LEN(l->scratch); i++) {
		l->scratch[i] = malloc(scratch_bytes[i]);
		complete = complete && l->scratch[i];
	}
	if (!complete) {
		loop_free(l);
		return -ENOMEM;
	}
	*ret = l;
	return 0;
}

struct event_base *loop_base(struct loop *l)
{
	CHECK_OBJ(l, LOOP_MAGIC);
	return l->base;
}

static void task_put(struct loop_task_list *list, struct loop_task *t)
{
	t->queued = true;
	t->list = list;
	TAILQ_INSERT_TAIL(list, t, link);
}

/* One round: what is queued now, not what these tasks ask for. */
static void run_round(struct loop *l)
{
	struct loop_task mark = { 0 };
	struct loop_task *t;

	task_put(&l->tasks, &mark);
	while ((t = TAILQ_FIRST(&l->tasks)) != &mark) {
		loop_task_cancel(l, t);
		t->run(t->user);
	}
	loop_task_cancel(l, &mark);
}

static void end_turn(struct loop *l)
{
	struct loop_task *t;

	l->now_us = 0;
	while ((t = TAILQ_FIRST(&l->next))) {
		loop_task_cancel(l, t);
		task_put(&l->tasks, t);
	}
	for (int i = 0; i < TASK_ROUNDS && !TAILQ_EMPTY(&l->tasks); i++)
		run_round(l);
	run_frees(l);
}

uint64_t loop_turn_max_us(const struct loop *l)
{
	return l->turn_max_us;
}

static bool has_tasks(const struct loop *l)
{
	return !TAILQ_EMPTY(&l->tasks) || !TAILQ_EMPTY(&l->next);
}

static int run_turns(struct loop *l)
{
	uint64_t began;
	int r;

	for (;;) {
		began = loop_now_us(l);
		end_turn(l);
		l->turn_max_us = MAX(l->turn_max_us, clock_now_us() - began);
		if (l->stop && TAILQ_EMPTY(&l->at_free))
			return 0;
		l->now_us = 0;
		r = event_base_loop(l->base, EVLOOP_ONCE | (has_tasks(l) ? EVLOOP_NONBLOCK : 0));
		if (r < 0)
			return -EIO;
		if (r > 0 && !has_tasks(l))
			return -EDEADLK;
	}
}

int loop_run(struct loop *l)
{
	int r;

	CHECK_OBJ(l, LOOP_MAGIC);
	assert(!l->running);
	l->running = true;
	r = run_turns(l);
	l->running = false;
	l->stop = false;
	return r;
}

void loop_stop(struct loop *l)
{
	CHECK_OBJ(l, LOOP_MAGIC);
	l->stop = true;
}

int loop_every(struct loop *l, uint64_t ms, event_callback_fn fn, void *user, struct event **ret)
{
	const struct timeval tv = loop_timeval(ms);

	*ret = event_new(l->base, -1, EV_PERSIST, fn, user);
	if (!*ret || (ms && event_add(*ret, &tv) < 0))
		return -ENOMEM;
	return 0;
}

int loop_on_signal(struct loop *l, int sig, event_callback_fn fn, void *user, struct event **ret)
{
	*ret = evsignal_new(l->base, sig, fn, user);
	return *ret && event_add(*ret, NULL) == 0 ? 0 : -ENOMEM;
}

void loop_task_init(struct loop_task *t, void (*run)(void *user), void *user)
{
	*t = (struct loop_task){ .run = run, .user = user };
}

void loop_task_queue(struct loop *l, struct loop_task *t)
{
	if (t->queued && t->list == &l->tasks)
		return;
	loop_task_cancel(l, t);
	task_put(&l->tasks, t);
}

void loop_task_queue_next(struct loop *l, struct loop_task *t)
{
	if (!t->queued)
		task_put(&l->next, t);
}

void loop_task_queue_at_free(struct loop *l, struct loop_task *t)
{
	if (!t->queued)
		task_put(&l->at_free, t);
}

void loop_task_cancel(struct loop *l, struct loop_task *t)
{
	if (!t->queued)
		return;
	TAILQ_REMOVE(t->list, t, link);
	t->queued = false;
	t->list = NULL;
}

void loop_free_later(struct loop *l, void (*free_fn)(void *p), void *p)
{
	struct loop_free *f = malloc(sizeof(*f));

	if (!f) {
		/* Somebody up the stack may still use it: leaking is the lesser harm. */
		log_error("out of memory: %zu bytes", sizeof(*f));
		return;
	}
	*f = (struct loop_free){ .fn = free_fn, .p = p };
	STAILQ_INSERT_TAIL(&l->frees, f, link);
}

uint8_t *loop_rx(struct loop *l)
{
	return l->scratch[0];
}

uint8_t *loop_rx_raw(struct loop *l)
{
	return l->scratch[1];
}

uint8_t *loop_tx(struct loop *l)
{
	return l->scratch[2];
}

uint8_t *loop_tx_raw(struct loop *l)
{
	return l->scratch[3];
}
