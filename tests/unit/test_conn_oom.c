/* Every allocation of every scenario of two ends fails once: nothing crashes, nothing leaks, and either all is as without the
 * failure, or somebody was told, with a reason.
 */
#include "proto/reasons.h"
#include "proto/tunnel.h"
#include "tests/lib/oom.h"
#include "tests/lib/pair.h"
#include "tests/lib/unit.h"

#include <string.h>

/* ---- two ends ---- */

enum { STREAMS = 12, ANSWER = 150 * 1000, WIRE = 5000, KEEPALIVE_MS = 20 * 1000 };

/* What one end has seen of a stream. */
struct view {
	struct tp_stream *s; /* NULL: none yet, or released */
	size_t got;
	bool opened, head, end, reset;
	uint32_t reason;
};

static struct tp_config cfg[2];
static struct tp_conn *session[2], *fresh; /* fresh: the relay's end of a connection whose HELLO has not come */
static struct view views[2][STREAMS];
static size_t opened, base; /* streams in all, and in earlier sessions */
static size_t notes;
static uint64_t now_us;
static bool up, forget, greedy, told; /* forget: the relay knows no session; greedy: DATA is not consumed; told: of a failure */
static bool nameless;                 /* a connection failed without a reason */
static uint32_t expected;             /* the reason of a FAILED that belongs to the scenario */

static void check(int result)
{
	told |= result < 0;
}

static struct tp_conn *on_wire(enum pair_side side)
{
	return side == PAIR_RELAY && fresh ? fresh : session[side];
}

static void detach(enum pair_side side)
{
	struct tp_conn *c = on_wire(side);

	if (c)
		tp_conn_detach(c);
}

static void cut(void)
{
	detach(PAIR_GATEWAY);
	detach(PAIR_RELAY);
	fresh = tp_conn_free(fresh);
	up = false;
}

/* The relay need not have noticed that the old connection is gone. */
static void reconnect(void)
{
	if (told)
		return;
	fresh = tp_conn_free(fresh);
	check(OOM(tp_conn_new(&cfg[PAIR_RELAY], &fresh)));
	if (!told)
		check(OOM(tp_conn_attach(fresh, now_us / 1000)));
	if (!told && !session[PAIR_GATEWAY])
		check(OOM(tp_conn_new(&cfg[PAIR_GATEWAY], &session[PAIR_GATEWAY])));
	if (!told)
		check(OOM(tp_conn_attach(session[PAIR_GATEWAY], now_us / 1000)));
	up = !told;
}

static void forget_session(void)
{
	struct view *v;

	tp_conn_abandon(session[PAIR_RELAY], TP_REASON_SESSION_LOST);
	for (v = views[PAIR_RELAY]; v < views[PAIR_RELAY] + STREAMS; v++) {
		if (v->s) {
			v->s = tp_stream_release(v->s);
			v->reset = true;
			v->reason = TP_REASON_SESSION_LOST;
		}
	}
	session[PAIR_RELAY] = tp_conn_free(session[PAIR_RELAY]);
}

static void on_hello(void)
{
	static uint8_t id[TP_SESSION_ID_BYTES] = { 1 };
	int r;

	if (session[PAIR_RELAY] && !forget) {
		r = OOM(tp_conn_resume(session[PAIR_RELAY], fresh, now_us / 1000));
		check(r);
		if (r <= 0)
			fresh = tp_conn_free(fresh);
		if (r <= 0)
			return;
	}
	if (session[PAIR_RELAY])
		forget_session();
	id[1]++;
	session[PAIR_RELAY] = fresh;
	fresh = NULL;
	base = opened;
	check(OOM(tp_conn_welcome(session[PAIR_RELAY], id, now_us / 1000)));
}

static void answer(struct view *v)
{
	static const uint8_t zeros[ANSWER];
	const struct tp_field head[] = { { SPAN(":status"), SPAN("200") } };
	int r = OOM(tp_stream_head(v->s, head, 1, false));

	if (r == 0)
		r = OOM(tp_stream_send(v->s, zeros, ANSWER, true));
	if (r < 0)
		OOM_VOID(tp_stream_reset(v->s, TP_REASON_INTERNAL, "out of memory"));
	check(r);
}

static void on_stream_event(enum pair_side side, struct view *v, const struct tp_event *ev)
{
	v->head |= ev->type == TP_EV_HEAD;
	v->end |= ev->end;
	if (ev->type == TP_EV_DATA) {
		v->got += ev->len;
		if (!greedy)
			OOM_VOID(tp_stream_consumed(ev->stream, ev->len, now_us));
		if (side == PAIR_GATEWAY && ev->end)
			answer(v);
	}
	if (ev->type == TP_EV_RESET) {
		v->reset = true;
		v->reason = ev->reason;
		v->s = tp_stream_release(v->s);
	}
}

