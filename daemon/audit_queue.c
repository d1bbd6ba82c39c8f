#include <errno.h>
#include <stdio.h>

#include "daemon/audit_private.h"

enum {
	FLUSH_BATCHES = 8, /* in one turn of the loop */
	BATCH_MIN = 4,
};

/* ---- The queue ---- */

bool audit_queue_has_room(const struct audit *a, size_t bytes)
{
	const struct audit_counters *c = &a->counters;

	return c->queued < AUDIT_QUEUE_RECORDS && c->queued_bytes <= AUDIT_QUEUE_BYTES &&
	       bytes <= AUDIT_QUEUE_BYTES - c->queued_bytes;
}

void audit_queue_put(struct audit *a, struct audit_entry *take_entry)
{
	take_entry->queued_us = loop_now_us(a->loop);
	TAILQ_INSERT_TAIL(&a->queue, take_entry, link);
	a->counters.queued++;
	a->counters.queued_bytes += take_entry->bytes;
	a->checkpoint_queued = a->checkpoint_queued || take_entry->role == AUDIT_ROLE_CHECKPOINT;
	if (!a->flushing)
		loop_task_queue(a->loop, &a->flush);
}

static void take_out(struct audit *a, struct audit_entry *e)
{
	TAILQ_REMOVE(&a->queue, e, link);
	a->counters.queued--;
	a->counters.queued_bytes -= e->bytes;
	if (e->role == AUDIT_ROLE_CHECKPOINT)
		a->checkpoint_queued = false;
}

void audit_queue_drop(struct audit *a, struct audit_entry *e)
{
	take_out(a, e);
	free(e);
}

struct audit_open *audit_open_free(struct audit *a, struct audit_open *o)
{
	if (o->entry)
		audit_queue_drop(a, o->entry);
	if (o->state == AUDIT_OPEN_WRITTEN)
		TAILQ_REMOVE(&a->written, o, link);
	else if (o->state == AUDIT_OPEN_JUDGED)
		TAILQ_REMOVE(&a->judged, o, link);
	if (a->state)
		audit_state_call_done(a->state, o->slot);
	o->magic = 0;
	free(o);
	return NULL;
}

/* ---- Verdicts ---- */

void audit_judge(struct audit *a, struct audit_open *o, int verdict, bool recorded)
{
	if (o->state == AUDIT_OPEN_WRITTEN)
		TAILQ_REMOVE(&a->written, o, link);
	o->entry = NULL;
	o->state = AUDIT_OPEN_JUDGED;
	o->verdict = verdict;
	o->recorded = recorded;
	TAILQ_INSERT_TAIL(&a->judged, o, link);
}

static void tell_checkpoint(struct audit *a)
{
	if (!a->checkpoint_taken || (a->sync == AUDIT_SYNC_EACH && a->checkpoint_seq >= a->synced))
		return;
	a->checkpoint_taken = false;
	if (a->on_checkpoint)
		a->on_checkpoint(a->user, a->head);
}

/* Each may call back: requests, endings of others in the list, anything but audit_free(). */
void audit_tell(struct audit *a)
{
	struct audit_open *o;

	while ((o = TAILQ_FIRST(&a->judged))) {
		audit_verdict_fn fn = o->on_verdict;
		void *user = o->user;
		int verdict = o->verdict;

		TAILQ_REMOVE(&a->judged, o, link);
		o->state = AUDIT_OPEN_ALLOWED;
		if (verdict < 0)
			audit_open_free(a, o);
		fn(user, verdict);
	}
	tell_checkpoint(a);
}

/* ---- Sending ---- */

/* Before the sink has it, so that a process that is killed in between has said so. */
static void mark_open(struct audit *a, struct audit_entry *e)
{
	if (e->role == AUDIT_ROLE_REQUEST && a->state && e->open->slot == AUDIT_STATE_NO_SLOT)
		(void)audit_state_call_open(a->state, e->open->call_id, &e->open->slot);
}

/* Completes records from the front of the queue, as many as go into a batch. */
static size_t fill(struct audit *a, int *error)
{
	const char *prev = a->prev;
	struct audit_entry *e;
	size_t n = 0;
	int r;

	TAILQ_FOREACH(e, &a->queue, link) {
		if (n == a->batch_max)
			break;
		r = audit_entry_complete(e, &a->origin, a->seq + n, prev, &a->whole);
		if (r == 0)
			r = audit_writer_add(a->writer, a->whole.fields, a->whole.n);
		if (r == -ENOBUFS && n > 0)
			break;
		if (r < 0) {
			*error = r;
			break;
		}
		mark_open(a, e);
		memcpy(a->batch_heads[n], a->whole.chain, sizeof(a->batch_heads[n]));
		prev = a->batch_heads[n++];
	}
	return n;
}

