#include "daemon/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	RESOLVE_MAGIC = 0x5245534f,
	THREAD_STACK_BYTES = 256 * 1024,
	SLOT_RETRY_MS = 50, /* while all threads are busy */
	HOST_BYTES = 256,
};

struct answer {
	int gai_error;
	size_t n;
	struct resolve_addr addrs[RESOLVE_ADDRS];
};

/* Shared by the thread and the resolve; the last of them frees it. */
struct job {
	pthread_mutex_t mutex;
	unsigned refs;
	int fd; /* eventfd: done */
	char host[HOST_BYTES];
	uint16_t port;
	struct answer answer;
};

struct resolve {
	unsigned magic;
	struct loop *loop;
	resolve_fn *fn;
	void *user;
	struct job *job;
	struct event *done;
	struct event *slot; /* waiting for a thread */
	struct loop_task task; /* the answer is known */
};

static atomic_int threads;

static struct job *job_unref(struct job *j)
{
	bool last;

	if (!j)
		return NULL;
	pthread_mutex_lock(&j->mutex);
	last = --j->refs == 0;
	pthread_mutex_unlock(&j->mutex);
	if (!last)
		return NULL;
	pthread_mutex_destroy(&j->mutex);
	if (j->fd >= 0)
		close(j->fd);
	free(j);
	return NULL;
}

static struct job *job_new(const char *host, uint16_t port)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	pthread_mutex_init(&j->mutex, NULL);
	j->refs = 1;
	j->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	j->port = port;
	snprintf(j->host, sizeof(j->host), "%s", host);
	return j->fd < 0 ? job_unref(j) : j;
}

static void lookup(const char *host, uint16_t port, int flags, struct answer *a)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV };
	struct addrinfo *list = NULL;
	char service[8];

	snprintf(service, sizeof(service), "%u", port);
	a->n = 0;
	a->gai_error = getaddrinfo(host, service, &hints, &list);
	if (a->gai_error)
		return;
	for (const struct addrinfo *i = list; i && a->n < RESOLVE_ADDRS; i = i->ai_next) {
		if (i->ai_addrlen > sizeof(a->addrs[0].sa))
			continue;
		memcpy(&a->addrs[a->n].sa, i->ai_addr, i->ai_addrlen);
		a->addrs[a->n++].len = i->ai_addrlen;
	}
	freeaddrinfo(list);
	if (!a->n)
		a->gai_error = EAI_NONAME;
}

static void *resolve_thread(void *arg)
{
	struct job *j = arg;
	struct answer a;
	uint64_t one = 1;
	ssize_t n;

	lookup(j->host, j->port, AI_ADDRCONFIG, &a);
	/* A machine with nothing but loopback has no configured family at all; its /etc/hosts still counts. */
	if (a.gai_error == EAI_NONAME || a.gai_error == EAI_NODATA || a.gai_error == EAI_ADDRFAMILY)
		lookup(j->host, j->port, 0, &a);
	pthread_mutex_lock(&j->mutex);
	j->answer = a;
	pthread_mutex_unlock(&j->mutex);
	n = write(j->fd, &one, sizeof(one));
	assert(n == sizeof(one));
	(void)n;
	job_unref(j);
	atomic_fetch_sub(&threads, 1);
	return NULL;
}

static int thread_start(struct job *j)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int r;

	r = pthread_attr_init(&attr);
	if (r)
		return -r;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	/* Signals belong to the loop. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, &attr, resolve_thread, j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

static void resolve_free(void *p)
{
	struct resolve *r = p;

	CHECK_OBJ(r, RESOLVE_MAGIC);
	r->magic = 0;
	free(r);
}

static void resolve_end(struct resolve *r)
{
	r->fn = NULL;
	loop_task_cancel(r->loop, &r->task);
	if (r->done)
		event_free(r->done);
	if (r->slot)
		event_free(r->slot);
	r->done = r->slot = NULL;
	loop_free_later(r->loop, resolve_free, r);
}

static void resolve_finish(struct resolve *r)
{
	resolve_fn *fn = r->fn;
	struct job *j = r->job;

	r->job = NULL;
	resolve_end(r);
	fn(r->user, j->answer.gai_error, j->answer.addrs, j->answer.gai_error ? 0 : j->answer.n);
	job_unref(j);
}

static void on_answer_known(void *user)
{
	struct resolve *r = user;

	CHECK_OBJ(r, RESOLVE_MAGIC);
	resolve_finish(r);
}

static void on_done(evutil_socket_t fd, short what, void *user)
{
	struct resolve *r = user;

	CHECK_OBJ(r, RESOLVE_MAGIC);
	/* The lock orders the thread's writes before our reads. */
	pthread_mutex_lock(&r->job->mutex);
	pthread_mutex_unlock(&r->job->mutex);
	resolve_finish(r);
}

static void on_slot(evutil_socket_t fd, short what, void *user)
{
	const struct timeval later = { .tv_usec = SLOT_RETRY_MS * 1000 };
	struct resolve *r = user;

	CHECK_OBJ(r, RESOLVE_MAGIC);
	if (atomic_fetch_add(&threads, 1) >= RESOLVE_THREADS) {
		atomic_fetch_sub(&threads, 1);
		event_add(r->slot, &later);
		return;
	}
	r->job->refs++; /* nobody else has it yet */
	if (thread_start(r->job) < 0) {
		r->job->refs--;
		atomic_fetch_sub(&threads, 1);
		r->job->answer.gai_error = EAI_AGAIN;
		loop_task_queue(r->loop, &r->task);
	}
}

static bool is_localhost(const char *host)
{
	return strcasecmp(host, "localhost") == 0 || strcasecmp(host, "localhost.") == 0;
}

static bool answer_at_once(struct job *j)
{
	struct answer *a = &j->answer;

	if (is_localhost(j->host)) {
		struct answer v4;

		lookup("::1", j->port, AI_NUMERICHOST, a);
		lookup("127.0.0.1", j->port, AI_NUMERICHOST, &v4);
		a->addrs[a->n++] = v4.addrs[0];
		return true;
	}
	lookup(j->host, j->port, AI_NUMERICHOST, a);
	return a->gai_error == 0;
}

int resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn, void *user, struct resolve **ret)
{
	struct resolve *r;

	if (!*host || strlen(host) >= HOST_BYTES)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	*r = (struct resolve){ .magic = RESOLVE_MAGIC, .loop = l, .fn = fn, .user = user };
	loop_task_init(&r->task, on_answer_known, r);
	r->job = job_new(host, port);
	r->done = r->job ? event_new(loop_base(l), r->job->fd, EV_READ, on_done, r) : NULL;
	r->slot = r->done ? event_new(loop_base(l), -1, 0, on_slot, r) : NULL;
	if (!r->slot || event_add(r->done, NULL) < 0) {
		resolve_cancel(r);
		return -ENOMEM;
	}
	if (answer_at_once(r->job))
		loop_task_queue(l, &r->task);
	else
		on_slot(-1, 0, r);
	*ret = r;
	return 0;
}

void resolve_cancel(struct resolve *r)
{
	if (!r)
		return;
	CHECK_OBJ(r, RESOLVE_MAGIC);
	resolve_end(r);
	r->job = job_unref(r->job);
}