static void on_event(enum pair_side side, const struct tp_event *ev)
{
	struct view *v = NULL;

	if (ev->type == TP_EV_OPEN) {
		/* One that was refused before has no view. */
		v = &views[side][base + tp_stream_id(ev->stream) - 1];
		assert(v < &views[side][STREAMS]);
		*v = (struct view){ .s = ev->stream, .opened = true };
		tp_stream_set_user(ev->stream, v);
	} else if (ev->stream) {
		on_stream_event(side, tp_stream_user(ev->stream), ev);
	}
	if (ev->type == TP_EV_HELLO)
		on_hello();
	notes += ev->type == TP_EV_NOTE;
	if (ev->type == TP_EV_FAILED || ev->type == TP_EV_CLOSED) {
		nameless |= !tp_reason_known(ev->reason) || ev->reason == TP_REASON_NONE;
		told |= ev->reason != expected;
		up = false;
	}
}

static void events(enum pair_side side)
{
	static struct tp_event ev;
	struct tp_conn *c = on_wire(side);

	while (c && !told && OOM(tp_conn_next(c, now_us, &ev))) {
		on_event(side, &ev);
		if (ev.type == TP_EV_HELLO)
			c = session[side];
	}
}

static bool deliver(enum pair_side from)
{
	static uint8_t wire[WIRE];
	struct tp_conn *c = on_wire(from), *to;
	size_t n = c ? OOM(tp_conn_pull(c, wire, sizeof(wire))) : 0;

	events(from);
	/* In two pieces, so that messages have to be put together. */
	for (size_t at = 0, k = n / 2 + 1; at < n && up && !told; at += k, k = n - at) {
		to = on_wire(!from);
		if (!to)
			break;
		OOM_VOID(tp_conn_feed(to, wire + at, k));
		events(!from);
	}
	return n > 0;
}

static void run(int turns)
{
	bool moved = true;

	for (int i = 0; i < turns && moved && up && !told; i++) {
		now_us += 1000;
		moved = deliver(PAIR_GATEWAY);
		moved |= !told && up && deliver(PAIR_RELAY);
	}
	for (int side = 0; side < 2; side++)
		if (session[side])
			events(side);
}

static void run_all(void)
{
	run(10000);
}

static void advance(uint64_t ms)
{
	now_us += ms * 1000;
	for (int side = 0; side < 2 && !told; side++) {
		if (session[side]) {
			OOM_VOID(tp_conn_tick(session[side], now_us / 1000));
			events(side);
		}
	}
}

/* The relay opens streams. The gateway answers when it has the whole request. */
static void calls(size_t n, bool whole)
{
	const struct tp_field open[] = { { SPAN(":kind"), SPAN("exchange") } };

	for (size_t i = 0; i < n && !told; i++) {
		struct view *v = &views[PAIR_RELAY][opened];

		*v = (struct view){ .opened = true };
		check(OOM(tp_stream_open(session[PAIR_RELAY], open, 1, false, v, &v->s)));
		opened += !told;
		if (!told)
			check(OOM(tp_stream_send(v->s, "hello", 5, whole)));
	}
}

static void finish(size_t i)
{
	if (!told && views[PAIR_RELAY][i].s)
		check(OOM(tp_stream_send(views[PAIR_RELAY][i].s, "bye", 3, true)));
}

static void leave(enum pair_side side, size_t i)
{
	struct view *v = &views[side][i];

	if (v->s && !told)
		OOM_VOID(v->s = tp_stream_release(v->s));
}

static void reset(enum pair_side side, size_t i)
{
	if (views[side][i].s && !told)
		OOM_VOID(tp_stream_reset(views[side][i].s, TP_REASON_DEADLINE, "too late"));
	leave(side, i);
}

static void begin(void)
{
	reconnect();
	run_all();
}

/* ---- scenarios ---- */

static void cut_in_the_middle(void)
{
	begin();
	calls(1, true);
	run(6);
	cut();
	reconnect();
	run_all();
	calls(1, true);
	run_all();
}

static void takes_over(void)
{
	begin();
	calls(2, true);
	run(6);
	/* Only the gateway knows. */
	reconnect();
	run_all();
}

