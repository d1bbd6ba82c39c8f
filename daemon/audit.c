#include "daemon/audit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "base/encode.h"
#include "base/log.h"
#include "daemon/audit_private.h"
#include "daemon/digest.h"

enum {
	CHECKPOINT_MS = 60000,
	CHECKPOINT_RECORDS = 1000,
	REFUSE_AFTER_MS = 1000,
	STOP_MS = 1000,
	STOP_STEP_MS = 20,
	KILLED_EACH_MAX = 64, /* calls of the process before that get a record each */
	CANONICAL_ID_MAX = 8 * MCP_ID_MAX,
};

/* ---- Life ---- */

static int make_origin(struct audit *a, const char *side)
{
	uint8_t id[AUDIT_CHAIN_ID_LEN / 2];
	int r = random_bytes(id, sizeof(id));

	if (r < 0)
		return r;
	hex_encode(id, sizeof(id), a->origin.chain_id);
	a->origin.side = side;
	snprintf(a->origin.identifier, sizeof(a->origin.identifier), "mcp-tunnel-%s", side);
	return 0;
}

/* Without a state the records are as good; only the next start knows less. */
static void open_state(struct audit *a, struct state_dir *dir)
{
	int r = dir ? audit_state_open(dir, &a->state, &a->old) : 0;

	if (r < 0)
		log_warning("audit: no state is kept in %s: %s", state_dir_path(dir), strerror(-r));
}

static int make_watch(struct audit *a, const struct audit_config *cfg)
{
	const struct audit_watch_config watch = {
		.chain_id = a->origin.chain_id,
		.need_disk = cfg->read_back == AUDIT_READ_BACK_DISK,
		.on_result = audit_on_watch,
		.on_ask = audit_on_ask,
		.user = a,
	};

	if (cfg->sink != AUDIT_JOURNALD || cfg->path || cfg->read_back == AUDIT_READ_BACK_OFF)
		return 0;
	return cfg->worker ? audit_watch_new(a->loop, cfg->worker, &watch, &a->watch) : -EINVAL;
}

static void set_config(struct audit *a, const struct audit_config *cfg)
{
	a->worker = cfg->worker;
	a->allow_on_failure = cfg->allow_on_failure;
	a->sync = cfg->sink == AUDIT_FILE ? cfg->sync : AUDIT_SYNC_OFF;
	a->checkpoint_ms = cfg->checkpoint_ms ? cfg->checkpoint_ms : CHECKPOINT_MS;
	a->checkpoint_records = cfg->checkpoint_records ? cfg->checkpoint_records : CHECKPOINT_RECORDS;
	a->refuse_after_ms = cfg->refuse_after_ms ? cfg->refuse_after_ms : REFUSE_AFTER_MS;
	a->on_checkpoint = cfg->on_checkpoint;
	a->user = cfg->user;
}

