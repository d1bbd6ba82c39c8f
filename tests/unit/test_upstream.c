#include "tests/lib/upstream_case.h"

#include "tests/lib/unit.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

/* ---- connections that are kept ---- */

static void reuse_peer(int ln)
{
	int fd = peer_accept(ln);

	for (int i = 0; i < 3; i++) {
		peer_expect(fd, POST "xx");
		peer_send(fd, OK);
		peer_expect(fd, GET);
		peer_send(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
		peer_expect(fd, GET);
		peer_send(fd, "HTTP/1.1 204 No Content\r\n\r\n");
	}
	peer_expect_end(fd);
}

START_TEST(one_connection_for_many_calls)
{
	struct upstream_pool pool;

	start(reuse_peer, 3000, 8);
	for (int i = 0; i < 3; i++) {
		struct result a = { 0 }, b = { 0 }, c = { 0 };

		call_post(&a);
		good(&a, "ok");
		call_get(&b);
		good(&b, "ok");
		call_get(&c);
		good(&c, "");
		ck_assert_uint_eq(c.status, 204);
	}
	upstream_pool(up, &pool);
	ck_assert_uint_eq(pool.open, 1);
	ck_assert_uint_eq(pool.idle, 1);
	ck_assert_uint_eq(pool.dialled, 1);
	ck_assert_uint_eq(pool.failed, 0);
	ck_assert_uint_eq(pool.reused, 8);
	ck_assert_uint_eq(pool.retried, 0);
}
END_TEST

static void not_kept_peer(int ln)
{
	static const char *const answers[] = {
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		OK "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		OK "\r\n",
	};

	for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
		int fd = peer_accept(ln);

		peer_expect(fd, GET);
		peer_send(fd, answers[i]);
		peer_expect_end(fd);
		peer_close(fd);
	}
}

START_TEST(not_kept_when_it_cannot_be)
{
	start(not_kept_peer, 3000, 8);
	for (int i = 0; i < 4; i++) {
		struct result r = { 0 };

		call_get(&r);
		good(&r, "ok");
	}
}
END_TEST

static void until_close_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, "HTTP/1.1 200 OK\r\n\r\nok");
	peer_close(fd);
}

START_TEST(an_answer_that_ends_with_the_connection)
{
	struct result r = { 0 };

	start(until_close_peer, 3000, 8);
	call_get(&r);
	good(&r, "ok");
}
END_TEST

static void closes_idle_peer(int ln)
{
	for (int i = 0; i < 3; i++) {
		int fd = peer_accept(ln);

		peer_expect(fd, POST "xx");
		peer_send(fd, OK);
		peer_wait();
		peer_close(fd);
		peer_say();
	}
}

START_TEST(idle_connection_that_the_server_closed)
{
	struct result a = { 0 }, b = { 0 }, c = { 0 };

	start(closes_idle_peer, 3000, 8);
	call_post(&a);
	good(&a, "ok");
	peer_tell(&peer);
	run_until(peer_has_said(&peer));
	run_ms(20);
	call_post(&b);
	good(&b, "ok");
	/* Now the loop has no chance to see it first. */
	peer_tell(&peer);
	while (!peer_has_said(&peer))
		usleep(1000);
	call_post(&c);
	good(&c, "ok");
	peer_tell(&peer);
}
END_TEST

static void bytes_on_idle_peer(int ln)
{
	for (int i = 0; i < 3; i++) {
		int fd = peer_accept(ln);

		peer_expect(fd, GET);
		peer_send(fd, OK);
		peer_wait();
		peer_send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
		peer_say();
		peer_expect_end(fd);
		peer_close(fd);
	}
}

START_TEST(bytes_on_an_idle_connection_are_nobodys_answer)
{
	struct result a = { 0 }, b = { 0 }, c = { 0 };

	start(bytes_on_idle_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	peer_tell(&peer);
	run_until(peer_has_said(&peer));
	run_ms(20);
	call_get(&b);
	good(&b, "ok");
	peer_tell(&peer);
	while (!peer_has_said(&peer))
		usleep(1000);
	call_get(&c);
	good(&c, "ok");
	peer_tell(&peer);
	run_until(peer_has_said(&peer));
	run_ms(50);
}
END_TEST

static void max_idle_peer(int ln)
{
	int a = peer_accept(ln), b = peer_accept(ln), c = peer_accept(ln);

	peer_expect(a, GET);
	peer_expect(b, GET);
	peer_expect(c, GET);
	peer_send(a, OK);
	peer_wait();
	peer_send(b, OK);
	peer_wait();
	peer_send(c, OK);
	/* Two are kept, the last one is not. */
	peer_expect_end(c);
	peer_say();
	/* The one used last is taken first. */
	peer_expect(b, POST "xx");
	peer_send(b, OK);
	peer_expect_end(a);
	peer_expect_end(b);
}

START_TEST(keeps_no_more_than_max_idle)
{
	struct result r[3] = { 0 }, d = { 0 };

	start(max_idle_peer, 3000, 2);
	for (int i = 0; i < 3; i++) {
		call_get(&r[i]);
		run_ms(20);
	}
	for (int i = 0; i < 3; i++) {
		good(&r[i], "ok");
		if (i < 2)
			peer_tell(&peer);
	}
	run_until(peer_has_said(&peer));
	call_post(&d);
	good(&d, "ok");
}
END_TEST

static void idle_time_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_expect_end(fd);
	peer_say();
}

