/* A reader of event streams (WHATWG HTML, section 9.2.6): bytes in any split, runs of bytes out. It keeps nothing but the first
 * bytes of a field's name and of an event's type. A byte order mark is its caller's.
 *
 *	sse_feed(&s, p, len);            when the piece before is used up
 *	while (sse_next(&s, &item)) ...
 *
 * Every byte is in exactly one item, in order: SSE_DATA (of an event's data) or SSE_FRAME (everything else). The two others have no
 * bytes. SSE_LINE: a line of data begins; before all lines of an event but its first, its data has a line feed, which is in no
 * item. SSE_EVENT: an event with data is complete; the end of its last, empty line is the item after it.
 */
#pragma once

#include "base/span.h"

enum {
	SSE_FIELD_MAX = 5, /* "event" is the longest that matters */
	SSE_TYPE_MAX = 7,  /* "message" */
};

enum sse_what { SSE_FRAME, SSE_DATA, SSE_LINE, SSE_EVENT };

struct sse_item {
	enum sse_what what;
	const uint8_t *p; /* SSE_FRAME, SSE_DATA */
	size_t len;
	bool first;   /* SSE_LINE: of its event */
	bool message; /* SSE_EVENT: its type is "message", or not given */
};

enum sse_line { SSE_LINE_FIELD, SSE_LINE_SPACE, SSE_LINE_DATA, SSE_LINE_TYPE, SSE_LINE_IGNORED };

/* All zero before the first byte. */
struct sse {
	const uint8_t *p, *end;
	const uint8_t *lf, *cr; /* the next of each end of lines */
	enum sse_line line;
	bool after_cr, has_data, line_due;
	uint8_t field_len, type_len; /* one more than fits: longer */
	char field[SSE_FIELD_MAX + 1], type[SSE_TYPE_MAX + 1];
};

/* The bytes stay the caller's and are looked at until sse_next() says false. */
void sse_feed(struct sse *s, const void *p, size_t len);
bool sse_next(struct sse *s, struct sse_item *ret);

/* Whether there is an event with data that is not complete. */
static inline bool sse_is_open(const struct sse *s)
{
	return s->has_data;
}