static int make_parts(struct audit *a, const struct audit_config *cfg)
{
	int r = make_origin(a, cfg->side);

	if (r == 0 && cfg->path) {
		a->path = strdup(cfg->path);
		r = a->path ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = a->sync != AUDIT_SYNC_OFF && !a->worker ? -EINVAL : audit_sync_new(a);
	if (r == 0)
		r = make_watch(a, cfg);
	return r;
}

int audit_new(struct loop *l, const struct audit_config *cfg, char *err, size_t err_size, struct audit **ret)
{
	struct audit *a = calloc(1, sizeof(*a));
	int r = a ? 0 : -ENOMEM;

	if (a) {
		a->magic = AUDIT_MAGIC;
		a->loop = l;
		a->stamp_s = UINT64_MAX;
		a->batch_max = AUDIT_BATCH_MAX;
		TAILQ_INIT(&a->queue);
		TAILQ_INIT(&a->gaps);
		TAILQ_INIT(&a->written);
		TAILQ_INIT(&a->judged);
		memset(a->prev, '0', AUDIT_CHAIN_HEX);
		loop_task_init(&a->flush, audit_on_flush, a);
		set_config(a, cfg);
		r = audit_trouble_init(a);
	}
	if (r == 0 && cfg->sink != AUDIT_NONE)
		r = make_parts(a, cfg);
	if (r < 0)
		snprintf(err, err_size, "audit: cannot be set up: %s", strerror(-r));
	else if (cfg->sink != AUDIT_NONE)
		r = audit_writer_new(cfg->sink, cfg->path, err, err_size, &a->writer);
	if (r < 0) {
		audit_free(a);
		return r;
	}
	if (a->writer)
		open_state(a, cfg->state_dir);
	*ret = a;
	return 0;
}

static void free_calls(struct audit *a)
{
	struct audit_open *o;
	struct audit_entry *e;

	while ((o = TAILQ_FIRST(&a->written)) || (o = TAILQ_FIRST(&a->judged))) {
		o->slot = AUDIT_STATE_NO_SLOT;
		audit_open_free(a, o);
	}
	while ((e = TAILQ_FIRST(&a->queue))) {
		if (e->open)
			audit_open_free(a, e->open);
		else
			audit_queue_drop(a, e);
	}
	while ((e = TAILQ_FIRST(&a->gaps))) {
		TAILQ_REMOVE(&a->gaps, e, link);
		free(e);
	}
}

struct audit *audit_free(struct audit *a)
{
	if (!a)
		return NULL;
	CHECK_OBJ(a, AUDIT_MAGIC);
	audit_watch_free(a->watch);
	audit_sync_free(a);
	audit_trouble_done(a);
	loop_task_cancel(a->loop, &a->flush);
	free_calls(a);
	if (a->state)
		audit_state_close(a->state, false);
	audit_state_old_done(&a->old);
	audit_writer_free(a->writer);
	free(a->path);
	a->magic = 0;
	free(a);
	return NULL;
}

/* ---- Start and stop ---- */

static void tell_gap(struct audit *a, uint64_t from_us, uint64_t count, const char *cause)
{
	const struct audit_gap gap = { .from_us = from_us, .to_us = clock_wall_us(), .count = count, .cause = cause };

	if (!audit_put_gap(a, &gap))
		audit_owe(a, cause, count, 0);
}

static void tell_killed(struct audit *a)
{
	const size_t n = a->old.n_open, n_all = n + a->old.n_damaged;
	const uint64_t now = clock_wall_us();
	struct audit_gap gap = {
		.from_us = a->old.found ? a->old.time_us : now, .to_us = now, .count = 1, .cause = "killed"
	};
	size_t each = n_all <= KILLED_EACH_MAX ? n : 0;

	for (size_t i = 0; i < each; i++) {
		gap.call_id = a->old.open[i];
		gap.last_told = i + 1 == n_all;
		audit_put_gap(a, &gap);
	}
	if (each == n_all)
		return;
	gap.call_id = NULL;
	gap.count = n_all - each;
	gap.last_told = true;
	audit_put_gap(a, &gap);
}

void audit_start(struct audit *a)
{
	uint64_t missing = 0;
	bool found;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->writer)
		return;
	found = audit_find_prev(a, &missing);
	audit_put_start(a);
	a->started_us = clock_wall_us();
	if (!found)
		tell_gap(a, clock_wall_us(), 0, "state-missing");
	if (missing)
		tell_gap(a, a->old.time_us, missing, "read-back-missing");
	tell_killed(a);
	audit_state_old_done(&a->old);
	audit_flush(a);
}

/* Until the queue is empty and nothing is owed. */
static bool drain(struct audit *a, uint64_t until_us)
{
	for (;;) {
		audit_retry(a);
		if (!a->blocked && !a->sync_failed && TAILQ_EMPTY(&a->queue))
			return true;
		if (clock_now_us() >= until_us)
			return false;
		if (audit_writer_is_file(a->writer) || audit_writer_fd(a->writer) < 0)
			usleep(STOP_STEP_MS * 1000);
		else
			poll(&(struct pollfd){ .fd = audit_writer_fd(a->writer), .events = POLLOUT }, 1, STOP_STEP_MS);
	}
}

void audit_stop(struct audit *a, const char *why)
{
	const uint64_t until_us = clock_now_us() + STOP_MS * 1000;
	bool whole;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->writer || a->stopped)
		return;
	whole = drain(a, until_us);
	audit_put_stop(a, why);
	a->stopped = true;
	whole = whole && drain(a, until_us) && audit_sync_now(a) == 0;
	loop_task_cancel(a->loop, &a->flush);
	if (!whole)
		log_error("audit: %zu records were not taken before the end: %s", a->counters.queued, a->detail);
	if (a->state)
		a->state = audit_state_close(a->state, whole);
}

void audit_reopen(struct audit *a)
{
	int r;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->writer)
		return;
	audit_sync_keep_old(a);
	r = audit_writer_reopen(a->writer);
	if (r < 0)
		log_error("audit: cannot open the file anew: %s; records go on into the old one", strerror(-r));
}

/* ---- What is known ---- */

