#include "gateway/audit/finding.h"

#include <inttypes.h>
#include <stdarg.h>

#include "base/buf.h"
#include "daemon/audit_record.h"

enum { SAID_MAX = 1024, OBJECT_MAX = 16 * 1024 };

static const char *const weights[FINDING_N] = { "note", "unsure", "fault" };

const char *side_name(enum side s)
{
	return s == SIDE_RELAY ? "relay" : "gateway";
}

const char *finding_text(struct span s, char dst[FINDING_TEXT_MAX])
{
	size_t n = s.len ? audit_escape(s, dst, FINDING_TEXT_MAX - 1, false) : 0;

	dst[n] = '\0';
	return dst;
}

static const char *file_name(const struct findings *f, const struct place *at)
{
	return at->line && at->file < f->n_files ? f->files[at->file] : NULL;
}

static void print_text(const struct findings *f, const struct finding *w, const char *said)
{
	const char *file = file_name(f, &w->at);
	char name[FINDING_TEXT_MAX];

	if (file)
		fprintf(f->out, "%s:%" PRIu64 ": ", finding_text(span_of(file), name), w->at.line);
	if (w->weight != FINDING_FAULT)
		fprintf(f->out, "%s: ", weights[w->weight]);
	fprintf(f->out, "%s: ", w->kind);
	if (w->chain_id)
		fprintf(f->out, "%s chain %s", side_name(w->side), finding_text(span_of(w->chain_id), name));
	if (w->has_seq && w->seq_to > w->seq)
		fprintf(f->out, " seq %" PRIu64 " to %" PRIu64, w->seq, w->seq_to);
	else if (w->has_seq)
		fprintf(f->out, " seq %" PRIu64, w->seq);
	fprintf(f->out, "%s%s\n", w->chain_id ? ": " : "", said);
}

static void add_text(struct buf *b, const char *name, const char *value)
{
	buf_printf(b, ",\"%s\":\"", name);
	buf_add_json_text(b, value);
	buf_add_str(b, "\"");
}

static void print_json(const struct findings *f, const struct finding *w, const char *said)
{
	const char *file = file_name(f, &w->at);
	struct buf b;

	buf_init(&b, OBJECT_MAX);
	buf_printf(&b, "{\"finding\":\"%s\",\"weight\":\"%s\"", w->kind, weights[w->weight]);
	if (file) {
		add_text(&b, "file", file);
		buf_printf(&b, ",\"line\":%" PRIu64, w->at.line);
	}
	if (w->chain_id) {
		add_text(&b, "side", side_name(w->side));
		add_text(&b, "chain", w->chain_id);
	}
	if (w->has_seq)
		buf_printf(&b, ",\"seq\":%" PRIu64 ",\"seq_to\":%" PRIu64, w->seq, MAX(w->seq, w->seq_to));
	add_text(&b, "text", said);
	fprintf(f->out, "%.*s}\n", SPAN_FMT(buf_span(&b)));
	buf_done(&b);
}

void finding_add(struct findings *f, const struct finding *what, const char *fmt, ...)
{
	char said[SAID_MAX];
	uint64_t printed = 0;
	va_list ap;

	for (size_t i = 0; i < FINDING_N; i++)
		printed += f->n[i];
	f->n[what->weight]++;
	if (printed >= FINDINGS_PRINTED_MAX || f->form == FINDINGS_QUIET)
		return;
	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	if (f->form == FINDINGS_JSON)
		print_json(f, what, said);
	else
		print_text(f, what, said);
}
