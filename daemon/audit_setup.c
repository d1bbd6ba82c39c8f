#include "daemon/audit_setup.h"

#include <errno.h>
#include <stdio.h>

#include "daemon/openmetrics.h"

enum { THREADS_MAX = 2 };

static int load_key(struct audit_setup *s, const char *path, char *err, size_t err_size)
{
	char why[CONFIG_ERROR_MAX];
	int r;

	r = audit_hash_init_file(&s->file_key, path, why, sizeof(why));
	s->has_file_key = r == 0;
	if (r < 0)
		snprintf(err, err_size, "--audit-hash-key-file: %s", why);
	return r < 0 ? -EINVAL : 0;
}

int audit_setup_init(struct audit_setup *s, struct loop *l, const struct audit_setup_config *cfg, char *err, size_t err_size)
{
	const struct audit_options *o = cfg->options;
	struct audit_config audit = {
		.sink = o->sink,
		.path = o->path,
		.side = cfg->side,
		.state_dir = cfg->state_dir,
		.allow_on_failure = o->on_failure == 1,
		.sync = (enum audit_sync)o->sync_choice,
		.read_back = (enum audit_read_back)o->read_back_choice,
		.on_checkpoint = cfg->on_checkpoint,
		.user = cfg->user,
	};
	int r = 0;

	s->plain = o->hash == 1;
	if (o->hash_key_file)
		r = load_key(s, o->hash_key_file, err, err_size);
	if (r < 0)
		return r;
	snprintf(err, err_size, "out of memory");
	r = worker_new(l, THREADS_MAX, &s->worker);
	if (r < 0)
		return r;
	audit.worker = s->worker;
	r = audit_new(l, &audit, err, err_size, &s->audit);
	if (r < 0)
		return r;
	s->shared = (struct audit_calls_shared){
		.audit = o->sink == AUDIT_NONE ? NULL : s->audit,
		.worker = s->worker,
		.allow_on_failure = audit.allow_on_failure,
	};
	return 0;
}

void audit_setup_done(struct audit_setup *s)
{
	s->audit = audit_free(s->audit);
	s->worker = worker_free(s->worker);
	audit_hash_done(&s->file_key);
	s->shared = (struct audit_calls_shared){ 0 };
}

void audit_setup_stop(struct audit_setup *s, const char *why)
{
	if (!s->stopped)
		audit_stop(s->audit, why);
	s->stopped = true;
}

int audit_setup_hash(const struct audit_setup *s, struct span token, struct audit_hash *ret)
{
	int r = 0;

	if (s->has_file_key)
		*ret = s->file_key;
	else
		r = audit_hash_init(ret, token);
	ret->plain = s->plain;
	return r;
}

void audit_setup_event(struct audit_setup *s, enum audit_event ev, const struct audit_note *n)
{
	if (s->shared.audit && !s->stopped)
		audit_event(s->audit, ev, n);
}

int audit_setup_canary(struct audit_setup *s, struct span nonce)
{
	const struct audit_note n = { .nonce = nonce };

	if (!s->shared.audit || s->stopped)
		return -ENOTSUP;
	audit_event(s->audit, AUDIT_CANARY, &n);
	return 0;
}

bool audit_setup_is_idle(const struct audit_setup *s)
{
	const struct audit_counters *c = audit_counters(s->audit);

	return c->queued == 0 || c->failing;
}

bool audit_setup_check(const struct audit_setup *s, char *detail, size_t size)
{
	const char *cause = audit_counters(s->audit)->cause, *why = "";
	bool ok = audit_healthy(s->audit, &why);

	snprintf(detail, size, "%s%s%s", ok || !cause ? "" : cause, ok || !cause || !*cause ? "" : ": ", ok ? "" : why);
	return ok;
}

int audit_setup_metrics(const struct audit_setup *s, struct buf *out, const char *prefix)
{
	const struct audit_counters *c = audit_counters(s->audit);
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "audit_failing", "1 while the audit sink takes no records.", c->failing },
		{ OPENMETRICS_GAUGE, "audit_queued", "Audit records that wait for the sink.", (double)c->queued },
		{ OPENMETRICS_GAUGE, "audit_queued_bytes", "Memory of the audit records that wait.", (double)c->queued_bytes },
		{ OPENMETRICS_COUNTER, "audit_written", "Audit records that the sink took.", .count = c->written },
		{ OPENMETRICS_COUNTER, "audit_refused", "Calls refused because their record could not be written.", .count = c->refused },
		{ OPENMETRICS_COUNTER, "audit_unrecorded", "Calls made without a record (--audit-on-failure continue).",
		  .count = c->unrecorded },
		{ OPENMETRICS_COUNTER, "audit_lost", "Audit records that were dropped for want of room.", .count = c->lost },
		{ OPENMETRICS_COUNTER, "audit_gaps", "audit.gap records written.", .count = c->gaps },
	};

	return openmetrics_add(out, prefix, rows, ARRAY_LEN(rows));
}
