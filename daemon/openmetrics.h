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

/* A counter with one label: counts[i] for names[i]; NULL names are left out. */
int openmetrics_by_name(struct buf *out, const char *prefix, const char *name, const char *help, const char *label,
			const char *const *names, const uint64_t *counts, size_t n);

/* A gauge with one label, which an empty name goes without: values[i] for names[i]. */
int openmetrics_gauges(struct buf *out, const char *prefix, const char *name, const char *help, const char *label,
		       const char *const *names, const double *values, size_t n);

/* A counter with the label `outcome`, out of the counts by reason: complete, not-executed (safe to try again), maybe-executed. */
int openmetrics_by_outcome(struct buf *out, const char *prefix, const char *name, const char *help, const uint64_t *counts, size_t n);

/* A distribution of times, over bounds that never change: from 100 us to 5 minutes, and what took longer. */
enum { OPENMETRICS_BUCKETS = 20 };
struct openmetrics_times {
	uint64_t counts[OPENMETRICS_BUCKETS];
	uint64_t sum_us;
};
void openmetrics_observe(struct openmetrics_times *t, uint64_t us);
/* A histogram; name ends in _seconds. */
int openmetrics_histogram(struct buf *out, const char *prefix, const char *name, const char *help, const struct openmetrics_times *t);

/* What the system knows of this process: its memory. */
int openmetrics_process(struct buf *out, const char *prefix);

/* The same in Prometheus' older text format (0.0.4), for readers that know no OpenMetrics. `in` is what the others wrote. */
int openmetrics_to_text(struct buf *out, struct span in);
