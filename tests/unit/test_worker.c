#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/digest.h"
#include "daemon/worker.h"
#include "tests/lib/unit.h"

static struct loop *loop;
static struct worker *worker;
static struct event *give_up;
static bool no_threads;

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return no_threads ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

static void on_give_up(evutil_socket_t fd, short what, void *user)
{
	ck_abort_msg("the jobs did not end");
}

static atomic_int running, most_running;
static int order[1000], n_order, stop_at, threads_before;

static int count_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void setup(unsigned threads)
{
	no_threads = false;
	running = most_running = n_order = 0;
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(loop_every(loop, 60000, on_give_up, NULL, &give_up), 0);
	threads_before = count_threads();
	ck_assert_int_eq(worker_new(loop, threads, &worker), 0);
}

static void teardown(void)
{
	worker = worker_free(worker);
	event_free(give_up);
	loop = loop_free(loop);
}

struct probe {
	struct worker_job job;
	int number;
	sem_t *started, *may_end; /* NULL: at once */
	sigset_t mask;
	pthread_t ran_on, done_on;
	atomic_int n_run;
	int n_done, n_dropped;
};

static void run(void *user)
{
	struct probe *p = user;
	int now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&most_running);

	while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
		;
	p->ran_on = pthread_self();
	pthread_sigmask(SIG_SETMASK, NULL, &p->mask);
	if (p->started)
		sem_post(p->started);
	if (p->may_end)
		sem_wait(p->may_end);
	atomic_fetch_add(&p->n_run, 1);
	atomic_fetch_sub(&running, 1);
}

static void count_end(void)
{
	if (--stop_at == 0)
		loop_stop(loop);
}

static void done(void *user)
{
	struct probe *p = user;

	ck_assert(!worker_job_busy(&p->job));
	p->done_on = pthread_self();
	p->n_done++;
	order[n_order++ % 1000] = p->number;
	count_end();
}

static void dropped(void *user)
{
	struct probe *p = user;

	ck_assert(!worker_job_busy(&p->job));
	p->n_dropped++;
	count_end();
}

static void probe_init(struct probe *p, int number)
{
	memset(p, 0, sizeof(*p));
	p->number = number;
	worker_job_init(&p->job, run, done, p);
}

static void run_until(int n_ends)
{
	stop_at = n_ends;
	ck_assert_int_eq(loop_run(loop), 0);
}

START_TEST(on_a_thread_and_back)
{
	struct probe p;

	setup(2);
	ck_assert_int_eq(count_threads(), threads_before);
	for (int i = 1; i <= 3; i++) {
		probe_init(&p, i);
		ck_assert(!worker_job_busy(&p.job));
		ck_assert_int_eq(worker_submit(worker, &p.job), 0);
		ck_assert(worker_job_busy(&p.job));
		ck_assert_int_eq(p.n_done, 0);
		run_until(1);
		ck_assert_int_eq(p.n_run, 1);
		ck_assert_int_eq(p.n_done, 1);
		ck_assert(pthread_equal(p.done_on, pthread_self()));
		ck_assert(!pthread_equal(p.ran_on, pthread_self()));
	}
	/* The first thread was idle each time. */
	ck_assert_int_le(count_threads(), threads_before + 2);
	for (int s = 1; s < 32; s++)
		ck_assert_msg(s == SIGKILL || s == SIGSTOP || sigismember(&p.mask, s) == 1, "signal %d", s);
	teardown();
	/* The kernel may show an ended thread for an instant. */
	for (int i = 0; i < 1000 && count_threads() > threads_before; i++)
		usleep(1000);
	ck_assert_int_eq(count_threads(), threads_before);
}
END_TEST

START_TEST(no_more_threads_than_allowed)
{
	enum { N = 50, LIMIT = 3 };
	static struct probe p[N];
	sem_t gate, started;

	setup(LIMIT);
	sem_init(&gate, 0, 0);
	sem_init(&started, 0, 0);
	for (int i = 0; i < N; i++) {
		probe_init(&p[i], i);
		p[i].may_end = &gate;
		p[i].started = &started;
		ck_assert_int_eq(worker_submit(worker, &p[i].job), 0);
	}
	for (int i = 0; i < LIMIT; i++)
		sem_wait(&started);
	ck_assert_int_eq(atomic_load(&running), LIMIT);
	ck_assert_int_eq(count_threads(), threads_before + LIMIT);
	for (int i = 0; i < N; i++)
		sem_post(&gate);
	run_until(N);
	ck_assert_int_eq(atomic_load(&most_running), LIMIT);
	teardown();
}
END_TEST

