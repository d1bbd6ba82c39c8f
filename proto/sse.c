#include "proto/sse.h"

#include "base/check.h"

static const uint8_t *find(const uint8_t *p, const uint8_t *end, int c)
{
	const uint8_t *at = p < end ? memchr(p, c, (size_t)(end - p)) : NULL;

	return at ? at : end;
}

void sse_feed(struct sse *s, const void *p, size_t len)
{
	s->p = len ? p : (const void *)"";
	s->end = s->p + len;
	s->lf = find(s->p, s->end, '\n');
	s->cr = find(s->p, s->end, '\r');
}

static uint8_t keep(char *dst, size_t have, size_t max, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, max + 1 - have);

	if (n)
		memcpy(dst + have, p, n);
	return (uint8_t)(have + n);
}

static bool item(struct sse *s, enum sse_what what, size_t len, struct sse_item *ret)
{
	*ret = (struct sse_item){ .what = what, .p = s->p, .len = len };
	s->p += len;
	return true;
}

/* The name of a field is complete; its value follows, or is empty. */
static void begin_value(struct sse *s)
{
	struct span name = span_make(s->field, s->field_len);

	s->line = SSE_LINE_IGNORED;
	if (span_is(name, "data")) {
		s->line_due = true;
		s->line = SSE_LINE_SPACE;
	} else if (span_is(name, "event")) {
		s->type_len = 0;
		s->line = SSE_LINE_SPACE;
	}
}

static bool line_begins(struct sse *s, struct sse_item *ret)
{
	*ret = (struct sse_item){ .what = SSE_LINE, .first = !s->has_data };
	s->line_due = false;
	s->has_data = true;
	return true;
}

/* Of the name of a field, its colon included. */
static bool name_bytes(struct sse *s, size_t len, struct sse_item *ret)
{
	const uint8_t *colon = memchr(s->p, ':', len);
	size_t n = colon ? (size_t)(colon - s->p) : len;

	s->field_len = keep(s->field, s->field_len, SSE_FIELD_MAX, s->p, n);
	if (colon)
		begin_value(s);
	return item(s, SSE_FRAME, colon ? n + 1 : n, ret);
}

/* Bytes of a line, one at least. */
static bool line_bytes(struct sse *s, size_t len, struct sse_item *ret)
{
	if (s->line == SSE_LINE_FIELD)
		return name_bytes(s, len, ret);
	if (s->line == SSE_LINE_SPACE) {
		s->line = s->field[0] == 'd' ? SSE_LINE_DATA : SSE_LINE_TYPE;
		if (*s->p == ' ')
			return item(s, SSE_FRAME, 1, ret);
	}
	if (s->line == SSE_LINE_DATA)
		return item(s, SSE_DATA, len, ret);
	if (s->line == SSE_LINE_TYPE)
		s->type_len = keep(s->type, s->type_len, SSE_TYPE_MAX, s->p, len);
	return item(s, SSE_FRAME, len, ret);
}

static bool event_ends(struct sse *s, struct sse_item *ret)
{
	*ret = (struct sse_item){
		.what = SSE_EVENT,
		.message = s->type_len == 0 || span_is(span_make(s->type, s->type_len), "message"),
	};
	s->has_data = false;
	s->type_len = 0;
	return true;
}

/* At the end of a line. */
static bool line_ends(struct sse *s, struct sse_item *ret)
{
	bool empty = s->line == SSE_LINE_FIELD && s->field_len == 0;

	if (empty && s->has_data)
		return event_ends(s, ret);
	if (empty)
		s->type_len = 0;
	if (s->line == SSE_LINE_FIELD && !empty) {
		begin_value(s);
		if (s->line_due)
			return line_begins(s, ret);
	}
	s->line = SSE_LINE_FIELD;
	s->field_len = 0;
	s->after_cr = *s->p == '\r' && s->p + 1 == s->end;
	return item(s, SSE_FRAME, *s->p == '\r' && s->p + 1 < s->end && s->p[1] == '\n' ? 2 : 1, ret);
}

/* Each of the two ends of lines is looked for anew only when it has been passed, so that no byte is looked at many times. */
bool sse_next(struct sse *s, struct sse_item *ret)
{
	const uint8_t *eol;

	if (s->line_due)
		return line_begins(s, ret);
	if (s->p == s->end)
		return false;
	if (s->after_cr) {
		s->after_cr = false;
		if (*s->p == '\n')
			return item(s, SSE_FRAME, 1, ret);
	}
	if (s->lf < s->p)
		s->lf = find(s->p, s->end, '\n');
	if (s->cr < s->p)
		s->cr = find(s->p, s->end, '\r');
	eol = MIN(s->lf, s->cr);
	return eol == s->p ? line_ends(s, ret) : line_bytes(s, (size_t)(eol - s->p), ret);
}
