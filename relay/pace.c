#include "relay/pace.h"

void pace_begin(struct pace *p, uint64_t now_ms)
{
	p->began_ms = p->last_ms = now_ms;
	p->bytes = 0;
}

void pace_came(struct pace *p, size_t len, uint64_t now_ms)
{
	p->last_ms = now_ms;
	p->bytes += len;
}

void pace_stop(struct pace *p, uint64_t now_ms)
{
	p->stopped = true;
	p->stopped_ms = now_ms;
}

void pace_go(struct pace *p, uint64_t now_ms)
{
	/* It may have been stopped before its body began: while it was held. */
	p->began_ms += now_ms - MAX(p->stopped_ms, p->began_ms);
	p->last_ms = now_ms;
	p->stopped = false;
}

bool pace_is_late(const struct pace *p, uint64_t timeout_ms, uint64_t now_ms)
{
	uint64_t allowed_ms = timeout_ms + p->bytes * 1000 / PACE_RATE_MIN;

	return !p->stopped && (now_ms - p->last_ms >= timeout_ms || now_ms - p->began_ms > allowed_ms);
}
