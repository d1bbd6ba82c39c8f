#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "daemon/audit_private.h"

enum { RETRY_MS = 100, WARN_EVERY_US = 2000000 };

static bool is_full(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EFBIG;
}

static bool is_later(int r)
{
	return r == -EAGAIN || r == -ENOBUFS || r == -ENOMEM;
}

static const char *cause_of(int r)
{
	return is_full(r) ? "sink-full" : is_later(r) ? "sink-stalled" : "sink-unreachable";
}

/* ---- What the log says ---- */

/* A sink may come and go many times a second: what was not told at once is told together. */
static bool may_log(const struct audit *a)
{
	return !a->warned_us || loop_now_us(a->loop) - a->warned_us >= WARN_EVERY_US;
}

static void warn(struct audit *a)
{
	if (a->warned || !may_log(a))
		return;
	log_warning("audit: %s; %s until records are taken again", a->detail,
		    a->allow_on_failure ? "calls are made without a record" : "calls are refused");
	a->warned = true;
	a->warned_us = loop_now_us(a->loop);
}

static void tell_end(struct audit *a)
{
	const struct audit_counters *c = &a->counters;
	uint64_t refused = c->refused - a->told_refused, without = c->unrecorded - a->told_unrecorded,
		 lost = c->lost - a->told_lost;

	if (a->failing || a->unstored || (refused + without + lost == 0 && !a->warned))
		return;
	if (!a->warned && !may_log(a))
		return;
	log_notice("audit: records are taken again; %" PRIu64 " calls were refused, %" PRIu64
		   " calls were made without a record, %" PRIu64 " records were lost",
		   refused, without, lost);
	a->told_refused = c->refused;
	a->told_unrecorded = c->unrecorded;
	a->told_lost = c->lost;
	a->warned = false;
}

/* ---- What is owed ---- */

void audit_owe(struct audit *a, const char *cause, uint64_t records, uint64_t calls)
{
	if (!a->owed.owed) {
		a->owed.owed = true;
		a->owed.cause = cause;
		a->owed.from_us = a->blocked || a->failing ? a->blocked_from_us : clock_wall_us();
	}
	a->owed.records += records;
	a->owed.calls += calls;
}

int audit_go_without(struct audit *a, const char *cause, int r)
{
	if (a->allow_on_failure) {
		a->counters.unrecorded++;
		audit_owe(a, cause, 0, 1);
		return AUDIT_AT_ONCE;
	}
	a->counters.refused++;
	return r;
}

void audit_lost(struct audit *a)
{
	a->counters.lost++;
	audit_owe(a, a->failing ? a->cause : "queue-full", 1, 0);
}

/* ---- Failing ---- */

static void refuse_queued(struct audit *a, int r)
{
	struct audit_entry *e, *next;

	for (e = TAILQ_FIRST(&a->queue); e; e = next) {
		struct audit_open *o = e->open;

		next = TAILQ_NEXT(e, link);
		if (e->role != AUDIT_ROLE_REQUEST)
			continue;
		audit_queue_drop(a, e);
		audit_judge(a, o, audit_go_without(a, a->cause, r) < 0 ? r : 0, false);
	}
}

static void set_state(struct audit *a)
{
	a->counters.failing = a->failing || a->unstored;
	a->counters.cause = a->failing ? a->cause : a->unstored ? a->unstored : "";
}

static void arm_retry(struct audit *a, uint64_t ms)
{
	const struct timeval tv = loop_timeval(MAX(ms, (uint64_t)1));

	event_add(&a->retry, &tv);
}

void audit_fail(struct audit *a, const char *cause, int r)
{
	a->failing = true;
	a->touched = false;
	a->cause = cause;
	a->error = r;
	audit_writer_explain(a->writer, r, a->detail, sizeof(a->detail));
	set_state(a);
	/* What the old connection held may be gone with the one who read it. */
	if (audit_writer_is_gone(a->writer, r) && a->counters.written)
		audit_owe(a, cause, 0, 0);
	warn(a);
	refuse_queued(a, r);
	arm_retry(a, RETRY_MS);
}

