#include "daemon/audit_watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/audit_read.h"
#include "daemon/sigbus.h"

enum {
	WATCH_MAGIC = 0x57415443,
	MARKS = 24,
	MARKS_A_SETTLE = 8,
	ROUND_US = 1000000, /* a thread is asked for that long at once */
	TRIES = 4,
	AGAIN_US = 50000, /* before the second try; twice as long before each further one */
	DIRECTORY_MAX = 4096,
	CHAIN_ID_LEN = 32,
	FIRST_MS = 1500,
	FIRST_SETTLE_MS = 1000,
	EVERY_MS = 10000,
	RETRY_MS = 2000,
	SETTLE_MS = 2000,
	STUCK_MS = 15000,
};

/* Everything that the thread touches; it outlives the watch while the thread has it. */
struct check {
	struct worker_job job;
	struct audit_watch *watch; /* loop only */
	char chain_id[CHAIN_ID_LEN + 1];
	char directory[DIRECTORY_MAX]; /* "": this machine's */
	bool need_disk;
	atomic_bool stop;

	/* For this run, and what came of it. */
	uint64_t due;
	_Atomic uint64_t told_to; /* missing records below it were told */
	struct audit_read_pos disk, any;
	uint64_t asked[AUDIT_WATCH_ASKED_MAX]; /* ascending */
	size_t n_asked;
	bool complete; /* else there is more to read */
	struct audit_watch_result result;
};

/* A record, and when the sink accepted it. */
struct mark {
	uint64_t seq, at_us;
};

struct audit_watch {
	unsigned magic;
	struct loop *loop;
	struct worker *worker;
	struct audit_watch_config cfg; /* its strings are in check */
	struct check *check;
	struct event *timer;
	struct mark marks[MARKS]; /* the newest first */
	size_t n_marks;
	bool any_told, any_due, any_checked;
	uint64_t due; /* this one must be visible by now */
	struct audit_watch_result latest;
};

const char *audit_watch_cause(enum audit_watch_state state)
{
	static const char *const names[] = {
		[AUDIT_WATCH_WHOLE] = "whole",
		[AUDIT_WATCH_MISSING] = "read-back-missing",
		[AUDIT_WATCH_VOLATILE] = "volatile-storage",
		[AUDIT_WATCH_UNREADABLE] = "read-back-unreadable",
	};

	return names[state];
}

/* ---- On the thread ---- */

static bool is_whole(const struct check *c, const struct audit_read_scan *s)
{
	/* What was told as missing before is not held against it again. */
	return s->complete && s->missing == 0 && s->pos->any && s->pos->seq >= c->due;
}

static int scan_once(struct check *c, const char *directory, struct audit_read_pos *pos, struct audit_read_scan *s)
{
	*s = (struct audit_read_scan){
		.chain_id = c->chain_id,
		.directory = directory,
		.told_to = &c->told_to,
		.until_us = clock_now_us() + ROUND_US,
		.stop = &c->stop,
		.pos = pos,
	};
	return audit_read_scan(s);
}

static bool lacks_some(const struct check *c, const struct audit_read_scan *s)
{
	return (s->missing || s->complete) && !is_whole(c, s);
}

static void wait_unless_stopped(const struct check *c, unsigned us)
{
	for (; us >= AGAIN_US && !atomic_load(&c->stop); us -= AGAIN_US)
		usleep(AGAIN_US);
}

/* While journald turns to a new file, a reader may find neither name of the old one; on a busy machine that takes a
 * while: what is missing is looked for again. */
static int scan(struct check *c, const char *directory, struct audit_read_pos *pos, struct audit_read_scan *s)
{
	struct audit_read_pos before = { 0 };
	int r = audit_read_pos_copy(&before, pos);

	if (r == 0)
		r = scan_once(c, directory, pos, s);
	for (int i = 1; i < TRIES && r == 0 && lacks_some(c, s) && !atomic_load(&c->stop); i++) {
		wait_unless_stopped(c, (unsigned)AGAIN_US << (i - 1));
		r = audit_read_pos_copy(pos, &before);
		if (r == 0)
			r = scan_once(c, directory, pos, s);
	}
	audit_read_pos_done(&before);
	return r;
}

static void judge(struct audit_watch_result *r, enum audit_watch_state state, const char *detail)
{
	r->state = state;
	r->ok = state == AUDIT_WATCH_WHOLE;
	r->cause = r->ok ? NULL : audit_watch_cause(state);
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
}

static void judge_error(struct audit_watch_result *r, int error)
{
	judge(r, AUDIT_WATCH_UNREADABLE, "");
	snprintf(r->detail, sizeof(r->detail), "the journal cannot be read back: %s", strerror(-error));
}

