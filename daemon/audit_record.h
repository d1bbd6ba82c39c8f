/* What one audit record says of its own, made in place: no allocation, every value bounded and fit for every sink.
 *
 * Values from outside are escaped: control characters (C0, DEL, C1, line and paragraph separators, direction overrides)
 * and bytes that are not UTF-8 become \xNN, one for each byte. So that this can be undone, a backslash before an `x` is
 * written \x5c; any other backslash stands for itself. A value that is too long is cut at a character and ends in
 * U+2026.
 */
#pragma once

#include "daemon/journal.h"

enum {
	AUDIT_FIELDS_MAX = 40, /* that an event has of its own */
	AUDIT_VALUES_MAX = 1700, /* of all values from outside, escaped: a record stays below 4 KB */
	AUDIT_TEXT_BYTES = 2400, /* of those, of numbers and times */
	AUDIT_MESSAGE_MAX = 900,
	AUDIT_WORDS_MAX = 768, /* the same without what every record has in it: its event, seq= and chain= */
	AUDIT_NAME_MAX = 256,  /* of method, tool, prompt, agent, client */
	AUDIT_WORD_MAX = 96,   /* of one value in MESSAGE */
	AUDIT_TIME_LEN = 27,   /* 1970-01-01T00:00:00.000000Z */
};

struct audit_record {
	size_t n_fields, n_text, n_values, n_line; /* n_values: bytes of n_text that came from outside */
	struct journal_field fields[AUDIT_FIELDS_MAX];
	char line[AUDIT_WORDS_MAX]; /* words of MESSAGE, a space before each */
	char text[AUDIT_TEXT_BYTES];
};

/* At most max (>= 3) bytes of the escaped form go to dst, without a NUL; how many. In quotes `"` and `\` get a
 * backslash in front of them, and then no backslash needs \x5c. */
size_t audit_escape(struct span in, char *dst, size_t max, bool quoted);

void audit_record_begin(struct audit_record *r);
/* name: static. value: fit for every sink already, and there as long as the record. */
void audit_record_add(struct audit_record *r, const char *name, struct span value);
/* value: from outside; copied, escaped, at most max bytes and what is left of AUDIT_VALUES_MAX: what matters most comes
 * first. Absent: no field. */
void audit_record_text(struct audit_record *r, const char *name, struct span value, size_t max);
void audit_record_u64(struct audit_record *r, const char *name, uint64_t value);
void audit_record_i64(struct audit_record *r, const char *name, int64_t value);
/* RFC 3339, UTC, microseconds. */
void audit_record_time(struct audit_record *r, const char *name, uint64_t wall_us);

/* " key=value" of the logfmt line MESSAGE. A word is quoted where it has to be. One that does not fit is left out. */
void audit_line_word(struct audit_record *r, const char *key, struct span value);
void audit_line_quoted(struct audit_record *r, const char *key, struct span value);
void audit_line_u64(struct audit_record *r, const char *key, uint64_t value);
void audit_line_i64(struct audit_record *r, const char *key, int64_t value);

/* Decimal digits without a NUL; how many. */
enum { AUDIT_U64_DIGITS = 20 };
size_t audit_put_u64(uint64_t value, char dst[AUDIT_U64_DIGITS]);
/* AUDIT_TIME_LEN characters and a NUL. */
void audit_format_time(uint64_t wall_us, char dst[AUDIT_TIME_LEN + 1]);

/* Absent unless it is one of version 00, or of a later one that begins like it (W3C Trace Context, section 3.2). */
struct span audit_trace_id(struct span traceparent);
