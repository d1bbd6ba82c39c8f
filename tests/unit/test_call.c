#include "relay/call.h"

#include "base/log.h"
#include "daemon/digest.h"
#include "relay/hold.h"
#include "tests/lib/head.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/unit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* A relay with one tunnel, and a gateway at the other end of a socket pair that does what each test says. The front is played by the
 * test, too. */

#define POST "POST /t/a/mcp HTTP/1.1\r\nHost: relay.example\r\nContent-Length: 10\r\nAccept: x\r\n\r\n"

static struct relay_config cfg;
static struct relay relay;
static char dir[] = "/tmp/test_call.XXXXXX";
static uint8_t token_hash[SHA256_LEN];
static uint32_t lost_reason;
static bool lost_fatal;
static const struct audit_hash no_hash;
static struct transport *gateway;
static struct tp_stream *stream; /* the gateway's end */
static struct tp_event opened;   /* numbers only */
static char opened_fields[1024];
static size_t got;
static bool got_end, got_reset;
static uint32_t got_reason;

static struct call *call;
static const char *why; /* the body was not taken */
static unsigned outputs, failures;
static uint32_t failure;
static char failure_detail[256];
static char answer[65536];
static size_t answer_len;

/* ---- the loop ---- */

static void run_ms(unsigned ms)
{
	loop_ms(relay.loop, ms);
}

