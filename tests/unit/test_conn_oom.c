/* Every allocation fails once: nothing crashes, nothing leaks, and either both ends got everything or somebody was told. The
 * linker puts __wrap_malloc() and __wrap_calloc() in the place of malloc() and calloc().
 */
#include "proto/tunnel.h"
#include "tests/lib/pair.h"
#include "tests/lib/unit.h"

#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static bool armed; /* only inside of the code under test */
static unsigned long countdown, failures;

static bool fails(void)
{
	if (!armed || countdown == 0 || --countdown > 0)
		return false;
	failures++;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

#define UNDER_TEST(call)                                                                                               \
	__extension__({                                                                                                \
		armed = true;                                                                                          \
		__typeof__(call) result_ = (call);                                                                     \
		armed = false;                                                                                         \
		result_;                                                                                               \
	})

enum { ANSWER = 150 * 1000 };

static struct tp_conn *gateway, *relay, *fresh;
static struct tp_stream *at_relay, *at_gateway;
static size_t got;
static bool got_end, told; /* of a failure, by a result or an event */
static uint8_t wire[65536], zeros[ANSWER];

static void on_event(struct tp_event *ev)
{
	static const uint8_t id[TP_SESSION_ID_BYTES] = { 1 };
	const struct tp_field head[] = { { SPAN(":status"), SPAN("200") } };

	switch (ev->type) {
	case TP_EV_HELLO:
		if (relay != fresh)
			told |= UNDER_TEST(tp_conn_resume(relay, fresh, 1)) != 0;
		else
			told |= UNDER_TEST(tp_conn_welcome(relay, id, 1)) != 0;
		break;
	case TP_EV_OPEN:
		at_gateway = ev->stream;
		told |= UNDER_TEST(tp_stream_head(at_gateway, head, 1, false)) != 0;
		told = told || UNDER_TEST(tp_stream_send(at_gateway, zeros, ANSWER, true)) != 0;
		break;
	case TP_EV_DATA:
		if (ev->stream == at_relay) {
			got += ev->len;
			got_end = ev->end;
		}
		tp_stream_consumed(ev->stream, ev->len, 1000);
		break;
	case TP_EV_RESET:
	case TP_EV_FAILED:
	case TP_EV_CLOSED:
		told = true;
		break;
	default:
		break;
	}
}

static void events(struct tp_conn *c)
{
	static struct tp_event ev;

	while (UNDER_TEST(tp_conn_next(c, 1000, &ev)))
		on_event(&ev);
}

static void deliver(struct tp_conn **from, struct tp_conn **to, bool *moved)
{
	size_t n = UNDER_TEST(tp_conn_pull(*from, wire, 5000));

	events(*from);
	if (n == 0)
		return;
	*moved = true;
	/* In two pieces, so that messages have to be put together. */
	for (size_t at = 0, k = n / 2 + 1; at < n; at += k, k = n - at) {
		struct tp_conn *c = *to == relay && fresh ? fresh : *to;

		tp_conn_feed(c, wire + at, k);
		events(c);
		/* After an answered HELLO the connection is the session's. */
		if (c == fresh && tp_conn_wants_write(relay))
			fresh = fresh == relay ? NULL : tp_conn_free(fresh);
		if (*to == relay)
			events(relay);
	}
}

static void run(void)
{
	bool moved = true;

	for (int i = 0; i < 1000 && moved && !told; i++) {
		moved = false;
		deliver(&gateway, &relay, &moved);
		if (!told)
			deliver(&relay, &gateway, &moved);
	}
}

static bool end_new(const struct tp_config *cfg, struct tp_conn **ret)
{
	if (UNDER_TEST(tp_conn_new(cfg, ret)) == 0)
		return UNDER_TEST(tp_conn_attach(*ret, 1)) == 0;
	*ret = NULL;
	return false;
}

static void scenario(void)
{
	const struct tp_field open[] = { { SPAN(":kind"), SPAN("exchange") } };
	struct tp_config cfg[2];

	tp_config_init(&cfg[0], TP_GATEWAY, pair_entropy);
	tp_config_init(&cfg[1], TP_RELAY, pair_entropy);
	told = !end_new(&cfg[0], &gateway) || !end_new(&cfg[1], &relay);
	if (told)
		return;
	fresh = relay;
	run();
	if (told)
		return;
	told = UNDER_TEST(tp_stream_open(relay, open, 1, false, NULL, &at_relay)) != 0;
	if (told)
		return;
	told = UNDER_TEST(tp_stream_send(at_relay, "hello", 5, false)) != 0;
	for (int i = 0; i < 3; i++) {
		bool moved;

		deliver(&relay, &gateway, &moved);
		deliver(&gateway, &relay, &moved);
	}
	/* The connection is lost in the middle of the answer. */
	tp_conn_detach(relay);
	if (told || UNDER_TEST(tp_conn_attach(gateway, 1)) < 0 || !end_new(&cfg[1], &fresh)) {
		told = true;
		return;
	}
	run();
	if (told)
		return;
	told = UNDER_TEST(tp_stream_send(at_relay, "bye", 3, true)) != 0;
	run();
}

static void clean_up(void)
{
	if (fresh != relay)
		tp_conn_free(fresh);
	if (at_relay)
		tp_stream_release(at_relay);
	if (at_gateway)
		tp_stream_release(at_gateway);
	tp_conn_free(relay);
	tp_conn_free(gateway);
	fresh = relay = gateway = NULL;
	at_relay = at_gateway = NULL;
	got = 0;
	got_end = told = false;
}

START_TEST(each_allocation_fails_once)
{
	unsigned long n = 1;

	for (;; n++) {
		countdown = n;
		failures = 0;
		pair_seed(n);
		scenario();
		countdown = 0;
		ck_assert_msg(told || (got == ANSWER && got_end), "allocation %lu: %zu bytes, nobody was told", n, got);
		clean_up();
		if (!failures)
			break;
	}
	ck_assert_uint_gt(n, 30);
	ck_assert(!told);
}
END_TEST

/* A RESET that could not be kept while detached: the other end would never hear of it, so the session does not go on. */
START_TEST(a_session_with_a_gap_does_not_go_on)
{
	for (int side = 0; side < 2; side++) {
		static struct pair p;
		struct pair_stream *r, *other;

		pair_init(&p);
		pair_up(&p);
		r = pair_open(&p, false);
		other = pair_open(&p, false);
		pair_run(&p);
		pair_advance(&p, 60 * 1000); /* all is acknowledged, so the next frame needs memory */
		pair_cut(&p);
		countdown = 1;
		armed = true;
		tp_stream_reset(side == PAIR_RELAY ? r->s : pair_peer(&p, PAIR_GATEWAY, r->id)->s, TP_REASON_DEADLINE, NULL);
		armed = false;
		ck_assert_uint_eq(countdown, 0);
		pair_up(&p);
		ck_assert(!pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
		ck_assert(other->reset && pair_peer(&p, PAIR_GATEWAY, other->id)->reset);
		ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
		pair_done(&p);
	}
}
END_TEST

UNIT_MAIN("conn_oom", ADD(each_allocation_fails_once) ADD(a_session_with_a_gap_does_not_go_on))
