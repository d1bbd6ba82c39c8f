#include "gateway/records.h"

#include <stdio.h>

#include "base/log.h"

static void on_checkpoint(void *user, const char *head)
{
	struct records *r = user;
	const struct tp_field field = { SPAN(":audit"), span_of(head) };
	struct transport *t;

	if (!r->session)
		return;
	t = session_transport(r->session);
	(void)tp_conn_note(transport_conn(t), &field, 1);
	transport_kick(t);
}

int records_init(struct records *r, struct loop *l, const struct gateway_config *cfg, struct state_dir *state, const struct token *token,
		 char *err, size_t err_size)
{
	const struct audit_setup_config setup = {
		.options = &cfg->audit,
		.side = "gateway",
		.state_dir = state,
		.on_checkpoint = on_checkpoint,
		.user = r,
	};
	int rc;

	rc = audit_setup_init(&r->setup, l, &setup, err, err_size);
	if (rc == 0)
		rc = audit_setup_hash(&r->setup, span_of(token->text), &r->hash);
	snprintf(r->tunnel_id, sizeof(r->tunnel_id), "%s", token->tunnel_id);
	r->where = (struct audit_where){ .tunnel_id = span_of(r->tunnel_id) };
	return rc;
}

void records_done(struct records *r)
{
	audit_setup_done(&r->setup);
	audit_hash_done(&r->hash);
}

void records_start(struct records *r, struct session *s)
{
	r->session = s;
	audit_start(r->setup.audit);
}

void records_stop(struct records *r, const char *why)
{
	r->session = NULL;
	audit_setup_stop(&r->setup, why);
}

void records_token(struct records *r, const struct token *token)
{
	struct audit_hash hash;

	if (audit_setup_hash(&r->setup, span_of(token->text), &hash) < 0) {
		log_error("audit: out of memory: arguments are still hashed with the key of the token before");
		return;
	}
	r->hash = hash;
	audit_hash_done(&hash);
	snprintf(r->tunnel_id, sizeof(r->tunnel_id), "%s", token->tunnel_id);
	r->where.tunnel_id = span_of(r->tunnel_id);
}

/* ---- sessions ---- */

static void note(struct records *r, enum audit_event ev, struct audit_note *n)
{
	n->where = r->where;
	audit_setup_event(&r->setup, ev, n);
}

static void close_session(struct records *r, const char *reason, const char *detail, bool bad)
{
	struct audit_note n = { .reason = reason, .detail = detail, .bad = bad };

	if (!r->session_id[0])
		return;
	note(r, AUDIT_SESSION_CLOSE, &n);
	r->session_id[0] = '\0';
	r->where.session_id = r->where.peer = (struct span){ NULL, 0 };
}

static void open_session(struct records *r, const struct session_status *st, const char *peer)
{
	struct audit_note n = {
		.replayed_bytes = st->replayed_bytes,
		.replayed_frames = st->replayed_frames,
		.down_ms = st->down_ms,
	};

	/* One that the relay no longer knew. */
	if (!st->resumed)
		close_session(r, tp_reason_name(TP_REASON_SESSION_LOST), NULL, true);
	snprintf(r->session_id, sizeof(r->session_id), "%s", st->session_id);
	snprintf(r->peer, sizeof(r->peer), "%s", peer);
	r->where.session_id = span_of(r->session_id);
	r->where.peer = span_of(r->peer);
	note(r, st->resumed ? AUDIT_SESSION_RESUME : AUDIT_SESSION_OPEN, &n);
}

static void failed(struct records *r, const struct session_status *st)
{
	struct audit_note n = { .reason = session_failure_name(st->failure), .detail = st->detail, .bad = true };
	bool is_auth = st->failure == SESSION_TOKEN_REFUSED || st->failure == SESSION_TOKEN_REVOKED || st->failure == SESSION_TLS;

	if (st->over)
		close_session(r, session_failure_name(st->failure), st->detail, st->failure != SESSION_RELAY_STOPPED);
	/* Told once, not for each attempt. */
	if (is_auth && st->failure_is_news)
		note(r, AUDIT_AUTH_FAILURE, &n);
}

void records_session_state(struct records *r, const struct session_status *st, const char *peer)
{
	if (st->state == SESSION_ATTACHED)
		open_session(r, st, peer);
	else if (st->state == SESSION_STOPPED)
		close_session(r, tp_reason_name(TP_REASON_GATEWAY_STOPPED), NULL, false);
	else if (st->state == SESSION_WAITING)
		failed(r, st);
}

void records_reopen(struct records *r)
{
	audit_reopen(r->setup.audit);
}

void records_reload(struct records *r, const char *detail, bool bad)
{
	struct audit_note n = { .detail = detail, .bad = bad };

	note(r, AUDIT_CONFIG_RELOAD, &n);
}
