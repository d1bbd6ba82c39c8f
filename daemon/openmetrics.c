#include "daemon/openmetrics.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/span.h"
#include "proto/reasons.h"

static const struct {
	uint64_t us;
	const char *le;
} bounds[OPENMETRICS_BUCKETS] = {
	{ 100, "0.0001" },    { 250, "0.00025" },   { 500, "0.0005" },	 { 1000, "0.001" },	{ 2500, "0.0025" },
	{ 5000, "0.005" },    { 10000, "0.01" },    { 25000, "0.025" },	 { 50000, "0.05" },	{ 100000, "0.1" },
	{ 250000, "0.25" },   { 500000, "0.5" },    { 1000000, "1.0" },	 { 2500000, "2.5" },	{ 5000000, "5.0" },
	{ 10000000, "10.0" }, { 30000000, "30.0" }, { 60000000, "60.0" }, { 300000000, "300.0" }, { UINT64_MAX, "+Inf" },
};

static int add_head(struct buf *out, const char *prefix, const char *name, const char *type, const char *help)
{
	return buf_printf(out, "# TYPE %s_%s %s\n# HELP %s_%s %s\n", prefix, name, type, prefix, name, help);
}

static int add_row(struct buf *out, const char *prefix, const struct openmetrics_row *row)
{
	bool is_counter = row->type == OPENMETRICS_COUNTER;
	int r = add_head(out, prefix, row->name, is_counter ? "counter" : "gauge", row->help);

	if (r < 0)
		return r;
	if (is_counter)
		return buf_printf(out, "%s_%s_total %llu\n", prefix, row->name, (unsigned long long)row->count);
	return buf_printf(out, "%s_%s %.10g\n", prefix, row->name, row->value);
}

int openmetrics_rows(struct buf *out, const char *prefix, const struct openmetrics_row *rows, size_t n)
{
	int r = add_head(out, prefix, "build", "info", "Version of the program.");

	if (r == 0)
		r = buf_printf(out, "%s_build_info{version=\"" MCP_TUNNEL_VERSION "\"} 1\n", prefix);
	return r < 0 ? r : openmetrics_add(out, prefix, rows, n);
}

int openmetrics_add(struct buf *out, const char *prefix, const struct openmetrics_row *rows, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = add_row(out, prefix, &rows[i]);
	return r;
}

int openmetrics_by_reason(struct buf *out, const char *prefix, const char *name, const char *help, const uint64_t *counts, size_t n)
{
	int r = add_head(out, prefix, name, "counter", help);

	for (uint32_t code = 0; code < n && r == 0; code++)
		if (tp_reason_known(code))
			r = buf_printf(out, "%s_%s_total{reason=\"%s\"} %llu\n", prefix, name, tp_reason_name(code),
				       (unsigned long long)counts[code]);
	return r;
}

int openmetrics_by_name(struct buf *out, const char *prefix, const char *name, const char *help, const char *label,
			const char *const *names, const uint64_t *counts, size_t n)
{
	int r = add_head(out, prefix, name, "counter", help);

	for (size_t i = 0; i < n && r == 0; i++)
		if (names[i])
			r = buf_printf(out, "%s_%s_total{%s=\"%s\"} %llu\n", prefix, name, label, names[i],
				       (unsigned long long)counts[i]);
	return r;
}

int openmetrics_gauges(struct buf *out, const char *prefix, const char *name, const char *help, const char *label,
		       const char *const *names, const double *values, size_t n)
{
	int r = add_head(out, prefix, name, "gauge", help);

	for (size_t i = 0; i < n && r == 0; i++)
		if (*names[i])
			r = buf_printf(out, "%s_%s{%s=\"%s\"} %.10g\n", prefix, name, label, names[i], values[i]);
		else
			r = buf_printf(out, "%s_%s %.10g\n", prefix, name, values[i]);
	return r;
}

int openmetrics_by_outcome(struct buf *out, const char *prefix, const char *name, const char *help, const uint64_t *counts, size_t n)
{
	static const char *const names[] = { "complete", "not-executed", "maybe-executed" };
	uint64_t sums[ARRAY_LEN(names)] = { 0 };

	for (uint32_t code = 0; code < n; code++)
		sums[code == TP_REASON_NONE ? 0 : tp_reason_info(code)->maybe_executed ? 2 : 1] += counts[code];
	return openmetrics_by_name(out, prefix, name, help, "outcome", names, sums, ARRAY_LEN(names));
}

void openmetrics_observe(struct openmetrics_times *t, uint64_t us)
{
	size_t i = 0;

	while (us > bounds[i].us)
		i++;
	t->counts[i]++;
	t->sum_us += us;
}

int openmetrics_histogram(struct buf *out, const char *prefix, const char *name, const char *help, const struct openmetrics_times *t)
{
	int r = add_head(out, prefix, name, "histogram", help);
	uint64_t sum = 0;

	for (size_t i = 0; i < OPENMETRICS_BUCKETS && r == 0; i++) {
		sum += t->counts[i];
		r = buf_printf(out, "%s_%s_bucket{le=\"%s\"} %llu\n", prefix, name, bounds[i].le, (unsigned long long)sum);
	}
	return r < 0 ? r : buf_printf(out, "%s_%s_sum %.6f\n%s_%s_count %llu\n", prefix, name, (double)t->sum_us / 1e6, prefix, name,
				      (unsigned long long)sum);
}

/* 0: not known. */
static double resident_bytes(void)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	/* NOLINTNEXTLINE(cert-err34-c): the kernel wrote it. */
	if (fscanf(f, "%*u %llu", &pages) != 1)
		pages = 0;
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

int openmetrics_process(struct buf *out, const char *prefix)
{
	const struct openmetrics_row row = { OPENMETRICS_GAUGE, "resident_memory_bytes", "Memory of the process that is in RAM.",
					     resident_bytes() };

	return row.value > 0 ? openmetrics_add(out, prefix, &row, 1) : 0;
}

/* ---- the older format: a counter's and an info's name has its ending in the heads, too ---- */

struct text_family {
	struct span name;
	const char *ending;
};

/* The next word of *rest, which ends with sep or with *rest. */
static struct span next_word(struct span *rest, char sep)
{
	const char *end = rest->len ? memchr(rest->p, sep, rest->len) : NULL;
	struct span word = { rest->p, end ? (size_t)(end - rest->p) : rest->len };

	rest->p += word.len + (end != NULL);
	rest->len -= word.len + (end != NULL);
	return word;
}

static int text_type(struct buf *out, struct span line, struct text_family *f)
{
	f->name = next_word(&line, ' ');
	f->ending = span_is(line, "counter") ? "_total" : span_is(line, "info") ? "_info" : "";
	return buf_printf(out, "# TYPE %.*s%s %.*s\n", SPAN_FMT(f->name), f->ending, SPAN_FMT((span_is(line, "info") ? SPAN("gauge") : line)));
}

static int text_line(struct buf *out, struct span line, struct text_family *f)
{
	struct span rest = line;

	if (!span_is(next_word(&rest, ' '), "#"))
		return buf_printf(out, "%.*s\n", SPAN_FMT(line));
	if (span_is(next_word(&rest, ' '), "TYPE"))
		return text_type(out, rest, f);
	next_word(&rest, ' ');
	return buf_printf(out, "# HELP %.*s%s %.*s\n", SPAN_FMT(f->name), f->ending, SPAN_FMT(rest));
}

int openmetrics_to_text(struct buf *out, struct span in)
{
	struct text_family f = { { "", 0 }, "" };
	int r = 0;

	while (in.len && r == 0)
		r = text_line(out, next_word(&in, '\n'), &f);
	return r;
}
