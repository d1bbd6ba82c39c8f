#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "daemon/loop.h"
#include "tests/lib/unit.h"

static struct loop *loop;
static char trace[64];
static size_t trace_len;

struct step {
	struct loop_task task;
	char name;
	int again; /* asks for itself so many times more */
	bool next_turn;
	bool stop;
	struct step *asks, *cancels;
	void *frees;
};

static void note(char c)
{
	if (trace_len < sizeof(trace) - 1)
		trace[trace_len++] = c;
	trace[trace_len] = 0;
}

static void freed(void *p)
{
	note(*(char *)p);
}

static void run_step(void *user)
{
	struct step *s = user;

	note(s->name);
	if (s->asks)
		loop_task_queue(loop, &s->asks->task);
	if (s->cancels)
		loop_task_cancel(loop, &s->cancels->task);
	if (s->frees)
		loop_free_later(loop, freed, s->frees);
	if (s->again-- > 0 && s->next_turn)
		loop_task_queue_next(loop, &s->task);
	else if (s->again >= 0)
		loop_task_queue(loop, &s->task);
	else if (s->stop)
		loop_stop(loop);
}

static void step_init(struct step *s, char name)
{
	*s = (struct step){ .name = name };
	loop_task_init(&s->task, run_step, s);
}

static void setup(void)
{
	trace_len = 0;
	ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
	loop = loop_free(loop);
}

static void on_stop(evutil_socket_t fd, short what, void *user)
{
	note('!');
	loop_stop(loop);
}

static void stop_in(unsigned ms)
{
	struct timeval tv = { .tv_usec = ms * 1000 };

	ck_assert_int_eq(event_base_once(loop_base(loop), -1, EV_TIMEOUT, on_stop, NULL, &tv), 0);
}

START_TEST(tasks_before_the_first_wait)
{
	struct step a, b;

	step_init(&a, 'a');
	step_init(&b, 'b');
	b.stop = true;
	loop_task_queue(loop, &a.task);
	loop_task_queue(loop, &b.task);
	loop_task_queue(loop, &a.task);
	/* No event at all: waiting would be for ever. */
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(trace, "ab");
}
END_TEST

START_TEST(tasks_of_tasks_run_before_frees)
{
	struct step a, b, c;
	char y = 'y';

	step_init(&a, 'a');
	step_init(&b, 'b');
	step_init(&c, 'c');
	a.asks = &c;
	a.frees = &y;
	c.stop = true;
	loop_task_queue(loop, &a.task);
	loop_task_queue(loop, &b.task);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(trace, "abcy");
}
END_TEST

START_TEST(cancelled_tasks_do_not_run)
{
	struct step a, b, c;

	step_init(&a, 'a');
	step_init(&b, 'b');
	step_init(&c, 'c');
	a.cancels = &b;
	c.stop = true;
	loop_task_queue(loop, &a.task);
	loop_task_queue(loop, &b.task);
	loop_task_queue_next(loop, &c.task);
	loop_task_cancel(loop, &c.task);
	loop_task_cancel(loop, &c.task);
	loop_task_queue(loop, &c.task);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(trace, "ac");
	ck_assert(!a.task.queued && !b.task.queued && !c.task.queued);
}
END_TEST

START_TEST(endless_tasks_do_not_starve_events)
{
	struct step a;

	step_init(&a, '.');
	a.again = 1000000000;
	loop_task_queue(loop, &a.task);
	stop_in(5);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert(a.task.queued); /* left over, not lost */
	loop_task_cancel(loop, &a.task);
}
END_TEST

START_TEST(leftover_tasks_do_not_wait)
{
	struct step a;
	uint64_t t0 = clock_now_us();

	/* More rounds than one turn has, and nothing else happens for a second. */
	step_init(&a, '.');
	a.again = 30;
	a.stop = true;
	loop_task_queue(loop, &a.task);
	stop_in(999);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(trace_len, 31);
	ck_assert_uint_lt(clock_now_us() - t0, 500000);
}
END_TEST