START_TEST(in_order_on_one_thread)
{
	enum { N = 200 };
	static struct probe p[N];

	setup(1);
	for (int i = 0; i < N; i++) {
		probe_init(&p[i], i);
		ck_assert_int_eq(worker_submit(worker, &p[i].job), 0);
	}
	run_until(N);
	for (int i = 0; i < N; i++)
		ck_assert_int_eq(order[i], i);
	teardown();
}
END_TEST

static void done_again(void *user)
{
	struct probe *p = user;

	done(p);
	if (p->n_done < 100)
		ck_assert_int_eq(worker_submit(worker, &p->job), 0);
}

START_TEST(submitted_again_in_done)
{
	struct probe p;

	setup(2);
	probe_init(&p, 0);
	p.job.done = done_again;
	ck_assert_int_eq(worker_submit(worker, &p.job), 0);
	run_until(100);
	ck_assert_int_eq(p.n_run, 100);
	teardown();
}
END_TEST

static void wait_state(struct probe *p, int n_run)
{
	for (int i = 0; i < 5000 && atomic_load(&p->n_run) < n_run; i++)
		usleep(1000);
	/* The thread takes the lock once more after that. */
	usleep(20000);
}

START_TEST(cancel_in_each_state)
{
	struct probe waits, runs, finished;
	sem_t gate, started;

	setup(1);
	sem_init(&gate, 0, 0);
	sem_init(&started, 0, 0);
	probe_init(&runs, 0);
	probe_init(&waits, 1);
	probe_init(&finished, 2);
	ck_assert(worker_cancel(worker, &runs.job, dropped));

	runs.may_end = &gate;
	runs.started = &started;
	ck_assert_int_eq(worker_submit(worker, &runs.job), 0);
	ck_assert_int_eq(worker_submit(worker, &waits.job), 0);
	sem_wait(&started);
	ck_assert(worker_cancel(worker, &waits.job, dropped));
	ck_assert(!worker_job_busy(&waits.job));
	ck_assert(!worker_cancel(worker, &runs.job, dropped));
	ck_assert(worker_job_busy(&runs.job));
	sem_post(&gate);
	run_until(1);
	ck_assert_int_eq(runs.n_dropped, 1);
	ck_assert_int_eq(runs.n_done, 0);

	ck_assert_int_eq(worker_submit(worker, &finished.job), 0);
	wait_state(&finished, 1);
	ck_assert(worker_cancel(worker, &finished.job, dropped));
	ck_assert(!worker_job_busy(&finished.job));
	/* All three can go again. */
	runs.may_end = NULL;
	ck_assert_int_eq(worker_submit(worker, &runs.job), 0);
	ck_assert_int_eq(worker_submit(worker, &waits.job), 0);
	ck_assert_int_eq(worker_submit(worker, &finished.job), 0);
	run_until(3);
	ck_assert_int_eq(runs.n_done, 1);
	ck_assert_int_eq(waits.n_done, 1);
	ck_assert_int_eq(waits.n_run, 1);
	ck_assert_int_eq(finished.n_done, 1);
	ck_assert_int_eq(finished.n_dropped + waits.n_dropped, 0);
	teardown();
}
END_TEST

START_TEST(free_in_each_state)
{
	static struct probe runs, cancelled, waits, finished;
	sem_t gate, started;

	setup(3);
	sem_init(&gate, 0, 0);
	sem_init(&started, 0, 0);
	probe_init(&finished, 0);
	ck_assert_int_eq(worker_submit(worker, &finished.job), 0);
	wait_state(&finished, 1);
	probe_init(&runs, 1);
	probe_init(&cancelled, 2);
	runs.may_end = cancelled.may_end = &gate;
	runs.started = cancelled.started = &started;
	ck_assert_int_eq(worker_submit(worker, &runs.job), 0);
	ck_assert_int_eq(worker_submit(worker, &cancelled.job), 0);
	sem_wait(&started);
	sem_wait(&started);
	probe_init(&waits, 3);
	waits.may_end = &gate;
	no_threads = true;
	/* A third thread may have started, or be impossible: it runs or it never runs. */
	ck_assert_int_eq(worker_submit(worker, &waits.job), 0);
	ck_assert(!worker_cancel(worker, &cancelled.job, dropped));
	sem_post(&gate);
	sem_post(&gate);
	sem_post(&gate);
	teardown();
	ck_assert_int_eq(cancelled.n_dropped, 1);
	ck_assert_int_eq(runs.n_run, 1);
	ck_assert_int_eq(runs.n_done + waits.n_done + finished.n_done + cancelled.n_done, 0);
	ck_assert_int_eq(runs.n_dropped + waits.n_dropped + finished.n_dropped, 0);
	ck_assert(!worker_job_busy(&runs.job) && !worker_job_busy(&waits.job) && !worker_job_busy(&finished.job));
}
END_TEST