/* Holes, and the tail that is not there. */
static void take_missing(struct check *c, const struct audit_read_scan *s)
{
	struct audit_watch_result *r = &c->result;
	uint64_t next = MAX(s->pos->any ? s->pos->seq + 1 : 0, atomic_load(&c->told_to));

	r->missing = s->missing;
	r->first_missing = s->first_missing;
	r->last_missing = s->last_missing;
	r->from_us = s->from_us;
	r->to_us = s->to_us;
	if (!s->complete || next > c->due)
		return;
	if (!r->missing) {
		r->first_missing = next;
		r->from_us = s->pos->wall_us;
	}
	r->missing += c->due - next + 1;
	r->last_missing = c->due;
	r->to_us = clock_wall_us();
}

static void judge_missing(struct check *c, const struct audit_read_scan *s)
{
	if (!s->pos->any && audit_read_denied(c->directory[0] ? c->directory : NULL)) {
		judge_error(&c->result, -EACCES);
		return;
	}
	take_missing(c, s);
	judge(&c->result, AUDIT_WATCH_MISSING,
	      "journald took records and does not have them: RateLimitBurst=, MaxLevelStore=, Storage=, or it stands "
	      "still");
}

static void take_scan(struct check *c, const struct audit_read_scan *s)
{
	c->complete = s->complete;
	c->result.late += s->late;
}

/* Where it need not be on disk, or is not whole there. */
static void check_anywhere(struct check *c)
{
	struct audit_read_scan s = { 0 };
	int r = scan(c, c->directory[0] ? c->directory : NULL, &c->any, &s);

	if (r < 0) {
		judge_error(&c->result, r);
		return;
	}
	take_scan(c, &s);
	if (s.missing || (s.complete && !is_whole(c, &s)))
		judge_missing(c, &s);
	else if (s.complete && c->need_disk)
		judge(&c->result, AUDIT_WATCH_VOLATILE,
		      "journald keeps records in memory only: Storage=, or there is no room on the disk");
}

/* Records are not on disk, and nobody knows yet whether they are elsewhere: the disk is looked at again from there. */
static void stay_unless_judged(struct check *c, struct audit_read_pos *before)
{
	struct audit_read_pos passed = c->disk;

	if (c->result.state == AUDIT_WATCH_MISSING || c->result.state == AUDIT_WATCH_VOLATILE)
		return;
	c->disk = *before;
	*before = passed;
}

static void check_disk(struct check *c)
{
	char path[DIRECTORY_MAX];
	struct audit_read_pos before = { 0 };
	struct audit_read_scan s = { 0 };
	int r = audit_read_pos_copy(&before, &c->disk);

	if (c->directory[0])
		snprintf(path, sizeof(path), "%s", c->directory);
	else if (r == 0)
		r = audit_read_disk(path, sizeof(path));
	if (r == 0)
		r = scan(c, path, &c->disk, &s);
	/* What is on disk need not be looked for elsewhere. */
	if (r == 0 && s.missing == 0 && c->disk.any && (!c->any.any || c->any.seq < c->disk.seq))
		r = audit_read_pos_copy(&c->any, &c->disk);
	if (r < 0 && r != -ENOENT)
		judge_error(&c->result, r);
	else if (r == 0 && (is_whole(c, &s) || (!s.complete && s.missing == 0)))
		take_scan(c, &s);
	else
		check_anywhere(c);
	if (s.missing)
		stay_unless_judged(c, &before);
	audit_read_pos_done(&before);
}

static bool has_all(const bool *have, size_t n)
{
	return !n || !memchr(have, 0, n);
}

/* Each by itself: a hole that was told before would not show that the record which told it is gone. */
static int look_for(struct check *c, size_t n, bool *have)
{
	const char *directory = c->directory[0] ? c->directory : NULL;
	int r = audit_read_have(c->chain_id, directory, &c->stop, c->asked, n, have);

	for (int i = 1; i < TRIES && r == 0 && !has_all(have, n); i++) {
		wait_unless_stopped(c, (unsigned)AGAIN_US << (i - 1));
		r = audit_read_have(c->chain_id, directory, &c->stop, c->asked, n, have);
	}
	return r;
}

