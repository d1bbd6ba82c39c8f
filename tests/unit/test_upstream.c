#include "gateway/upstream.h"

#include "base/log.h"
#include "proto/reasons.h"
#include "tests/lib/peer.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MIB = 1024 * 1024 };

#define GET "GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static struct loop *loop;
static struct upstream *up;
static struct peer peer;
static bool has_peer;

/* What a call came to. */
struct result {
	struct upstream_call *call;
	unsigned heads, datas, ends, fails;
	unsigned status;
	uint32_t reason;
	uint64_t bytes;
	char body[64], detail[256];
	void (*on_head)(struct result *r);
	void (*on_data)(struct result *r);
	void (*on_end)(struct result *r);
};

static void on_head(void *user, const struct http1_head *h)
{
	struct result *r = user;

	ck_assert_uint_eq(r->ends + r->fails, 0);
	r->heads++;
	r->status = h->status;
	if (r->on_head)
		r->on_head(r);
}

static void on_data(void *user, const uint8_t *p, size_t len)
{
	struct result *r = user;

	ck_assert_uint_eq(r->ends + r->fails, 0);
	ck_assert_uint_eq(r->heads, 1);
	if (r->bytes < sizeof(r->body) - 1)
		memcpy(r->body + r->bytes, p, MIN(len, sizeof(r->body) - 1 - r->bytes));
	r->datas++;
	r->bytes += len;
	if (r->on_data)
		r->on_data(r);
}

static void on_end(void *user)
{
	struct result *r = user;

	r->ends++;
	r->call = NULL;
	if (r->on_end)
		r->on_end(r);
}

static void on_fail(void *user, uint32_t reason, const char *detail)
{
	struct result *r = user;

	r->fails++;
	r->reason = reason;
	r->call = NULL;
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
}

static const struct upstream_ops ops = { .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_fail = on_fail };

/* ---- the loop ---- */

static void on_stop(evutil_socket_t fd, short what, void *user)
{
	loop_stop(loop);
}

static void run_ms(unsigned ms)
{
	struct event *e = event_new(loop_base(loop), -1, 0, on_stop, NULL);

	event_add(e, &(struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 });
	ck_assert_int_eq(loop_run(loop), 0);
	event_free(e);
}

