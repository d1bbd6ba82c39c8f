/* Allocations that fail, one by one. The program is linked with `oom` of tests/meson.build: the linker puts __wrap_malloc() and so
 * on in the place of malloc() and so on, in what is linked statically. */
#pragma once

#include <stdbool.h>

extern bool oom_armed; /* only inside of the code under test */
extern unsigned long oom_countdown; /* the one that fails; 0: none */
extern unsigned long oom_failures;
extern long oom_in_use; /* allocations, as long as no ck_assert() makes its own */

#define UNDER_TEST(call)                                                                                               \
	__extension__({                                                                                                \
		oom_armed = true;                                                                                      \
		__typeof__(call) result_ = (call);                                                                     \
		oom_armed = false;                                                                                     \
		result_;                                                                                               \
	})

#define UNDER_TEST_VOID(call)                                                                                          \
	do {                                                                                                           \
		oom_armed = true;                                                                                      \
		(call);                                                                                                \
		oom_armed = false;                                                                                     \
	} while (0)
