#include "daemon/doctor_report.h"

#include "tests/lib/unit.h"

#include <string.h>

static const struct {
	enum doctor_status statuses[4];
	size_t n;
	enum doctor_status worst;
	int status;
} rows[] = {
	{ { 0 }, 0, DOCTOR_OK, 0 },
	{ { DOCTOR_OK, DOCTOR_OK }, 2, DOCTOR_OK, 0 },
	{ { DOCTOR_OK, DOCTOR_SKIPPED }, 2, DOCTOR_OK, 0 },
	{ { DOCTOR_WARNING, DOCTOR_OK }, 2, DOCTOR_WARNING, 1 },
	{ { DOCTOR_SKIPPED, DOCTOR_WARNING, DOCTOR_OK }, 3, DOCTOR_WARNING, 1 },
	{ { DOCTOR_FAILED, DOCTOR_WARNING, DOCTOR_OK }, 3, DOCTOR_FAILED, 2 },
	{ { DOCTOR_OK, DOCTOR_WARNING, DOCTOR_SKIPPED, DOCTOR_FAILED }, 4, DOCTOR_FAILED, 2 },
};

START_TEST(the_worst_decides)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct doctor_report r = { 0 };

		for (size_t k = 0; k < rows[i].n; k++)
			ck_assert_int_eq(doctor_report_add(&r, &(struct doctor_check){ .status = rows[i].statuses[k], .name = "x" }), 0);
		ck_assert_int_eq(doctor_report_worst(&r), rows[i].worst);
		ck_assert_int_eq(doctor_report_exit(&r), rows[i].status);
		doctor_report_done(&r);
	}
}
END_TEST

static void check_text(const struct doctor_check *c, const char *expected)
{
	struct buf b;

	buf_init(&b, DOCTOR_REPORT_MAX);
	ck_assert_int_eq(doctor_print_check(c, &b), 0);
	ck_assert_int_eq(buf_add(&b, "", 1), 0);
	ck_assert_str_eq((char *)buf_bytes(&b), expected);
	buf_done(&b);
}

START_TEST(a_check_is_a_line)
{
	check_text(&(struct doctor_check){ .name = "token file", .detail = "/etc/mcp-tunnel/gateway-token, tunnel prod" },
		   "ok       token file      /etc/mcp-tunnel/gateway-token, tunnel prod\n");
	check_text(&(struct doctor_check){ .status = DOCTOR_FAILED, .name = "tcp", .subject = "relay.example", .detail = "refused", .remedy = "start it" },
		   "failed   tcp             relay.example: refused\n"
		   "                         -> start it\n");
}
END_TEST

START_TEST(long_lines_are_broken_between_words)
{
	check_text(&(struct doctor_check){ .status = DOCTOR_WARNING,
					   .name = "tls",
					   .detail = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
					   .remedy = "renew" },
		   "warning  tls             one two three four five six seven eight nine ten eleven twelve thirteen\n"
		   "                         fourteen\n"
		   "                         -> renew\n");
}
END_TEST

START_TEST(no_line_is_wider_than_a_terminal)
{
	struct doctor_check c = { .status = DOCTOR_FAILED, .name = "configuration" };
	struct buf b;
	struct span rest;

	for (size_t i = 0; i + 1 < sizeof(c.detail); i++)
		c.detail[i] = i % 7 == 6 ? ' ' : 'x';
	snprintf(c.remedy, sizeof(c.remedy), "%s", c.detail);
	buf_init(&b, DOCTOR_REPORT_MAX);
	ck_assert_int_eq(doctor_print_check(&c, &b), 0);
	rest = buf_span(&b);
	while (rest.p)
		ck_assert_uint_le(span_split(&rest, '\n').len, 96);
	buf_done(&b);
}
END_TEST

/* A server's name or an HTTP reason may hold anything. */
START_TEST(what_a_peer_sent_cannot_move_the_cursor)
{
	check_text(&(struct doctor_check){ .name = "mcp", .detail = "HTTP 200, \033[2Jevil\r\nok all\x7f 1.0" },
		   "ok       mcp             HTTP 200, ?[2Jevil? ok all? 1.0\n");
}
END_TEST

static void fill(struct doctor_report *r)
{
	ck_assert_int_eq(doctor_report_add(r, &(struct doctor_check){ .name = "tls", .detail = "a \"b\" \n\033", .took_us = 1500 }), 0);
	ck_assert_int_eq(doctor_report_add(r, &(struct doctor_check){ .status = DOCTOR_WARNING, .name = "clock", .subject = "s", .detail = "d", .remedy = "r" }), 0);
}

START_TEST(json_has_everything)
{
	struct doctor_report r = { 0 };
	struct buf b;

	fill(&r);
	buf_init(&b, DOCTOR_REPORT_MAX);
	ck_assert_int_eq(doctor_print_json(&r, "mcp-tunnel-gateway", &b), 0);
	ck_assert_int_eq(buf_add(&b, "", 1), 0);
	ck_assert_str_eq((char *)buf_bytes(&b),
			 "{\"program\":\"mcp-tunnel-gateway\",\"version\":\"" MCP_TUNNEL_VERSION "\",\"status\":\"warning\",\"checks\":[\n"
			 "{\"name\":\"tls\",\"subject\":\"\",\"status\":\"ok\",\"detail\":\"a \\\"b\\\" \\u000a\\u001b\",\"remedy\":\"\",\"duration_ms\":1.5},\n"
			 "{\"name\":\"clock\",\"subject\":\"s\",\"status\":\"warning\",\"detail\":\"d\",\"remedy\":\"r\",\"duration_ms\":0.0}\n]}\n");
	buf_done(&b);
	doctor_report_done(&r);
}
END_TEST

START_TEST(the_sum_counts)
{
	struct doctor_report r = { 0 };
	struct buf b;

	fill(&r);
	buf_init(&b, DOCTOR_REPORT_MAX);
	ck_assert_int_eq(doctor_print_sum(&r, &b), 0);
	ck_assert(span_is(buf_span(&b), "\n0 failed, 1 warning, 1 ok, 0 skipped\n"));
	buf_done(&b);
	doctor_report_done(&r);
}
END_TEST

START_TEST(the_list_has_an_end)
{
	const struct doctor_check c = { .name = "x" };
	struct doctor_report r = { 0 };

	for (size_t i = 0; i < DOCTOR_CHECKS_MAX; i++)
		ck_assert_int_eq(doctor_report_add(&r, &c), 0);
	ck_assert_int_lt(doctor_report_add(&r, &c), 0);
	ck_assert_uint_eq(r.n, DOCTOR_CHECKS_MAX);
	doctor_report_done(&r);
}
END_TEST

UNIT_MAIN("doctor_report", ADD(the_worst_decides) ADD(a_check_is_a_line) ADD(long_lines_are_broken_between_words) ADD(no_line_is_wider_than_a_terminal)
		  ADD(what_a_peer_sent_cannot_move_the_cursor) ADD(json_has_everything) ADD(the_sum_counts) ADD(the_list_has_an_end))
