#include "daemon/openmetrics.h"

#include "base/span.h"
#include "proto/reasons.h"
#include "tests/lib/unit.h"

#include <string.h>

static struct buf out;
static struct openmetrics_times times;

static void setup(void)
{
	buf_init(&out, 64 * 1024);
	times = (struct openmetrics_times){ 0 };
}

static void teardown(void)
{
	buf_done(&out);
}

static char *taken(void)
{
	char *text = span_dup(buf_span(&out));

	buf_clear(&out);
	return text;
}

static char *histogram(void)
{
	ck_assert_int_eq(openmetrics_histogram(&out, "p", "x_seconds", "Help.", &times), 0);
	return taken();
}

static bool has(const char *text, const char *part)
{
	return strstr(text, part) != NULL;
}

START_TEST(a_time_is_in_the_bucket_of_its_bound_and_all_above)
{
	_cleanup_(freep) char *text = NULL;

	openmetrics_observe(&times, 0);
	openmetrics_observe(&times, 100);
	openmetrics_observe(&times, 101);
	openmetrics_observe(&times, 1000000);
	openmetrics_observe(&times, 1000001);
	openmetrics_observe(&times, 300000001);
	text = histogram();
	ck_assert_int_eq(strncmp(text, "# TYPE p_x_seconds histogram\n# HELP p_x_seconds Help.\n", 54), 0);
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"0.0001\"} 2\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"0.00025\"} 3\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"0.5\"} 3\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"1.0\"} 4\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"2.5\"} 5\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"300.0\"} 5\n"));
	ck_assert(has(text, "\np_x_seconds_bucket{le=\"+Inf\"} 6\n"));
	ck_assert(has(text, "\np_x_seconds_sum 302.000203\n"));
	ck_assert(has(text, "\np_x_seconds_count 6\n"));
}
END_TEST

START_TEST(every_bound_is_the_number_it_is_called)
{
	_cleanup_(freep) char *text = histogram();
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, "le=\"")); n++) {
		double bound = strtod(p += 4, NULL);
		struct openmetrics_times one = { 0 };

		openmetrics_observe(&one, n + 1 < OPENMETRICS_BUCKETS ? (uint64_t)(bound * 1e6 + 0.5) : UINT64_MAX);
		ck_assert_uint_eq(one.counts[n], 1);
	}
	ck_assert_uint_eq(n, OPENMETRICS_BUCKETS);
}
END_TEST

START_TEST(outcomes_are_sums_of_reasons)
{
	uint64_t counts[64] = { 0 };
	_cleanup_(freep) char *text = NULL;

	counts[TP_REASON_NONE] = 5;
	counts[TP_REASON_REFUSED] = 2;
	counts[TP_REASON_AUDIT_UNAVAILABLE] = 3;
	counts[TP_REASON_SESSION_LOST] = 7;
	ck_assert(tp_reason_info(TP_REASON_SESSION_LOST)->maybe_executed && !tp_reason_info(TP_REASON_REFUSED)->maybe_executed);
	ck_assert_int_eq(openmetrics_by_outcome(&out, "p", "x", "Help.", counts, ARRAY_LEN(counts)), 0);
	text = taken();
	ck_assert(has(text, "p_x_total{outcome=\"complete\"} 5\n"));
	ck_assert(has(text, "p_x_total{outcome=\"not-executed\"} 5\n"));
	ck_assert(has(text, "p_x_total{outcome=\"maybe-executed\"} 7\n"));
}
END_TEST

START_TEST(names_that_are_null_are_left_out)
{
	const char *const names[] = { NULL, "a", NULL, "b" };
	const uint64_t counts[] = { 1, 2, 3, 4 };
	_cleanup_(freep) char *text = NULL;

	ck_assert_int_eq(openmetrics_by_name(&out, "p", "x", "Help.", "l", names, counts, ARRAY_LEN(names)), 0);
	text = taken();
	ck_assert_str_eq(text, "# TYPE p_x counter\n# HELP p_x Help.\np_x_total{l=\"a\"} 2\np_x_total{l=\"b\"} 4\n");
}
END_TEST

START_TEST(the_older_format)
{
	static const char in[] = "# TYPE p_build info\n# HELP p_build Version of it.\np_build_info{version=\"1\"} 1\n"
				 "# TYPE p_n counter\n# HELP p_n A number.\np_n_total{reason=\"x\"} 18446744073709551615\n"
				 "# TYPE p_g gauge\n# HELP p_g A gauge.\np_g 0.5\n"
				 "# TYPE p_s histogram\n# HELP p_s Times.\np_s_bucket{le=\"+Inf\"} 1\np_s_sum 0.1\np_s_count 1\n";
	_cleanup_(freep) char *text = NULL;

	ck_assert_int_eq(openmetrics_to_text(&out, span_of(in)), 0);
	text = taken();
	ck_assert_str_eq(text, "# TYPE p_build_info gauge\n# HELP p_build_info Version of it.\np_build_info{version=\"1\"} 1\n"
			       "# TYPE p_n_total counter\n# HELP p_n_total A number.\np_n_total{reason=\"x\"} 18446744073709551615\n"
			       "# TYPE p_g gauge\n# HELP p_g A gauge.\np_g 0.5\n"
			       "# TYPE p_s histogram\n# HELP p_s Times.\np_s_bucket{le=\"+Inf\"} 1\np_s_sum 0.1\np_s_count 1\n");
}
END_TEST

START_TEST(what_does_not_fit_is_an_error)
{
	_cleanup_(freep) char *text = histogram();

	for (size_t max = 0; max < strlen(text); max += 16) {
		struct buf b;

		buf_init(&b, max);
		ck_assert_int_lt(openmetrics_histogram(&b, "p", "x_seconds", "Help.", &times), 0);
		buf_clear(&b);
		ck_assert_int_lt(openmetrics_to_text(&b, span_of(text)), 0);
		buf_done(&b);
	}
}
END_TEST

START_TEST(memory_of_the_process)
{
	_cleanup_(freep) char *text = NULL;
	const char *value;

	ck_assert_int_eq(openmetrics_process(&out, "p"), 0);
	text = taken();
	value = strstr(text, "\np_resident_memory_bytes ");
	ck_assert(value);
	ck_assert_double_ge(strtod(value + 25, NULL), 64 * 1024);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);

UNIT_MAIN("openmetrics", FIXTURE ADD(a_time_is_in_the_bucket_of_its_bound_and_all_above) ADD(every_bound_is_the_number_it_is_called)
	  ADD(outcomes_are_sums_of_reasons) ADD(names_that_are_null_are_left_out) ADD(the_older_format)
	  ADD(what_does_not_fit_is_an_error) ADD(memory_of_the_process))
