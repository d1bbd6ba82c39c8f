#include "relay/records.h"

#include <stdio.h>

#include "daemon/state_dir.h"

enum { AUTH_FAILURES_RATE = 10, AUTH_FAILURES_BURST = 100 };

/* Beside the registry, which has a lock of its own in the state directory. Not for --check-config: a relay that runs holds it. */
static int open_state(struct relay *r, char *err, size_t err_size)
{
	char path[4096], why[CONFIG_ERROR_MAX];
	int rc;

	if (r->cfg->audit.sink == AUDIT_NONE || r->cfg->check_config)
		return 0;
	snprintf(path, sizeof(path), "%s/audit", r->cfg->state_dir);
	rc = state_dir_open(path, why, sizeof(why), &r->state);
	if (rc < 0)
		snprintf(err, err_size, "--state-dir: %s", why);
	return rc;
}

int records_init(struct relay *r, char *err, size_t err_size)
{
	struct audit_setup_config setup = { .options = &r->cfg->audit, .side = "relay" };
	int rc = open_state(r, err, err_size);

	if (rc < 0)
		return rc;
	setup.state_dir = r->state;
	budget_init(&r->auth_failures, AUTH_FAILURES_RATE, AUTH_FAILURES_BURST);
	return audit_setup_init(&r->audit, r->loop, &setup, err, err_size);
}

void records_done(struct relay *r)
{
	audit_setup_done(&r->audit);
	r->state = state_dir_close(r->state);
}

void records_start(struct relay *r)
{
	audit_start(r->audit.audit);
}

void records_stop(struct relay *r, const char *why)
{
	audit_setup_stop(&r->audit, why);
}

void records_auth_failure(struct relay *r, struct span tunnel, const char *peer, const char *detail)
{
	char text[256];
	const struct audit_note n = {
		.where = { .tunnel_id = tunnel, .peer = span_of(peer) },
		.reason = "auth-failure",
		.detail = text,
	};

	if (!budget_take(&r->auth_failures, loop_now_ms(r->loop))) {
		r->auth_failures_skipped++;
		return;
	}
	if (r->auth_failures_skipped)
		snprintf(text, sizeof(text), "%s; %llu more before this one have no record", detail,
			 (unsigned long long)r->auth_failures_skipped);
	else
		snprintf(text, sizeof(text), "%s", detail);
	r->auth_failures_skipped = 0;
	audit_setup_event(&r->audit, AUDIT_AUTH_FAILURE, &n);
}

void records_reopen(struct relay *r)
{
	if (!r->audit.stopped)
		audit_reopen(r->audit.audit);
}

void records_reload(struct relay *r, const char *detail, bool bad)
{
	const struct audit_note n = { .detail = detail, .bad = bad };

	audit_setup_event(&r->audit, AUDIT_CONFIG_RELOAD, &n);
}

void records_denied(struct relay *r, const struct request *q, const struct http1_head *h, const char *agent, const struct attached *a,
		    uint32_t reason, const char *detail)
{
	struct audit_call facts = {
		.agent = span_of(agent),
		.agent_auth = span_of(relay_agent_auth(r)),
		.route = q->route,
		.trace = http1_field_get(h, "traceparent", NULL),
	};

	if (!span_is(h->method, "POST") || r->audit.stopped)
		return;
	if (a)
		attach_where(a, &facts.where);
	else
		facts.where.tunnel_id = q->tunnel;
	audit_calls_refused(&r->audit.shared, &facts, http1_field_get(h, "Mcp-Session-Id", NULL), a ? attach_hash(a) : NULL, reason, detail);
}
