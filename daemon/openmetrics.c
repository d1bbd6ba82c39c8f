#include "daemon/openmetrics.h"

#include "proto/reasons.h"

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
