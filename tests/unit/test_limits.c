/* relay/limits: what one agent, and one tunnel's agents together may do. */
#include "relay/limits.h"

#include "tests/lib/unit.h"

static struct limits *limits;
static struct limits_ticket tickets[64];

static void begin(unsigned agent_rate, unsigned tunnel_rate, unsigned agent_streams)
{
	const struct limits_config cfg = { agent_rate, tunnel_rate, agent_streams };

	ck_assert_int_eq(limits_new(&cfg, &limits), 0);
	memset(tickets, 0, sizeof(tickets));
}

static uint32_t enter(const char *tunnel, const char *agent, uint64_t now_ms, size_t slot)
{
	limits_leave(&tickets[slot]);
	return limits_enter(limits, span_of(tunnel), agent, now_ms, &tickets[slot]);
}

static void end(void)
{
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++)
		limits_leave(&tickets[i]);
	limits = limits_free(limits);
}

/* Requests one after the other, each over before the next; how many get in before that answer comes. */
static unsigned until(uint32_t reason, const char *tunnel, const char *agent, uint64_t now_ms)
{
	unsigned n = 0;
	uint32_t got;

	while ((got = enter(tunnel, agent, now_ms, 0)) == TP_REASON_NONE)
		ck_assert_uint_lt(n++, 100000);
	ck_assert_uint_eq(got, reason);
	return n;
}

START_TEST(rates)
{
	static const struct {
		unsigned rate;
		uint64_t pause_ms;
		unsigned then;
	} rows[] = {
		{ 1, 0, 0 },     { 1, 999, 0 },    { 1, 1000, 1 },   { 1, 3500, 3 },     { 1, 3600 * 1000, 10 }, { 5, 199, 0 },
		{ 5, 200, 1 },   { 5, 1000, 5 },   { 5, 10000, 50 }, { 5, 20000, 50 },   { 1000, 1, 1 },         { 1000, 10000, 10000 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		begin(rows[i].rate, 0, 0);
		ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 5000), rows[i].rate * LIMITS_BURST);
		ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 5000 + rows[i].pause_ms), rows[i].then);
		/* Each has its own; the same name at another tunnel is another agent. */
		ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "b", 5000), rows[i].rate * LIMITS_BURST);
		ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "u", "a", 5000), rows[i].rate * LIMITS_BURST);
		end();
	}
}
END_TEST

START_TEST(a_tunnel_of_several_agents)
{
	begin(2, 3, 0);
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 1000), 20);
	/* What was refused to the one is there for the other. */
	ck_assert_uint_eq(until(TP_REASON_TUNNEL_RATE, "t", "b", 1000), 10);
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "u", "a", 1000), 20);
	end();
}
END_TEST

/* What was not let in has cost nothing, whoever was the reason. */
START_TEST(refusals_cost_nothing)
{
	begin(2, 1, 0);
	ck_assert_uint_eq(until(TP_REASON_TUNNEL_RATE, "t", "a", 1000), 10);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(enter("t", "b", 1000, 0), TP_REASON_TUNNEL_RATE);
	limits_set(limits, &(struct limits_config){ .agent_rate = 2 });
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "b", 1000), 2 * LIMITS_BURST);
	end();
	begin(2, 0, 1);
	ck_assert_uint_eq(enter("t", "a", 1000, 0), TP_REASON_NONE);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(enter("t", "a", 1000, 1), TP_REASON_AGENT_STREAMS);
	limits_leave(&tickets[0]);
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 1000), 2 * LIMITS_BURST - 1);
	end();
}
END_TEST

START_TEST(streams_at_once)
{
	begin(0, 0, 3);
	for (size_t i = 0; i < 3; i++)
		ck_assert_uint_eq(enter("t", "a", 1000, i), TP_REASON_NONE);
	ck_assert_uint_eq(enter("t", "a", 1000, 3), TP_REASON_AGENT_STREAMS);
	ck_assert_uint_eq(enter("t", "b", 1000, 4), TP_REASON_NONE);
	limits_leave(&tickets[1]);
	limits_leave(&tickets[1]); /* nothing the second time */
	ck_assert_uint_eq(enter("t", "a", 1000, 3), TP_REASON_NONE);
	ck_assert_uint_eq(enter("t", "a", 1000, 5), TP_REASON_AGENT_STREAMS);
	end();
}
END_TEST