bool audit_healthy(const struct audit *a, const char **ret_detail)
{
	if (a->failing)
		*ret_detail = a->detail;
	else if (a->unstored)
		*ret_detail = audit_watch_latest(a->watch)->detail;
	return !a->failing && !a->unstored;
}

const char *audit_head(const struct audit *a)
{
	return a->head;
}

const struct audit_counters *audit_counters(const struct audit *a)
{
	return &a->counters;
}

/* ---- Calls and events ---- */

static struct audit_open *open_new(struct audit *a, const struct span f[AUDIT_FACTS_MAX], const struct audit_call *call)
{
	struct audit_open *o;
	size_t len = 0;
	char *at;

	for (size_t i = 0; i < AUDIT_FACTS_MAX; i++)
		len += MIN(f[i].len, (size_t)AUDIT_FACT_KEEP);
	o = malloc(sizeof(*o) + len);
	if (!o)
		return NULL;
	*o = (struct audit_open){ .magic = AUDIT_OPEN_MAGIC, .slot = AUDIT_STATE_NO_SLOT };
	o->started_us = call->began_us ? call->began_us : loop_now_us(a->loop);
	snprintf(o->call_id, sizeof(o->call_id), "%.*s", SPAN_FMT(call->call_id));
	at = o->text;
	for (size_t i = 0; i < AUDIT_FACTS_MAX; i++) {
		o->facts[i] = span_make(f[i].p ? at : NULL, MIN(f[i].len, (size_t)AUDIT_FACT_KEEP));
		if (o->facts[i].len)
			at = mempcpy(at, f[i].p, o->facts[i].len);
	}
	return o;
}

static int queue_request(struct audit *a, const struct audit_call *call, struct audit_open **ret)
{
	struct span f[AUDIT_FACTS_MAX];
	struct audit_open *o;
	struct buf canon;
	int r = 0;

	buf_init(&canon, CANONICAL_ID_MAX);
	audit_find_facts(call, f, &canon);
	o = open_new(a, f, call);
	if (o)
		o->entry = audit_put_request(a, call, f);
	if (!o || !o->entry) {
		free(o);
		r = -ENOBUFS;
	} else {
		o->entry->open = o;
		*ret = o;
	}
	buf_done(&canon);
	return r;
}

int audit_request(struct audit *a, const struct audit_call *call, audit_verdict_fn on_verdict, void *user,
		  struct audit_open **ret_open)
{
	struct audit_open *o;
	int r;

	CHECK_OBJ(a, AUDIT_MAGIC);
	*ret_open = NULL;
	if (!a->writer)
		return AUDIT_AT_ONCE;
	if (a->stopped)
		return -ESHUTDOWN;
	if (a->failing)
		return audit_go_without(a, a->cause, a->error);
	if (a->unstored && !a->allow_on_failure)
		return audit_go_without(a, a->unstored, -EIO);
	r = queue_request(a, call, &o);
	if (r < 0)
		return audit_go_without(a, "queue-full", r);
	o->on_verdict = on_verdict;
	o->user = user;
	*ret_open = o;
	return 0;
}

/* Whether the sink has the request, so that the response is owed. */
static bool is_owed(const struct audit_open *o)
{
	return o->state == AUDIT_OPEN_WRITTEN || (o->state != AUDIT_OPEN_QUEUED && o->recorded);
}

void audit_response(struct audit *a, struct audit_open *take_open, const struct audit_ending *e)
{
	struct audit_entry *entry = NULL;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!take_open)
		return;
	CHECK_OBJ(take_open, AUDIT_OPEN_MAGIC);
	if (is_owed(take_open) && !a->stopped) {
		entry = audit_put_response(a, take_open, e);
		if (!entry) {
			a->n_open--;
			audit_lost(a);
		}
	}
	if (entry) {
		entry->slot = take_open->slot;
		take_open->slot = AUDIT_STATE_NO_SLOT;
	}
	audit_open_free(a, take_open);
}

void audit_denied(struct audit *a, const struct audit_call *call, uint32_t reason, const char *rule)
{
	struct span f[AUDIT_FACTS_MAX];
	struct buf canon;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!a->writer || a->stopped)
		return;
	buf_init(&canon, CANONICAL_ID_MAX);
	audit_find_facts(call, f, &canon);
	if (!audit_put_denied(a, call, f, reason, rule))
		audit_lost(a);
	buf_done(&canon);
}

void audit_event(struct audit *a, enum audit_event ev, const struct audit_note *n)
{
	CHECK_OBJ(a, AUDIT_MAGIC);
	if (a->writer && !a->stopped && !audit_put_note(a, ev, n))
		audit_lost(a);
}