/* The condition is not looked at again once it was true. */
#define run_until(cond)                                                                                                \
	do {                                                                                                           \
		bool met_ = false;                                                                                     \
		for (unsigned i_ = 0; i_ < 6000 && !(met_ = (cond)); i_++)                                             \
			run_ms(5);                                                                                     \
		ck_assert_msg(met_, "%s", #cond);                                                                      \
	} while (0)

static bool over(const struct result *r)
{
	return r->ends || r->fails;
}

/* ---- set up ---- */

static void setup(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	ck_assert_int_eq(loop_new(&loop), 0);
}

static void start(peer_fn *fn, uint64_t idle_ms, size_t max_idle)
{
	struct upstream_config cfg = { .host = "127.0.0.1", .connect_timeout_ms = 5000, .idle_ms = idle_ms, .max_idle = max_idle };

	peer_start(&peer, fn, NULL);
	has_peer = true;
	cfg.port = peer.port;
	ck_assert_int_eq(upstream_new(loop, &cfg, &up), 0);
}

static void teardown(void)
{
	up = upstream_free(up);
	loop = loop_free(loop);
	if (has_peer)
		peer_finish(&peer);
}

static void call_bytes(struct result *r, const char *head, size_t body_len, bool idempotent)
{
	struct buf h, b;
	uint8_t *at;

	buf_init(&h, 4096);
	buf_init(&b, 128 * MIB);
	ck_assert_int_eq(buf_add_str(&h, head), 0);
	if (body_len) {
		ck_assert_int_eq(buf_reserve(&b, body_len, &at), 0);
		memset(at, 'x', body_len);
		buf_commit(&b, body_len);
	}
	ck_assert_int_eq(upstream_call_start(up, &h, &b, idempotent, &ops, r, &r->call), 0);
	ck_assert_uint_eq(buf_len(&h) + buf_len(&b), 0);
	buf_done(&h);
	buf_done(&b);
}

static void call_get(struct result *r)
{
	call_bytes(r, GET, 0, true);
}

static void call_post(struct result *r)
{
	call_bytes(r, POST, 2, false);
}

static void good(struct result *r, const char *body)
{
	run_until(over(r));
	ck_assert_msg(r->ends == 1, "%s: %s", tp_reason_name(r->reason), r->detail);
	ck_assert_uint_eq(r->heads, 1);
	ck_assert_str_eq(r->body, body);
}

static void bad(struct result *r, uint32_t reason)
{
	run_until(over(r));
	ck_assert_uint_eq(r->fails, 1);
	ck_assert_msg(r->reason == reason, "%s: %s", tp_reason_name(r->reason), r->detail);
}

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

	start(get_again_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	good(&b, "ok");
}
END_TEST

static void get_twice_lost_peer(int ln)
{
	int fd;

	kept_and_lost(ln, GET, "");
	fd = peer_accept(ln);
	peer_expect(fd, GET);
	peer_close(fd);
}

START_TEST(but_once)
{
	struct result a = { 0 }, b = { 0 };

	start(get_twice_lost_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_get(&b);
	bad(&b, TP_REASON_UPSTREAM_CLOSED);
}
END_TEST

static void get_begun_peer(int ln)
{
	kept_and_lost(ln, GET, "HTTP/1.1 2");
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
}
END_TEST

static void post_lost_peer(int ln)
{
	kept_and_lost(ln, POST "xx", "");
}

START_TEST(post_that_was_sent_is_not_tried_again)
{
	struct result a = { 0 }, b = { 0 };

	start(post_lost_peer, 3000, 8);
	call_get(&a);
	good(&a, "ok");
	call_post(&b);
	bad(&b, TP_REASON_UPSTREAM_CLOSED);
}
END_TEST

static void fresh_lost_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_close(fd);
}

START_TEST(nothing_is_tried_again_on_a_new_connection)
{
	struct result a = { 0 };

	start(fresh_lost_peer, 3000, 8);
	call_get(&a);
	bad(&a, TP_REASON_UPSTREAM_CLOSED);
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

/* ---- early answers ---- */

static void early_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n");
	peer_take(fd, 1000);
	peer_send(fd, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
	peer_drop_until_end(fd);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_close(fd);
}

START_TEST(an_answer_that_overtakes_its_request)
{
	struct result a = { 0 }, b = { 0 };

	start(early_peer, 3000, 8);
	call_bytes(&a, "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n", 32 * MIB, false);
	good(&a, "no");
	ck_assert_uint_eq(a.status, 413);
	/* The rest of a request is no place for the next one. */
	call_get(&b);
	good(&b, "ok");
}
END_TEST

static void early_head_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n");
	peer_send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
	peer_take(fd, 32 * MIB);
	peer_send(fd, "k");
	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_close(fd);
}

START_TEST(an_answer_that_begins_early)
{
	struct result a = { 0 }, b = { 0 };

	start(early_head_peer, 3000, 8);
	call_bytes(&a, "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n", 32 * MIB, false);
	good(&a, "ok");
	call_get(&b);
	good(&b, "ok");
}
END_TEST

/* ---- backpressure ---- */

enum { BULK = 64 * MIB, FITS_MAX = 24 * MIB };

static void bulk_peer(int ln)
{
	int fd = peer_accept(ln);
	uint64_t fitted;

	peer_expect(fd, GET);
	peer_send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
	fitted = peer_send_what_fits(fd, BULK, 300);
	peer_check(fitted < FITS_MAX, "what is paused takes no more than sockets hold");
	peer_say();
	peer_send_bulk(fd, BULK - fitted);
	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_close(fd);
}

static void pause_it(struct result *r)
{
	upstream_call_pause(r->call, true);
}

static long peak_kib(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}

START_TEST(pauses_without_holding_anything)
{
	struct result a = { .on_data = pause_it }, b = { 0 };
	uint64_t at_pause;
	long before;

	start(bulk_peer, 3000, 8);
	call_get(&a);
	run_until(a.heads);
	before = peak_kib();
	run_until(peer_has_said(&peer));
	ck_assert_uint_le(a.bytes, LOOP_RX_BYTES);
	at_pause = a.bytes;
	run_ms(50);
	ck_assert_uint_eq(a.bytes, at_pause);
	/* Again and again, until it is there. */
	for (unsigned i = 0; i < 100000 && !over(&a); i++) {
		upstream_call_pause(a.call, false);
		run_ms(0);
	}
	ck_assert_uint_eq(a.ends, 1);
	ck_assert_uint_eq(a.bytes, BULK);
	ck_assert_int_lt(peak_kib() - before, 16 * 1024);
	/* The connection is as good as before, and not paused. */
	call_get(&b);
	good(&b, "ok");
}
END_TEST

static void cut_while_paused_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
	peer_wait();
	peer_reset(fd);
}

