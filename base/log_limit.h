/* Lines that a peer can cause again and again. Of each kind a few are written in a while; the others are counted, and
 * the count is told with the last of them when the while is over: "... (repeated 41 times in the last 60 s)". So of N
 * lines, as many are written plainly as the counts leave of N.
 *
 *	log_few(LOG_LEVEL_WARNING, NULL, 0, "a gateway at %s gave a bad token", peer);
 */
#pragma once

#include <sys/queue.h>

#include "base/log.h"

enum {
	LOG_LIMIT_MS = 60 * 1000,
	LOG_LIMIT_LINES = 10,
	/* For what many honest peers do at once: coming back to a relay. */
	LOG_LIMIT_CROWD = 1000,
	LOG_LIMIT_TEXT_BYTES = 512,
	LOG_LIMIT_FIELDS = 4,
	LOG_LIMIT_VALUE_BYTES = 80,
};

/* Zero but for `lines`. Static, or ended with log_limit_done(). */
struct log_limit {
	unsigned lines; /* written plainly in a while; 0: LOG_LIMIT_LINES */
	uint64_t began_ms;
	unsigned written;
	uint64_t held; /* lines that were only counted; the last of them: */
	enum log_level level;
	char text[LOG_LIMIT_TEXT_BYTES];
	size_t n_fields;
	const char *names[LOG_LIMIT_FIELDS];
	char values[LOG_LIMIT_FIELDS][LOG_LIMIT_VALUE_BYTES];
	LIST_ENTRY(log_limit) link; /* while held */
};

/* As log_write(). Names of fields must stay. A line that the level leaves out is not counted either. */
void log_limited(struct log_limit *l, enum log_level level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
	_printf_(5, 6);
/* With a limit of the place's own. */
#define log_here(lines_, level, ...)                                                                                   \
	do {                                                                                                           \
		static struct log_limit here_ = { .lines = (lines_) };                                                 \
		log_limited(&here_, level, __VA_ARGS__);                                                               \
	} while (0)
#define log_few(level, ...) log_here(LOG_LIMIT_LINES, level, __VA_ARGS__)
#define log_crowd(level, ...) log_here(LOG_LIMIT_CROWD, level, __VA_ARGS__)
/* Tells what is held. */
void log_limit_done(struct log_limit *l);

/* Once a second or so: tells the counts whose while is over. */
void log_limits_poll(void);
/* Before the end: tells them all. */
void log_limits_done(void);
/* Monotonic; NULL: the system's. */
void log_limits_set_clock(uint64_t (*now_ms)(void));
