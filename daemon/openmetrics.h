/* Metrics as OpenMetrics text (without the final # EOF, which daemon/health.h adds). Names come without a prefix for the
 * program: each row is PREFIX_NAME. Each appends to out: -ENOBUFS, -ENOMEM.
 */
#pragma once

#include "base/buf.h"

enum openmetrics_type { OPENMETRICS_GAUGE, OPENMETRICS_COUNTER };

struct openmetrics_row {
	enum openmetrics_type type;
	const char *name; /* a counter's without _total */
	const char *help; /* one sentence */
	double value;   /* of a gauge */
	uint64_t count; /* of a counter */
};

/* PREFIX_build_info with the version, then the rows. */
int openmetrics_rows(struct buf *out, const char *prefix, const struct openmetrics_row *rows, size_t n);

/* More rows. */
int openmetrics_add(struct buf *out, const char *prefix, const struct openmetrics_row *rows, size_t n);

/* A counter with the label `reason`: counts[code] for each code of proto/reasons.def below n. */
int openmetrics_by_reason(struct buf *out, const char *prefix, const char *name, const char *help, const uint64_t *counts, size_t n);
