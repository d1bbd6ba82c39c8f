/* How a channel ends, and what each side sees of it. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/channel_pair.h"
#include "tests/lib/unit.h"

static void close_now(struct end *e)
{
	channel_close(e->ch, e->linger_ms);
	e->ch = NULL;
}

static void abort_now(struct end *e)
{
	channel_abort(e->ch, false);
	e->ch = NULL;
}

static void reset_now(struct end *e)
{
	channel_abort(e->ch, true);
	e->ch = NULL;
}

static void pause_now(struct end *e)
{
	channel_pause(e->ch, true);
}

static void ended(const struct end *e, enum channel_end how)
{
	ck_assert_uint_eq(e->n_closed, 1);
	ck_assert_msg(e->how == how, "end %d: %s", e->how, e->detail);
	ck_assert_uint_gt(strlen(e->detail), 0);
}

/* Asked to close before anything is sent, and the other end sends too, and reads slowly. */
START_TEST(close_delivers_everything)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = p.b.expect = 1000 * 1000;
	p.a.on_open_hook = close_now;
	p.a.linger_ms = 20000;
	p.b.to_send = 1 << 20;
	p.b.pause_every = 1;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, p.b.expect);
	ended(&p.b, CHANNEL_EOF);
	ck_assert_uint_eq(p.a.n_closed, 0);
	pair_done(&p);
}
END_TEST

START_TEST(close_from_on_flushed)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = p.b.expect = 20 * 1000 * 1000;
	p.a.close_when_sent = true;
	p.a.linger_ms = 20000;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, p.b.expect);
	ended(&p.b, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(close_from_on_pull)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = p.b.expect = 5000;
	p.a.on_pull_hook = close_now;
	p.a.linger_ms = 1000;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, 5000);
	ended(&p.b, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(close_at_once)
{
	struct pair p;

	/* No lingering: what the kernel took still arrives. */
	pair_init(&p);
	p.a.to_send = p.b.expect = 5000;
	p.a.close_when_sent = true;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, 5000);
	ended(&p.b, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(close_with_too_much_is_no_clean_end)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = 64 << 20;
	p.a.on_open_hook = close_now;
	p.a.linger_ms = 20000;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ended(&p.b, CHANNEL_RESET);
	pair_done(&p);
}
END_TEST

START_TEST(linger_has_an_end)
{
	struct pair p;
	uint64_t t0;
	int fd;

	/* The peer neither reads nor closes. */
	pair_init(&p);
	p.a.to_send = 1000 * 1000;
	p.a.linger_ms = 100;
	p.a.on_open_hook = close_now;
	p.b.on_open_hook = pause_now;
	p.b.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	fd = channel_fd(p.a.ch);
	t0 = clock_now_us();
	run_until(p.loop, fcntl(fd, F_GETFD) < 0);
	ck_assert_uint_ge(clock_now_us() - t0, 90000);
	pair_done(&p);
}
END_TEST

static void count(void *user)
{
	++*(unsigned *)user;
}

/* While nobody owns it any more, and its last bytes go out, it is not gone. */
START_TEST(gone_is_told_once)
{
	unsigned a_gone = 0, b_gone = 0;
	struct pair p;
	uint64_t t0;

	pair_init(&p);
	p.a.to_send = 1000 * 1000;
	p.a.linger_ms = 100;
	p.a.on_open_hook = close_now;
	p.b.on_open_hook = pause_now;
	pair_start(&p, (enum kind)_i);
	channel_when_gone(p.a.ch, count, &a_gone);
	channel_when_gone(p.b.ch, count, &b_gone);
	t0 = clock_now_us();
	run_until(p.loop, a_gone);
	ck_assert_uint_ge(clock_now_us() - t0, 90000);
	ck_assert_uint_eq(b_gone, 0);
	abort_now(&p.b);
	ck_assert_uint_eq(b_gone, 1);
	pair_done(&p);
	ck_assert_uint_eq(a_gone, 1);
	ck_assert_uint_eq(b_gone, 1);
}
END_TEST

START_TEST(both_close)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = p.b.to_send = 5000;
	p.a.close_when_sent = p.b.close_when_sent = true;
	p.a.linger_ms = p.b.linger_ms = 20000;
	pair_start(&p, (enum kind)_i);
	run_until(p.loop, !p.a.ch && !p.b.ch);
	/* One of them may see the other's end before its own. */
	ck_assert_uint_le(p.a.n_closed + p.b.n_closed, 1);
	pair_done(&p);
}
END_TEST

START_TEST(reset_is_seen)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = 1000;
	p.b.on_data_hook = reset_now;
	p.a.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	/* A UNIX socket has no reset: an end it is. */
	ended(&p.a, _i == PLAIN_UNIX ? CHANNEL_EOF : CHANNEL_RESET);
	pair_done(&p);
}
END_TEST

