/* Durations and sizes as people write them in options, and counts as they read them. */
#pragma once

#include "base/span.h"

/* A whole number and one of ms, s, m, h ("20s"); a bare 0 is allowed. 0, -EINVAL (form), -ERANGE. */
int parse_duration_ms(struct span s, uint64_t *ret_ms);

/* A whole number and nothing, k, M or G (powers of 1024; "16M"). 0, -EINVAL, -ERANGE. */
int parse_size_bytes(struct span s, uint64_t *ret_bytes);

/* "1 call", "2 calls": what the format's %s behind the word is for. */
static inline const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}
