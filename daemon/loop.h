/* One event loop per process: libevent, plus what happens at the end of each turn (flush, then free). */
#pragma once

#include <event2/event.h>
#include <sys/queue.h>

#include "base/check.h"

struct loop;

int loop_new(struct loop **ret);
/* Owners close what they have before that. */
struct loop *loop_free(struct loop *l);
struct event_base *loop_base(struct loop *l);

/* Runs until loop_stop() and until what lingers (channel_close()) is through, then ends the turn (tasks, frees) and returns. 0 or -errno; -EDEADLK when there is nothing to wait for. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l);

/* Every ms milliseconds (0: not started yet), and for each signal. -ENOMEM. The owner frees the event. */
int loop_every(struct loop *l, uint64_t ms, event_callback_fn fn, void *user, struct event **ret);
int loop_on_signal(struct loop *l, int sig, event_callback_fn fn, void *user, struct event **ret);

static inline struct timeval loop_timeval(uint64_t ms)
{
	return (struct timeval){ (time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000) };
}

/* Monotonic, taken after each wait and again before the tasks: cheap enough for every use. Microseconds, milliseconds.
 * libevent's timers run on a coarser clock: one may fire up to a kernel tick (4 ms) early by this one. */
uint64_t loop_now_us(struct loop *l);
uint64_t loop_now_ms(struct loop *l);
/* Not cached: for measuring. */
uint64_t clock_now_us(void);
/* Wall clock, for records only. */
uint64_t clock_wall_us(void);

/* The longest turn so far, from its first look at the clock to its end: for as long nothing else could happen. */
uint64_t loop_turn_max_us(const struct loop *l);

/* Work for the end of the turn, run once in the order of asking, before anything that was closed is freed. Asking twice before it ran does
 * nothing. A task is embedded in its owner; the owner cancels it when it dies. Tasks may ask for other tasks: they run in
 * the same end of turn, at most a few rounds. */
struct loop_task {
	TAILQ_ENTRY(loop_task) link;
	void (*run)(void *user);
	void *user;
	bool queued;
	struct loop_task_list *list; /* the one it is in, while queued */
};
void loop_task_init(struct loop_task *t, void (*run)(void *user), void *user);
void loop_task_queue(struct loop *l, struct loop_task *t);
/* Not before everything that is ready now has been looked at: for work that goes on and on, in portions. */
void loop_task_queue_next(struct loop *l, struct loop_task *t);
/* Not before loop_free(), where it runs first: for what has no owner any more. */
void loop_task_queue_at_free(struct loop *l, struct loop_task *t);
void loop_task_cancel(struct loop *l, struct loop_task *t);

/* Death in an event loop: closes happen now, memory goes at the end of the turn. */
void loop_free_later(struct loop *l, void (*free_fn)(void *p), void *p);

/* Scratch memory shared by everybody for the length of one callback: never kept, never used across a call to foreign code
 * that may use the same one. */
enum {
	LOOP_RX_BYTES = 256 * 1024, /* plaintext from a socket, handed to on_data */
	LOOP_TX_BYTES = 64 * 1024,  /* plaintext on its way to a socket */
	LOOP_TX_RAW_BYTES = LOOP_TX_BYTES + 4096, /* the same as TLS records */
};
uint8_t *loop_rx(struct loop *l);    /* LOOP_RX_BYTES */
uint8_t *loop_rx_raw(struct loop *l); /* LOOP_RX_BYTES: ciphertext */
uint8_t *loop_tx(struct loop *l);    /* LOOP_TX_BYTES */
uint8_t *loop_tx_raw(struct loop *l); /* LOOP_TX_RAW_BYTES: ciphertext */
