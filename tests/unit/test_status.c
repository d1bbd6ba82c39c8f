#include "gateway/status.h"

#include "proto/reasons.h"
#include "tests/lib/unit.h"

#include <ctype.h>
#include <string.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

static struct session_status session;
static struct upstream_health upstream;
static struct exchange_context exchanges;
static struct gateway_status st;

static void setup(void)
{
	session = (struct session_status){ .state = SESSION_ATTACHED, .since_ms = 1000, .attached_total = 3, .resumed_total = 2 };
	upstream = (struct upstream_health){ .known = true, .seen_ms = 4000, .detail = "connected" };
	exchange_context_init(&exchanges);
	st = (struct gateway_status){
		.now_ms = 5500,
		.session = &session,
		.routes = { { "", "http://127.0.0.1:9000/mcp", &upstream } },
		.n_routes = 1,
		.exchanges = &exchanges,
		.audit_ok = true,
		.memory = 4096,
		.rtt_us = 1500,
	};
}

static char *text_of(struct buf *b)
{
	char *text = span_dup(buf_span(b));

	buf_done(b);
	return text;
}

static char *ready_json(bool *ret_ready)
{
	struct buf b;

	buf_init(&b, 64 * 1024);
	*ret_ready = status_ready_json(&st, &b);
	return text_of(&b);
}

START_TEST(ready_means_all_of_it)
{
	for (unsigned bits = 0; bits < 32; bits++) {
		bool expected = bits == 31;
		_cleanup_(freep) char *json = NULL;
		bool ready;

		session.state = bits & 1 ? SESSION_ATTACHED : SESSION_GREETING;
		upstream.known = bits & 2;
		upstream.reason = bits & 4 ? TP_REASON_NONE : TP_REASON_UPSTREAM_CLOSED;
		st.audit_ok = bits & 8;
		st.stopping = !(bits & 16);
		ck_assert_int_eq(status_is_ready(&st), expected);
		json = ready_json(&ready);
		ck_assert_int_eq(ready, expected);
		ck_assert_int_eq(strncmp(json, expected ? "{\"ready\":true," : "{\"ready\":false,", expected ? 14 : 15), 0);
	}
}
END_TEST

START_TEST(only_attached_is_attached)
{
	for (enum session_state s = SESSION_WAITING; s <= SESSION_STOPPED; s++) {
		session.state = s;
		ck_assert_int_eq(status_is_ready(&st), s == SESSION_ATTACHED);
	}
}
END_TEST

static bool has(const char *json, const char *part)
{
	return strstr(json, part) != NULL;
}

START_TEST(every_check_names_its_reason)
{
	bool ready;
	_cleanup_(freep) char *good = ready_json(&ready), *bad = NULL;

	ck_assert(has(good, "\"session\":{\"ok\":true,\"reason\":\"attached\",\"detail\":\"\",\"age_s\":4.5}"));
	ck_assert(has(good, "\"upstream\":{\"ok\":true,\"reason\":\"reachable\",\"detail\":\"connected\",\"age_s\":1.5}"));
	ck_assert(has(good, "\"audit\":{\"ok\":true,\"reason\":\"ok\""));
	ck_assert(has(good, "\"running\":{\"ok\":true,\"reason\":\"ok\""));

	session.state = SESSION_WAITING;
	session.failure = SESSION_TOKEN_REFUSED;
	snprintf(session.detail, sizeof(session.detail), "the relay refused the token (HTTP 401)");
	upstream.reason = TP_REASON_UPSTREAM_UNREACHABLE;
	snprintf(upstream.detail, sizeof(upstream.detail), "cannot connect");
	st.audit_ok = false;
	snprintf(st.audit_detail, sizeof(st.audit_detail), "no space");
	st.stopping = true;
	bad = ready_json(&ready);
	ck_assert(has(bad, "\"session\":{\"ok\":false,\"reason\":\"token-refused\",\"detail\":\"the relay refused the token (HTTP 401)\""));
	ck_assert(has(bad, "\"upstream\":{\"ok\":false,\"reason\":\"upstream-unreachable\",\"detail\":\"cannot connect\""));
	ck_assert(has(bad, "\"audit\":{\"ok\":false,\"reason\":\"audit-unavailable\",\"detail\":\"no space\""));
	ck_assert(has(bad, "\"running\":{\"ok\":false,\"reason\":\"stopping\""));
}
END_TEST