START_TEST(a_reset_is_seen_while_paused)
{
	struct result r = { .on_data = pause_it };

	start(cut_while_paused_peer, 3000, 8);
	call_get(&r);
	run_until(r.bytes == 2);
	peer_tell(&peer);
	bad(&r, TP_REASON_UPSTREAM_CLOSED);
}
END_TEST

/* ---- cancel ---- */

static void cancelled_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, POST "xx");
	peer_say();
	peer_expect_end(fd);
	peer_say();
}

START_TEST(cancelled_before_the_answer)
{
	struct result r = { 0 };

	start(cancelled_peer, 3000, 8);
	call_post(&r);
	run_until(peer_has_said(&peer));
	upstream_call_cancel(r.call);
	/* At once: without another turn of the loop. */
	for (unsigned i = 0; i < 5000 && !peer_has_said(&peer); i++)
		usleep(1000);
	run_ms(20);
	ck_assert_uint_eq(r.heads + r.ends + r.fails, 0);
}
END_TEST

static void cancelled_in_answer_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
	peer_expect_end(fd);
	peer_say();
}

static void cancel_it(struct result *r)
{
	upstream_call_cancel(r->call);
	r->call = NULL;
}

START_TEST(cancelled_from_on_head)
{
	struct result r = { .on_head = cancel_it };

	start(cancelled_in_answer_peer, 3000, 8);
	call_get(&r);
	run_until(peer_has_said(&peer));
	ck_assert_uint_eq(r.heads, 1);
	ck_assert_uint_eq(r.datas + r.ends + r.fails, 0);
}
END_TEST

START_TEST(cancelled_from_on_data)
{
	struct result r = { .on_data = cancel_it };

	start(cancelled_in_answer_peer, 3000, 8);
	call_get(&r);
	run_until(peer_has_said(&peer));
	ck_assert_uint_eq(r.datas, 1);
	ck_assert_uint_eq(r.ends + r.fails, 0);
}
END_TEST

static void nobody_peer(int ln)
{
	/* It may or may not be connected before it is cancelled; nothing is ever sent. */
	peer_wait();
}

START_TEST(cancelled_while_dialling)
{
	struct result r = { 0 };

	start(nobody_peer, 3000, 8);
	call_get(&r);
	upstream_call_cancel(r.call);
	run_ms(50);
	ck_assert_uint_eq(r.heads + r.ends + r.fails, 0);
	peer_tell(&peer);
}
END_TEST

static struct result following;

static void call_next(struct result *r)
{
	call_get(&following);
}

static void two_in_a_row_peer(int ln)
{
	int fd = peer_accept(ln);

	for (int i = 0; i < 2; i++) {
		peer_expect(fd, GET);
		peer_send(fd, OK);
	}
	peer_expect_end(fd);
}

START_TEST(the_next_call_from_on_end)
{
	struct result r = { .on_end = call_next };

	start(two_in_a_row_peer, 3000, 8);
	call_get(&r);
	good(&r, "ok");
	good(&following, "ok");
}
END_TEST

/* ---- no server ---- */

static void refuse_peer(int ln)
{
	close(ln);
	peer_say();
}

START_TEST(connection_refused)
{
	struct result r = { 0 };

	start(refuse_peer, 3000, 8);
	ck_assert(!upstream_health(up)->known);
	run_until(peer_has_said(&peer));
	call_post(&r);
	bad(&r, TP_REASON_UPSTREAM_UNREACHABLE);
	ck_assert(strstr(r.detail, "Connection refused"));
	ck_assert(upstream_health(up)->known);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_UPSTREAM_UNREACHABLE);
}
END_TEST

static void probed_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect_end(fd);
	close(ln);
	peer_say();
}