static void on_request_taken(struct audit *a, struct audit_open *o, uint64_t seq)
{
	a->n_open++;
	o->entry = NULL;
	if (a->sync != AUDIT_SYNC_EACH) {
		audit_judge(a, o, 0, true);
		return;
	}
	o->state = AUDIT_OPEN_WRITTEN;
	o->seq = seq;
	TAILQ_INSERT_TAIL(&a->written, o, link);
}

static void on_taken(struct audit *a, struct audit_entry *e, uint64_t seq)
{
	a->checkpoint_due++;
	switch (e->role) {
	case AUDIT_ROLE_REQUEST:
		on_request_taken(a, e->open, seq);
		break;
	case AUDIT_ROLE_RESPONSE:
		a->n_open--;
		if (a->state)
			audit_state_call_done(a->state, e->slot);
		break;
	case AUDIT_ROLE_CHECKPOINT:
		a->counters.checkpoints++;
		a->checkpoint_due = 0;
		a->checkpoint_taken = true;
		a->checkpoint_seq = seq;
		break;
	case AUDIT_ROLE_GAP_TOLD:
		if (a->state)
			audit_state_old_told(a->state);
		/* fall through */
	case AUDIT_ROLE_GAP:
		a->counters.gaps++;
		take_out(a, e);
		audit_gap_taken(a, e, seq);
		return;
	case AUDIT_ROLE_FACT:
		break;
	}
	audit_queue_drop(a, e);
}

void audit_accept(struct audit *a, uint64_t seq, const char *head)
{
	snprintf(a->head, sizeof(a->head), "%s:%llu:%s", a->origin.chain_id, (unsigned long long)(seq - 1), head);
	if (a->watch)
		audit_watch_told(a->watch, seq - 1);
}

static void look_at_checkpoint(struct audit *a)
{
	const struct timeval tv = loop_timeval(a->checkpoint_ms);

	if (a->checkpoint_due == 0 || a->stopped) {
		event_del(&a->checkpoint);
		return;
	}
	if (a->checkpoint_due >= a->checkpoint_records && !a->checkpoint_queued)
		audit_put_checkpoint(a);
	if (!event_pending(&a->checkpoint, EV_TIMEOUT, NULL))
		event_add(&a->checkpoint, &tv);
}

/* The first n entries of the queue are in the sink. */
static void commit(struct audit *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		on_taken(a, TAILQ_FIRST(&a->queue), a->seq + i);
	memcpy(a->prev, a->batch_heads[n - 1], sizeof(a->prev));
	a->seq += n;
	a->counters.written += n;
	a->touched = true;
	if (a->state)
		audit_state_head(a->state, a->origin.chain_id, a->seq - 1, a->prev, clock_wall_us());
	if (a->sync != AUDIT_SYNC_EACH)
		audit_accept(a, a->seq, a->prev);
	audit_sync_want(a);
	look_at_checkpoint(a);
}

int audit_send_batch(struct audit *a)
{
	int making = 0, sending = 0;
	size_t n = fill(a, &making), taken;

	taken = audit_writer_send(a->writer, &sending);
	assert(taken <= n && n <= AUDIT_BATCH_MAX);
	/* A sink with little room is not offered much: what it does not take was completed in vain. */
	a->batch_max = taken < n ? MAX(2 * taken, (size_t)BATCH_MIN) : MIN(2 * a->batch_max, (size_t)AUDIT_BATCH_MAX);
	if (taken)
		commit(a, taken);
	return sending < 0 ? sending : making;
}

void audit_flush(struct audit *a)
{
	int r = 0;

	a->flushing = true;
	for (int i = 0; r == 0 && i < FLUSH_BATCHES && !TAILQ_EMPTY(&a->queue); i++)
		r = audit_send_batch(a);
	if (r == 0 && TAILQ_EMPTY(&a->queue))
		r = audit_settle(a);
	if (r < 0)
		audit_trouble(a, r);
	else
		a->blocked = false;
	a->flushing = false;
	if (!a->blocked && !TAILQ_EMPTY(&a->queue))
		loop_task_queue_next(a->loop, &a->flush);
	audit_tell(a);
}

void audit_on_flush(void *user)
{
	struct audit *a = user;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->blocked)
		audit_flush(a);
}
