#include "tests/lib/oom.h"

#include <errno.h>
#include <event2/event.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/unit.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void __wrap_free(void *p);
/* What is not ours to free, and allocates. */
void *__real_tsearch(const void *key, void **root, int (*compare)(const void *, const void *));
FILE *__real_fdopen(int fd, const char *mode);
struct event *__real_event_new(struct event_base *base, evutil_socket_t fd, short what, event_callback_fn fn, void *user);
void *__wrap_tsearch(const void *key, void **root, int (*compare)(const void *, const void *));
FILE *__wrap_fdopen(int fd, const char *mode);
struct event *__wrap_event_new(struct event_base *base, evutil_socket_t fd, short what, event_callback_fn fn, void *user);

static bool armed; /* only inside of the code under test */
static bool for_ever;
static unsigned long countdown, failures;
static long in_use; /* as long as no ck_assert() makes its own */

void oom_begin(unsigned long n, bool forever)
{
	countdown = n;
	failures = 0;
	for_ever = forever;
}

unsigned long oom_end(void)
{
	countdown = 0;
	for_ever = false;
	return failures;
}

long oom_in_use(void)
{
	return in_use;
}

void oom_arm(bool on)
{
	armed = on;
}

static bool fails(void)
{
	if (!armed || !(countdown ? --countdown == 0 : for_ever && failures))
		return false;
	failures++;
	errno = ENOMEM;
	return true;
}

static void *made(void *p)
{
	in_use += p != NULL;
	return p;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : made(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : made(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
	void *q = fails() ? NULL : __real_realloc(p, size);

	in_use += !p && q;
	return q;
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	void *q = fails() ? NULL : __real_reallocarray(p, n, size);

	in_use += !p && q;
	return q;
}

char *__wrap_strdup(const char *s)
{
	return fails() ? NULL : made(__real_strdup(s));
}

char *__wrap_strndup(const char *s, size_t n)
{
	return fails() ? NULL : made(__real_strndup(s, n));
}

void __wrap_free(void *p)
{
	in_use -= p != NULL;
	__real_free(p);
}

void *__wrap_tsearch(const void *key, void **root, int (*compare)(const void *, const void *))
{
	return fails() ? NULL : __real_tsearch(key, root, compare);
}

FILE *__wrap_fdopen(int fd, const char *mode)
{
	return fails() ? NULL : __real_fdopen(fd, mode);
}

struct event *__wrap_event_new(struct event_base *base, evutil_socket_t fd, short what, event_callback_fn fn, void *user)
{
	return fails() ? NULL : __real_event_new(base, fd, what, fn, user);
}

void oom_each(const char *name, int (*play)(void), bool forever, unsigned long least, const char *err)
{
	unsigned long n, failed = 1;

	for (n = 1; failed; n++) {
		long before = in_use;
		int r;

		ck_assert_uint_lt(n, 1000);
		oom_begin(n, forever);
		r = play();
		failed = oom_end();
		ck_assert_msg(in_use == before, "%s: allocation %lu: %ld leaked", name, n, in_use - before);
		ck_assert_msg(r == 0 || (r == -ENOMEM && failed), "%s: allocation %lu: %d, %s", name, n, r, err);
	}
	ck_assert_uint_gt(n, least);
}