#define run_until(cond)                                                                                                \
	do {                                                                                                           \
		for (unsigned i_ = 0; i_ < 5000 && !(cond); i_++)                                                      \
			run_ms(2);                                                                                     \
		ck_assert_msg((cond), "%s", #cond);                                                                    \
	} while (0)

/* ---- the gateway ---- */

static void note_fields(const struct tp_event *ev)
{
	size_t len = 0;

	for (size_t i = 0; i < ev->n_fields; i++)
		len += (size_t)snprintf(opened_fields + len, sizeof(opened_fields) - len, "%.*s=%.*s;",
					SPAN_FMT(ev->fields[i].name), SPAN_FMT(ev->fields[i].value));
}

static void on_event(void *user, struct tp_event *ev)
{
	switch (ev->type) {
	case TP_EV_OPEN:
		stream = ev->stream;
		opened.end = ev->end;
		note_fields(ev);
		break;
	case TP_EV_DATA:
		got += ev->len;
		got_end = ev->end;
		tp_stream_consumed(ev->stream, ev->len, loop_now_us(relay.loop));
		break;
	case TP_EV_RESET:
		got_reset = true;
		got_reason = ev->reason;
		stream = tp_stream_release(ev->stream);
		break;
	default:
		break;
	}
}

static void on_lost(void *user, uint32_t reason, const char *detail, bool fatal)
{
	lost_reason = reason;
	lost_fatal = fatal;
}

static const struct transport_ops gateway_ops = { .on_event = on_event, .on_lost = on_lost };

/* ---- set up ---- */

static size_t nothing(void *user, uint8_t *dst, size_t room)
{
	return 0;
}

static void no_data(void *user, uint8_t *data, size_t len)
{
}

static void no_close(void *user, enum channel_end end, int error, const char *detail)
{
}

static const struct channel_ops before = { .on_data = no_data, .on_pull = nothing, .on_closed = no_close };

static struct channel *channel_on(int fd, bool server)
{
	const struct channel_options opt = { .server = server };
	struct channel *c;

	ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	ck_assert_int_eq(channel_new(relay.loop, fd, &opt, &before, NULL, &c), 0);
	return c;
}

/* A registry whose one tunnel is "a". */
static void make_registry(void)
{
	char token[TOKEN_TEXT_MAX + 1], err[512];

	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(registry_open(dir, err, sizeof(err), &relay.registry), 0);
	ck_assert_int_eq(registry_tunnel_add(relay.registry, "a", token, err, sizeof(err)), 0);
	ck_assert_int_eq(digest_sha256(token, strlen(token), token_hash), 0);
}

static void remove_registry(void)
{
	static const char *const names[] = { "tunnels", "agents", "lock" };
	char path[100];

	relay.registry = registry_free(relay.registry);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void setup(void)
{
	struct tp_config tp;
	struct channel *c[2];
	int fd[2];

	log_set_level(LOG_LEVEL_ERROR);
	cfg = (struct relay_config){ .keepalive_ms = 20000, .max_request_bytes = 1000, .max_streams = 100 };
	relay = (struct relay){ .magic = RELAY_MAGIC, .cfg = &cfg };
	TAILQ_INIT(&relay.fronts);
	TAILQ_INIT(&relay.attached);
	make_registry();
	ck_assert_int_eq(loop_new(&relay.loop), 0);
	ck_assert_int_eq(hold_new(relay.loop, 0, &relay.hold), 0);
	tp_config_init(&tp, TP_GATEWAY, random_bytes);
	ck_assert_int_eq(transport_new(relay.loop, &tp, &gateway_ops, NULL, &gateway), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	c[0] = channel_on(fd[0], false);
	c[1] = channel_on(fd[1], true);
	run_ms(5);
	attach_begin(&relay, c[1], "a", token_hash, &no_hash, NULL, 0);
	ck_assert_int_eq(transport_attach(gateway, c[0], NULL, 0), 0);
	run_until(attach_pick(&relay, SPAN("a")));
}

static void teardown(void)
{
	call = call_free(call);
	attach_stop_all(&relay);
	transport_free(gateway);
	relay.hold = hold_free(relay.hold);
	relay.loop = loop_free(relay.loop);
	ck_assert_uint_eq(relay.calls_open, 0);
	remove_registry();
}

/* ---- the front ---- */

static void on_output(void *user)
{
	outputs++;
}

static void on_writable(void *user)
{
}

static void on_failed(void *user, uint32_t reason, const char *detail)
{
	failures++;
	failure = reason;
	snprintf(failure_detail, sizeof(failure_detail), "%s", detail);
}

static const struct call_handler handler = { .on_output = on_output, .on_writable = on_writable, .on_failed = on_failed };

static void begin(const char *text)
{
	const struct request q = { .tunnel = SPAN_INIT("a"), .route = SPAN_INIT(""), .query = SPAN_INIT("q=1") };
	struct http1_reader reader;
	struct call_start start = { .request = &q, .agent = "bob", .agent_auth = "bearer" };

	start.attached = attach_pick(&relay, q.tunnel);
	start.head = head_read(&reader, HTTP1_REQUEST, text);
	start.end = start.head->body == HTTP1_BODY_NONE;
	ck_assert_int_eq(call_new(&relay, &start, &handler, NULL, &call), 0);
	http1_reader_done(&reader);
	run_until(stream);
}

static uint32_t body(const char *text, bool end)
{
	why = NULL;
	return call_body(call, (const uint8_t *)text, strlen(text), end, &why);
}

/* Everything there is, in pieces of at most so many bytes. */
static void pull(size_t room)
{
	size_t n;

	do {
		n = call_pull(call, (uint8_t *)answer + answer_len, MIN(room, sizeof(answer) - 1 - answer_len));
		answer_len += n;
	} while (n);
	answer[answer_len] = '\0';
}

static void head(const char *status, const char *length, bool end)
{
	struct tp_field fields[3] = { { SPAN_INIT(":status"), span_of(status) }, { SPAN_INIT("X-A"), SPAN_INIT("1") } };
	size_t n = 2;

	if (length)
		fields[n++] = (struct tp_field){ SPAN("Content-Length"), span_of(length) };
	ck_assert_int_eq(tp_stream_head(stream, fields, n, end), 0);
	transport_kick(gateway);
}

static void data(const char *text, bool end)
{
	ck_assert_int_eq(tp_stream_send(stream, text, strlen(text), end), 0);
	transport_kick(gateway);
}

/* ---- good ones ---- */

START_TEST(what_the_gateway_is_told)
{
	begin(POST);
	ck_assert(!opened.end);
	ck_assert_ptr_nonnull(strstr(opened_fields, ":kind=exchange;:route=;:method=POST;:call="));
	ck_assert_ptr_nonnull(strstr(opened_fields, ";:agent=bob;:agent-auth=bearer;:query=q=1;Accept=x;"));
	ck_assert_ptr_null(strstr(opened_fields, "Host"));
	ck_assert_ptr_null(strstr(opened_fields, "Content-Length"));
	ck_assert_uint_eq(body("0123", false), TP_REASON_NONE);
	ck_assert_uint_eq(body("456789", true), TP_REASON_NONE);
	run_until(got == 10 && got_end);
}
END_TEST

START_TEST(an_answer_with_a_length)
{
	begin(POST);
	body("0123456789", true);
	head("200", "5", false);
	data("hello", true);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(1000);
	ck_assert_str_eq(answer, "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello");
	ck_assert(call_is_done(call) && !call_is_cut(call));
}
END_TEST

START_TEST(an_answer_in_chunks_through_a_small_hole)
{
	begin(POST);
	body("0123456789", true);
	head("404", NULL, false);
	data("hello", false);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(40);
	ck_assert(!call_is_done(call));
	data("world", true);
	run_ms(10);
	pull(40);
	ck_assert_str_eq(answer, "HTTP/1.1 404 Not Found\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n");
	ck_assert(call_is_done(call));
}
END_TEST

START_TEST(answers_without_a_body)
{
	begin("GET /t/a/mcp HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n\r\n");
	ck_assert(opened.end);
	head("204", NULL, true);
	run_until(call_has_begun(call));
	pull(1000);
	/* The agent wants no other answer on this connection. */
	ck_assert_str_eq(answer, "HTTP/1.1 204 No Content\r\nX-A: 1\r\nConnection: close\r\n\r\n");
	ck_assert(call_is_done(call));
}
END_TEST

START_TEST(an_answer_before_the_request_is_whole)
{
	begin(POST);
	body("0123", false);
	head("413", "2", false);
	data("no", true);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(1000);
	ck_assert_str_eq(answer, "HTTP/1.1 413 Content Too Large\r\nX-A: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
	ck_assert(call_is_done(call));
	ck_assert_uint_eq(body("456789", true), TP_REASON_NONE);
}
END_TEST

START_TEST(freed_is_cancelled)
{
	begin(POST);
	call = call_free(call);
	run_until(got_reset);
	ck_assert_uint_eq(got_reason, TP_REASON_CANCELLED);
}
END_TEST

/* ---- what goes wrong ---- */

START_TEST(a_session_that_ends_under_a_request)
{
	begin(POST);
	body("0123", false);
	attach_stop_all(&relay);
	ck_assert_uint_eq(failures, 1);
	ck_assert_uint_eq(failure, TP_REASON_RELAY_STOPPED);
	run_ms(10);
	/* The rest of the body still comes, and goes nowhere. */
	ck_assert_uint_eq(body("456789", true), TP_REASON_NONE);
	ck_assert(call_wants_body(call));
	run_ms(10);
}
END_TEST

START_TEST(a_session_that_ends_under_an_answer)
{
	begin(POST);
	body("0123", false);
	head("200", NULL, false);
	data("hel", false);
	run_until(call_has_begun(call));
	run_ms(10);
	attach_stop_all(&relay);
	run_ms(10);
	ck_assert_uint_eq(failures, 0);
	body("456789", true);
	pull(1000);
	/* Cut, and not ended. */
	ck_assert_ptr_nonnull(strstr(answer, "3\r\nhel\r\n"));
	ck_assert_ptr_null(strstr(answer, "0\r\n\r\n"));
	ck_assert(call_is_cut(call) && !call_is_done(call));
}
END_TEST

START_TEST(a_request_that_is_too_large)
{
	static char big[1002];

	memset(big, 'x', sizeof(big) - 1);
	begin(POST);
	ck_assert_uint_eq(body(big, false), TP_REASON_TOO_LARGE);
	ck_assert_str_eq(why, "--max-request-bytes of the relay");
	ck_assert_uint_eq(body(big, true), TP_REASON_TOO_LARGE);
	ck_assert_uint_eq(failures, 0);
	run_until(got_reset);
	ck_assert_uint_eq(got_reason, TP_REASON_TOO_LARGE);
}
END_TEST

START_TEST(too_large_after_the_answer_has_begun)
{
	static char big[1002];

	memset(big, 'x', sizeof(big) - 1);
	begin(POST);
	head("200", NULL, false);
	run_until(call_has_begun(call));
	pull(1000);
	outputs = 0;
	ck_assert_uint_eq(body(big, false), TP_REASON_TOO_LARGE);
	ck_assert_uint_ge(outputs, 1);
	pull(1000);
	ck_assert(call_is_cut(call));
}
END_TEST

START_TEST(reset_before_the_answer)
{
	begin(POST);
	tp_stream_reset(stream, TP_REASON_POLICY, "no such tool");
	transport_kick(gateway);
	run_until(failures == 1);
	ck_assert_uint_eq(failure, TP_REASON_POLICY);
	ck_assert_str_eq(failure_detail, "no such tool");
	ck_assert(!call_has_begun(call));
	stream = tp_stream_release(stream);
}
END_TEST

START_TEST(a_reason_that_nobody_knows)
{
	begin(POST);
	tp_stream_reset(stream, 9999, NULL);
	transport_kick(gateway);
	run_until(failures == 1);
	ck_assert_uint_eq(failure, TP_REASON_INTERNAL);
}
END_TEST

START_TEST(a_status_that_is_none)
{
	static const char *const statuses[] = { "99", "100", "101", "199", "600", "1000", "20x", "", "+200", "200 " };

	begin(POST);
	head(statuses[_i], NULL, false);
	run_until(failures == 1);
	ck_assert_uint_eq(failure, TP_REASON_PROTOCOL);
	pull(1000);
	ck_assert_uint_eq(answer_len, 0);
}
END_TEST

START_TEST(longer_than_its_length)
{
	begin(POST);
	head("200", "3", false);
	data("hello", true);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(1000);
	ck_assert(call_is_cut(call));
	ck_assert_ptr_null(strstr(answer, "hello"));
}
END_TEST

START_TEST(shorter_than_its_length)
{
	begin(POST);
	head("200", "9", false);
	data("hello", true);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(1000);
	ck_assert_ptr_nonnull(strstr(answer, "hello"));
	ck_assert(call_is_cut(call) && !call_is_done(call));
}
END_TEST

START_TEST(a_length_that_is_none)
{
	begin(POST);
	head("200", "5, 5", false);
	run_until(failures == 1);
	ck_assert_uint_eq(failure, TP_REASON_PROTOCOL);
}
END_TEST

START_TEST(a_body_where_there_is_none)
{
	begin(POST);
	head("204", NULL, false);
	data("smuggled", true);
	run_until(call_has_begun(call));
	run_ms(10);
	pull(1000);
	ck_assert_ptr_null(strstr(answer, "smuggled"));
	ck_assert(call_is_cut(call));
}
END_TEST

static void seen(void *user, const struct attach_info *i)
{
	*(struct attach_info *)user = *i;
}

/* Its token is rotated out: named at both ends, and nobody can attach with it. */
START_TEST(a_session_whose_token_ends)
{
	char token[TOKEN_TEXT_MAX + 1], err[512];
	struct attach_info i = { 0 };
	struct channel *late;
	int fd[2];

	begin(POST);
	attach_revoke(&relay);
	ck_assert_ptr_nonnull(attach_pick(&relay, SPAN("a")));
	attach_each(&relay, seen, &i);
	ck_assert_int_eq(i.state, ATTACH_UP);
	ck_assert_int_eq(i.token, REGISTRY_TOKEN_NEWEST);
	ck_assert_uint_eq(i.calls, 1);
	ck_assert_str_eq(i.tunnel_id, "a");

	ck_assert_int_eq(registry_tunnel_rotate(relay.registry, "a", REGISTRY_OLD_STAYS, token, err, sizeof(err)), 0);
	attach_revoke(&relay);
	attach_each(&relay, seen, &i);
	ck_assert_int_eq(i.token, REGISTRY_TOKEN_OLD);
	ck_assert_uint_eq(failures, 0);

	ck_assert_int_eq(registry_tunnel_end_old(relay.registry, "a", err, sizeof(err)), 0);
	attach_revoke(&relay);
	ck_assert_uint_eq(failures, 1);
	ck_assert_uint_eq(failure, TP_REASON_TOKEN_REVOKED);
	ck_assert_ptr_null(attach_pick(&relay, SPAN("a")));
	run_until(got_reset && lost_fatal);
	ck_assert_uint_eq(got_reason, TP_REASON_TOKEN_REVOKED);
	ck_assert_uint_eq(lost_reason, TP_REASON_TOKEN_REVOKED);

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	late = channel_on(fd[1], true);
	run_ms(5);
	attach_begin(&relay, late, "a", token_hash, &no_hash, NULL, 0);
	run_ms(5);
	ck_assert(TAILQ_EMPTY(&relay.attached));
	ck_assert_int_eq(read(fd[0], err, 1), 0);
	close(fd[0]);
}
END_TEST

START_TEST(aborted_before_the_answer)
{
	begin(POST);
	call_abort(call, TP_REASON_KEY_REVOKED, "the agent was removed");
	ck_assert_uint_eq(failures, 1);
	ck_assert_uint_eq(failure, TP_REASON_KEY_REVOKED);
	ck_assert_str_eq(failure_detail, "the agent was removed");
	run_until(got_reset);
	ck_assert_uint_eq(got_reason, TP_REASON_KEY_REVOKED);
}
END_TEST

START_TEST(aborted_in_the_answer)
{
	begin(POST);
	body("0123456789", true);
	head("200", "5", false);
	run_until(call_has_begun(call));
	call_abort(call, TP_REASON_KEY_REVOKED, "the agent was removed");
	pull(1000);
	ck_assert(call_is_cut(call) && !call_is_done(call));
	ck_assert_uint_eq(failures, 0);
	run_until(got_reset);
	ck_assert_uint_eq(got_reason, TP_REASON_KEY_REVOKED);
}
END_TEST

/* What came to its end is not ended again. */
START_TEST(aborted_after_the_answer)
{
	begin(POST);
	body("0123456789", true);
	head("200", "5", false);
	data("hello", true);
	run_until(call_has_begun(call));
	run_ms(10);
	call_abort(call, TP_REASON_KEY_REVOKED, "the agent was removed");
	pull(1000);
	ck_assert(call_is_done(call) && !call_is_cut(call));
	ck_assert_uint_eq(failures, 0);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);
#define ADD_STATUSES tcase_add_loop_test(tc, a_status_that_is_none, 0, 10);

UNIT_MAIN("call", FIXTURE ADD(what_the_gateway_is_told) ADD(an_answer_with_a_length)
	  ADD(an_answer_in_chunks_through_a_small_hole) ADD(answers_without_a_body) ADD(an_answer_before_the_request_is_whole)
	  ADD(freed_is_cancelled) ADD(a_session_that_ends_under_a_request) ADD(a_session_that_ends_under_an_answer)
	  ADD(a_request_that_is_too_large) ADD(too_large_after_the_answer_has_begun) ADD(reset_before_the_answer)
	  ADD(a_reason_that_nobody_knows) ADD_STATUSES ADD(longer_than_its_length) ADD(shorter_than_its_length)
	  ADD(a_session_whose_token_ends) ADD(aborted_before_the_answer) ADD(aborted_in_the_answer)
	  ADD(aborted_after_the_answer) ADD(a_length_that_is_none) ADD(a_body_where_there_is_none))
