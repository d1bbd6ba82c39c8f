#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "daemon/audit_read.h"
#include "daemon/audit_watch.h"
#include "daemon/sigbus.h"

enum { FIND_EXTRA_US = 1000 * 1000 };

/* Of the thread and of whoever waits for it; the last of them frees it. */
struct search {
	pthread_mutex_t mutex;
	pthread_cond_t over;
	unsigned refs;
	bool done;
	char identifier[256]; /* or a nonce */
	bool find;
	char directory[4096];
	uint64_t until_us;
	int result;
	struct audit_watch_head head;
};

static void search_unref(struct search *s)
{
	bool last = --s->refs == 0;

	pthread_mutex_unlock(&s->mutex);
	if (!last)
		return;
	pthread_cond_destroy(&s->over);
	pthread_mutex_destroy(&s->mutex);
	free(s);
}

static void *search_thread(void *arg)
{
	struct search *s = arg;
	struct audit_watch_head head = { 0 };
	int r;

	sigbus_thread_enter();
	if (s->find)
		r = audit_read_find(s->identifier, s->directory[0] ? s->directory : NULL, s->until_us);
	else
		r = audit_read_last(s->identifier, s->directory[0] ? s->directory : NULL, s->until_us, &head);
	if (sigbus_thread_leave())
		r = -EIO;
	pthread_mutex_lock(&s->mutex);
	s->head = head;
	s->result = r;
	s->done = true;
	pthread_cond_signal(&s->over);
	search_unref(s);
	return NULL;
}

static int search_start(struct search *s)
{
	sigset_t all, old;
	pthread_t thread;
	int r;

	s->refs++;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, NULL, search_thread, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0)
		pthread_detach(thread);
	else
		s->refs--;
	return -r;
}

static struct search *search_new(const char *identifier, const char *directory, uint64_t until_us)
{
	struct search *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->over, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&s->mutex, NULL);
	s->refs = 1;
	s->until_us = until_us;
	snprintf(s->identifier, sizeof(s->identifier), "%s", identifier);
	snprintf(s->directory, sizeof(s->directory), "%s", directory ? directory : "");
	return s;
}

static int search_run(struct search *s, uint64_t wait_us, struct audit_watch_head *ret)
{
	const struct timespec until = { (time_t)(wait_us / 1000000), (long)(wait_us % 1000000 * 1000) };
	int r, waited = 0;

	pthread_mutex_lock(&s->mutex);
	r = search_start(s);
	while (r == 0 && !s->done && waited == 0)
		waited = pthread_cond_timedwait(&s->over, &s->mutex, &until);
	if (r == 0)
		r = s->done ? s->result : -ETIMEDOUT;
	if (r == 0)
		*ret = s->head;
	search_unref(s);
	return r;
}

int audit_watch_last(const char *identifier, const char *directory, unsigned max_ms, struct audit_watch_head *ret)
{
	const uint64_t until_us = clock_now_us() + 1000 * (uint64_t)max_ms;
	struct search *s = search_new(identifier, directory, until_us);

	return s ? search_run(s, until_us, ret) : -ENOMEM;
}

int audit_watch_find(const char *nonce, bool on_disk, unsigned max_ms)
{
	const uint64_t until_us = clock_now_us() + 1000 * (uint64_t)max_ms;
	struct audit_watch_head head;
	char directory[128];
	struct search *s;
	int r = on_disk ? audit_read_disk(directory, sizeof(directory)) : 0;

	if (r < 0)
		return r;
	s = search_new(nonce, on_disk ? directory : NULL, until_us);
	if (!s)
		return -ENOMEM;
	s->find = true;
	/* Its own last look comes at the end of the time. */
	return search_run(s, until_us + FIND_EXTRA_US, &head);
}
