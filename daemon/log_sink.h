/* Where log lines go: to the journal with their fields when stderr is connected to it (JOURNAL_STREAM names the device
 * and inode of descriptor 2), else to stderr as text:
 *
 *	2026-11-20T20:00:00.123Z warning: message KEY=value KEY="two words"
 */
#pragma once

#include "base/log.h"

/* program becomes SYSLOG_IDENTIFIER; it must stay. 0; anything negative: stderr is used. Call once. */
int log_sink_init(const char *program, enum log_level level);
void log_sink_done(void);

/* The text form of one line, with its newline; control bytes escaped, truncated at size. Exposed for its test. */
void log_sink_format(uint64_t unix_ms, enum log_level level, const struct log_field *fields, size_t n_fields,
		     const char *message, char *out, size_t size);
/* Whether JOURNAL_STREAM's value ("DEVICE:INODE") names this descriptor. */
bool log_sink_is_stream(const char *journal_stream, int fd);
