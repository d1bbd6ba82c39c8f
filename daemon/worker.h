/* Work that would hold the loop up (long hashes, fdatasync, reading the journal back): run by a few threads, done()
 * called back on the loop. Threads start when needed and stay; all signals are blocked in them. run() touches only
 * what the job owns: nothing of the loop, no log.
 *
 * All functions here belong to the thread of the loop.
 */
#pragma once

#include "daemon/loop.h"

enum { WORKER_THREADS_MAX = 16 };

struct worker;

/* Owned by the caller; must stay where it is from worker_submit() until done(), dropped(), or a cancel that says
 * true. May be submitted again from done() on, and freed in it. */
struct worker_job {
	void (*run)(void *user);  /* on a thread */
	void (*done)(void *user); /* on the loop */
	void *user;
	/* The rest is the worker's. */
	TAILQ_ENTRY(worker_job) link;
	void (*dropped)(void *user);
	int state;
};
void worker_job_init(struct worker_job *job, void (*run)(void *user), void (*done)(void *user), void *user);
/* Between worker_submit() and done() or dropped(). */
bool worker_job_busy(const struct worker_job *job);

/* max_threads: 1 to WORKER_THREADS_MAX. -EINVAL, -ENOMEM, -errno of eventfd(). Starts no thread yet. */
int worker_new(struct loop *l, unsigned max_threads, struct worker **ret);
/* Waits for jobs that are running: they should look now and then whether they still need to. Then dropped() of those
 * that were cancelled is called; run() and done() of the others are not called any more. */
struct worker *worker_free(struct worker *w);
DEFINE_CLEANUP(struct worker *, worker_free)

/* First in, first out; not a job that is busy. -EAGAIN, -ENOMEM: there is no thread and none can be started; the job
 * is not taken then. */
int worker_submit(struct worker *w, struct worker_job *job);
/* done() will not be called any more. True: no thread has it (run() has not begun, or is over), it is the caller's
 * again at once. False: it is running, and dropped(user) is called on the loop when it is over. A job that is not
 * busy: true. */
bool worker_cancel(struct worker *w, struct worker_job *job, void (*dropped)(void *user));