void audit_recovered(struct audit *a)
{
	a->failing = false;
	set_state(a);
	tell_end(a);
}

static void on_retry(evutil_socket_t fd, short what, void *user)
{
	struct audit *a = user;

	CHECK_OBJ(a, AUDIT_MAGIC);
	audit_retry(a);
}

/* The request that has waited longest. */
static const struct audit_entry *oldest_request(const struct audit *a)
{
	const struct audit_entry *e;

	TAILQ_FOREACH(e, &a->queue, link)
		if (e->role == AUDIT_ROLE_REQUEST)
			return e;
	return NULL;
}

static void watch_writable(struct audit *a)
{
	struct event_base *base = loop_base(a->loop);

	if (a->writable_set)
		event_del(&a->writable);
	a->writable_set = false;
	if (audit_writer_is_file(a->writer) || audit_writer_fd(a->writer) < 0)
		return;
	event_assign(&a->writable, base, audit_writer_fd(a->writer), EV_WRITE, on_retry, a);
	a->writable_set = event_add(&a->writable, NULL) == 0;
}

/* Waits for room, each request as long as it may. */
static void wait_for_room(struct audit *a)
{
	const struct audit_entry *e = oldest_request(a);
	uint64_t waited_ms = e ? (loop_now_us(a->loop) - e->queued_us) / 1000 : 0;

	if (e && waited_ms >= a->refuse_after_ms && !a->failing) {
		audit_fail(a, "sink-stalled", -EAGAIN);
		return;
	}
	arm_retry(a, e && !a->failing ? MIN((uint64_t)RETRY_MS, a->refuse_after_ms - waited_ms) : RETRY_MS);
}

void audit_trouble(struct audit *a, int r)
{
	if (!a->blocked && !a->failing)
		a->blocked_from_us = clock_wall_us();
	a->blocked = true;
	if (!is_later(r)) {
		audit_fail(a, cause_of(r), r);
		return;
	}
	if (a->failing)
		audit_fail(a, cause_of(r), r);
	watch_writable(a);
	wait_for_room(a);
}

void audit_retry(struct audit *a)
{
	if (a->failing && audit_writer_is_file(a->writer) && !is_full(a->error) && !is_later(a->error))
		(void)audit_writer_reopen(a->writer);
	if (a->sync_failed)
		audit_sync_want(a);
	else
		audit_flush(a);
	audit_tell(a);
}

static void on_checkpoint(evutil_socket_t fd, short what, void *user)
{
	struct audit *a = user;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->checkpoint_queued)
		audit_put_checkpoint(a);
}

/* ---- Recovery ---- */

static struct audit_entry *put_owed(struct audit *a)
{
	const struct audit_gap gap = {
		.from_us = a->owed.from_us,
		.to_us = clock_wall_us(),
		.count = a->owed.records + a->owed.calls,
		.cause = a->owed.cause,
	};

	return audit_put_gap(a, &gap);
}

/* Before anything else that is new: what is missing; or, if nothing is, some record to try the sink with. */
int audit_settle(struct audit *a)
{
	while (a->owed.owed || (a->failing && !a->touched)) {
		bool owed = a->owed.owed;
		struct audit_entry *e = owed ? put_owed(a) : audit_put_checkpoint(a);
		int r;

		if (!e)
			return -ENOMEM;
		r = audit_send_batch(a);
		if (r < 0) {
			audit_queue_drop(a, e);
			return r;
		}
		if (owed)
			a->owed = (struct audit_owed){ 0 };
	}
	audit_recovered(a);
	return 0;
}

/* ---- Reading back ---- */

static void put_watch_gap(struct audit *a, const struct audit_watch_result *r)
{
	const uint64_t now = clock_wall_us();
	const struct audit_gap gap = {
		.from_us = r->missing ? MAX(r->from_us, a->started_us) : now,
		.to_us = r->missing ? r->to_us : now,
		.count = r->missing,
		.cause = audit_watch_cause(r->state),
		.detail = r->detail,
	};

	if (!audit_put_gap(a, &gap))
		audit_owe(a, gap.cause, r->missing, 0);
}

