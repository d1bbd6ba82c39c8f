#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void sink_stderr(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	fprintf(stderr, "%s\n", message);
}

static log_sink_fn *sink = sink_stderr;
static void *sink_user;
static enum log_level max_level = LOG_LEVEL_INFO;

static const struct {
	const char *name;
	enum log_level level;
} levels[] = {
	{ "error", LOG_LEVEL_ERROR }, { "warning", LOG_LEVEL_WARNING }, { "notice", LOG_LEVEL_NOTICE },
	{ "info", LOG_LEVEL_INFO },   { "debug", LOG_LEVEL_DEBUG },
};

void log_set_sink(log_sink_fn *fn, void *user)
{
	sink = fn ? fn : sink_stderr;
	sink_user = user;
}

void log_set_level(enum log_level max)
{
	max_level = max;
}

bool log_enabled(enum log_level level)
{
	return level <= max_level;
}

int log_level_parse(const char *name, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (strcmp(levels[i].name, name) == 0) {
			*ret = levels[i].level;
			return 0;
		}
	return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (levels[i].level == level)
			return levels[i].name;
	return "error";
}

void log_write(enum log_level level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
{
	char message[2048];
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	sink(sink_user, level, fields, n_fields, message);
}