START_TEST(no_limit)
{
	begin(0, 0, 0);
	for (unsigned i = 0; i < 100000; i++)
		ck_assert_uint_eq(enter("t", "a", 1000, i % ARRAY_LEN(tickets)), TP_REASON_NONE);
	end();
}
END_TEST

START_TEST(other_limits_while_running)
{
	begin(0, 0, 0);
	for (size_t i = 0; i < 5; i++)
		ck_assert_uint_eq(enter("t", "a", 1000, i), TP_REASON_NONE);
	limits_set(limits, &(struct limits_config){ .agent_streams = 2 });
	ck_assert_uint_eq(enter("t", "a", 1000, 5), TP_REASON_AGENT_STREAMS);
	limits_set(limits, &(struct limits_config){ .agent_rate = 1 });
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 1000), LIMITS_BURST);
	limits_set(limits, &(struct limits_config){ .agent_rate = 2 });
	ck_assert_uint_eq(until(TP_REASON_AGENT_RATE, "t", "a", 1000), 2 * LIMITS_BURST);
	end();
}
END_TEST

/* An account goes when nothing of it is open and its buckets are full again: forgetting it gives nothing away. */
START_TEST(idle_accounts_go)
{
	begin(1, 0, 2);
	until(TP_REASON_AGENT_RATE, "t", "a", 1000);
	ck_assert_uint_eq(enter("t", "b", 1000, 1), TP_REASON_NONE);
	ck_assert_uint_eq(limits_accounts(limits), 3);
	limits_leave(&tickets[0]);
	limits_sweep(limits, 1000 + LIMITS_BURST * 1000);
	ck_assert_uint_eq(limits_accounts(limits), 3);
	limits_sweep(limits, 1000 + (LIMITS_BURST + 1) * 1000);
	ck_assert_uint_eq(limits_accounts(limits), 1);
	limits_leave(&tickets[1]);
	limits_sweep(limits, 1000 + 10 * (LIMITS_BURST + 1) * 1000);
	ck_assert_uint_eq(limits_accounts(limits), 0);
	end();
}
END_TEST

START_TEST(records_of_refusals)
{
	uint64_t skipped;
	unsigned n = 0;

	begin(1, 0, 0);
	while (limits_record(limits, SPAN("t"), "a", 1000, &skipped)) {
		ck_assert_uint_eq(skipped, 0);
		n++;
	}
	ck_assert_uint_eq(n, 10);
	ck_assert(!limits_record(limits, SPAN("t"), "a", 1500, &skipped));
	ck_assert(limits_record(limits, SPAN("t"), "b", 1500, &skipped));
	ck_assert(limits_record(limits, SPAN("t"), "a", 2000, &skipped));
	ck_assert_uint_eq(skipped, 2);
	ck_assert(limits_record(limits, SPAN("t"), "a", 3000, &skipped));
	ck_assert_uint_eq(skipped, 0);
	/* However long it takes until the next one. */
	ck_assert(!limits_record(limits, SPAN("t"), "a", 3000, &skipped));
	limits_sweep(limits, 100 * 1000);
	ck_assert(limits_record(limits, SPAN("t"), "a", 100 * 1000, &skipped));
	ck_assert_uint_eq(skipped, 1);
	end();
}
END_TEST

UNIT_MAIN("limits", ADD(rates) ADD(a_tunnel_of_several_agents) ADD(refusals_cost_nothing)
	  ADD(streams_at_once) ADD(no_limit) ADD(other_limits_while_running)
	  ADD(idle_accounts_go) ADD(records_of_refusals))
