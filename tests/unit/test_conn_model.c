/* Random steps of two ends against a simple model: what one end was given, the other tells exactly once and in order, or the
 * stream ends with a reason that one of them gave. The same steps each time; TP_SEED=N takes others, TP_STEPS=N sets the
 * length. Some millions with another seed are worth their minute after a change.
 */
#include "tests/lib/pair.h"
#include "tests/lib/unit.h"

#include <string.h>

#include "proto/conn_impl.h"

enum { EPISODES = 334, STEPS = 3000, OPEN_MAX = 60 };

/* One stream, as it should be; `other` ends are found by number. */
struct model {
	struct pair_stream *end[2]; /* by side; the gateway's is NULL until told */
	uint64_t sent[2], got[2];
	bool ended[2];   /* that side has given END */
	bool dropped[2]; /* that side has reset or released before its time */
	bool left;       /* the gateway left after its answer */
	unsigned session;
};

static struct pair p;
static struct model models[PAIR_STREAMS];
static size_t n_models;
static unsigned session;
static bool goaway; /* in this session */
static struct {
	size_t streams, told, bytes, whole, resumed, sessions;
} seen;

static struct model *pick(void)
{
	size_t from = n_models > OPEN_MAX ? n_models - OPEN_MAX : 0;

	return n_models ? &models[from + pair_below((uint32_t)(n_models - from))] : NULL;
}

static bool alive(const struct model *m, enum pair_side side)
{
	return m && m->end[side] && m->end[side]->s && !m->end[side]->reset;
}

static void check_reset(struct model *m, enum pair_side side, uint32_t reason)
{
	if (reason == TP_REASON_SESSION_LOST)
		return;
	if (reason == TP_REASON_NONE)
		ck_assert(side == PAIR_RELAY && m->left && m->end[side]->end && m->got[side] == m->sent[!side]);
	else if (reason == TP_REASON_REFUSED)
		ck_assert(side == PAIR_RELAY && goaway && !m->end[PAIR_GATEWAY]);
	else
		ck_assert_msg(m->dropped[!side], "reset by nobody: %u", reason);
}

static void on_event(struct pair *pair, enum pair_side side, const struct tp_event *ev, struct pair_stream *ps)
{
	struct model *m = ps ? ps->model : NULL;

	if (ev->type == TP_EV_OPEN) {
		struct pair_stream *r = pair_peer(pair, PAIR_RELAY, ps->id);

		ck_assert_ptr_nonnull(r);
		m = r->model;
		ck_assert_msg(!m->end[PAIR_GATEWAY] && m->session == session, "a stream told twice");
		ck_assert_int_eq(ev->end, m->ended[PAIR_RELAY] && m->sent[PAIR_RELAY] == 0 && ps->end);
		m->end[PAIR_GATEWAY] = ps;
		ps->model = m;
	}
	if (ev->type == TP_EV_DATA) {
		ck_assert_uint_le(m->got[side] + ev->len, m->sent[!side]);
		ck_assert(pair_pattern_ok(ev->data, ev->len, ps->id, !side, m->got[side]));
		m->got[side] += ev->len;
		seen.bytes += ev->len;
	}
	seen.told += ev->type == TP_EV_OPEN;
	seen.resumed += ev->type == TP_EV_ATTACHED && side == PAIR_GATEWAY && ev->resumed;
	seen.sessions += ev->type == TP_EV_ATTACHED && side == PAIR_GATEWAY && !ev->resumed;
	if (m && ev->end) {
		ck_assert(m->ended[!side]);
		ck_assert_uint_eq(m->got[side], m->sent[!side]);
	}
	if (ev->type == TP_EV_RESET)
		check_reset(m, side, ev->reason);
	ck_assert_msg(ev->type != TP_EV_FAILED, "failed: %.*s", SPAN_FMT(ev->detail));
}

static void do_open(void)
{
	bool end = pair_below(4) == 0;
	struct pair_stream *ps;
	struct tp_conn *c = p.end[PAIR_RELAY].conn;

	if (!c || !c->has_session || p.end[PAIR_RELAY].n_streams >= PAIR_STREAMS - 1)
		return;
	if (!p.end[PAIR_GATEWAY].conn->has_session || c->carrier.unproven || tp_conn_streams(c) >= OPEN_MAX)
		return;
	ps = pair_open(&p, end);
	if (!ps) {
		ck_assert(goaway || c->replay.bytes >= 2 * c->cfg.replay_max);
		return;
	}
	models[n_models] = (struct model){ .end[PAIR_RELAY] = ps, .ended[PAIR_RELAY] = end, .session = session };
	ps->model = &models[n_models++];
	seen.streams++;
}

static void do_send(enum pair_side side)
{
	struct model *m = pick();
	size_t len = pair_below(10) == 0 ? pair_below(60000) : pair_below(300);
	bool end = pair_below(5) == 0;

	if (!alive(m, side) || m->ended[side] || !tp_stream_wants_data(m->end[side]->s))
		return;
	if (side == PAIR_GATEWAY && !m->end[side]->head) {
		m->end[side]->head = true;
		m->ended[side] = pair_below(10) == 0;
		pair_head(m->end[side], m->ended[side]);
		return;
	}
	pair_send_at(m->end[side], side, m->sent[side], len, end);
	m->sent[side] += len;
	m->ended[side] = end;
}