/* What is newer than all that was seen may still come. */
static void answer(struct check *c)
{
	struct audit_watch_result *r = &c->result;
	bool have[AUDIT_WATCH_ASKED_MAX];
	size_t n = 0;
	int error;

	while (n < c->n_asked && r->any && c->asked[n] <= r->newest_seq)
		n++;
	if (!n || !c->complete || r->state == AUDIT_WATCH_UNREADABLE)
		return;
	error = look_for(c, n, have);
	if (error < 0) {
		if (r->ok)
			judge_error(r, error);
		return;
	}
	for (size_t i = 0; i < n; i++)
		if (!have[i])
			r->lost[r->n_lost++] = c->asked[i];
	r->answered_to = c->asked[n - 1] + 1;
}

static void check_all(struct check *c)
{
	sigbus_thread_enter();
	if (c->need_disk)
		check_disk(c);
	else
		check_anywhere(c);
	c->result.any = c->any.any || c->disk.any;
	c->result.newest_seq = MAX(c->any.any ? c->any.seq : 0, c->disk.any ? c->disk.seq : 0);
	answer(c);
	if (sigbus_thread_leave())
		judge_error(&c->result, -EIO);
}

static void swap(struct audit_read_pos *a, struct audit_read_pos *b)
{
	struct audit_read_pos kept = *a;

	*a = *b;
	*b = kept;
}

/* What was seen by a check that failed is told by the next one, which begins where this one has. */
static void check_safely(struct check *c)
{
	struct audit_read_pos disk = { 0 }, any = { 0 };
	int r = audit_read_pos_copy(&disk, &c->disk);

	if (r == 0)
		r = audit_read_pos_copy(&any, &c->any);
	if (r == 0)
		check_all(c);
	else
		judge_error(&c->result, r);
	if (r == 0 && c->result.state == AUDIT_WATCH_UNREADABLE) {
		swap(&c->disk, &disk);
		swap(&c->any, &any);
		c->result.missing = c->result.answered_to = c->result.n_lost = 0;
	}
	audit_read_pos_done(&disk);
	audit_read_pos_done(&any);
}

static void check_run(void *user)
{
	struct check *c = user;
	uint64_t start = clock_now_us(), late = c->complete ? 0 : c->result.late;

	c->result = (struct audit_watch_result){ .ok = true, .state = AUDIT_WATCH_WHOLE, .late = late };
	c->complete = true;
	check_safely(c);
	c->result.took_us = clock_now_us() - start;
}

static void check_free(void *user)
{
	struct check *c = user;

	audit_read_pos_done(&c->disk);
	audit_read_pos_done(&c->any);
	free(c);
}

/* ---- On the loop ---- */

static void set_timer(struct audit_watch *w, uint64_t ms)
{
	const struct timeval tv = loop_timeval(ms);

	event_add(w->timer, &tv);
}

static void plan_next(struct audit_watch *w)
{
	bool bad = w->latest.state == AUDIT_WATCH_MISSING || w->latest.state == AUDIT_WATCH_VOLATILE;

	set_timer(w, bad ? w->cfg.retry_ms : w->cfg.every_ms);
}

static void tell(struct audit_watch *w, const struct audit_watch_result *r)
{
	uint64_t told_to = atomic_load(&w->check->told_to);
	bool again = w->any_checked && r->state == AUDIT_WATCH_UNREADABLE && w->latest.state == r->state;

	w->latest = *r;
	w->any_checked = true;
	if (r->missing)
		atomic_store(&w->check->told_to, MAX(told_to, r->last_missing + 1));
	if (!again)
		w->cfg.on_result(w->cfg.user, &w->latest);
}

static void start_check(struct audit_watch *w)
{
	struct check *c = w->check;

	c->due = w->due;
	/* Without a thread there is no check; the next time, perhaps. */
	if (worker_submit(w->worker, &c->job) < 0)
		plan_next(w);
	else
		set_timer(w, w->cfg.stuck_ms);
}

static void on_checked(void *user)
{
	struct check *c = user;
	struct audit_watch *w = c->watch;

	CHECK_OBJ(w, WATCH_MAGIC);
	if (!c->complete && c->result.ok) {
		start_check(w);
		return;
	}
	/* It was told as a whole when the check did not come back. */
	if (c->result.missing && c->result.last_missing < atomic_load(&c->told_to))
		c->result.missing = 0;
	tell(w, &c->result);
	plan_next(w);
}

/* Accepted long enough ago to be visible. */
static void find_due(struct audit_watch *w)
{
	uint64_t settle_us =
		1000 * (w->any_checked ? w->cfg.settle_ms : MIN(w->cfg.settle_ms, (uint64_t)FIRST_SETTLE_MS));
	uint64_t now = loop_now_us(w->loop);

	for (size_t i = 0; i < w->n_marks; i++) {
		if (w->marks[i].at_us + settle_us > now)
			continue;
		w->due = MAX(w->due, w->marks[i].seq);
		w->any_due = true;
		return;
	}
}