START_TEST(an_idle_connection_is_closed_in_time)
{
	struct result r = { 0 };
	uint64_t began;

	start(idle_time_peer, 200, 8);
	call_get(&r);
	good(&r, "ok");
	began = clock_now_us();
	run_until(peer_has_said(&peer));
	ck_assert_uint_ge(clock_now_us() - began, 150 * 1000);
	ck_assert_uint_lt(clock_now_us() - began, 5000 * 1000);
}
END_TEST

static void other_tls_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_wait();
	peer_send(fd, OK);
	peer_expect_end(fd);
	peer_close(fd);
}

/* Else a server that always has calls open would keep its connections from before, for ever. */
START_TEST(not_kept_when_tls_has_changed_meanwhile)
{
	struct result a = { 0 };
	struct upstream_pool pool;

	start(other_tls_peer, 3000, 8);
	call_get(&a);
	run_until(a.sents);
	upstream_set_tls(up, NULL);
	peer_tell(&peer);
	good(&a, "ok");
	upstream_pool(up, &pool);
	ck_assert_uint_eq(pool.open, 0);
}
END_TEST

static void no_keeping_peer(int ln)
{
	for (int i = 0; i < 2; i++) {
		int fd = peer_accept(ln);

		peer_expect(fd, GET);
		peer_send(fd, OK);
		peer_expect_end(fd);
		peer_close(fd);
	}
}

START_TEST(keeps_nothing_when_told)
{
	struct result a = { 0 }, b = { 0 };

	start(no_keeping_peer, 0, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	good(&b, "ok");
}
END_TEST

/* ---- retries ---- */

/* One answer, so that the connection is kept; then the next request, and the connection ends after what is sent. */
static void kept_and_lost(int ln, const char *request, const char *part)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_expect(fd, request);
	peer_send(fd, part);
	peer_close(fd);
}

/* Once the test has seen the call fail: another connection would have been made before that. */
static void nobody_comes(int ln)
{
	struct pollfd p = { .fd = ln, .events = POLLIN };

	peer_wait();
	peer_check(poll(&p, 1, 0) == 0, "no further connection");
}

static void get_again_peer(int ln)
{
	int fd;

	kept_and_lost(ln, GET, "");
	fd = peer_accept(ln);
	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_close(fd);
}

