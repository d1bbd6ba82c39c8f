#include "tests/lib/oom.h"

#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);

bool oom_armed;
unsigned long oom_countdown, oom_failures;
long oom_in_use;

static bool fails(void)
{
	if (!oom_armed || oom_countdown == 0 || --oom_countdown > 0)
		return false;
	oom_failures++;
	return true;
}

void *__wrap_malloc(size_t size)
{
	void *p = fails() ? NULL : __real_malloc(size);

	oom_in_use += p != NULL;
	return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
	void *p = fails() ? NULL : __real_calloc(n, size);

	oom_in_use += p != NULL;
	return p;
}

void *__wrap_realloc(void *p, size_t size)
{
	void *q = fails() ? NULL : __real_realloc(p, size);

	oom_in_use += !p && q;
	return q;
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	return n && size > (size_t)-1 / n ? NULL : __wrap_realloc(p, n * size);
}

char *__wrap_strdup(const char *s)
{
	size_t size = strlen(s) + 1;
	char *copy = __wrap_malloc(size);

	return copy ? memcpy(copy, s, size) : NULL;
}

void __wrap_free(void *p)
{
	oom_in_use -= p != NULL;
	__real_free(p);
}