START_TEST(no_thread_to_be_had)
{
	struct probe p, q;
	sem_t gate;

	setup(4);
	probe_init(&p, 0);
	no_threads = true;
	ck_assert_int_eq(worker_submit(worker, &p.job), -EAGAIN);
	ck_assert(!worker_job_busy(&p.job));
	no_threads = false;
	sem_init(&gate, 0, 0);
	p.may_end = &gate;
	ck_assert_int_eq(worker_submit(worker, &p.job), 0);
	/* One thread is enough, if need be. */
	no_threads = true;
	probe_init(&q, 1);
	ck_assert_int_eq(worker_submit(worker, &q.job), 0);
	sem_post(&gate);
	run_until(2);
	teardown();
}
END_TEST

START_TEST(limits)
{
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 0, &worker), -EINVAL);
	ck_assert_int_eq(worker_new(loop, WORKER_THREADS_MAX + 1, &worker), -EINVAL);
	ck_assert_int_eq(worker_new(loop, WORKER_THREADS_MAX, &worker), 0);
	worker = worker_free(worker);
	ck_assert_ptr_null(worker_free(NULL));
	loop = loop_free(loop);
}
END_TEST

/* --- thousands of jobs, cancelled at any moment, and freed as soon as that is allowed --- */

enum { SLOTS = 64, JOBS = 30000 };

struct brief {
	struct worker_job job;
	uint8_t bytes[4096], digest[SHA256_LEN];
};

static struct brief *slots[SLOTS];
static int n_alive, n_made, n_whole, n_at_once, n_dropped_late;

static void brief_run(void *user)
{
	struct brief *b = user;

	memset(b->bytes, 1, sizeof(b->bytes));
	(void)digest_sha256(b->bytes, sizeof(b->bytes), b->digest);
}

static void brief_free(struct brief *b)
{
	memset(b, 0xee, sizeof(*b));
	free(b);
	if (--n_alive == 0 && n_made == JOBS)
		loop_stop(loop);
}

static void brief_done(void *user)
{
	for (size_t i = 0; i < SLOTS; i++)
		if (slots[i] == user)
			slots[i] = NULL;
	n_whole++;
	brief_free(user);
}

static void brief_dropped(void *user)
{
	n_dropped_late++;
	brief_free(user);
}

static void brief_cancel(struct brief *b)
{
	if (!worker_cancel(worker, &b->job, brief_dropped))
		return;
	n_at_once++;
	brief_free(b);
}

static void on_turn(evutil_socket_t fd, short what, void *user)
{
	for (int i = 0; i < 40 && n_made < JOBS; i++) {
		struct brief **slot = &slots[random() % SLOTS];

		if (*slot)
			brief_cancel(*slot);
		*slot = malloc(sizeof(**slot));
		worker_job_init(&(*slot)->job, brief_run, brief_done, *slot);
		n_alive++;
		n_made++;
		ck_assert_int_eq(worker_submit(worker, &(*slot)->job), 0);
	}
}

START_TEST(churn)
{
	struct event *turn;

	srandom(7);
	setup(4);
	ck_assert_int_eq(loop_every(loop, 1, on_turn, NULL, &turn), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	printf("# %d whole, %d cancelled at once, %d while they ran\n", n_whole, n_at_once, n_dropped_late);
	ck_assert_int_eq(n_whole + n_at_once + n_dropped_late, JOBS);
	ck_assert_int_gt(n_whole, 0);
	ck_assert_int_gt(n_at_once, 0);
	event_free(turn);
	teardown();
}
END_TEST

UNIT_MAIN("worker", ADD(on_a_thread_and_back) ADD(no_more_threads_than_allowed) ADD(in_order_on_one_thread)
	  ADD(submitted_again_in_done) ADD(cancel_in_each_state) ADD(free_in_each_state) ADD(no_thread_to_be_had)
	  ADD(limits) ADD(churn))