START_TEST(upstream_not_tried_yet)
{
	bool ready;
	_cleanup_(freep) char *json = NULL;

	upstream = (struct upstream_health){ 0 };
	json = ready_json(&ready);
	ck_assert(!ready);
	ck_assert(has(json, "\"upstream\":{\"ok\":false,\"reason\":\"not-tried-yet\",\"detail\":\"no answer yet\",\"age_s\":0.0}"));
}
END_TEST

START_TEST(each_route_has_a_check)
{
	static struct upstream_health other;
	_cleanup_(freep) char *json = NULL, *text = NULL;
	char line[256];
	struct buf b;
	bool ready;

	other = (struct upstream_health){ .known = true, .reason = TP_REASON_UPSTREAM_UNREACHABLE, .seen_ms = 5000, .detail = "refused" };
	st.routes[1] = (struct status_route){ "docs", "http://127.0.0.1:9001/mcp", &other };
	st.n_routes = 2;
	json = ready_json(&ready);
	ck_assert(!ready);
	ck_assert(has(json, "\"upstream\":{\"ok\":true,"));
	ck_assert(has(json, "\"upstream:docs\":{\"ok\":false,\"reason\":\"upstream-unreachable\",\"detail\":\"refused\",\"age_s\":0.5}"));
	status_line(&st, line, sizeof(line));
	ck_assert_str_eq(line, "Not ready: MCP server http://127.0.0.1:9001/mcp (route docs): refused");
	buf_init(&b, 256 * 1024);
	ck_assert_int_eq(status_metrics(&st, &b), 0);
	text = text_of(&b);
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_reachable 1\nmcp_tunnel_gateway_upstream_reachable{route=\"docs\"} 0\n"));
	other.reason = TP_REASON_NONE;
	ck_assert(status_is_ready(&st));
	status_line(&st, line, sizeof(line));
	ck_assert_str_eq(line, "Ready: attached, all 2 MCP servers reachable");
}
END_TEST

START_TEST(json_is_valid_whatever_others_said)
{
#ifdef HAVE_ORACLE
	bool ready;

	session.state = SESSION_WAITING;
	session.failure = SESSION_LOST;
	for (unsigned c = 1; c < 256; c++) {
		_cleanup_(freep) char *json = NULL;
		json_t *root;

		snprintf(session.detail, sizeof(session.detail), "a%cb\"\\\n\xff", (int)c);
		snprintf(upstream.detail, sizeof(upstream.detail), "%c", (int)c);
		snprintf(st.audit_detail, sizeof(st.audit_detail), "%s", upstream.detail);
		json = ready_json(&ready);
		root = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
		ck_assert_msg(root, "%s", json);
		ck_assert(json_is_false(json_object_get(root, "ready")));
		ck_assert_uint_eq(json_object_size(json_object_get(root, "checks")), 5);
		ck_assert_str_eq(json_string_value(json_object_get(root, "version")), MCP_TUNNEL_VERSION);
		json_decref(root);
	}
#endif
}
END_TEST

/* Lost, and the relay would let it go on: calls wait. Not when all streams are open already. */
START_TEST(resuming_and_room)
{
	_cleanup_(freep) char *waits = NULL, *full = NULL;
	char text[256];
	bool ready;

	session.state = SESSION_DIALLING;
	session.failure = SESSION_LOST;
	snprintf(session.detail, sizeof(session.detail), "reset by peer");
	st.resuming = true;
	waits = ready_json(&ready);
	ck_assert(ready);
	ck_assert(has(waits, "\"session\":{\"ok\":true,\"reason\":\"resuming\",\"detail\":\"reset by peer\",\"age_s\":4.5}"));
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Ready: resuming, calls wait: reset by peer");
	st.streams = st.max_streams = 7;
	full = ready_json(&ready);
	ck_assert(!ready);
	ck_assert(has(full, "\"room\":{\"ok\":false,\"reason\":\"max-streams\",\"detail\":\"7 of 7 streams are open\""));
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: all 7 streams are open (--max-streams)");
}
END_TEST

