/* Invariants and cleanup. Leaf header: libc only.
 *
 * Errors, everywhere in this project: a function that can fail returns int; 0 is success, a negative errno is a
 * failure that the caller forwards unchanged, a positive value is a result that this function's comment names.
 * Outputs named ret_ are written only on success. Arguments named take_ are consumed, on failure too.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Every struct that travels through a void * starts with `unsigned magic`, and is checked where it comes back. */
#define CHECK_OBJ(p, m) assert((p) != NULL && (p)->magic == (m))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* _cleanup_(f) T *x = NULL; calls f(&x) when x goes out of scope. steal_ptr(&x) moves it out. */
#define _cleanup_(f) __attribute__((cleanup(f)))
/* NOLINTBEGIN(bugprone-macro-parentheses): a type takes none. */
#define DEFINE_CLEANUP(type, free_fn)                                                                                  \
	static inline void free_fn##p(type *p)                                                                        \
	{                                                                                                              \
		if (*p)                                                                                                \
			free_fn(*p);                                                                                   \
	}
/* NOLINTEND(bugprone-macro-parentheses) */

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void *steal_ptr_impl(void *pp)
{
	void **p = pp;
	void *v = *p;

	*p = NULL;
	return v;
}
#define steal_ptr(pp) ((__typeof__(*(pp)))steal_ptr_impl(pp))

#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
