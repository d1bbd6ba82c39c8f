#include "gateway/backoff.h"

void backoff_attached(struct backoff *b, uint64_t now_ms)
{
	b->attached_ms = now_ms;
}

static uint64_t bound(unsigned failures, uint64_t first, uint64_t max)
{
	uint64_t ms = first;

	while (failures-- > 0 && ms < max)
		ms *= 2;
	return MIN(ms, max);
}

/* Counts the failure; how many there were before it, since the last stable session. */
static unsigned count(struct backoff *b, uint64_t now_ms)
{
	unsigned before;

	if (b->attached_ms && now_ms - b->attached_ms >= BACKOFF_STABLE_MS)
		b->failures = 0;
	b->attached_ms = 0;
	b->token_refused = false;
	before = b->failures;
	if (b->failures < 32)
		b->failures++;
	return before;
}

static uint64_t keep(struct backoff *b, uint64_t now_ms, uint64_t wait_ms)
{
	b->not_before_ms = now_ms + wait_ms;
	return wait_ms;
}

uint64_t backoff_lost(struct backoff *b, uint64_t now_ms, uint32_t random, bool token_refused, unsigned retry_after_s)
{
	unsigned before = count(b, now_ms);
	uint64_t most = token_refused ? bound(before, BACKOFF_TOKEN_FIRST_MS, BACKOFF_TOKEN_MAX_MS) :
					bound(before, BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
	uint64_t wait = most * random / UINT32_MAX;

	if (token_refused)
		wait = most / 2 + wait / 2;
	b->token_refused = token_refused;
	return keep(b, now_ms, MAX(wait, (uint64_t)retry_after_s * 1000));
}

uint64_t backoff_lost_resumable(struct backoff *b, uint64_t now_ms, uint32_t random, unsigned retry_after_s)
{
	uint64_t most = bound(count(b, now_ms), BACKOFF_FIRST_MS, BACKOFF_RESUME_MAX_MS);

	return keep(b, now_ms, MAX(most * random / UINT32_MAX, (uint64_t)retry_after_s * 1000));
}

void backoff_reset(struct backoff *b)
{
	b->failures = 0;
	b->not_before_ms = 0;
	b->token_refused = false;
}

size_t backoff_next(const struct backoff *relays, size_t n, size_t at, uint64_t now_ms, uint32_t random, uint64_t *ret_wait_ms)
{
	uint64_t best_ms = UINT64_MAX, wait = 0;
	size_t best = at;

	for (size_t i = 1; i <= n; i++) {
		const struct backoff *b = &relays[(at + i) % n];
		uint64_t due_ms = MAX(b->not_before_ms, now_ms);

		if (due_ms < best_ms) {
			best_ms = due_ms;
			best = (at + i) % n;
		}
	}
	if (best != at)
		wait = (uint64_t)BACKOFF_FIRST_MS * random / UINT32_MAX;
	*ret_wait_ms = MAX(wait, best_ms - now_ms);
	return best;
}
