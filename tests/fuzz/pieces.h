/* How a fuzz target cuts its input. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A piece of 0 to 15 bytes, or of one byte each when the seed is zero. */
static inline size_t next_piece(uint32_t *seed, size_t left)
{
	size_t n;

	if (*seed == 0)
		return 1;
	*seed = *seed * 1664525 + 1013904223;
	n = *seed >> 28;
	*seed |= 1;
	return n < left ? n : left;
}