static void on_unstored(struct audit *a, const struct audit_watch_result *r)
{
	bool before = a->unstored;

	if (!before || r->missing)
		put_watch_gap(a, r);
	a->unstored = audit_watch_cause(r->state);
	set_state(a);
	/* Something new to look for. */
	if (r->state == AUDIT_WATCH_MISSING && !a->checkpoint_queued)
		audit_put_checkpoint(a);
	if (before)
		return;
	log_error("audit: records do not reach the journal: %s%s", r->detail,
		  a->allow_on_failure ? "" : "; calls are refused until they do");
	a->warned = true;
	a->warned_us = loop_now_us(a->loop);
}

/* ---- Gaps that are gone themselves ---- */

static void drop_gap(struct audit *a, struct audit_entry *e)
{
	TAILQ_REMOVE(&a->gaps, e, link);
	a->n_gaps--;
}

void audit_gap_taken(struct audit *a, struct audit_entry *take_entry, uint64_t seq)
{
	struct audit_entry *oldest = TAILQ_FIRST(&a->gaps);

	if (!a->watch) {
		free(take_entry);
		return;
	}
	/* Not before reading back has been impossible for long, which has a gap of its own. */
	if (a->n_gaps == AUDIT_WATCH_ASKED_MAX) {
		drop_gap(a, oldest);
		free(oldest);
	}
	take_entry->role = AUDIT_ROLE_GAP;
	take_entry->seq = seq;
	TAILQ_INSERT_TAIL(&a->gaps, take_entry, link);
	a->n_gaps++;
}

size_t audit_on_ask(void *user, uint64_t ret_seqs[AUDIT_WATCH_ASKED_MAX])
{
	struct audit *a = user;
	struct audit_entry *e;
	size_t n = 0;

	CHECK_OBJ(a, AUDIT_MAGIC);
	TAILQ_FOREACH(e, &a->gaps, link)
		ret_seqs[n++] = e->seq;
	return n;
}

static bool is_lost(const struct audit_watch_result *r, uint64_t seq)
{
	for (size_t i = 0; i < r->n_lost; i++)
		if (r->lost[i] == seq)
			return true;
	return false;
}

/* Each that was seen is done; each that was lost is written again, and looked for again. */
static void settle_gaps(struct audit *a, const struct audit_watch_result *r)
{
	struct audit_entry *e, *next;
	size_t n = 0;

	for (e = TAILQ_FIRST(&a->gaps); e && e->seq < r->answered_to; e = next) {
		bool lost = is_lost(r, e->seq);

		next = TAILQ_NEXT(e, link);
		/* Then at the next check. */
		if (lost && !audit_queue_has_room(a, e->bytes))
			continue;
		drop_gap(a, e);
		if (lost)
			audit_put_again(a, e);
		else
			free(e);
		n += lost;
	}
	if (n)
		log_warning("audit: %zu audit.gap records were lost themselves; they are written again", n);
}

void audit_on_watch(void *user, const struct audit_watch_result *r)
{
	struct audit *a = user;

	CHECK_OBJ(a, AUDIT_MAGIC);
	settle_gaps(a, r);
	if (r->state == AUDIT_WATCH_UNREADABLE) {
		if (!a->unreadable) {
			put_watch_gap(a, r);
			log_warning("audit: whether records reach the journal cannot be told: %s", r->detail);
		}
		a->unreadable = true;
		return;
	}
	a->unreadable = false;
	if (!r->ok) {
		on_unstored(a, r);
		return;
	}
	if (!a->unstored)
		return;
	a->unstored = NULL;
	set_state(a);
	tell_end(a);
}

int audit_trouble_init(struct audit *a)
{
	struct event_base *base = loop_base(a->loop);

	a->counters.cause = "";
	if (evtimer_assign(&a->retry, base, on_retry, a) < 0 ||
	    evtimer_assign(&a->checkpoint, base, on_checkpoint, a) < 0)
		return -ENOMEM;
	return 0;
}

void audit_trouble_done(struct audit *a)
{
	event_del(&a->retry);
	event_del(&a->checkpoint);
	if (a->writable_set)
		event_del(&a->writable);
}
