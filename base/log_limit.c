#include "base/log_limit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static uint64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t (*clock_ms)(void) = monotonic_ms;
static LIST_HEAD(, log_limit) holding = LIST_HEAD_INITIALIZER(holding);

void log_limits_set_clock(uint64_t (*now_ms)(void))
{
	clock_ms = now_ms ? now_ms : monotonic_ms;
}

static bool is_over(const struct log_limit *l, uint64_t now)
{
	return now - l->began_ms >= LOG_LIMIT_MS;
}

static void tell(struct log_limit *l, uint64_t now)
{
	struct log_field fields[LOG_LIMIT_FIELDS + 1];
	char times[24];
	size_t n = 0;

	if (!l->held)
		return;
	for (; n < l->n_fields; n++)
		fields[n] = (struct log_field){ l->names[n], l->values[n] };
	snprintf(times, sizeof(times), "%" PRIu64, l->held);
	fields[n++] = (struct log_field){ "MCP_REPEATED", times };
	log_write(l->level, fields, n, "%s (repeated %s time%s in the last %" PRIu64 " s)", l->text, times, l->held == 1 ? "" : "s",
		  (now - l->began_ms + 999) / 1000);
	l->held = 0;
	LIST_REMOVE(l, link);
}

static void hold(struct log_limit *l, enum log_level level, const struct log_field *fields, size_t n, const char *text)
{
	if (!l->held++)
		LIST_INSERT_HEAD(&holding, l, link);
	l->level = level;
	l->n_fields = MIN(n, (size_t)LOG_LIMIT_FIELDS);
	for (size_t i = 0; i < l->n_fields; i++) {
		l->names[i] = fields[i].name;
		snprintf(l->values[i], sizeof(l->values[i]), "%s", fields[i].value ? fields[i].value : "");
	}
	snprintf(l->text, sizeof(l->text), "%.*s", (int)sizeof(l->text) - 1, text);
}

void log_limited(struct log_limit *l, enum log_level level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
{
	char text[2048];
	uint64_t now = clock_ms();
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!l->written || is_over(l, now)) {
		tell(l, now);
		l->began_ms = now;
		l->written = 0;
	}
	if (l->written < (l->lines ? l->lines : LOG_LIMIT_LINES)) {
		l->written++;
		log_write(level, fields, n_fields, "%s", text);
	} else {
		hold(l, level, fields, n_fields, text);
	}
}

void log_limit_done(struct log_limit *l)
{
	tell(l, clock_ms());
}

void log_limits_poll(void)
{
	uint64_t now = clock_ms();
	struct log_limit *l, *next;

	for (l = LIST_FIRST(&holding); l; l = next) {
		next = LIST_NEXT(l, link);
		if (is_over(l, now))
			tell(l, now);
	}
}

void log_limits_done(void)
{
	while (!LIST_EMPTY(&holding))
		tell(LIST_FIRST(&holding), clock_ms());
}
