#include "daemon/audit_calls.h"

#include <errno.h>
#include <stdarg.h>
#include <time.h>

#include "proto/reasons.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/unit.h"

/* audit_request() and its like are played by the test: what is asked of them is written to `said`, and verdicts come when the test
 * says so. */

#define CALL(id, args) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"tools/call\",\"params\":{\"name\":\"t\"" args "}}"
#define NOTE "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}"
#define RESPONSE "{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}"

enum { OPEN_MAX = 128, SAID_MAX = 64 * 1024 };

struct audit_open {
	bool there, decided;
	char id[64];
	audit_verdict_fn fn;
	void *user;
};

static struct audit_open opens[OPEN_MAX];
static size_t n_opens;
static int answer_now; /* what audit_request() returns; 0: a verdict comes later */
static size_t fail_at; /* the number of the request that is refused at once */
static char said[SAID_MAX];
static size_t said_len;

static struct loop *loop;
static struct worker *worker;
static struct audit_calls_shared shared;
static struct audit_hash hash;
static struct audit_calls *calls;
static struct mcp_scan *scan;
static struct buf body;
static int n_verdicts, verdict;
static bool end_in_verdict;

static void say(const char *fmt, ...) _printf_(1, 2);
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	said_len += (size_t)vsnprintf(said + said_len, sizeof(said) - said_len, fmt, ap);
	va_end(ap);
}

static void say_hash(const char *name, struct span s)
{
	if (s.p)
		say(" %s=%.*s", name, (int)MIN(s.len, (size_t)24), s.p);
}

int audit_request(struct audit *a, const struct audit_call *call, audit_verdict_fn on_verdict, void *user, struct audit_open **ret_open)
{
	struct audit_open *o = &opens[n_opens];

	say("request %.*s %.*s", SPAN_FMT(call->view->id), SPAN_FMT(call->view->method));
	say_hash("args", call->args_hash);
	say_hash("session", call->session_hash);
	say(" %.*s/%.*s/%.*s %.*s %.*s %llu;", SPAN_FMT(call->where.tunnel_id), SPAN_FMT(call->where.session_id), SPAN_FMT(call->where.peer),
	    SPAN_FMT(call->call_id), SPAN_FMT(call->agent), (unsigned long long)call->request_bytes);
	if (call->rule)
		say(" rule %s;", call->rule);
	if (answer_now || n_opens + 1 == fail_at) {
		*ret_open = NULL;
		return answer_now ? answer_now : -ENOSPC;
	}
	*o = (struct audit_open){ .there = true, .fn = on_verdict, .user = user };
	snprintf(o->id, sizeof(o->id), "%.*s", SPAN_FMT(call->view->id));
	n_opens++;
	*ret_open = o;
	return 0;
}

void audit_response(struct audit *a, struct audit_open *o, const struct audit_ending *e)
{
	if (!o)
		return;
	ck_assert(o->there);
	o->there = false;
	if (!o->decided) {
		say("withdrawn %s;", o->id);
		return;
	}
	say("response %s %s %u", o->id, tp_reason_name(e->reason), e->http_status);
	if (e->has_answer)
		say(" %s", e->is_error ? "tool-error" : e->has_rpc_error ? "rpc-error" : "answered");
	if (e->has_rpc_error)
		say(" %lld", (long long)e->rpc_error_code);
	say(" %llu bytes %llu events %llu us %.*s;", (unsigned long long)e->response_bytes, (unsigned long long)e->response_events,
	    (unsigned long long)e->ttfb_us, SPAN_FMT(e->peer_head));
}

void audit_denied(struct audit *a, const struct audit_call *call, uint32_t reason, const char *rule)
{
	say("denied %s %s", tp_reason_name(reason), rule);
	if (call->view)
		say(" %.*s", SPAN_FMT(call->view->method));
	say_hash("args", call->args_hash);
	say_hash("session", call->session_hash);
	say(" %.*s %.*s %llu;", SPAN_FMT(call->call_id), SPAN_FMT(call->agent), (unsigned long long)call->request_bytes);
}

/* The sink has decided about one that waits. */
static void decide(size_t i, int r)
{
	ck_assert(opens[i].there && !opens[i].decided);
	opens[i].decided = true;
	if (r < 0)
		opens[i].there = false;
	opens[i].fn(opens[i].user, r);
}

