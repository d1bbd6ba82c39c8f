/* The fields of one audit record, made in place: no allocation, every value bounded and fit for every sink.
 *
 * Values from outside are escaped: control characters (C0, DEL, C1, line and paragraph separators, direction overrides)
 * and bytes that are not UTF-8 become \xNN, one for each byte. So that this can be undone, a backslash before an `x` is
 * written \x5c; any other backslash stands for itself. A value that is too long is cut at a character and ends in
 * U+2026.
 */
#pragma once

#include "daemon/journal.h"

enum {
	AUDIT_FIELDS_MAX = 40,
	AUDIT_TEXT_BYTES = 4096,
	AUDIT_MESSAGE_MAX = 900,
	AUDIT_NAME_MAX = 256, /* of method, tool, prompt, agent, client */
	AUDIT_WORD_MAX = 96,  /* of one value in MESSAGE */
};

struct audit_record {
	size_t n_fields, n_text, n_line;
	struct journal_field fields[AUDIT_FIELDS_MAX]; /* the first is MESSAGE */
	char line[AUDIT_MESSAGE_MAX];
	char text[AUDIT_TEXT_BYTES];
};

/* At most max (>= 3) bytes of the escaped form go to dst, without a NUL; how many. In quotes `"` and `\` get a backslash
 * in front of them, and then no backslash needs \x5c. */
size_t audit_escape(struct span in, char *dst, size_t max, bool quoted);

void audit_record_begin(struct audit_record *r);
/* name: static. value: fit for every sink already, and there until the record is written. */
void audit_record_add(struct audit_record *r, const char *name, struct span value);
/* value: from outside; copied, escaped, at most max bytes. Absent: no field. */
void audit_record_text(struct audit_record *r, const char *name, struct span value, size_t max);
void audit_record_u64(struct audit_record *r, const char *name, uint64_t value);

/* " key=value" of the logfmt line MESSAGE, which starts with "MCPAUDIT v=1". A word is quoted where it has to be. */
void audit_line_word(struct audit_record *r, const char *key, struct span value);
void audit_line_quoted(struct audit_record *r, const char *key, struct span value);
void audit_line_u64(struct audit_record *r, const char *key, uint64_t value);
/* Absent unless it is one of version 00, or of a later one that begins like it (W3C Trace Context, section 3.2). */
struct span audit_trace_id(struct span traceparent);