static void do_consume(enum pair_side side)
{
	struct model *m = pick();

	if (m && m->end[side] && m->end[side]->s && m->end[side]->unconsumed)
		pair_consume(&p, m->end[side], 1 + pair_below((uint32_t)m->end[side]->unconsumed));
}

static void do_drop(enum pair_side side)
{
	struct model *m = pick();
	bool over;

	if (!m || !m->end[side] || !m->end[side]->s)
		return;
	over = m->end[side]->reset || (m->ended[side] && m->end[side]->end);
	if (!over && pair_below(3))
		return;
	if (pair_below(2)) {
		m->dropped[side] |= !m->end[side]->s->closed;
		tp_stream_reset(m->end[side]->s, TP_REASON_CANCELLED, "model");
		m->end[side]->reset = true;
	} else {
		m->left |= !over && side == PAIR_GATEWAY && m->ended[side];
		m->dropped[side] |= !over && !(side == PAIR_GATEWAY && m->left);
		pair_release(m->end[side]);
	}
}

static void next_session(void)
{
	session++;
	goaway = false;
}

static void do_connection(void)
{
	bool forget = pair_below(20) == 0;

	if (p.up && pair_below(3))
		pair_cut(&p);
	else
		pair_connect(&p);
	if (forget && p.up) {
		/* The relay has started anew: all of it is over. */
		p.forget_sessions = true;
		pair_connect(&p);
		pair_run(&p);
		p.forget_sessions = false;
		next_session();
	}
}

static void step(void)
{
	switch (pair_below(24)) {
	case 0:
	case 1:
		do_open();
		break;
	case 2:
	case 3:
	case 4:
	case 5:
	case 6:
	case 7:
		do_send(pair_below(2));
		break;
	case 8:
	case 9:
	case 10:
		do_consume(pair_below(2));
		break;
	case 11:
		do_drop(pair_below(2));
		break;
	case 12:
		if (pair_below(8) == 0)
			do_connection();
		break;
	case 13:
		if (pair_below(500) == 0 && p.end[PAIR_GATEWAY].conn->has_session) {
			tp_conn_goaway(p.end[PAIR_GATEWAY].conn, TP_REASON_GATEWAY_STOPPED, NULL);
			goaway = true;
		}
		break;
	case 14:
		p.now_us += pair_below(20000);
		break;
	default:
		if (p.up)
			pair_move(&p, pair_below(2), 1 + pair_below(pair_below(3) ? 300 : 100000));
		break;
	}
	for (int i = 0; i < 2; i++)
		if (p.end[i].conn)
			tp_conn_check(p.end[i].conn);
}

/* Everything that waits may go now; then both ends agree about every stream. */
static void settle(void)
{
	p.auto_consume = true;
	pair_cut(&p);
	pair_up(&p);
	for (size_t i = 0; i < n_models; i++)
		for (int side = 0; side < 2; side++)
			if (models[i].end[side] && models[i].end[side]->s)
				pair_consume(&p, models[i].end[side], models[i].end[side]->unconsumed);
	pair_run(&p);
	for (size_t i = 0; i < n_models; i++) {
		struct model *m = &models[i];

		if (m->session != session || m->dropped[0] || m->dropped[1])
			continue;
		if (!m->end[PAIR_GATEWAY]) {
			ck_assert(m->end[PAIR_RELAY]->reset);
			continue;
		}
		for (int side = 0; side < 2; side++) {
			if (m->left && side == PAIR_GATEWAY)
				continue;
			ck_assert_msg(m->got[side] == m->sent[!side] && m->end[side]->end == m->ended[!side],
				      "stream %u, end %d: %zu of %zu bytes, END %d of %d, left %d, released %d %d",
				      m->end[side]->id, side, (size_t)m->got[side], (size_t)m->sent[!side],
				      m->end[side]->end, m->ended[!side], m->left, !m->end[0]->s, !m->end[1]->s);
			seen.whole += m->end[side]->end;
		}
	}
}

static void episode(size_t steps)
{
	n_models = 0;
	session = 0;
	goaway = false;
	pair_init(&p);
	p.on_event = on_event;
	p.keep_data = p.auto_consume = false;
	p.chunk = pair_below(3) ? 0 : 1 + pair_below(3000);
	p.pull = 1 + pair_below(70000);
	for (int i = 0; i < 2; i++) {
		p.cfg[i].window_initial = 1000 + pair_below(100000);
		p.cfg[i].window_max = 300000;
		p.cfg[i].max_payload = 1024 + pair_below(30000);
		p.cfg[i].replay_max = pair_below(200000);
	}
	pair_up(&p);
	for (size_t i = 0; i < steps; i++)
		step();
	settle();
	pair_done(&p);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

START_TEST(random_steps)
{
	uint64_t seed, steps = from_environment("TP_STEPS", (uint64_t)EPISODES * STEPS);

	seed = from_environment("TP_SEED", 1);
	for (; steps > 0; steps -= MIN(steps, STEPS), seed++) {
		printf("# TP_SEED=%llu\n", (unsigned long long)seed);
		pair_seed(seed);
		episode(MIN(steps, STEPS));
	}
	printf("# %zu streams, %zu told, %zu bytes, %zu directions whole, %zu times resumed, %zu sessions\n", seen.streams,
	       seen.told, seen.bytes, seen.whole, seen.resumed, seen.sessions);
	ck_assert_uint_gt(seen.bytes, 0);
}
END_TEST

UNIT_MAIN("conn_model", ADD(random_steps))
