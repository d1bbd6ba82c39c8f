#include <string.h>

#include "tests/lib/channel_pair.h"
#include "tests/lib/unit.h"

static uint64_t big(void)
{
	const char *mib = getenv("TEST_CHANNEL_MIB");

	return (mib ? strtoull(mib, NULL, 10) : 64) << 20;
}

static void run_until_received(struct pair *p)
{
	while (p->a.received < p->a.expect || p->b.received < p->b.expect)
		run(p->loop);
}

static void both_ways(enum kind kind, unsigned chunk, unsigned pause_every, uint64_t bytes)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = p.b.expect = bytes;
	p.b.to_send = p.a.expect = bytes;
	p.a.chunk = p.b.chunk = chunk;
	p.a.pause_every = pause_every;
	p.b.pause_every = pause_every ? pause_every + 3 : 0;
	p.a.stop_when_received = p.b.stop_when_received = true;
	pair_start(&p, kind);
	run_until_received(&p);
	ck_assert_uint_eq(p.a.received, bytes);
	ck_assert_uint_eq(p.b.received, bytes);
	ck_assert_uint_eq(p.a.n_open, 1);
	ck_assert_uint_eq(p.b.n_open, 1);
	ck_assert_uint_eq(p.a.n_closed + p.b.n_closed, 0);
	pair_done(&p);
}

START_TEST(bulk)
{
	both_ways((enum kind)_i, 0, 0, big());
}
END_TEST

START_TEST(bulk_with_pauses)
{
	both_ways((enum kind)_i, 0, 7, big());
}
END_TEST

START_TEST(tiny_writes)
{
	both_ways((enum kind)_i, 37, 11, big() >> 7);
}
END_TEST

static void pause_now(struct end *e)
{
	channel_pause(e->ch, true);
}

/* Whatever the kernel holds, on both sides, and a batch. */
enum { BACKPRESSURE_BYTES = 16 << 20 };

START_TEST(backpressure)
{
	struct pair p;
	uint64_t sent;

	pair_init(&p);
	p.a.to_send = p.b.expect = 64 << 20;
	p.b.on_open_hook = pause_now;
	p.b.stop_when_received = true;
	pair_start(&p, (enum kind)_i);
	run_until(p.loop, p.a.sent);
	run_ms(p.loop, 300);
	sent = p.a.sent;
	ck_assert_uint_lt(sent, BACKPRESSURE_BYTES);
	ck_assert_uint_eq(p.b.received, 0);
	run_ms(p.loop, 100);
	ck_assert_uint_lt(p.a.sent - sent, 1 << 20);
	channel_pause(p.b.ch, false);
	run(p.loop);
	ck_assert_uint_eq(p.b.received, p.b.expect);
	pair_done(&p);
}
END_TEST

/* Many channels at once: each gets its share of the turns. */
START_TEST(fairness)
{
	struct pair p[8];
	uint64_t least = UINT64_MAX, most = 0;

	pair_init(&p[0]);
	for (size_t i = 0; i < ARRAY_LEN(p); i++) {
		if (i) {
			pair_init(&p[i]);
			event_free(p[i].deadline);
			event_free(p[i].a.resume);
			event_free(p[i].b.resume);
			loop_free(p[i].loop);
			p[i].loop = p[i].a.loop = p[i].b.loop = p[0].loop;
		}
		p[i].a.to_send = UINT64_MAX;
		pair_start(&p[i], (enum kind)_i);
	}
	run_ms(p[0].loop, 400);
	for (size_t i = 0; i < ARRAY_LEN(p); i++) {
		least = MIN(least, p[i].b.received);
		most = MAX(most, p[i].b.received);
		channel_abort(p[i].a.ch, false);
		channel_abort(p[i].b.ch, false);
		p[i].a.ch = p[i].b.ch = NULL;
	}
	ck_assert_msg(least > most / 4, "%llu to %llu", (unsigned long long)least, (unsigned long long)most);
	pair_done(&p[0]);
}
END_TEST

/* Callbacks that change the callbacks. */
static unsigned other_data, other_len;

static void other_on_data(void *user, uint8_t *data, size_t len)
{
	other_data++;
	other_len += (unsigned)len;
	loop_stop(user);
}

static size_t other_on_pull(void *user, uint8_t *dst, size_t room)
{
	return 0;
}

static void other_on_closed(void *user, enum channel_end how, int error, const char *detail)
{
}

static const struct channel_ops other_ops = { NULL, other_on_data, other_on_pull, NULL, other_on_closed };

static void change_ops(struct end *e)
{
	channel_set_ops(e->ch, &other_ops, e->loop);
}

START_TEST(set_ops_from_on_data)
{
	struct pair p;

	other_data = other_len = 0;
	pair_init(&p);
	p.a.to_send = 10;
	p.b.on_data_hook = change_ops;
	pair_start(&p, (enum kind)_i);
	run_until(p.loop, p.b.received == 10);
	p.a.to_send = 15;
	channel_want_write(p.a.ch);
	run(p.loop);
	ck_assert_uint_eq(other_data, 1);
	ck_assert_uint_eq(other_len, 5);
	ck_assert_uint_eq(p.b.received, 10);
	pair_done(&p);
}
END_TEST

START_TEST(flushed_once)
{
	struct pair p;

	pair_init(&p);
	p.a.to_send = 10;
	pair_start(&p, (enum kind)_i);
	run_until(p.loop, p.b.received == 10);
	ck_assert_uint_eq(p.a.n_flushed, 1);
	channel_want_write(p.a.ch);
	run_ms(p.loop, 10);
	ck_assert_uint_eq(p.a.n_flushed, 1);
	p.a.to_send = 20;
	channel_want_write(p.a.ch);
	run_until(p.loop, p.b.received == 20);
	ck_assert_uint_eq(p.a.n_flushed, 2);
	pair_done(&p);
}
END_TEST

START_TEST(peer_names)
{
	char full[64], addr[64];
	struct pair p;

	pair_init(&p);
	pair_start(&p, (enum kind)_i);
	run_until(p.loop, channel_is_open(p.a.ch) && channel_is_open(p.b.ch));
	channel_peer(p.b.ch, full, sizeof(full));
	channel_peer_addr(p.b.ch, addr, sizeof(addr));
	if (_i == PLAIN_UNIX) {
		ck_assert_str_eq(full, "unix");
		ck_assert_str_eq(addr, "unix");
	} else {
		ck_assert_int_eq(strncmp(full, "127.0.0.1:", 10), 0);
		ck_assert_str_eq(addr, "127.0.0.1");
	}
	pair_done(&p);
}
END_TEST

#define EACH_KIND(fn) tcase_add_loop_test(tc, fn, PLAIN_UNIX, TLS_TCP + 1);
UNIT_MAIN("channel", tcase_add_checked_fixture(tc, certs_setup, certs_teardown);
	  EACH_KIND(bulk) EACH_KIND(bulk_with_pauses) EACH_KIND(tiny_writes) EACH_KIND(backpressure) EACH_KIND(fairness)
	  EACH_KIND(set_ops_from_on_data) EACH_KIND(flushed_once) EACH_KIND(peer_names))