START_TEST(next_turn_comes_after_polling)
{
	struct step a, b;
	uint64_t t0 = clock_now_us();

	step_init(&a, 'a');
	step_init(&b, 'b');
	a.again = 3;
	a.next_turn = true;
	a.stop = true;
	loop_task_queue_next(loop, &a.task);
	loop_task_queue(loop, &b.task);
	event_base_once(loop_base(loop), -1, EV_TIMEOUT, on_stop, NULL, &(struct timeval){ .tv_sec = 100 });
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_lt(clock_now_us() - t0, 500000);
	ck_assert_uint_eq(trace_len, 5);
}
END_TEST

static char x = 'x';

static void bring_forward(void *user)
{
	struct step *b = user;

	note('a');
	loop_free_later(loop, freed, &x);
	loop_task_queue_next(loop, &b->task);
	loop_task_queue(loop, &b->task);
}

START_TEST(asking_now_brings_forward)
{
	struct loop_task a;
	struct step b;

	loop_task_init(&a, bring_forward, &b);
	step_init(&b, 'b');
	b.stop = true;
	loop_task_queue(loop, &a);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(trace, "abx");
}
END_TEST

START_TEST(time_stands_still_within_a_turn)
{
	const struct timespec ts = { .tv_nsec = 20 * 1000000 };
	uint64_t before = loop_now_us(loop);

	nanosleep(&ts, NULL);
	ck_assert_uint_ge(loop_now_us(loop), before + 20000);
	ck_assert_uint_ge(loop_now_ms(loop), before / 1000 + 20);
}
END_TEST

static uint64_t seen[4];

static void look(void *user)
{
	const struct timespec ts = { .tv_nsec = 5 * 1000000 };

	seen[0] = loop_now_us(loop);
	nanosleep(&ts, NULL);
	seen[1] = loop_now_us(loop);
}

static void on_later(evutil_socket_t fd, short what, void *user)
{
	seen[2] = loop_now_us(loop);
	loop_stop(loop);
}

START_TEST(time_goes_on_after_a_wait)
{
	struct loop_task t;

	loop_task_init(&t, look, NULL);
	loop_task_queue(loop, &t);
	event_base_once(loop_base(loop), -1, EV_TIMEOUT, on_later, NULL, &(struct timeval){ .tv_usec = 30000 });
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen[0], seen[1]);
	ck_assert_uint_ge(seen[2], seen[0] + 20000);
}
END_TEST

START_TEST(nothing_to_wait_for)
{
	ck_assert_int_eq(loop_run(loop), -EDEADLK);
}
END_TEST

START_TEST(stop_before_run)
{
	loop_stop(loop);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_int_eq(loop_run(loop), -EDEADLK);
}
END_TEST

static void work_20_ms(void *user)
{
	uint64_t until = clock_now_us() + 20000;

	while (clock_now_us() < until)
		continue;
}

/* What is waited for is not counted; what is done is. */
START_TEST(the_longest_turn)
{
	struct loop_task task;

	stop_in(400);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_lt(loop_turn_max_us(loop), 300000);
	loop_task_init(&task, work_20_ms, NULL);
	loop_task_queue(loop, &task);
	stop_in(1);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_ge(loop_turn_max_us(loop), 20000);
}
END_TEST

UNIT_MAIN("loop", tcase_add_checked_fixture(tc, setup, teardown);
	  ADD(tasks_before_the_first_wait) ADD(tasks_of_tasks_run_before_frees) ADD(cancelled_tasks_do_not_run)
	  ADD(endless_tasks_do_not_starve_events) ADD(leftover_tasks_do_not_wait) ADD(next_turn_comes_after_polling)
	  ADD(asking_now_brings_forward) ADD(time_stands_still_within_a_turn) ADD(time_goes_on_after_a_wait)
	  ADD(nothing_to_wait_for) ADD(stop_before_run) ADD(the_longest_turn))