static void on_stuck(struct audit_watch *w)
{
	struct audit_watch_result r = { .any = w->latest.any, .newest_seq = w->latest.newest_seq };

	judge(&r, AUDIT_WATCH_MISSING, "the journal cannot be read back: the disk does not answer");
	r.first_missing = MAX(r.any ? r.newest_seq + 1 : 0, atomic_load(&w->check->told_to));
	if (r.first_missing <= w->due) {
		r.last_missing = w->due;
		r.missing = w->due - r.first_missing + 1;
		r.to_us = clock_wall_us();
	}
	tell(w, &r);
	set_timer(w, w->cfg.stuck_ms);
}

static bool is_nothing_new(struct audit_watch *w)
{
	struct check *c = w->check;

	c->n_asked = w->cfg.on_ask ? w->cfg.on_ask(w->cfg.user, c->asked) : 0;
	assert(c->n_asked <= AUDIT_WATCH_ASKED_MAX);
	return !c->n_asked && w->latest.ok && w->latest.any && w->latest.newest_seq >= w->due;
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct audit_watch *w = user;

	CHECK_OBJ(w, WATCH_MAGIC);
	find_due(w);
	if (worker_job_busy(&w->check->job))
		on_stuck(w);
	else if (!w->any_due || is_nothing_new(w))
		plan_next(w);
	else
		start_check(w);
}

void audit_watch_told(struct audit_watch *w, uint64_t seq)
{
	uint64_t now = loop_now_us(w->loop);

	/* The front is the newest; it moves on until the one behind it is old enough. */
	if (w->n_marks < 2 || now - w->marks[1].at_us >= 1000 * w->cfg.settle_ms / MARKS_A_SETTLE) {
		w->n_marks = MIN(w->n_marks + 1, (size_t)MARKS);
		memmove(&w->marks[1], &w->marks[0], (w->n_marks - 1) * sizeof(w->marks[0]));
	}
	w->marks[0] = (struct mark){ seq, now };
	if (!w->any_told)
		set_timer(w, w->cfg.first_ms);
	w->any_told = true;
}

const struct audit_watch_result *audit_watch_latest(const struct audit_watch *w)
{
	return &w->latest;
}

static uint64_t or_else(uint64_t ms, uint64_t otherwise)
{
	return ms ? ms : otherwise;
}

static struct check *check_new(const struct audit_watch_config *cfg, struct audit_watch *w)
{
	struct check *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	worker_job_init(&c->job, check_run, on_checked, c);
	c->watch = w;
	c->complete = true;
	c->need_disk = cfg->need_disk;
	snprintf(c->chain_id, sizeof(c->chain_id), "%s", cfg->chain_id);
	snprintf(c->directory, sizeof(c->directory), "%s", cfg->directory ? cfg->directory : "");
	return c;
}

int audit_watch_new(struct loop *l, struct worker *worker, const struct audit_watch_config *cfg,
		    struct audit_watch **ret)
{
	struct audit_watch *w;

	if (strlen(cfg->chain_id) != CHAIN_ID_LEN || (cfg->directory && strlen(cfg->directory) >= DIRECTORY_MAX))
		return -EINVAL;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct audit_watch){ .magic = WATCH_MAGIC, .loop = l, .worker = worker, .cfg = *cfg, .latest.ok = true };
	w->cfg.first_ms = or_else(cfg->first_ms, FIRST_MS);
	w->cfg.every_ms = or_else(cfg->every_ms, EVERY_MS);
	w->cfg.retry_ms = or_else(cfg->retry_ms, RETRY_MS);
	w->cfg.settle_ms = or_else(cfg->settle_ms, SETTLE_MS);
	w->cfg.stuck_ms = or_else(cfg->stuck_ms, STUCK_MS);
	w->check = check_new(cfg, w);
	w->timer = event_new(loop_base(l), -1, 0, on_timer, w);
	if (!w->check || !w->timer) {
		audit_watch_free(w);
		return -ENOMEM;
	}
	*ret = w;
	return 0;
}

struct audit_watch *audit_watch_free(struct audit_watch *w)
{
	if (!w)
		return NULL;
	CHECK_OBJ(w, WATCH_MAGIC);
	if (w->timer)
		event_free(w->timer);
	if (w->check) {
		atomic_store(&w->check->stop, true);
		if (worker_cancel(w->worker, &w->check->job, check_free))
			check_free(w->check);
	}
	w->magic = 0;
	free(w);
	return NULL;
}