/* ---- metrics ---- */

struct family {
	char name[96], type[16];
};

static bool sample_of(const char *name, size_t len, const struct family *f)
{
	size_t n = strlen(f->name);

	if (len < n || strncmp(name, f->name, n) != 0)
		return false;
	if (strcmp(f->type, "counter") == 0)
		return len == n + 6 && strncmp(name + n, "_total", 6) == 0;
	if (strcmp(f->type, "info") == 0)
		return len == n + 5 && strncmp(name + n, "_info", 5) == 0;
	if (strcmp(f->type, "histogram") == 0)
		return (len == n + 7 && strncmp(name + n, "_bucket", 7) == 0) || (len == n + 4 && strncmp(name + n, "_sum", 4) == 0) ||
		       (len == n + 6 && strncmp(name + n, "_count", 6) == 0);
	return len == n;
}

/* NAME[{label="value"}] number */
static void check_sample(const char *line, const struct family *f)
{
	const char *p = line;
	char *end;

	while (isalnum((unsigned char)*p) || *p == '_')
		p++;
	ck_assert_msg(sample_of(line, (size_t)(p - line), f), "%s is none of %s %s", line, f->type, f->name);
	if (*p == '{') {
		p = strchr(p, '}');
		ck_assert_msg(p, "%s", line);
		p++;
	}
	ck_assert_msg(*p == ' ', "%s", line);
	strtod(p + 1, &end);
	ck_assert_msg(end > p + 1 && *end == '\0', "%s", line);
}

static unsigned check_metrics(char *text)
{
	struct family f = { 0 };
	struct family seen[64];
	unsigned n = 0, samples = 0;

	ck_assert(*text && text[strlen(text) - 1] == '\n');
	for (char *rest = text, *line; (line = strsep(&rest, "\n")) && *line;) {
		char name[96];

		if (sscanf(line, "# TYPE %95s %15s", f.name, f.type) == 2) {
			for (unsigned i = 0; i < n; i++)
				ck_assert_str_ne(seen[i].name, f.name);
			ck_assert_uint_lt(n, ARRAY_LEN(seen));
			seen[n++] = f;
			ck_assert_int_eq(strncmp(f.name, "mcp_tunnel_gateway_", 19), 0);
			samples = 0;
		} else if (sscanf(line, "# HELP %95s", name) == 1) {
			ck_assert_str_eq(name, f.name);
			ck_assert_uint_eq(samples, 0);
		} else {
			check_sample(line, &f);
			samples++;
		}
	}
	return n;
}

static char *metrics(void)
{
	struct buf b;

	buf_init(&b, 64 * 1024);
	ck_assert_int_eq(status_metrics(&st, &b), 0);
	return text_of(&b);
}

START_TEST(metrics_parse)
{
	_cleanup_(freep) char *text = metrics(), *copy = strdup(text);

	ck_assert_uint_ge(check_metrics(copy), 12);
	ck_assert(!has(text, "# EOF"));
}
END_TEST

