/* Allocations that fail, one of them or all from one on. Needs --wrap of what oom.c wraps: the list oom_wraps in tests/meson.build. */
#pragma once

#include "base/check.h"

/* The n-th allocation inside OOM() and OOM_VOID() fails, from 1 on; 0: none. forever: all after it, too. */
void oom_begin(unsigned long n, bool forever);
/* How many have failed. */
unsigned long oom_end(void);
/* Allocations of the code under test, and of whoever is linked with it, that are in use. */
long oom_in_use(void);

/* Plays with the first allocation failing, then the second, and so on until none is left to fail: 0 or -ENOMEM each time, and as much in
 * use as before. More allocations than `least`; err: what the last play said, for the failure's text. */
void oom_each(const char *name, int (*play)(void), bool forever, unsigned long least, const char *err);

void oom_arm(bool on);

#define OOM(call)                                                                                                      \
	__extension__({                                                                                                \
		oom_arm(true);                                                                                         \
		__typeof__(call) result_ = (call);                                                                     \
		oom_arm(false);                                                                                        \
		result_;                                                                                               \
	})

#define OOM_VOID(call)                                                                                                 \
	do {                                                                                                           \
		oom_arm(true);                                                                                         \
		(call);                                                                                                \
		oom_arm(false);                                                                                        \
	} while (0)
