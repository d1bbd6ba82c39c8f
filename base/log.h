/* The log interface. One line a fact; fields for machines. The sink (stderr, the journal) is installed by daemon/;
 * until then lines go to stderr. proto/ never logs.
 */
#pragma once

#include "base/check.h"

/* Numbered as syslog's severities. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

/* A journal field: upper-case name ("MCP_TUNNEL_ID") and a value of any bytes but NUL. */
struct log_field {
	const char *name;
	const char *value;
};

typedef void log_sink_fn(void *user, enum log_level level, const struct log_field *fields, size_t n_fields,
			 const char *message);

void log_set_sink(log_sink_fn *sink, void *user);
void log_set_level(enum log_level max);
bool log_enabled(enum log_level level);

/* "error", "warning", "notice", "info", "debug"; -EINVAL. */
int log_level_parse(const char *name, enum log_level *ret);
const char *log_level_name(enum log_level level);

void log_write(enum log_level level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
	_printf_(4, 5);

/* log_fields(LOG_LEVEL_INFO, LOG_FIELDS({ "MCP_TUNNEL_ID", id }), "session opened"); */
#define LOG_FIELDS(...) ((const struct log_field[]){ __VA_ARGS__ }), ARRAY_LEN(((const struct log_field[]){ __VA_ARGS__ }))
#define log_fields(level, ...) log_write(level, __VA_ARGS__)

#define log_error(...) log_write(LOG_LEVEL_ERROR, NULL, 0, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, NULL, 0, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, NULL, 0, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, NULL, 0, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, NULL, 0, __VA_ARGS__)