START_TEST(probe)
{
	start(probed_peer, 3000, 8);
	upstream_probe(up);
	upstream_probe(up);
	run_until(peer_has_said(&peer));
	run_until(upstream_health(up)->known);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_NONE);
	upstream_probe(up);
	run_until(upstream_health(up)->reason == TP_REASON_UPSTREAM_UNREACHABLE);
	upstream_probe(up);
}
END_TEST

static void mute_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, GET);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect_end(fd);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect(fd, GET);
	peer_send(fd, OK);
	peer_close(fd);
}

START_TEST(a_server_that_does_not_answer_is_not_healthy)
{
	struct result a = { 0 }, b = { 0 };

	start(mute_peer, 3000, 8);
	call_get(&a);
	bad(&a, TP_REASON_UPSTREAM_CLOSED);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_UPSTREAM_CLOSED);
	upstream_probe(up);
	run_ms(100);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_UPSTREAM_CLOSED);
	call_get(&b);
	good(&b, "ok");
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_NONE);
}
END_TEST

static void unix_peer(int ln)
{
	int fd = peer_accept(ln);

	for (int i = 0; i < 2; i++) {
		peer_expect(fd, POST "xx");
		peer_send(fd, OK);
	}
	peer_expect_end(fd);
}

START_TEST(over_a_unix_socket)
{
	struct upstream_config cfg = { .connect_timeout_ms = 5000, .idle_ms = 3000, .max_idle = 1 };
	struct result a = { 0 }, b = { 0 };
	char dir[] = "/tmp/test_upstream.XXXXXX", path[64];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	peer_start(&peer, unix_peer, path);
	has_peer = true;
	cfg.unix_path = path;
	ck_assert_int_eq(upstream_new(loop, &cfg, &up), 0);
	call_post(&a);
	good(&a, "ok");
	call_post(&b);
	good(&b, "ok");
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(a_call_that_cannot_start_is_not_handed_out)
{
	char path[256];
	struct upstream_config cfg = { .unix_path = path, .connect_timeout_ms = 5000, .idle_ms = 3000, .max_idle = 1 };
	struct upstream_call *call = NULL;
	struct result r = { 0 };
	struct buf h, b;

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	ck_assert_int_eq(upstream_new(loop, &cfg, &up), 0);
	buf_init(&h, 100);
	buf_init(&b, 100);
	ck_assert_int_eq(buf_add_str(&h, GET), 0);
	ck_assert_int_lt(upstream_call_start(up, &h, &b, true, &ops, &r, &call), 0);
	ck_assert_ptr_null(call);
	ck_assert_uint_eq(buf_len(&h), 0);
	run_ms(10);
	ck_assert_uint_eq(r.fails, 0);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);
#define ADD_ROWS(fn, list) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(list));

UNIT_MAIN("upstream", FIXTURE ADD(one_connection_for_many_calls) ADD(not_kept_when_it_cannot_be)
	  ADD(an_answer_that_ends_with_the_connection) ADD(idle_connection_that_the_server_closed)
	  ADD(bytes_on_an_idle_connection_are_nobodys_answer) ADD(keeps_no_more_than_max_idle)
	  ADD(an_idle_connection_is_closed_in_time) ADD(keeps_nothing_when_told) ADD(get_on_a_kept_connection_is_tried_again)
	  ADD(but_once) ADD(and_not_after_a_byte_of_the_answer) ADD(post_that_was_sent_is_not_tried_again)
	  ADD(nothing_is_tried_again_on_a_new_connection) ADD_ROWS(answer, answers) ADD(an_answer_byte_by_byte)
	  ADD(an_answer_that_overtakes_its_request) ADD(an_answer_that_begins_early) ADD(pauses_without_holding_anything)
	  ADD(a_reset_is_seen_while_paused) ADD(cancelled_before_the_answer) ADD(cancelled_from_on_head)
	  ADD(cancelled_from_on_data) ADD(cancelled_while_dialling) ADD(the_next_call_from_on_end) ADD(connection_refused)
	  ADD(probe) ADD(a_server_that_does_not_answer_is_not_healthy) ADD(over_a_unix_socket)
	  ADD(a_call_that_cannot_start_is_not_handed_out))