static void done_while_detached(void)
{
	begin();
	calls(5, false);
	run_all();
	cut();
	finish(0);
	leave(PAIR_RELAY, 1);
	reset(PAIR_RELAY, 2);
	reset(PAIR_GATEWAY, 3);
	if (!told && views[PAIR_GATEWAY][4].s)
		answer(&views[PAIR_GATEWAY][4]);
	calls(2, true);
	if (!told)
		check(OOM(tp_conn_goaway(session[PAIR_GATEWAY], TP_REASON_GATEWAY_STOPPED, "bye")));
	reconnect();
	run_all();
}

static void session_is_lost(void)
{
	begin();
	calls(3, true);
	run(6);
	cut();
	forget = true;
	reconnect();
	run_all();
	calls(1, true);
	run_all();
}

static void resets_cross(void)
{
	begin();
	calls(4, false);
	run_all();
	reset(PAIR_RELAY, 0);
	reset(PAIR_GATEWAY, 0);
	reset(PAIR_GATEWAY, 1);
	leave(PAIR_RELAY, 2);
	finish(3);
	run(4);
	leave(PAIR_RELAY, 3);
	run_all();
}

/* More than the relay wants at once, and than it may keep. */
static void held_back(void)
{
	cfg[PAIR_RELAY].window_initial = 32 * 1024;
	begin();
	greedy = true;
	calls(8, true);
	run_all();
	cut();
	reconnect();
	run_all();
	greedy = false;
	for (size_t i = 0; i < 8 && !told; i++)
		if (views[PAIR_RELAY][i].s)
			OOM_VOID(tp_stream_consumed(views[PAIR_RELAY][i].s, views[PAIR_RELAY][i].got, now_us));
	run_all();
}

static void too_many(void)
{
	cfg[PAIR_GATEWAY].max_streams = 2;
	begin();
	calls(2, false);
	run_all();
	finish(0);
	finish(1);
	run_all();
	calls(1, true);
	run_all();
}

static void goes_away(enum pair_side side)
{
	begin();
	calls(2, false);
	run_all();
	if (!told)
		check(OOM(tp_conn_goaway(session[side], TP_REASON_GATEWAY_STOPPED, "bye")));
	run(1);
	finish(0);
	run_all();
	finish(1);
	if (!told)
		check(OOM(tp_conn_ask(session[PAIR_GATEWAY], now_us)));
	run_all();
	expected = side == PAIR_GATEWAY ? TP_REASON_GATEWAY_STOPPED : TP_REASON_RELAY_STOPPED;
	if (!told)
		OOM_VOID(tp_conn_close(session[side], expected, "bye"));
	run_all();
}

static void gateway_goes_away(void)
{
	goes_away(PAIR_GATEWAY);
}

static void relay_goes_away(void)
{
	goes_away(PAIR_RELAY);
}

static void silence(void)
{
	begin();
	calls(1, true);
	run_all();
	advance(KEEPALIVE_MS + 1000);
	run_all();
	/* From here on nothing arrives. */
	calls(1, true);
	expected = TP_REASON_KEEPALIVE;
	for (int i = 0; i < 3; i++)
		advance(KEEPALIVE_MS);
	cut();
	reconnect();
	run_all();
}

static void tells_notes(void)
{
	const struct tp_field fields[] = { { SPAN(":audit"), SPAN("ok") } };

	begin();
	for (int i = 0; i < 2 && !told; i++) {
		check(OOM(tp_conn_note(session[PAIR_GATEWAY], fields, 1)));
		calls(1, true);
		run_all();
	}
}

static const struct scenario {
	const char *name;
	void (*play)(void);
} scenarios[] = {
	{ "cut in the middle", cut_in_the_middle },
	{ "takes over", takes_over },
	{ "done while detached", done_while_detached },
	{ "session is lost", session_is_lost },
	{ "resets cross", resets_cross },
	{ "held back", held_back },
	{ "too many", too_many },
	{ "gateway goes away", gateway_goes_away },
	{ "relay goes away", relay_goes_away },
	{ "silence", silence },
	{ "notes", tells_notes },
};

/* ---- what comes out ---- */

static void set_up(void)
{
	for (int side = 0; side < 2; side++) {
		tp_config_init(&cfg[side], side == PAIR_GATEWAY ? TP_GATEWAY : TP_RELAY, pair_entropy);
		cfg[side].keepalive_ms = KEEPALIVE_MS;
		cfg[side].replay_max = 256 * 1024;
	}
	memset(views, 0, sizeof(views));
	opened = base = notes = 0;
	now_us = 1000 * 1000;
	up = forget = greedy = told = nameless = false;
	expected = TP_REASON_NONE;
}

