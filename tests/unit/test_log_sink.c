#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log_sink.h"
#include "tests/lib/unit.h"

START_TEST(format)
{
	static const struct log_field fields[] = {
		{ "MCP_TUNNEL_ID", "acme" }, { "MCP_PEER", "two words" }, { "MCP_X", "a\"b\\c" }, { "MCP_EMPTY", "" },
	};
	char out[300];

	log_sink_format(1795204800123, LOG_LEVEL_WARNING, fields, ARRAY_LEN(fields), "lost \x1b[31m\nline\x7f \xc3\xa9",
			out, sizeof(out));
	ck_assert_str_eq(out,
			 "2026-11-20T20:00:00.123Z warning: lost \\x1b[31m\\x0aline\\x7f \xc3\xa9 MCP_TUNNEL_ID=acme "
			 "MCP_PEER=\"two words\" MCP_X=\"a\\\"b\\\\c\" MCP_EMPTY=\"\"\n");
	log_sink_format(0, LOG_LEVEL_INFO, NULL, 0, "a long message", out, 40);
	ck_assert_str_eq(out, "1970-01-01T00:00:00.000Z info: a long \n");
	ck_assert_uint_lt(strlen(out), 41);
}
END_TEST

START_TEST(stream)
{
	char text[80];
	struct stat st;
	int p[2];

	ck_assert_int_eq(pipe(p), 0);
	ck_assert_int_eq(fstat(p[1], &st), 0);
	snprintf(text, sizeof(text), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	ck_assert(log_sink_is_stream(text, p[1]));
	ck_assert(!log_sink_is_stream(text, STDERR_FILENO));
	strcat(text, "x");
	ck_assert(!log_sink_is_stream(text, p[1]));
	ck_assert(!log_sink_is_stream("", p[1]));
	ck_assert(!log_sink_is_stream("7", p[1]));
	ck_assert(!log_sink_is_stream(NULL, p[1]));
}
END_TEST

START_TEST(to_stderr)
{
	char out[300] = "";
	int p[2];

	unsetenv("JOURNAL_STREAM");
	ck_assert_int_eq(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	ck_assert_int_eq(log_sink_init("test", LOG_LEVEL_INFO), 0);
	log_fields(LOG_LEVEL_INFO, LOG_FIELDS({ "MCP_TUNNEL_ID", "acme" }), "session %d", 7);
	log_debug("not this");
	log_sink_done();
	ck_assert_int_gt(read(p[0], out, sizeof(out) - 1), 0);
	ck_assert_str_eq(out + strlen("2026-11-20T20:00:00.123Z"), " info: session 7 MCP_TUNNEL_ID=acme\n");
}
END_TEST

UNIT_MAIN("log_sink", ADD(format) ADD(stream) ADD(to_stderr))
