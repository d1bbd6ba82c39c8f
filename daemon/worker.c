#include "daemon/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { WORKER_MAGIC = 0x574f524b, STACK_BYTES = 512 * 1024 };

enum job_state {
	JOB_IDLE,
	JOB_WAITING,
	JOB_RUNNING,
	JOB_FINISHED, /* run() is over, done() or dropped() is due */
};

TAILQ_HEAD(job_list, worker_job);

struct worker {
	unsigned magic;
	struct loop *loop;
	int fd; /* eventfd: something has finished */
	struct event *event;
	unsigned max, n_threads;
	pthread_t threads[WORKER_THREADS_MAX];

	/* Guarded by the mutex, and so are the states of jobs that are busy. */
	pthread_mutex_t mutex;
	pthread_cond_t wanted;
	unsigned n_idle, n_waiting;
	bool stopping;
	struct job_list waiting, finished;
};

void worker_job_init(struct worker_job *job, void (*run)(void *user), void (*done)(void *user), void *user)
{
	*job = (struct worker_job){ .run = run, .done = done, .user = user, .state = JOB_IDLE };
}

/* IDLE is entered and left on the loop's thread only. */
bool worker_job_busy(const struct worker_job *job)
{
	return __atomic_load_n(&job->state, __ATOMIC_RELAXED) != JOB_IDLE;
}

static void set_state(struct worker_job *job, enum job_state state)
{
	__atomic_store_n(&job->state, (int)state, __ATOMIC_RELAXED);
}

static struct worker_job *wait_for_job(struct worker *w)
{
	struct worker_job *job;

	while (!w->stopping && TAILQ_EMPTY(&w->waiting)) {
		w->n_idle++;
		pthread_cond_wait(&w->wanted, &w->mutex);
		w->n_idle--;
	}
	if (w->stopping)
		return NULL;
	job = TAILQ_FIRST(&w->waiting);
	TAILQ_REMOVE(&w->waiting, job, link);
	w->n_waiting--;
	set_state(job, JOB_RUNNING);
	return job;
}

static void tell_loop(struct worker *w)
{
	const uint64_t one = 1;
	ssize_t n = write(w->fd, &one, sizeof(one));

	assert(n == sizeof(one));
	(void)n;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct worker_job *job;

	pthread_mutex_lock(&w->mutex);
	while ((job = wait_for_job(w))) {
		pthread_mutex_unlock(&w->mutex);
		job->run(job->user);
		pthread_mutex_lock(&w->mutex);
		set_state(job, JOB_FINISHED);
		TAILQ_INSERT_TAIL(&w->finished, job, link);
		tell_loop(w);
	}
	pthread_mutex_unlock(&w->mutex);
	return NULL;
}

static int start_thread(struct worker *w)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	/* Signals belong to the loop. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->threads[w->n_threads], &attr, worker_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r == 0)
		w->n_threads++;
	return -r;
}

static struct worker_job *take_finished(struct worker *w)
{
	struct worker_job *job;

	pthread_mutex_lock(&w->mutex);
	job = TAILQ_FIRST(&w->finished);
	if (job) {
		TAILQ_REMOVE(&w->finished, job, link);
		set_state(job, JOB_IDLE);
	}
	pthread_mutex_unlock(&w->mutex);
	return job;
}

/* What done() submits and what finishes meanwhile has its own turn: the event fires again. */
static void on_finished(evutil_socket_t fd, short what, void *user)
{
	struct worker *w = user;
	struct worker_job *job;
	uint64_t n = 0;

	CHECK_OBJ(w, WORKER_MAGIC);
	if (read(w->fd, &n, sizeof(n)) != sizeof(n))
		return;
	while (n-- && (job = take_finished(w))) {
		if (job->dropped)
			job->dropped(job->user);
		else
			job->done(job->user);
	}
}

int worker_new(struct loop *l, unsigned max_threads, struct worker **ret)
{
	struct worker *w;
	int r = -ENOMEM;

	if (max_threads == 0 || max_threads > WORKER_THREADS_MAX)
		return -EINVAL;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct worker){ .magic = WORKER_MAGIC, .loop = l, .max = max_threads };
	pthread_mutex_init(&w->mutex, NULL);
	pthread_cond_init(&w->wanted, NULL);
	TAILQ_INIT(&w->waiting);
	TAILQ_INIT(&w->finished);
	w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->fd < 0)
		r = -errno;
	else
		w->event = event_new(loop_base(l), w->fd, EV_READ | EV_PERSIST, on_finished, w);
	if (!w->event || event_add(w->event, NULL) < 0) {
		worker_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

static void forget_waiting(struct worker *w)
{
	struct worker_job *job;

	while ((job = TAILQ_FIRST(&w->waiting))) {
		TAILQ_REMOVE(&w->waiting, job, link);
		set_state(job, JOB_IDLE);
	}
}

struct worker *worker_free(struct worker *w)
{
	struct worker_job *job;

	if (!w)
		return NULL;
	CHECK_OBJ(w, WORKER_MAGIC);
	pthread_mutex_lock(&w->mutex);
	w->stopping = true;
	forget_waiting(w);
	pthread_cond_broadcast(&w->wanted);
	pthread_mutex_unlock(&w->mutex);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	while ((job = take_finished(w)))
		if (job->dropped)
			job->dropped(job->user);
	if (w->event)
		event_free(w->event);
	if (w->fd >= 0)
		close(w->fd);
	pthread_cond_destroy(&w->wanted);
	pthread_mutex_destroy(&w->mutex);
	w->magic = 0;
	free(w);
	return NULL;
}

static bool wants_thread(struct worker *w)
{
	bool wants;

	pthread_mutex_lock(&w->mutex);
	wants = w->n_waiting >= w->n_idle;
	pthread_mutex_unlock(&w->mutex);
	return wants && w->n_threads < w->max;
}

int worker_submit(struct worker *w, struct worker_job *job)
{
	int r = 0;

	CHECK_OBJ(w, WORKER_MAGIC);
	assert(!worker_job_busy(job));
	if (wants_thread(w))
		r = start_thread(w);
	if (w->n_threads == 0)
		return r;
	job->dropped = NULL;
	pthread_mutex_lock(&w->mutex);
	set_state(job, JOB_WAITING);
	TAILQ_INSERT_TAIL(&w->waiting, job, link);
	w->n_waiting++;
	pthread_cond_signal(&w->wanted);
	pthread_mutex_unlock(&w->mutex);
	return 0;
}

static void nobody_cares(void *user)
{
}

bool worker_cancel(struct worker *w, struct worker_job *job, void (*dropped)(void *user))
{
	bool running;

	CHECK_OBJ(w, WORKER_MAGIC);
	pthread_mutex_lock(&w->mutex);
	running = job->state == JOB_RUNNING;
	if (job->state == JOB_WAITING) {
		TAILQ_REMOVE(&w->waiting, job, link);
		w->n_waiting--;
	} else if (job->state == JOB_FINISHED) {
		TAILQ_REMOVE(&w->finished, job, link);
	}
	if (running)
		job->dropped = dropped ? dropped : nobody_cares;
	else
		set_state(job, JOB_IDLE);
	pthread_mutex_unlock(&w->mutex);
	return !running;
}