START_TEST(get_on_a_kept_connection_is_tried_again)
{
	struct result a = { 0 }, b = { 0 };
	struct upstream_pool pool;

	start(get_again_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	good(&b, "ok");
	upstream_pool(up, &pool);
	ck_assert_uint_eq(pool.retried, 1);
	ck_assert_uint_eq(pool.dialled, 2);
	ck_assert_uint_eq(pool.open, pool.idle);
}
END_TEST

static void get_twice_lost_peer(int ln)
{
	int fd;

	kept_and_lost(ln, GET, "");
	fd = peer_accept(ln);
	peer_expect(fd, GET);
	peer_close(fd);
	nobody_comes(ln);
}

START_TEST(but_once)
{
	struct result a = { 0 }, b = { 0 };

	start(get_twice_lost_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	bad(&b, TP_REASON_UPSTREAM_CLOSED);
	peer_tell(&peer);
}
END_TEST

static void get_begun_peer(int ln)
{
	kept_and_lost(ln, GET, "HTTP/1.1 2");
	nobody_comes(ln);
}

START_TEST(and_not_after_a_byte_of_the_answer)
{
	struct result a = { 0 }, b = { 0 };

	start(get_begun_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	bad(&b, TP_REASON_UPSTREAM_CLOSED);
	ck_assert_uint_eq(b.heads, 0);
	peer_tell(&peer);
}
END_TEST

static void post_lost_peer(int ln)
{
	kept_and_lost(ln, POST "xx", "");
	nobody_comes(ln);
}

START_TEST(post_that_was_sent_is_not_tried_again)
{
	struct result a = { 0 }, b = { 0 };

	start(post_lost_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_post(&b);
	bad(&b, TP_REASON_UPSTREAM_CLOSED);
	peer_tell(&peer);
}
END_TEST

static void fresh_lost_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_close(fd);
	nobody_comes(ln);
}

START_TEST(nothing_is_tried_again_on_a_new_connection)
{
	struct result a = { 0 };

	start(fresh_lost_peer, 3000, 8);
	call_get(&a);
	bad(&a, TP_REASON_UPSTREAM_CLOSED);
	peer_tell(&peer);
}
END_TEST

/* ---- answers that are not what they should be ---- */

struct answer_row {
	const char *what, *answer;
	bool reset;
	uint32_t reason; /* NONE: good */
	unsigned status;
	const char *body;
};

#define X4(s) s s s s
#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

static const struct answer_row answers[] = {
	{ "103 before 200", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" OK, false, TP_REASON_NONE, 200, "ok" },
	{ "100 and 102 before 200", CONTINUE "HTTP/1.1 102 Processing\r\n\r\n" OK, false, TP_REASON_NONE, 200, "ok" },
	{ "sixteen 1xx", X4(X4(CONTINUE)) OK, false, TP_REASON_NONE, 200, "ok" },
	{ "seventeen 1xx", X4(X4(CONTINUE)) CONTINUE OK, false, TP_REASON_UPSTREAM_PROTOCOL, 0, "" },
	{ "1xx and the end", CONTINUE, false, TP_REASON_UPSTREAM_CLOSED, 0, "" },
	{ "101", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello", false,
	  TP_REASON_UPSTREAM_PROTOCOL, 0, "" },
	{ "nothing", "", false, TP_REASON_UPSTREAM_CLOSED, 0, "" },
	{ "reset before the answer", "", true, TP_REASON_UPSTREAM_CLOSED, 0, "" },
	{ "half a head", "HTTP/1.1 200 OK\r\nContent-Le", false, TP_REASON_UPSTREAM_CLOSED, 0, "" },
	{ "not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", false, TP_REASON_UPSTREAM_PROTOCOL, 0, "" },
	{ "HTTP/2", "HTTP/2 200\r\n\r\n", false, TP_REASON_UPSTREAM_PROTOCOL, 0, "" },
	{ "two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", false, TP_REASON_UPSTREAM_PROTOCOL,
	  0, "" },
	{ "bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", false, TP_REASON_UPSTREAM_PROTOCOL, 0, "" },
	{ "cut body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", false, TP_REASON_UPSTREAM_CLOSED, 200, "ok" },
	{ "reset body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", true, TP_REASON_UPSTREAM_CLOSED, 200, "ok" },
	{ "cut chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", false, TP_REASON_UPSTREAM_CLOSED, 200, "ok" },
	{ "reset chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", true, TP_REASON_UPSTREAM_CLOSED, 200, "ok" },
	{ "reset instead of the end", "HTTP/1.1 200 OK\r\n\r\nok", true, TP_REASON_UPSTREAM_CLOSED, 200, "ok" },
	{ "bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", false, TP_REASON_UPSTREAM_PROTOCOL,
	  200, "ok" },
	{ "tool error", "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", false, TP_REASON_NONE, 500, "no" },
	{ "304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", false, TP_REASON_NONE, 304, "" },
};

static int answer_row;

static void answer_peer(int ln)
{
	const struct answer_row *row = &answers[answer_row];
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, row->answer);
	if (row->reset) {
		/* Not before it has been read. */
		peer_wait();
		peer_reset(fd);
	} else {
		peer_close(fd);
	}
}

START_TEST(answer)
{
	const struct answer_row *row = &answers[_i];
	struct result r = { 0 };

	answer_row = _i;
	start(answer_peer, 3000, 8);
	call_get(&r);
	if (row->reset) {
		run_until(strcmp(r.body, row->body) == 0);
		run_ms(20);
		peer_tell(&peer);
	}
	run_until(over(&r));
	ck_assert_msg(r.reason == row->reason, "%s: %s: %s", row->what, tp_reason_name(r.reason), r.detail);
	ck_assert_msg(r.status == row->status, "%s: %u", row->what, r.status);
	ck_assert_msg(strcmp(r.body, row->body) == 0, "%s: %s", row->what, r.body);
	ck_assert_uint_eq(r.heads, row->status != 0);
}
END_TEST

static void trickle_peer(int ln)
{
	static const char text[] = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
				   "2;x=y\r\nok\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n";
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	for (const char *p = text; *p; p++) {
		char one[2] = { *p, '\0' };

		peer_send(fd, one);
		usleep(500);
	}
	peer_expect_end(fd);
}

START_TEST(an_answer_byte_by_byte)
{
	struct result r = { 0 };

	start(trickle_peer, 3000, 8);
	call_get(&r);
	good(&r, "ok!");
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, upstream_setup, upstream_teardown);
#define ADD_ROWS(fn, list) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(list));

UNIT_MAIN("upstream", FIXTURE ADD(one_connection_for_many_calls) ADD(not_kept_when_it_cannot_be)
	  ADD(an_answer_that_ends_with_the_connection) ADD(idle_connection_that_the_server_closed)
	  ADD(bytes_on_an_idle_connection_are_nobodys_answer) ADD(keeps_no_more_than_max_idle)
	  ADD(an_idle_connection_is_closed_in_time) ADD(keeps_nothing_when_told) ADD(not_kept_when_tls_has_changed_meanwhile)
	  ADD(get_on_a_kept_connection_is_tried_again) ADD(but_once) ADD(and_not_after_a_byte_of_the_answer)
	  ADD(post_that_was_sent_is_not_tried_again) ADD(nothing_is_tried_again_on_a_new_connection)
	  ADD_ROWS(answer, answers) ADD(an_answer_byte_by_byte))