static void clean_up(void)
{
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < STREAMS; i++)
			views[side][i].s = tp_stream_release(views[side][i].s);
		session[side] = tp_conn_free(session[side]);
	}
	fresh = tp_conn_free(fresh);
}

static bool view_equal(const struct view *a, const struct view *b)
{
	return a->opened == b->opened && a->got == b->got && a->head == b->head && a->end == b->end && a->reset == b->reset &&
	       a->reason == b->reason;
}

static bool has_reason(const struct view *v)
{
	return v->reset && tp_reason_known(v->reason) && v->reason != TP_REASON_NONE;
}

/* Without the failure it was like `right`. */
static void compare(const struct scenario *sc, unsigned long n, struct view seen[2][STREAMS], struct view right[2][STREAMS])
{
	for (size_t i = 0; i < STREAMS && !told; i++) {
		bool same = view_equal(&seen[0][i], &right[0][i]) && view_equal(&seen[1][i], &right[1][i]);

		ck_assert_msg(same || has_reason(&seen[PAIR_RELAY][i]), "%s: allocation %lu, stream %zu: nobody was told", sc->name,
			      n, i);
	}
}

START_TEST(each_allocation_fails_once)
{
	const struct scenario *sc = &scenarios[_i];
	struct view right[2][STREAMS], seen[2][STREAMS];
	unsigned long n;

	for (n = 0;; n++) {
		long before = oom_in_use(), leaked;
		unsigned long failures;

		oom_begin(n, false);
		pair_seed(n);
		set_up();
		sc->play();
		failures = oom_end();
		memcpy(n == 0 ? right : seen, views, sizeof(views));
		clean_up();
		leaked = oom_in_use() - before;
		ck_assert_msg(leaked == 0, "%s: allocation %lu: %ld leaked", sc->name, n, leaked);
		ck_assert_msg(n > 0 || !told, "%s: does not work at all", sc->name);
		ck_assert_msg(!nameless, "%s: allocation %lu: a failure without a reason", sc->name, n);
		if (n > 0)
			compare(sc, n, seen, right);
		if (n > 0 && !failures)
			break;
	}
	ck_assert_uint_gt(n, 20);
	ck_assert(!told);
}
END_TEST

/* The scenarios do what they say. */
START_TEST(scenarios_reach_their_ends)
{
	const struct scenario *sc = &scenarios[_i];
	size_t whole = 0, lost = 0, cancelled = 0;

	set_up();
	sc->play();
	for (size_t i = 0; i < opened; i++) {
		const struct view *r = &views[PAIR_RELAY][i], *g = &views[PAIR_GATEWAY][i];

		whole += r->head && r->end && r->got == ANSWER;
		lost += r->reason == TP_REASON_SESSION_LOST && g->reason == TP_REASON_SESSION_LOST;
		cancelled += g->reason == TP_REASON_CANCELLED;
	}
	if (sc->play == session_is_lost)
		ck_assert(lost == 3 && whole == 1);
	else if (sc->play == resets_cross)
		ck_assert(whole == 0 && cancelled == 2);
	else if (sc->play == done_while_detached)
		ck_assert(whole == 4 && cancelled == 1);
	else
		ck_assert_uint_eq(whole, opened);
	ck_assert_uint_gt(opened, 0);
	ck_assert_uint_eq(notes, sc->play == tells_notes ? 2 : 0);
	clean_up();
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
		oom_begin(1, false);
		OOM_VOID(tp_stream_reset(side == PAIR_RELAY ? r->s : pair_peer(&p, PAIR_GATEWAY, r->id)->s, TP_REASON_DEADLINE, NULL));
		ck_assert_uint_eq(oom_end(), 1);
		pair_up(&p);
		ck_assert(!pair_last(&p, PAIR_GATEWAY, TP_EV_ATTACHED)->resumed);
		ck_assert(other->reset && pair_peer(&p, PAIR_GATEWAY, other->id)->reset);
		ck_assert_uint_eq(tp_conn_streams(p.end[0].conn) + tp_conn_streams(p.end[1].conn), 0);
		pair_done(&p);
	}
}
END_TEST

UNIT_MAIN("conn_oom",
	  tcase_add_loop_test(tc, each_allocation_fails_once, 0, ARRAY_LEN(scenarios));
	  tcase_add_loop_test(tc, scenarios_reach_their_ends, 0, ARRAY_LEN(scenarios));
	  ADD(a_session_with_a_gap_does_not_go_on))
