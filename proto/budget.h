/* A token bucket: `rate` a second, at most `burst` at once. Charges a peer for what it makes us do. */
#pragma once

#include "base/check.h"

struct budget {
	uint32_t rate, burst;
	uint64_t tokens_milli; /* thousandths */
	uint64_t last_ms;
};

void budget_init(struct budget *b, uint32_t rate_per_second, uint32_t burst);
/* Whether there is something to take. */
bool budget_has(struct budget *b, uint64_t now_ms);
/* False when the bucket is empty. */
bool budget_take(struct budget *b, uint64_t now_ms);