START_TEST(abort_under_tls_is_no_clean_end)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = 1000;
	p.b.on_data_hook = abort_now;
	p.a.stop_when_closed = true;
	pair_start(&p, (enum kind)_i);
	run(p.loop);
	ended(&p.a, _i == TLS_TCP ? CHANNEL_RESET : CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

static void (*const reactions[])(struct end *e) = { close_now, abort_now, reset_now };

/* From each callback, each way of ending: nobody is called after it. */
START_TEST(end_from_a_callback)
{
	for (enum kind kind = PLAIN_UNIX; kind <= TLS_TCP; kind++)
		for (size_t where = 0; where < 3; where++) {
			struct pair p;

			pair_init(&p);
			p.a.to_send = p.b.to_send = 300 * 1000;
			if (where == 0)
				p.b.on_open_hook = reactions[_i];
			else if (where == 1)
				p.b.on_data_hook = reactions[_i];
			else
				p.b.on_pull_hook = reactions[_i];
			p.a.stop_when_closed = true;
			pair_start(&p, kind);
			run(p.loop);
			ck_assert_uint_eq(p.b.n_closed, 0);
			ck_assert_uint_eq(p.a.n_closed, 1);
			pair_done(&p);
		}
}
END_TEST

START_TEST(close_before_open)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = 1000;
	pair_start(&p, (enum kind)_i);
	channel_close(p.a.ch, 1000);
	p.a.ch = NULL;
	p.b.stop_when_closed = true;
	run(p.loop);
	ck_assert_uint_eq(p.a.n_open + p.a.n_closed + p.a.sent, 0);
	ck_assert_uint_eq(p.b.n_closed, 1);
	pair_done(&p);
}
END_TEST