START_TEST(metrics_say_what_is)
{
	_cleanup_(freep) char *text = NULL;

	exchanges.open = 7;
	exchanges.counters.started = 1ULL << 40;
	exchanges.counters.ended[TP_REASON_NONE] = 12;
	exchanges.counters.ended[TP_REASON_CANCELLED] = 5;
	exchanges.counters.response_bytes = UINT64_MAX;
	exchanges.counters.answers[5] = 8;
	openmetrics_observe(&exchanges.counters.added, 300);
	openmetrics_observe(&exchanges.counters.duration, 2000000);
	session.lost_total[SESSION_LOST] = 4;
	session.failed_total[SESSION_TOKEN_REFUSED] = 6;
	session.replayed_bytes_total = 777;
	st.pool = (struct upstream_pool){ .open = 9, .idle = 3, .dialled = 21, .failed = 2, .reused = 40, .retried = 1 };
	st.stalls = 11;
	st.streams = 10;
	st.certificate_until = 1800000000;
	text = metrics();
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_answers_total{status=\"5xx\"} 8\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_added_seconds_bucket{le=\"0.0005\"} 1\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_first_byte_seconds_count 0\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_duration_seconds_sum 2.000000\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_lost_total{reason=\"connection-lost\"} 4\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_lost_total{reason=\"relay-stopped\"} 0\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_attempts_failed_total{reason=\"token-refused\"} 6\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_lost_total{reason=\"token-revoked\"} 0\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_replayed_bytes_total 777\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_connections 9\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_connections_idle 3\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_dials_total 21\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_upstream_reused_total 40\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_credit_stalls_total 11\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_streams_open 10\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_certificate_expiry_timestamp_seconds 1800000000\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_calls_outcome_total{outcome=\"complete\"} 12\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_resident_memory_bytes "));
	ck_assert(has(text, "\nmcp_tunnel_gateway_ready 1\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_build_info{version=\"" MCP_TUNNEL_VERSION "\"} 1\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_exchanges_open 7\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_exchanges_started_total 1099511627776\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_attached_times_total 3\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_resumed_times_total 2\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_memory_bytes 4096\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_session_rtt_seconds 0.0015\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_response_bytes_total 18446744073709551615\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_calls_ended_total{reason=\"none\"} 12\n"));
	ck_assert(has(text, "\nmcp_tunnel_gateway_calls_ended_total{reason=\"cancelled\"} 5\n"));
	st.stopping = true;
	free(text);
	text = metrics();
	ck_assert(has(text, "\nmcp_tunnel_gateway_ready 0\n"));
}
END_TEST

START_TEST(every_reason_has_its_counter)
{
	_cleanup_(freep) char *text = metrics();

	for (uint32_t code = 0; code < ARRAY_LEN(exchanges.counters.ended); code++) {
		char sample[128];

		snprintf(sample, sizeof(sample), "{reason=\"%s\"} ", tp_reason_name(code));
		if (tp_reason_known(code))
			ck_assert_msg(has(text, sample), "%s", sample);
	}
}
END_TEST

START_TEST(metrics_that_do_not_fit_are_an_error)
{
	_cleanup_(freep) char *text = metrics();

	for (size_t max = 0; max < strlen(text); max += 16) {
		struct buf b;

		buf_init(&b, max);
		ck_assert_int_lt(status_metrics(&st, &b), 0);
		buf_done(&b);
	}
}
END_TEST

/* ---- one sentence ---- */

START_TEST(line)
{
	char text[256];

	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Ready: attached, MCP server http://127.0.0.1:9000/mcp reachable");
	upstream.reason = TP_REASON_UPSTREAM_UNREACHABLE;
	snprintf(upstream.detail, sizeof(upstream.detail), "refused");
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: MCP server http://127.0.0.1:9000/mcp: refused");
	upstream.known = false;
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: MCP server http://127.0.0.1:9000/mcp: not tried yet");
	st.audit_ok = false;
	snprintf(st.audit_detail, sizeof(st.audit_detail), "no space");
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: audit-unavailable: no space");
	ck_assert(!status_is_ready(&st));
	/* Calls go on without records. */
	upstream.known = st.audit_optional = true;
	upstream.reason = TP_REASON_NONE;
	ck_assert(status_is_ready(&st));
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Ready: attached, MCP server http://127.0.0.1:9000/mcp reachable; calls have no record: no space");
	session.state = SESSION_DIALLING;
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: dialling: no attempt has come to an end yet");
	session.failure = SESSION_RESOLVE;
	snprintf(session.detail, sizeof(session.detail), "no such name");
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Not ready: name-not-resolved: no such name");
	st.stopping = true;
	exchanges.open = 2;
	status_line(&st, text, sizeof(text));
	ck_assert_str_eq(text, "Stopping: 2 calls open");
	status_line(&st, text, 8);
	ck_assert_str_eq(text, "Stoppin");
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, NULL);

UNIT_MAIN("status", FIXTURE ADD(ready_means_all_of_it) ADD(only_attached_is_attached) ADD(every_check_names_its_reason)
	  ADD(upstream_not_tried_yet) ADD(each_route_has_a_check) ADD(json_is_valid_whatever_others_said) ADD(resuming_and_room) ADD(metrics_parse) ADD(metrics_say_what_is)
	  ADD(every_reason_has_its_counter) ADD(metrics_that_do_not_fit_are_an_error) ADD(line))
