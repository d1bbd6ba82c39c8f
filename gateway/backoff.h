/* When to dial a relay again (design, section 7): full jitter over an exponential bound, which falls back only after a session
 * has been stable. Each relay has its own: what one of them says holds nobody back from the next. Pure: time and chance are
 * arguments. */
#pragma once

#include "base/check.h"

enum {
	BACKOFF_FIRST_MS = 500,
	BACKOFF_MAX_MS = 30 * 1000,
	BACKOFF_RESUME_MAX_MS = 2 * 1000, /* while the relay still keeps the session: calls wait for it */
	BACKOFF_TOKEN_FIRST_MS = 60 * 1000, /* a refused token: minutes */
	BACKOFF_TOKEN_MAX_MS = 10 * 60 * 1000,
	BACKOFF_STABLE_MS = 60 * 1000,
};

struct backoff {
	unsigned failures;     /* in a row, since the last stable session */
	uint64_t attached_ms;  /* 0: not attached */
	uint64_t not_before_ms; /* the next attempt */
	bool token_refused;    /* by the last attempt */
};

void backoff_attached(struct backoff *b, uint64_t now_ms);

/* A dial failed or a session was lost: how long to wait. `random` is uniform over 32 bits. retry_after_s is what
 * the peer asked for (0: nothing): never less than that. */
uint64_t backoff_lost(struct backoff *b, uint64_t now_ms, uint32_t random, bool token_refused, unsigned retry_after_s);

/* The same for a session that may still be resumed: never far apart, however often its connection is lost. */
uint64_t backoff_lost_resumable(struct backoff *b, uint64_t now_ms, uint32_t random, unsigned retry_after_s);

/* The cause has been removed by hand (a new token file): the next failure waits as the first. */
void backoff_reset(struct backoff *b);

/* Which of the n relays is next after `at`, the last one that failed, and in how many ms: the one whose time comes first, in
 * turn where several are due. Going to another one takes a first step's jitter, so that a crowd does not come at once. */
size_t backoff_next(const struct backoff *relays, size_t n, size_t at, uint64_t now_ms, uint32_t random, uint64_t *ret_wait_ms);