static double cpu_seconds(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + 1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

/* b is paused and has unread data (or none); then a goes away, one way or the other. */
static void pair_paused(struct pair *p, enum kind kind, uint64_t unread)
{
	pair_init(p);
	p->b.on_open_hook = pause_now;
	pair_start(p, kind);
	run_until(p->loop, p->a.n_open + p->b.n_open == 2);
	p->a.to_send = unread;
	channel_want_write(p->a.ch);
	run_until(p->loop, p->a.sent == unread);
	run_ms(p->loop, 30);
	ck_assert_uint_eq(p->b.received, 0);
}

START_TEST(paused_sees_an_end)
{
	struct pair p;

	pair_paused(&p, (enum kind)_i, 0);
	p.b.stop_when_closed = true;
	close_now(&p.a);
	run(p.loop);
	ended(&p.b, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(paused_sees_a_cut)
{
	struct pair p;

	pair_paused(&p, (enum kind)_i, 0);
	p.b.stop_when_closed = true;
	abort_now(&p.a);
	run(p.loop);
	ended(&p.b, _i == TLS_TCP ? CHANNEL_RESET : CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(paused_sees_a_reset_and_does_not_spin)
{
	struct pair p;

	pair_paused(&p, (enum kind)_i, 5000);
	p.b.stop_when_closed = true;
	reset_now(&p.a);
	run(p.loop);
	ended(&p.b, CHANNEL_RESET);
	pair_done(&p);
}
END_TEST

START_TEST(paused_keeps_what_came_before_the_end)
{
	struct pair p;
	double t0;

	pair_paused(&p, (enum kind)_i, 5000);
	p.a.linger_ms = 2000;
	close_now(&p.a);
	t0 = cpu_seconds();
	run_ms(p.loop, 300);
	ck_assert(cpu_seconds() - t0 < 0.1);
	ck_assert_uint_eq(p.b.n_closed, 0);
	p.b.stop_when_closed = true;
	channel_pause(p.b.ch, false);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, 5000);
	ended(&p.b, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

START_TEST(paused_can_still_send)
{
	struct pair p;

	pair_paused(&p, (enum kind)_i, 5000);
	p.b.to_send = p.a.expect = 32 << 20;
	p.a.stop_when_received = true;
	channel_want_write(p.b.ch);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, 0);
	ck_assert_uint_eq(p.a.received, p.a.expect);
	p.b.stop_when_received = true;
	channel_pause(p.b.ch, false);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, 5000);
	pair_done(&p);
}
END_TEST

static void write_all(int fd, uint64_t seed, size_t len)
{
	uint8_t data[8192];

	ck_assert_uint_le(len, sizeof(data));
	for (size_t i = 0; i < len; i++)
		data[i] = pattern(seed, i);
	ck_assert_int_eq(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* A server that answers at once and resets, without having read the request: its answer counts. */
START_TEST(early_answer)
{
	struct linger hard = { .l_onoff = 1 };
	struct pair p;
	int fd[2];

	pair_init(&p);
	kind_pair((enum kind)_i, fd);
	p.a.to_send = 64 << 20;
	end_start(&p.a, fd[0], NULL, false, NULL);
	run_ms(p.loop, 50);
	write_all(fd[1], p.a.rx_state, 5000);
	setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(fd[1]);
	p.a.stop_when_closed = true;
	run(p.loop);
	ck_assert_uint_eq(p.a.received, 5000);
	ended(&p.a, CHANNEL_RESET);
	pair_done(&p);
}
END_TEST

START_TEST(half_close_is_an_end)
{
	struct pair p;
	int fd[2];

	pair_init(&p);
	kind_pair((enum kind)_i, fd);
	end_start(&p.a, fd[0], NULL, false, NULL);
	p.a.stop_when_closed = true;
	write_all(fd[1], p.a.rx_state, 100);
	shutdown(fd[1], SHUT_WR);
	run(p.loop);
	ck_assert_uint_eq(p.a.received, 100);
	ended(&p.a, CHANNEL_EOF);
	close(fd[1]);
	pair_done(&p);
}
END_TEST

/* A socket that is still connecting. */
static int connecting(bool listening, int *ret_listener)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*ret_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(*ret_listener, (struct sockaddr *)&in, len), 0);
	if (listening)
		ck_assert_int_eq(listen(*ret_listener, 1), 0);
	getsockname(*ret_listener, (struct sockaddr *)&in, &len);
	ck_assert_int_lt(connect(fd, (struct sockaddr *)&in, len), 0);
	ck_assert_int_eq(errno, EINPROGRESS);
	return fd;
}

START_TEST(connect_works)
{
	struct pair p;
	int fd, l;

	pair_init(&p);
	fd = connecting(true, &l);
	p.a.to_send = 10;
	end_start(&p.a, fd, NULL, false, NULL);
	run_until(p.loop, p.a.sent == 10); /* asked for before it was open */
	ck_assert_uint_eq(p.a.n_open, 1);
	pair_done(&p);
	close(l);
}
END_TEST

START_TEST(connect_refused)
{
	struct pair p;
	int fd, l;

	pair_init(&p);
	fd = connecting(false, &l);
	p.a.stop_when_closed = true;
	end_start(&p.a, fd, NULL, false, NULL);
	run(p.loop);
	ended(&p.a, CHANNEL_CONNECT);
	ck_assert_int_eq(p.a.error, ECONNREFUSED);
	ck_assert_str_eq(p.a.detail, "Connection refused");
	ck_assert_uint_eq(p.a.n_open, 0);
	pair_done(&p);
	close(l);
}
END_TEST

START_TEST(failed_new_closes_the_descriptor)
{
	struct channel_options opt = { .tls = client_tls };
	struct channel *ch = NULL;
	struct pair p;
	int fd[2];

	pair_init(&p);
	tcp_pair(fd);
	ck_assert_int_eq(channel_new(p.loop, fd[0], &opt, &end_ops, &p.a, &ch), -EINVAL);
	ck_assert_int_lt(fcntl(fd[0], F_GETFD), 0);
	ck_assert_ptr_null(ch);
	close(fd[1]);
	pair_done(&p);
}
END_TEST

#define EACH_KIND(fn) tcase_add_loop_test(tc, fn, PLAIN_UNIX, TLS_TCP + 1);
#define TCP_KINDS(fn) tcase_add_loop_test(tc, fn, PLAIN_TCP, TLS_TCP + 1);
UNIT_MAIN("channel_ends", tcase_add_checked_fixture(tc, certs_setup, certs_teardown);
	  EACH_KIND(close_delivers_everything) EACH_KIND(close_from_on_flushed) EACH_KIND(close_from_on_pull)
	  EACH_KIND(close_at_once) TCP_KINDS(close_with_too_much_is_no_clean_end) EACH_KIND(linger_has_an_end)
	  EACH_KIND(gone_is_told_once)
	  EACH_KIND(both_close) EACH_KIND(reset_is_seen) EACH_KIND(abort_under_tls_is_no_clean_end)
	  tcase_add_loop_test(tc, end_from_a_callback, 0, 3); EACH_KIND(close_before_open) EACH_KIND(paused_sees_an_end)
	  EACH_KIND(paused_sees_a_cut) TCP_KINDS(paused_sees_a_reset_and_does_not_spin)
	  EACH_KIND(paused_keeps_what_came_before_the_end) EACH_KIND(paused_can_still_send)
	  tcase_add_loop_test(tc, early_answer, PLAIN_TCP, PLAIN_TCP + 1);
	  tcase_add_loop_test(tc, half_close_is_an_end, PLAIN_UNIX, PLAIN_TCP + 1);
	  ADD(connect_works) ADD(connect_refused) ADD(failed_new_closes_the_descriptor))
