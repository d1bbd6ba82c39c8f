/* Durations and sizes as people write them in options. */
#pragma once

#include "base/span.h"

/* A whole number and one of ms, s, m, h ("20s"); a bare 0 is allowed. 0, -EINVAL (form), -ERANGE. */
int parse_duration_ms(struct span s, uint64_t *ret_ms);

/* A whole number and nothing, k, M or G (powers of 1024; "16M"). 0, -EINVAL, -ERANGE. */
int parse_size_bytes(struct span s, uint64_t *ret_bytes);
