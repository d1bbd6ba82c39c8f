/* Runs a loop for a while. */
#pragma once

#include <check.h>

#include "daemon/loop.h"

static inline void loop_ms_over(evutil_socket_t fd, short what, void *user)
{
	loop_stop(user);
}

static inline void loop_ms(struct loop *l, unsigned ms)
{
	const struct timeval tv = loop_timeval(ms);
	struct event *e = event_new(loop_base(l), -1, 0, loop_ms_over, l);

	event_add(e, &tv);
	ck_assert_int_eq(loop_run(l), 0);
	event_free(e);
}
