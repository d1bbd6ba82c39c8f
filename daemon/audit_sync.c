#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/audit_private.h"
#include "proto/reasons.h"

enum { SYNC_MAGIC = 0x4153594e, INTERVAL_MS = 1000 };

/* Apart from the audit, because a thread may still have it when that is gone. */
struct audit_sync_job {
	unsigned magic;
	struct worker_job job;
	struct audit *audit;
	int fd, old_fd; /* -1: none. old_fd: of the file before it was opened anew */
	int kept_fd;    /* will be the old_fd of the next run */
	uint64_t end;   /* every record before this seq */
	char head[AUDIT_CHAIN_HEX + 1];
	int result;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int sync_fd(int fd)
{
	/* A pipe or a terminal has nothing to be synced. */
	return fd >= 0 && fdatasync(fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
}

static void run(void *user)
{
	struct audit_sync_job *j = user;
	int r = sync_fd(j->old_fd);

	j->result = sync_fd(j->fd);
	if (r < 0)
		j->result = r;
}

/* Written, and perhaps not on disk: refused, and so its ending is known. */
static void refuse_written(struct audit *a, struct audit_open *o, int r)
{
	const struct audit_ending ending = { .reason = TP_REASON_AUDIT_UNAVAILABLE };
	struct audit_entry *e = audit_put_response(a, o, &ending);

	if (e) {
		e->slot = o->slot;
		o->slot = AUDIT_STATE_NO_SLOT;
	} else {
		a->n_open--;
		audit_lost(a);
	}
	a->counters.refused++;
	audit_judge(a, o, r, false);
}

static void on_failed(struct audit *a, int r)
{
	struct audit_open *o;

	a->sync_failed = true;
	if (!a->failing)
		a->blocked_from_us = clock_wall_us();
	a->blocked = true;
	audit_fail(a, "sink-unreachable", r);
	audit_owe(a, "sink-unreachable", a->seq - a->synced, 0);
	a->synced = a->seq;
	while ((o = TAILQ_FIRST(&a->written))) {
		if (a->allow_on_failure)
			audit_judge(a, o, 0, true);
		else
			refuse_written(a, o, r);
	}
}

static void on_synced(struct audit *a, const struct audit_sync_job *j)
{
	struct audit_open *o;

	a->synced = j->end;
	if (a->sync == AUDIT_SYNC_EACH)
		audit_accept(a, j->end, j->head);
	while ((o = TAILQ_FIRST(&a->written)) && o->seq < j->end)
		audit_judge(a, o, 0, true);
	if (a->sync_failed) {
		a->sync_failed = false;
		audit_flush(a);
	}
}

static void done(void *user)
{
	struct audit_sync_job *j = user;
	struct audit *a = j->audit;

	CHECK_OBJ(j, SYNC_MAGIC);
	CHECK_OBJ(a, AUDIT_MAGIC);
	close_fd(&j->fd);
	close_fd(&j->old_fd);
	if (j->result < 0)
		on_failed(a, j->result);
	else
		on_synced(a, j);
	if (j->result == 0 && a->synced < a->seq)
		audit_sync_want(a);
	audit_tell(a);
}

static void start(struct audit *a)
{
	struct audit_sync_job *j = a->sync_job;
	int r = 0;

	j->fd = fcntl(audit_writer_fd(a->writer), F_DUPFD_CLOEXEC, 3);
	if (j->fd < 0)
		r = -errno;
	if (j->old_fd < 0) {
		j->old_fd = j->kept_fd;
		j->kept_fd = -1;
	}
	j->end = a->seq;
	memcpy(j->head, a->prev, sizeof(j->head));
	if (r == 0)
		r = worker_submit(a->worker, &j->job);
	if (r == 0)
		return;
	close_fd(&j->fd);
	on_failed(a, r);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct audit *a = user;

	CHECK_OBJ(a, AUDIT_MAGIC);
	if (!worker_job_busy(&a->sync_job->job))
		start(a);
	audit_tell(a);
}

void audit_sync_want(struct audit *a)
{
	const struct timeval tv = loop_timeval(INTERVAL_MS);

	if (!a->sync_job || worker_job_busy(&a->sync_job->job))
		return;
	if (a->sync == AUDIT_SYNC_EACH || a->sync_failed)
		start(a);
	else if (!event_pending(&a->sync_timer, EV_TIMEOUT, NULL))
		event_add(&a->sync_timer, &tv);
}

void audit_sync_keep_old(struct audit *a)
{
	struct audit_sync_job *j = a->sync_job;

	if (!j || a->synced == a->seq)
		return;
	/* The third file within one fdatasync: this one is waited for. */
	if (j->kept_fd >= 0)
		(void)fdatasync(audit_writer_fd(a->writer));
	else
		j->kept_fd = fcntl(audit_writer_fd(a->writer), F_DUPFD_CLOEXEC, 3);
}

int audit_sync_now(struct audit *a)
{
	int r;

	if (!a->sync_job)
		return 0;
	r = sync_fd(a->sync_job->kept_fd);
	return r < 0 ? r : sync_fd(audit_writer_fd(a->writer));
}

int audit_sync_new(struct audit *a)
{
	struct audit_sync_job *j;

	if (a->sync == AUDIT_SYNC_OFF)
		return 0;
	j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->magic = SYNC_MAGIC;
	j->audit = a;
	j->fd = j->old_fd = j->kept_fd = -1;
	worker_job_init(&j->job, run, done, j);
	a->sync_job = j;
	return evtimer_assign(&a->sync_timer, loop_base(a->loop), on_timer, a) < 0 ? -ENOMEM : 0;
}

static void free_job(void *user)
{
	struct audit_sync_job *j = user;

	CHECK_OBJ(j, SYNC_MAGIC);
	close_fd(&j->fd);
	close_fd(&j->old_fd);
	close_fd(&j->kept_fd);
	j->magic = 0;
	free(j);
}

void audit_sync_free(struct audit *a)
{
	struct audit_sync_job *j = a->sync_job;

	if (!j)
		return;
	a->sync_job = NULL;
	event_del(&a->sync_timer);
	j->audit = NULL;
	if (worker_cancel(a->worker, &j->job, free_job))
		free_job(j);
}