static bool hash_fails;
int __real_audit_hash_arguments(const struct audit_hash *h, struct span arguments, char *out);
int __wrap_audit_hash_arguments(const struct audit_hash *h, struct span arguments, char *out);
int __wrap_audit_hash_arguments(const struct audit_hash *h, struct span arguments, char *out)
{
	return hash_fails ? -ENOMEM : __real_audit_hash_arguments(h, arguments, out);
}

/* ---- the case ---- */

static void setup(void)
{
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 2, &worker), 0);
	ck_assert_int_eq(audit_hash_init(&hash, SPAN("secret")), 0);
	shared = (struct audit_calls_shared){ .audit = (struct audit *)&opens, .worker = worker };
	n_opens = said_len = fail_at = 0;
	answer_now = n_verdicts = 0;
	verdict = INT32_MAX;
	end_in_verdict = hash_fails = false;
	said[0] = '\0';
	buf_init(&body, 64 << 20);
}

static void teardown(void)
{
	calls = audit_calls_end(calls, TP_REASON_NONE);
	scan = mcp_scan_free(scan);
	buf_done(&body);
	worker = worker_free(worker);
	loop = loop_free(loop);
	for (size_t i = 0; i < n_opens; i++)
		ck_assert_msg(!opens[i].there, "%s is owed its response", opens[i].id);
}

static void begin(struct span mcp_session_id)
{
	/* On the stack, and written over: copies must have been made. */
	char text[] = "tunnel session peer call-id alice bearer";
	const struct audit_call facts = {
		.where = { span_make(text, 6), span_make(text + 7, 7), span_make(text + 15, 4) },
		.call_id = span_make(text + 20, 7),
		.agent = span_make(text + 28, 5),
		.agent_auth = span_make(text + 34, 6),
	};

	ck_assert_int_eq(audit_calls_new(&shared, &facts, mcp_session_id, &hash, &calls), 0);
	memset(text, 'x', sizeof(text));
}

static void on_verdict(void *user, int r)
{
	n_verdicts++;
	verdict = r;
	if (end_in_verdict)
		calls = audit_calls_end(calls, TP_REASON_AUDIT_UNAVAILABLE);
}

static void scan_body(void)
{
	struct mcp_view view;

	ck_assert_int_eq(mcp_scan_new(&scan), 0);
	ck_assert_int_eq(mcp_scan_feed(scan, buf_bytes(&body), buf_len(&body)), 0);
	mcp_scan_finish(scan, &view);
}

static int request(const char *text)
{
	if (!calls)
		begin(SPAN(""));
	ck_assert_int_eq(buf_add_str(&body, text), 0);
	scan_body();
	return audit_calls_request(calls, scan, &body, on_verdict, NULL);
}

static void answer(unsigned status, const char *type, const char *text)
{
	const struct audit_calls_head head = {
		.status = status,
		.content_type = span_of(type),
		.ttfb_us = 77,
		.peer_head = SPAN("C:1:H"),
	};

	audit_calls_answer_head(calls, &head);
	for (size_t i = 0; text[i]; i++)
		audit_calls_answer_data(calls, text + i, 1);
}

static void end(uint32_t reason)
{
	said_len = 0;
	said[0] = '\0';
	calls = audit_calls_end(calls, reason);
}

#define expect(text) ck_assert_str_eq(said, text)

static void assert_said(const char *part)
{
	ck_assert_msg(strstr(said, part) != NULL, "%s is not in: %s", part, said);
}

static void run_ms(unsigned ms)
{
	loop_ms(loop, ms);
}

