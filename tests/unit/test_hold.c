/* relay/hold: the line of calls that wait for their tunnel. */
#include "relay/hold.h"

#include <string.h>

#include "tests/lib/unit.h"

static struct loop *loop;
static struct hold *hold;
static char told[256];

struct waiter {
	struct held held;
	char name;
	bool again; /* waits again when it is let go */
	struct waiter *kills;
};

static void on_attached(void *user)
{
	struct waiter *w = user;

	strncat(told, &w->name, 1);
	if (w->kills)
		hold_remove(&w->kills->held);
	if (w->again && !hold_add(hold, &w->held, SPAN("one"), 1))
		strcat(told, "!");
}

static void on_expired(void *user)
{
	struct waiter *w = user;
	char text[] = { '-', w->name, 0 };

	strcat(told, text);
}

static struct waiter waiter(char name)
{
	return (struct waiter){ .held = { .on_attached = on_attached, .on_expired = on_expired }, .name = name };
}

static bool wait_for(struct waiter *w, const char *tunnel)
{
	w->held.user = w;
	return hold_add(hold, &w->held, span_of(tunnel), 1);
}

static void setup(uint64_t ms)
{
	told[0] = '\0';
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(hold_new(loop, ms, &hold), 0);
}

static void teardown(void)
{
	hold = hold_free(hold);
	loop_free(loop);
}

START_TEST(let_go_in_order_and_by_tunnel)
{
	struct waiter a = waiter('a'), b = waiter('b'), c = waiter('c'), d = waiter('d');

	setup(60000);
	ck_assert(wait_for(&a, "one") && wait_for(&b, "two") && wait_for(&c, "one") && wait_for(&d, "one"));
	hold_remove(&d.held);
	hold_remove(&d.held);
	ck_assert_uint_eq(hold_counters(hold)->waiting, 3);
	ck_assert_uint_eq(hold_attached(hold, "one"), 2);
	ck_assert_str_eq(told, "ac");
	ck_assert_uint_eq(hold_attached(hold, "one"), 0);
	hold_expire_all(hold);
	ck_assert_str_eq(told, "ac-b");
	ck_assert_uint_eq(hold_counters(hold)->waiting, 0);
	ck_assert_uint_eq(hold_counters(hold)->expired, 1);
	teardown();
}
END_TEST

START_TEST(who_waits_again_keeps_its_place_and_its_time)
{
	struct waiter a = waiter('a'), b = waiter('b');
	uint64_t until;

	setup(60000);
	a.again = true;
	ck_assert(wait_for(&a, "one"));
	until = a.held.until_ms;
	ck_assert_uint_eq(hold_attached(hold, "one"), 1);
	ck_assert_uint_eq(a.held.until_ms, until);
	ck_assert(wait_for(&b, "one"));
	a.again = false;
	ck_assert_uint_eq(hold_attached(hold, "one"), 2);
	ck_assert_str_eq(told, "aab");
	hold_renew(&a.held);
	ck_assert_uint_eq(a.held.until_ms, 0);
	teardown();
}
END_TEST

START_TEST(one_that_dies_while_others_are_let_go)
{
	struct waiter a = waiter('a'), b = waiter('b'), c = waiter('c');

	setup(60000);
	a.kills = &b;
	ck_assert(wait_for(&a, "one") && wait_for(&b, "one") && wait_for(&c, "one"));
	hold_attached(hold, "one");
	ck_assert_str_eq(told, "ac");
	ck_assert_uint_eq(hold_counters(hold)->waiting, 0);
	teardown();
}
END_TEST

START_TEST(bounded_in_number_and_bytes)
{
	static struct waiter many[HOLD_CALLS_MAX + 1];
	struct waiter a = waiter('a'), b = waiter('b');

	setup(60000);
	for (size_t i = 0; i < HOLD_CALLS_MAX; i++) {
		many[i] = waiter('x');
		ck_assert(wait_for(&many[i], "one"));
	}
	ck_assert(!wait_for(&many[HOLD_CALLS_MAX], "one"));
	for (size_t i = 0; i < HOLD_CALLS_MAX; i++)
		hold_remove(&many[i].held);
	ck_assert(hold_add(hold, &a.held, SPAN("one"), HOLD_BYTES_MAX - 10));
	ck_assert(!hold_add(hold, &b.held, SPAN("one"), 11));
	ck_assert(hold_add_bytes(&a.held, 10));
	ck_assert(!hold_add_bytes(&a.held, 1));
	ck_assert_ptr_null(a.held.hold);
	hold_renew(&b.held);
	ck_assert(hold_add(hold, &b.held, SPAN("one"), HOLD_BYTES_MAX));
	ck_assert_uint_eq(hold_counters(hold)->refused, 3);
	teardown();
}
END_TEST

static void stop(void *user)
{
	on_expired(user);
	if (hold_counters(hold)->waiting == 0)
		loop_stop(loop);
}

START_TEST(time_runs_out_in_order)
{
	struct waiter a = waiter('a'), b = waiter('b');

	setup(20);
	a.held.on_expired = b.held.on_expired = stop;
	ck_assert(wait_for(&a, "one") && wait_for(&b, "two"));
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(told, "-a-b");
	ck_assert(!hold_add(hold, &a.held, SPAN("one"), 1));
	teardown();
}
END_TEST

START_TEST(zero_does_not_wait)
{
	struct waiter a = waiter('a');

	setup(0);
	ck_assert(!wait_for(&a, "one"));
	ck_assert_uint_eq(hold_attached(hold, "one"), 0);
	teardown();
}
END_TEST

UNIT_MAIN("hold", ADD(let_go_in_order_and_by_tunnel) ADD(who_waits_again_keeps_its_place_and_its_time)
		      ADD(one_that_dies_while_others_are_let_go) ADD(bounded_in_number_and_bytes)
			      ADD(time_runs_out_in_order) ADD(zero_does_not_wait))
