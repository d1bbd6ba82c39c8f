/* No descriptor can be had meanwhile: open() fails with EMFILE. */
#pragma once

#include <check.h>
#include <stdbool.h>
#include <sys/resource.h>

static inline void no_files(bool none)
{
	static struct rlimit before;
	struct rlimit now;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &now), 0);
	if (none)
		before = now;
	now.rlim_cur = none ? 0 : before.rlim_cur;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &now), 0);
}
