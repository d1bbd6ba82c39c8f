#include "base/log_limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/unit.h"

static uint64_t now_ms;
static unsigned n_lines;
static char last[1024], last_fields[512];
static enum log_level last_level;

static uint64_t virtual_clock(void)
{
	return now_ms;
}

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	size_t at = 0;

	n_lines++;
	last_level = level;
	snprintf(last, sizeof(last), "%s", message);
	last_fields[0] = '\0';
	for (size_t i = 0; i < n; i++)
		at += (size_t)snprintf(last_fields + at, sizeof(last_fields) - at, "%s=%s;", fields[i].name, fields[i].value);
}

static void begin(void)
{
	now_ms = 5000;
	n_lines = 0;
	log_set_sink(on_log, NULL);
	log_limits_set_clock(virtual_clock);
}

static void say(struct log_limit *l, unsigned number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	log_limited(l, LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_PEER", text }), "peer %u", number);
}

/* What is not written is counted; the count comes when the while is over, with the last line of them and its fields. */
START_TEST(counted)
{
	static struct log_limit l;

	begin();
	for (unsigned i = 1; i <= 51; i++, now_ms += 10)
		say(&l, i);
	ck_assert_uint_eq(n_lines, 10);
	ck_assert_str_eq(last, "peer 10");
	ck_assert_str_eq(last_fields, "MCP_PEER=10;");
	now_ms = 5000 + LOG_LIMIT_MS - 1;
	log_limits_poll();
	ck_assert_uint_eq(n_lines, 10);
	now_ms++;
	log_limits_poll();
	log_limits_poll();
	ck_assert_uint_eq(n_lines, 11);
	ck_assert_str_eq(last, "peer 51 (repeated 41 times in the last 60 s)");
	ck_assert_str_eq(last_fields, "MCP_PEER=51;MCP_REPEATED=41;");
	ck_assert_int_eq(last_level, LOG_LEVEL_WARNING);
	say(&l, 52);
	ck_assert_uint_eq(n_lines, 12);
	ck_assert_str_eq(last, "peer 52");
}
END_TEST

/* Nobody polled: the next line tells it first. */
START_TEST(with_the_next)
{
	static struct log_limit l = { .lines = 2 };

	begin();
	for (unsigned i = 1; i <= 3; i++)
		say(&l, i);
	now_ms += 2 * LOG_LIMIT_MS;
	log_limits_done();
	ck_assert_str_eq(last, "peer 3 (repeated 1 time in the last 120 s)");
	for (unsigned i = 1; i <= 4; i++)
		say(&l, i);
	ck_assert_uint_eq(n_lines, 5);
	now_ms += LOG_LIMIT_MS;
	say(&l, 5);
	ck_assert_uint_eq(n_lines, 7);
	ck_assert_str_eq(last, "peer 5");
}
END_TEST

static unsigned sum;

static void on_sum(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	const char *count = strstr(message, "(repeated ");

	n_lines++;
	sum += count ? (unsigned)strtoul(count + strlen("(repeated "), NULL, 10) : 1;
}

/* Whatever the times between them: lines and counts together are what happened. */
START_TEST(nothing_is_lost)
{
	static struct log_limit limits[3] = { { .lines = 1 }, { .lines = 7 }, { 0 } };
	unsigned said = 0;

	begin();
	log_set_sink(on_sum, NULL);
	srand(1);
	for (unsigned i = 0; i < 20000; i++, now_ms += (uint64_t)(rand() % 100)) {
		if (rand() % 50 == 0)
			log_limits_poll();
		else
			say(&limits[rand() % 3], ++said);
	}
	log_limit_done(&limits[0]);
	log_limits_done();
	ck_assert_uint_eq(sum, said);
	ck_assert_uint_lt(n_lines, 1000);
}
END_TEST

START_TEST(below_the_level)
{
	static struct log_limit l = { .lines = 1 };

	begin();
	for (int i = 0; i < 100; i++)
		log_limited(&l, LOG_LEVEL_DEBUG, NULL, 0, "nobody wants to know");
	log_limits_done();
	ck_assert_uint_eq(n_lines, 0);
	ck_assert_uint_eq(l.written, 0);
}
END_TEST

UNIT_MAIN("log_limit", ADD(counted) ADD(with_the_next) ADD(nothing_is_lost) ADD(below_the_level))