#define run_until(cond)                                                                                                \
	do {                                                                                                           \
		for (unsigned i_ = 0; i_ < 6000 && !(cond); i_++)                                                      \
			run_ms(10);                                                                                    \
		ck_assert_msg((cond), "%s", #cond);                                                                    \
	} while (0)

/* ---- one call ---- */

START_TEST(one_call)
{
	begin(SPAN("mcp-session"));
	ck_assert_int_eq(request(CALL("1", ",\"arguments\":{\"b\":1,\"a\":2}")), 0);
	ck_assert(audit_calls_recorded(calls));
	assert_said("request 1 tools/call args=hmac-sha256-jcs:");
	assert_said(" session=hmac-sha256:");
	assert_said(" tunnel/session/peer call-id alice 94;");
	ck_assert_int_eq(n_verdicts, 0);
	decide(0, 0);
	ck_assert_int_eq(n_verdicts, 1);
	ck_assert_int_eq(verdict, 0);
	answer(200, "application/json", "{\"id\":1,\"result\":{\"isError\":true}}");
	end(TP_REASON_NONE);
	expect("response 1 none 200 tool-error 34 bytes 0 events 77 us C:1:H;");
}
END_TEST

START_TEST(answers)
{
	static const struct {
		const char *type, *text, *want;
	} rows[] = {
		{ "application/json", "{\"id\":1,\"result\":{}}", "response 1 none 200 answered 20 bytes 0 events 77 us C:1:H;" },
		{ "application/json", "{\"id\":1,\"error\":{\"code\":-5}}", "response 1 none 200 rpc-error -5 28 bytes 0 events 77 us C:1:H;" },
		{ "text/event-stream", "data:{\"id\":1,\"result\":{\"isError\":true}}\n\n:\n\ndata:x\n\n",
		  "response 1 none 200 tool-error 52 bytes 2 events 77 us C:1:H;" },
		{ "text/plain", "{\"id\":1,\"result\":{\"isError\":true}}", "response 1 none 200 34 bytes 0 events 77 us C:1:H;" },
		{ "application/json", "{\"id\":2,\"result\":{\"isError\":true}}", "response 1 none 200 34 bytes 0 events 77 us C:1:H;" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ck_assert_int_eq(request(CALL("1", "")), 0);
		decide(i, 0);
		answer(200, rows[i].type, rows[i].text);
		end(TP_REASON_NONE);
		expect(rows[i].want);
		scan = mcp_scan_free(scan);
		buf_clear(&body);
	}
}
END_TEST

START_TEST(encoded_answers_say_nothing)
{
	const struct audit_calls_head head = { .status = 200, .content_type = SPAN("application/json"), .encoded = true };

	ck_assert_int_eq(request(CALL("1", "")), 0);
	decide(0, 0);
	audit_calls_answer_head(calls, &head);
	audit_calls_answer_data(calls, "{\"id\":1,\"result\":{\"isError\":true}}", 34);
	end(TP_REASON_NONE);
	expect("response 1 none 200 34 bytes 0 events 0 us ;");
}
END_TEST

START_TEST(refused)
{
	ck_assert_int_eq(request(CALL("1", "")), 0);
	end_in_verdict = true;
	decide(0, -EPIPE);
	ck_assert_int_eq(n_verdicts, 1);
	ck_assert_int_eq(verdict, -EPIPE);
	ck_assert_ptr_null(calls);
}
END_TEST

START_TEST(refused_at_once)
{
	fail_at = 1;
	ck_assert_int_eq(request(CALL("1", "")), -ENOSPC);
	end(TP_REASON_AUDIT_UNAVAILABLE);
	expect("");
	ck_assert_int_eq(n_verdicts, 0);
}
END_TEST

START_TEST(accepted_at_once)
{
	answer_now = AUDIT_AT_ONCE;
	ck_assert_int_eq(request(CALL("1", "")), AUDIT_AT_ONCE);
	answer(200, "application/json", "{}");
	end(TP_REASON_NONE);
	expect("");
	ck_assert_int_eq(n_verdicts, 0);
}
END_TEST

START_TEST(ended_before_the_verdict)
{
	ck_assert_int_eq(request(CALL("1", "")), 0);
	end(TP_REASON_CANCELLED);
	expect("withdrawn 1;");
	ck_assert_int_eq(n_verdicts, 0);
}
END_TEST

START_TEST(no_hash)
{
	hash_fails = true;
	ck_assert_int_eq(request(CALL("1", ",\"arguments\":1")), -ENOMEM);
	expect("");
	end(TP_REASON_AUDIT_UNAVAILABLE);
	scan = mcp_scan_free(scan);
	buf_clear(&body);
	/* Told to go on without: the record has no hash, rather than a wrong one. */
	shared.allow_on_failure = true;
	ck_assert_int_eq(request(CALL("1", ",\"arguments\":1")), 0);
	expect("request 1 tools/call tunnel/session/peer call-id alice 82;");
	decide(0, 0);
}
END_TEST

START_TEST(without_audit)
{
	shared.audit = NULL;
	ck_assert_int_eq(request(CALL("1", ",\"arguments\":1")), AUDIT_AT_ONCE);
	ck_assert(!audit_calls_recorded(calls));
	audit_calls_denied(calls, NULL, NULL, TP_REASON_POLICY, "x");
	answer(200, "application/json", "{\"id\":1,\"result\":{}}");
	end(TP_REASON_NONE);
	expect("");
}
END_TEST

START_TEST(no_calls)
{
	ck_assert_int_eq(request(RESPONSE), AUDIT_AT_ONCE);
	ck_assert(!audit_calls_recorded(calls));
	end(TP_REASON_NONE);
	expect("");
}
END_TEST

START_TEST(a_bad_body_is_one_call)
{
	ck_assert_int_eq(request("no JSON"), 0);
	assert_said("request   args=none");
	decide(0, 0);
	end(TP_REASON_BAD_REQUEST);
	expect("response  bad-request 0 0 bytes 0 events 0 us ;");
}
END_TEST

/* ---- batches ---- */

START_TEST(batch)
{
	ck_assert_int_eq(request("[" CALL("1", ",\"arguments\":[1]") "," RESPONSE "," NOTE "," CALL("\"1\"", "") "]"), 0);
	ck_assert_uint_eq(n_opens, 3);
	assert_said("request 1 tools/call args=hmac-sha256-jcs:");
	assert_said("request  notifications/x args=none");
	assert_said("request \"1\" tools/call args=none");
	decide(0, 0);
	decide(1, 0);
	ck_assert_int_eq(n_verdicts, 0);
	decide(2, 0);
	ck_assert_int_eq(n_verdicts, 1);
	answer(200, "application/json", "[{\"id\":\"1\",\"error\":{\"code\":3}},{\"id\":1,\"result\":{}}]");
	end(TP_REASON_NONE);
	expect("response 1 none 200 answered 52 bytes 0 events 77 us C:1:H;"
	       "response  none 200 52 bytes 0 events 77 us C:1:H;"
	       "response \"1\" none 200 rpc-error 3 52 bytes 0 events 77 us C:1:H;");
}
END_TEST

static bool would_deny(const void *user, const struct mcp_view *view, char rule[AUDIT_CALLS_RULE_MAX])
{
	snprintf(rule, AUDIT_CALLS_RULE_MAX, "%s %.*s", (const char *)user, SPAN_FMT(view->id));
	return span_is(view->method, "tools/call") && !span_is(view->id, "1");
}

/* Each message is judged for itself. */
START_TEST(rule_that_is_tried_out)
{
	shared.would_deny = would_deny;
	shared.user = "no";
	ck_assert_int_eq(request("[" CALL("1", "") "," NOTE "," CALL("2", "") "]"), 0);
	ck_assert_uint_eq(n_opens, 3);
	assert_said("request 2 tools/call");
	assert_said(" rule no 2;");
	ck_assert_ptr_eq(strstr(said, " rule "), strstr(said, " rule no 2;"));
	end(TP_REASON_NONE);
}
END_TEST

/* All or nothing: the second is refused later, the first is written down already, the third is not yet. */
START_TEST(batch_refused_in_the_middle)
{
	ck_assert_int_eq(request("[" CALL("1", "") "," CALL("2", "") "," CALL("3", "") "]"), 0);
	decide(0, 0);
	said_len = 0;
	decide(1, -ENOSPC);
	expect("response 1 audit-unavailable 0 0 bytes 0 events 0 us ;withdrawn 3;");
	ck_assert_int_eq(n_verdicts, 1);
	ck_assert_int_eq(verdict, -ENOSPC);
	end(TP_REASON_AUDIT_UNAVAILABLE);
	expect("");
}
END_TEST

START_TEST(batch_refused_at_once)
{
	fail_at = 3;
	ck_assert_int_eq(request("[" CALL("1", "") "," CALL("2", "") "," CALL("3", "") "]"), -ENOSPC);
	assert_said("withdrawn 1;withdrawn 2;");
	end(TP_REASON_AUDIT_UNAVAILABLE);
	expect("");
}
END_TEST

/* ---- denials ---- */

START_TEST(denials)
{
	struct mcp_view view;

	begin(SPAN("s"));
	ck_assert_int_eq(buf_add_str(&body, CALL("1", ",\"arguments\":{}")), 0);
	scan_body();
	mcp_scan_message(scan, 0, &view);
	audit_calls_denied(calls, &view, &body, TP_REASON_POLICY, "deny-tool");
	assert_said("denied policy deny-tool tools/call args=hmac-sha256-jcs:");
	assert_said(" session=hmac-sha256:");
	assert_said(" call-id alice 83;");
	said_len = 0;
	audit_calls_denied(calls, NULL, NULL, TP_REASON_TOO_LARGE, "limit");
	assert_said("denied too-large limit session=hmac");
	end(TP_REASON_POLICY);
	expect("");
}
END_TEST

START_TEST(refusals_without_a_call)
{
	const struct audit_call facts = { .agent = SPAN("bob") };

	audit_calls_refused(&shared, &facts, SPAN("s"), &hash, TP_REASON_NOT_ATTACHED, "");
	assert_said("denied not-attached  session=hmac-sha256:");
	said_len = 0;
	audit_calls_refused(&shared, &facts, SPAN("s"), NULL, TP_REASON_NOT_ATTACHED, "");
	expect("denied not-attached   bob 0;");
}
END_TEST

/* ---- much ---- */

/* An object of many numbers, to be put in order: what takes longest. */
static void add_large(size_t bytes)
{
	static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"t\",\"arguments\":{";
	unsigned n = 0;

	ck_assert_int_eq(buf_add_str(&body, head), 0);
	for (; buf_len(&body) < bytes; n++)
		ck_assert_int_eq(buf_printf(&body, "\"key%u\":%u.5,", n * 7919 % 1000003, n), 0);
	ck_assert_int_eq(buf_add_str(&body, "\"z\":0}}}"), 0);
	if (!calls)
		begin(SPAN(""));
	scan_body();
}

static double thread_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The loop's thread does next to nothing of it. */
START_TEST(large_arguments_do_not_hold_the_loop_up)
{
	char want[AUDIT_HASH_TEXT_LEN + 1];
	double took, alone;
	struct mcp_view view;

	add_large(16 << 20);
	took = thread_seconds();
	ck_assert_int_eq(audit_calls_request(calls, scan, &body, on_verdict, NULL), 0);
	took = thread_seconds() - took;
	expect("");
	run_until(n_opens == 1);
	mcp_scan_message(scan, 0, &view);
	alone = thread_seconds();
	ck_assert_int_eq(audit_hash_arguments(&hash, span_make(buf_bytes(&body) + view.arguments_at, (size_t)view.arguments_len), want), 0);
	alone = thread_seconds() - alone;
	want[24] = '\0';
	assert_said(want);
	printf("# 16 MiB of arguments: %.3f ms on the loop, %.1f ms on a thread\n", took * 1000, alone * 1000);
	ck_assert_msg(took < alone / 10 && took < 0.005, "%.6f s on the loop, %.6f s for all", took, alone);
	decide(0, 0);
	ck_assert_int_eq(verdict, 0);
}
END_TEST

START_TEST(refused_after_hashing)
{
	fail_at = 1;
	end_in_verdict = true;
	add_large(100 << 10);
	ck_assert_int_eq(audit_calls_request(calls, scan, &body, on_verdict, NULL), 0);
	run_until(n_verdicts == 1);
	ck_assert_int_eq(verdict, -ENOSPC);
}
END_TEST

START_TEST(accepted_after_hashing)
{
	answer_now = AUDIT_AT_ONCE;
	add_large(100 << 10);
	ck_assert_int_eq(audit_calls_request(calls, scan, &body, on_verdict, NULL), 0);
	run_until(n_verdicts == 1);
	ck_assert_int_eq(verdict, 0);
}
END_TEST

/* The body is read by a thread, or about to be: it outlives the call. */
START_TEST(ended_while_hashing)
{
	for (unsigned i = 0; i < 6; i++) {
		buf_clear(&body);
		add_large(2 << 20);
		ck_assert_int_eq(audit_calls_request(calls, scan, &body, on_verdict, NULL), 0);
		if (i % 2)
			run_ms(1);
		calls = audit_calls_end(calls, TP_REASON_CANCELLED);
		scan = mcp_scan_free(scan);
	}
	run_ms(50);
	expect("");
	ck_assert_int_eq(n_verdicts, 0);
	/* One more that nobody waits for at the end of the program. */
	buf_clear(&body);
	add_large(2 << 20);
	ck_assert_int_eq(audit_calls_request(calls, scan, &body, on_verdict, NULL), 0);
}
END_TEST

UNIT_MAIN("audit_calls", tcase_add_checked_fixture(tc, setup, teardown); ADD(one_call) ADD(answers) ADD(encoded_answers_say_nothing)
	  ADD(refused) ADD(refused_at_once) ADD(accepted_at_once) ADD(ended_before_the_verdict) ADD(no_hash) ADD(without_audit) ADD(no_calls)
	  ADD(a_bad_body_is_one_call) ADD(batch) ADD(rule_that_is_tried_out) ADD(batch_refused_in_the_middle) ADD(batch_refused_at_once) ADD(denials)
	  ADD(refusals_without_a_call) ADD(large_arguments_do_not_hold_the_loop_up) ADD(refused_after_hashing)
	  ADD(accepted_after_hashing) ADD(ended_while_hashing))
