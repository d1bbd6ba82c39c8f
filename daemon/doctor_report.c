#include "daemon/doctor_report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_COLUMN = 25, TEXT_END = 96 };

static const char *const names[DOCTOR_STATUSES] = {
	[DOCTOR_OK] = "ok", [DOCTOR_SKIPPED] = "skipped", [DOCTOR_WARNING] = "warning", [DOCTOR_FAILED] = "failed",
};

const char *doctor_status_name(enum doctor_status status)
{
	return names[status];
}

int doctor_report_add(struct doctor_report *r, const struct doctor_check *c)
{
	struct doctor_check *grown;

	if (r->n == DOCTOR_CHECKS_MAX)
		return -ENOSPC;
	grown = reallocarray(r->checks, r->n + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	r->checks = grown;
	r->checks[r->n++] = *c;
	return 0;
}

void doctor_report_done(struct doctor_report *r)
{
	free(r->checks);
	*r = (struct doctor_report){ 0 };
}

static size_t count(const struct doctor_report *r, enum doctor_status status)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		n += r->checks[i].status == status;
	return n;
}

enum doctor_status doctor_report_worst(const struct doctor_report *r)
{
	if (count(r, DOCTOR_FAILED))
		return DOCTOR_FAILED;
	return count(r, DOCTOR_WARNING) ? DOCTOR_WARNING : DOCTOR_OK;
}

int doctor_report_exit(const struct doctor_report *r)
{
	static const int statuses[DOCTOR_STATUSES] = { [DOCTOR_OK] = 0, [DOCTOR_WARNING] = 1, [DOCTOR_FAILED] = 2 };

	return statuses[doctor_report_worst(r)];
}

/* ---- text ---- */

struct text {
	struct buf *out;
	size_t column;
	int result;
};

static void put(struct text *t, const char *fmt, ...) _printf_(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
	char piece[DOCTOR_DETAIL_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(piece, sizeof(piece), fmt, ap);
	va_end(ap);
	/* What a peer sent has no say in how a terminal looks. */
	for (char *p = piece; *p; p++)
		if (*p != '\n' && ((unsigned char)*p < ' ' || *p == 0x7f))
			*p = '?';
	if (t->result == 0)
		t->result = buf_add_str(t->out, piece);
	t->column += strlen(piece);
}

static void put_word(struct text *t, const char *word, size_t len)
{
	if (t->column > TEXT_COLUMN && t->column + 1 + len > TEXT_END) {
		put(t, "\n%*s", TEXT_COLUMN, "");
		t->column = TEXT_COLUMN;
	} else if (t->column > TEXT_COLUMN) {
		put(t, " ");
	}
	put(t, "%.*s", (int)len, word);
}

static void put_words(struct text *t, const char *s)
{
	while (*s) {
		size_t len = strcspn(s, " \n");

		if (len)
			put_word(t, s, len);
		s += len;
		s += strspn(s, " \n");
	}
}

int doctor_print_check(const struct doctor_check *c, struct buf *out)
{
	struct text t = { .out = out };

	put(&t, "%-8s %-15s ", names[c->status], c->name);
	t.column = TEXT_COLUMN;
	if (c->subject[0]) {
		put_words(&t, c->subject);
		put(&t, ":");
	}
	put_words(&t, c->detail);
	if (c->remedy[0]) {
		put(&t, "\n%*s", TEXT_COLUMN, "");
		t.column = TEXT_COLUMN;
		put_words(&t, "->");
		put_words(&t, c->remedy);
	}
	put(&t, "\n");
	return t.result;
}

int doctor_print_sum(const struct doctor_report *r, struct buf *out)
{
	size_t failed = count(r, DOCTOR_FAILED), warnings = count(r, DOCTOR_WARNING), skipped = count(r, DOCTOR_SKIPPED);

	return buf_printf(out, "\n%zu failed, %zu warning%s, %zu ok, %zu skipped\n", failed, warnings, warnings == 1 ? "" : "s",
			  count(r, DOCTOR_OK), skipped);
}

/* ---- JSON ---- */

static int add_text(struct buf *out, const char *name, const char *value)
{
	int r = buf_printf(out, "\"%s\":\"", name);

	if (r == 0)
		r = buf_add_json_text(out, value);
	return r < 0 ? r : buf_add_str(out, "\",");
}

static int add_check(const struct doctor_check *c, bool first, struct buf *out)
{
	int r = buf_add_str(out, first ? "\n{" : ",\n{");

	if (r == 0)
		r = add_text(out, "name", c->name);
	if (r == 0)
		r = add_text(out, "subject", c->subject);
	if (r == 0)
		r = add_text(out, "status", names[c->status]);
	if (r == 0)
		r = add_text(out, "detail", c->detail);
	if (r == 0)
		r = add_text(out, "remedy", c->remedy);
	return r < 0 ? r : buf_printf(out, "\"duration_ms\":%.1f}", (double)c->took_us / 1000);
}

int doctor_print_json(const struct doctor_report *r, const char *program, struct buf *out)
{
	int result = buf_printf(out, "{\"program\":\"%s\",\"version\":\"" MCP_TUNNEL_VERSION "\",\"status\":\"%s\",\"checks\":[", program,
				names[doctor_report_worst(r)]);

	for (size_t i = 0; i < r->n && result == 0; i++)
		result = add_check(&r->checks[i], i == 0, out);
	return result < 0 ? result : buf_add_str(out, "\n]}\n");
}
