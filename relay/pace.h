/* How fast the body of a request has to come: from one piece to the next in the timeout, and altogether at a least rate beyond that. Time
 * in which we read nothing, because the gateway takes nothing, does not count. Pure; the time is an argument. */
#pragma once

#include "base/check.h"

enum { PACE_RATE_MIN = 512 }; /* bytes a second */

/* Zero: nothing has begun. */
struct pace {
	uint64_t began_ms; /* moved on by the time in which we read nothing */
	uint64_t last_ms, stopped_ms;
	uint64_t bytes;
	bool stopped;
};

/* A body begins; it may be stopped already. */
void pace_begin(struct pace *p, uint64_t now_ms);
void pace_came(struct pace *p, size_t len, uint64_t now_ms);
/* Nothing is read from now on, and again. */
void pace_stop(struct pace *p, uint64_t now_ms);
void pace_go(struct pace *p, uint64_t now_ms);
bool pace_is_late(const struct pace *p, uint64_t timeout_ms, uint64_t now_ms);
