#include "proto/budget.h"

void budget_init(struct budget *b, uint32_t rate_per_second, uint32_t burst)
{
	*b = (struct budget){ .rate = rate_per_second, .burst = burst, .tokens_milli = (uint64_t)burst * 1000 };
}

bool budget_has(struct budget *b, uint64_t now_ms)
{
	uint64_t cap = (uint64_t)b->burst * 1000;
	uint64_t passed = now_ms > b->last_ms ? now_ms - b->last_ms : 0;

	/* A token a millisecond is rate * 1000 thousandths a second; long pauses fill the bucket, no more. */
	if (passed >= cap / MAX(b->rate, 1u))
		b->tokens_milli = cap;
	else
		b->tokens_milli = MIN(cap, b->tokens_milli + passed * b->rate);
	b->last_ms = MAX(b->last_ms, now_ms);
	return b->tokens_milli >= 1000;
}

bool budget_take(struct budget *b, uint64_t now_ms)
{
	if (!budget_has(b, now_ms))
		return false;
	b->tokens_milli -= 1000;
	return true;
}
