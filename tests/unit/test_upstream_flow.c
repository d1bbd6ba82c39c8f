#include "tests/lib/upstream_case.h"

#include "tests/lib/unit.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

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

/* ---- what is kept of a request ---- */

#define LARGE "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n"

static uint64_t kept_bytes(void)
{
	struct upstream_pool pool;

	upstream_pool(up, &pool);
	return pool.request_bytes;
}

static void slow_answer_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, LARGE);
	peer_wait();
	peer_take(fd, 32 * MIB);
	peer_wait();
	peer_send(fd, OK);
	peer_close(fd);
}

/* A tool may take hours: its arguments are not kept for as long. */
START_TEST(a_request_is_kept_until_it_is_sent)
{
	struct result a = { 0 };

	start(slow_answer_peer, 3000, 8);
	call_bytes(&a, LARGE, 32 * MIB, false);
	run_until(a.sents);
	ck_assert_uint_eq(kept_bytes(), 32 * MIB);
	peer_tell(&peer);
	run_until(kept_bytes() == 0);
	ck_assert(!over(&a));
	peer_tell(&peer);
	good(&a, "ok");
}
END_TEST

static void idle_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, LARGE);
	peer_drop_until_end(fd);
}

START_TEST(what_was_kept_goes_with_its_call)
{
	struct result a = { 0 };

	start(idle_peer, 3000, 8);
	call_bytes(&a, LARGE, 32 * MIB, true);
	ck_assert_uint_eq(kept_bytes(), 32 * MIB);
	run_until(a.sents);
	run_ms(50);
	/* There may be another try. */
	ck_assert_uint_eq(kept_bytes(), 32 * MIB);
	upstream_call_cancel(a.call);
	ck_assert_uint_eq(kept_bytes(), 0);
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

/* At first, and after a call that was not answered: whatever the answer is, it is one. Else a connection will do. */
static void asked_peer(int ln)
{
	int fd = peer_accept(ln);

	peer_expect(fd, ASKED);
	peer_send(fd, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
	peer_expect_end(fd);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect_end(fd);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect(fd, POST "xx");
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect(fd, ASKED);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect(fd, ASKED);
	peer_send(fd, "HTTP/1.1 ");
	peer_send(fd, "401 Who\r\n\r\n");
	peer_drop_until_end(fd);
	peer_close(fd);
}

START_TEST(an_answer_is_asked_for)
{
	struct result a = { 0 };

	start_asking(asked_peer);
	upstream_probe(up);
	run_until(upstream_health(up)->known);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_NONE);
	ck_assert_str_eq(upstream_health(up)->detail, "answered");
	upstream_probe(up);
	run_ms(50);
	call_post(&a);
	bad(&a, TP_REASON_UPSTREAM_CLOSED);
	ck_assert_uint_eq(upstream_health(up)->reason, TP_REASON_UPSTREAM_CLOSED);
	run_until(upstream_health(up)->reason == TP_REASON_NONE);
}
END_TEST

static void silent_peer(int ln)
{
	int fd = peer_accept(ln), other;

	peer_expect(fd, ASKED);
	peer_send(fd, OK);
	peer_expect_end(fd);
	peer_close(fd);
	fd = peer_accept(ln);
	peer_expect_until(fd, "xx");
	other = peer_accept(ln);
	peer_expect(other, ASKED);
	peer_expect_end(other);
	peer_close(other);
	peer_expect_end(fd);
	peer_close(fd);
}

/* It takes a call and everything after it, and says nothing. */
START_TEST(silence_is_found_out)
{
	struct result a = { 0 };

	start_asking(silent_peer);
	upstream_probe(up);
	run_until(upstream_health(up)->known);
	call_post(&a);
	run_until(upstream_health(up)->reason == TP_REASON_UPSTREAM_TIMEOUT);
	ck_assert(strstr(upstream_health(up)->detail, "nothing to OPTIONS within 5 s"));
	ck_assert(!over(&a));
	upstream_call_cancel(a.call);
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
	ck_assert_int_lt(upstream_call_start(up, &h, &b, true, &call_ops, &r, &call), 0);
	ck_assert_ptr_null(call);
	ck_assert_uint_eq(buf_len(&h), 0);
	run_ms(10);
	ck_assert_uint_eq(r.fails, 0);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, upstream_setup, upstream_teardown);

UNIT_MAIN("upstream_flow", FIXTURE ADD(an_answer_that_overtakes_its_request) ADD(an_answer_that_begins_early)
	  ADD(a_request_is_kept_until_it_is_sent) ADD(what_was_kept_goes_with_its_call)
	  ADD(pauses_without_holding_anything) ADD(a_reset_is_seen_while_paused) ADD(cancelled_before_the_answer)
	  ADD(cancelled_from_on_head) ADD(cancelled_from_on_data) ADD(cancelled_while_dialling)
	  ADD(the_next_call_from_on_end) ADD(connection_refused) ADD(probe) ADD(an_answer_is_asked_for) ADD(silence_is_found_out)
	  ADD(a_server_that_does_not_answer_is_not_healthy) ADD(over_a_unix_socket)
	  ADD(a_call_that_cannot_start_is_not_handed_out))
