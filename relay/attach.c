#include "relay/attach.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "base/log_limit.h"
#include "daemon/digest.h"
#include "daemon/token.h"
#include "relay/call.h"
#include "relay/records.h"

enum { KEPT_BYTES_MAX = 256 * 1024 * 1024 };

#define ATTACHED_MAGIC 0x61747461

/* Checkpoints of a gateway that are written down: more a second no gateway needs. */
enum { NOTES_RATE = 50, NOTES_BURST = 500 };

struct attached {
	unsigned magic;
	struct relay *relay;
	TAILQ_ENTRY(attached) link;
	struct transport *transport;
	char tunnel_id[TUNNEL_ID_MAX + 1];
	char session[2 * TP_SESSION_ID_BYTES + 1]; /* empty before WELCOME */
	struct event *grace;
	uint64_t grace_ms; /* as its gateway was told */
	bool up;         /* attached now */
	bool going_away; /* the gateway said so */
	uint64_t lost_ms;
	uint64_t began_ms, up_ms;
	unsigned resumed;
	uint8_t token[SHA256_LEN];       /* hash of the one that the newest connection gave */
	char version[65], region[65];
	bool recorded; /* its session.open is written */
	char peer[128]; /* the newest */
	struct audit_hash hash;
	struct budget notes;
};

static void attached_gone(void *p)
{
	struct attached *a = p;

	a->magic = 0;
	free(a);
}

static void attached_free(struct attached *a)
{
	TAILQ_REMOVE(&a->relay->attached, a, link);
	if (a->transport)
		a->relay->counters.stalls += tp_conn_stalls(transport_conn(a->transport));
	transport_free(a->transport);
	event_free(a->grace);
	audit_hash_done(&a->hash);
	loop_free_later(a->relay->loop, attached_gone, a);
}

void attach_where(const struct attached *a, struct audit_where *ret)
{
	*ret = (struct audit_where){ span_of(a->tunnel_id), span_of(a->session), span_of(a->peer) };
}

const struct audit_hash *attach_hash(const struct attached *a)
{
	return &a->hash;
}

static void record(struct attached *a, enum audit_event ev, struct audit_note *n)
{
	attach_where(a, &n->where);
	audit_setup_event(&a->relay->audit, ev, n);
}

/* The session is over: its calls end with that reason, and it goes. why: the session's own reason. */
static void attached_end(struct attached *a, uint32_t reason, uint32_t why, const char *detail)
{
	struct audit_note n = {
		.reason = tp_reason_name(why),
		.detail = detail,
		.bad = why != TP_REASON_NONE && why != TP_REASON_GATEWAY_STOPPED && why != TP_REASON_RELAY_STOPPED,
	};

	transport_abandon(a->transport, reason);
	a->relay->counters.sessions_ended[MIN(why, (uint32_t)ARRAY_LEN(a->relay->counters.sessions_ended) - 1)]++;
	if (a->recorded)
		record(a, AUDIT_SESSION_CLOSE, &n);
	attached_free(a);
}

/* Fields of a line. */
#define WHO(a) LOG_FIELDS({ "MCP_TUNNEL_ID", (a)->tunnel_id }, { "MCP_TUNNEL_SESSION", (a)->session })

static void on_grace_over(evutil_socket_t fd, short what, void *user)
{
	struct attached *a = user;

	CHECK_OBJ(a, ATTACHED_MAGIC);
	log_crowd(LOG_LEVEL_WARNING, WHO(a), "tunnel %s: session %.8s did not come back in %.0f s; %zu calls end with session-lost",
		  a->tunnel_id, a->session, (double)a->grace_ms / 1000, tp_conn_streams(transport_conn(a->transport)));
	attached_end(a, TP_REASON_SESSION_LOST, TP_REASON_SESSION_LOST, "its gateway did not come back in time");
}

static struct attached *find_session(struct relay *r, const struct attached *fresh, const uint8_t id[TP_SESSION_ID_BYTES])
{
	struct attached *a;
	char hex[2 * TP_SESSION_ID_BYTES + 1];

	hex_encode(id, TP_SESSION_ID_BYTES, hex);
	TAILQ_FOREACH(a, &r->attached, link)
		if (a != fresh && strcmp(a->tunnel_id, fresh->tunnel_id) == 0 &&
		    digest_equal(a->session, hex, sizeof(hex)))
			return a;
	return NULL;
}

static void set_up(struct attached *a)
{
	a->up = true;
	event_del(a->grace);
	/* The newest first: it is the one that new calls go to. */
	TAILQ_REMOVE(&a->relay->attached, a, link);
	TAILQ_INSERT_HEAD(&a->relay->attached, a, link);
}

/* Who the gateway says it is. */
static void keep_words(struct attached *a, const struct tp_event *ev)
{
	snprintf(a->version, sizeof(a->version), "%.*s", SPAN_FMT(ev->version));
	snprintf(a->region, sizeof(a->region), "%.*s", SPAN_FMT(ev->region));
}

/* True when the gateway's old session took this connection over, and `fresh` is gone. */
static bool resumed(struct attached *fresh, const struct tp_event *ev)
{
	static const uint8_t none[TP_SESSION_ID_BYTES];
	struct attached *a;
	int r;

	if (memcmp(ev->session, none, sizeof(none)) == 0)
		return false;
	a = find_session(fresh->relay, fresh, ev->session);
	if (!a)
		return false;
	r = transport_resume(a->transport, fresh->transport);
	if (r == 0) {
		fresh->transport = NULL;
		a->hash = fresh->hash;
		memcpy(a->token, fresh->token, sizeof(a->token));
		keep_words(a, ev);
	}
	if (r != 0) {
		log_crowd(LOG_LEVEL_WARNING, WHO(a), "tunnel %s: session %.8s cannot go on where it was; starting anew", a->tunnel_id, a->session);
		attached_end(a, TP_REASON_SESSION_LOST, TP_REASON_SESSION_LOST, "it could not go on where it was");
	}
	/* Out of memory half-way: the connection cannot be used for anything else. */
	if (r <= 0)
		attached_free(fresh);
	return r <= 0;
}

/* The gateway knows that the process which had that session is dead: its calls need not wait for it. */
static void end_replaced(const struct attached *fresh, const struct tp_event *ev)
{
	struct attached *a;

	if (memcmp(ev->replaces, ev->session, sizeof(ev->session)) == 0)
		return;
	a = find_session(fresh->relay, fresh, ev->replaces);
	if (!a)
		return;
	log_crowd(LOG_LEVEL_WARNING, WHO(a),
		   "tunnel %s: session %.8s is over: its gateway ended without a word, and the next one is here; %zu calls end with session-lost",
		   a->tunnel_id, a->session, tp_conn_streams(transport_conn(a->transport)));
	transport_close(a->transport, TP_REASON_SESSION_LOST, "another process takes this one's place");
	attached_end(a, TP_REASON_SESSION_LOST, TP_REASON_SESSION_LOST, "another process of the gateway takes its place");
}

static void on_hello(struct attached *a, const struct tp_event *ev)
{
	uint8_t id[TP_SESSION_ID_BYTES];

	end_replaced(a, ev);
	if (resumed(a, ev))
		return;
	if (random_bytes(id, sizeof(id)) < 0 || tp_conn_welcome(transport_conn(a->transport), id, loop_now_ms(a->relay->loop)) < 0) {
		log_crowd(LOG_LEVEL_ERROR, WHO(a), "tunnel %s: out of memory or entropy: a gateway could not attach", a->tunnel_id);
		attached_free(a);
		return;
	}
	hex_encode(id, sizeof(id), a->session);
	keep_words(a, ev);
	log_crowd(LOG_LEVEL_NOTICE, WHO(a),
		   "tunnel %s: gateway %.*s attached from %s (region %.*s), session %.8s", a->tunnel_id,
		   (int)MIN(ev->version.len, (size_t)64), ev->version.p, transport_peer(a->transport),
		   ev->region.len ? (int)MIN(ev->region.len, (size_t)64) : 1, ev->region.len ? ev->region.p : "-", a->session);
}

static const char *when_lost(const struct attached *a, char *dst, size_t size)
{
	if (!a->lost_ms)
		return "before its loss was noticed";
	snprintf(dst, size, "after %.1f s", (double)(loop_now_ms(a->relay->loop) - a->lost_ms) / 1000);
	return dst;
}

static void record_attached(struct attached *a, const struct tp_event *ev)
{
	struct audit_note n = {
		.replayed_frames = ev->replayed_frames,
		.replayed_bytes = ev->replayed_bytes,
		.down_ms = a->lost_ms ? loop_now_ms(a->relay->loop) - a->lost_ms : 0,
	};

	snprintf(a->peer, sizeof(a->peer), "%s", transport_peer(a->transport));
	record(a, ev->resumed ? AUDIT_SESSION_RESUME : AUDIT_SESSION_OPEN, &n);
	a->recorded = true;
}

/* The gateway's newest record: what is on this machine cannot be changed on that one. */
static void on_note(struct attached *a, const struct tp_event *ev)
{
	struct audit_note n = { .peer_head = tp_field_get(ev->fields, ev->n_fields, ":audit") };

	if (n.peer_head.p && budget_take(&a->notes, loop_now_ms(a->relay->loop)))
		record(a, AUDIT_PEER_CHECKPOINT, &n);
}

static void on_attached(struct attached *a, const struct tp_event *ev)
{
	size_t open, waited = 0;
	char when[48];

	set_up(a);
	a->up_ms = loop_now_ms(a->relay->loop);
	a->resumed += ev->resumed;
	record_attached(a, ev);
	a->relay->counters.sessions++;
	a->relay->counters.resumed += ev->resumed;
	a->relay->counters.replayed_frames += ev->replayed_frames;
	a->relay->counters.replayed_bytes += ev->replayed_bytes;
	open = tp_conn_streams(transport_conn(a->transport));
	if (a->relay->stopping) {
		(void)tp_conn_goaway(transport_conn(a->transport), TP_REASON_RELAY_STOPPED, "the relay stops");
		transport_kick(a->transport);
	} else {
		waited = hold_attached(a->relay->hold, a->tunnel_id);
	}
	if (ev->resumed)
		log_crowd(LOG_LEVEL_NOTICE, WHO(a),
			  "tunnel %s: session %.8s resumed %s from %s: %zu calls and %zu new ones had waited, %llu frames (%llu bytes) "
			  "sent again",
			  a->tunnel_id, a->session, when_lost(a, when, sizeof(when)), transport_peer(a->transport), open, waited,
			   (unsigned long long)ev->replayed_frames, (unsigned long long)ev->replayed_bytes);
	else if (waited)
		log_crowd(LOG_LEVEL_NOTICE, WHO(a), "tunnel %s: %zu calls had waited for a gateway", a->tunnel_id, waited);
	a->lost_ms = 0;
}

static void on_event(void *user, struct tp_event *ev)
{
	struct attached *a = user;

	CHECK_OBJ(a, ATTACHED_MAGIC);
	switch (ev->type) {
	case TP_EV_HELLO:
		on_hello(a, ev);
		break;
	case TP_EV_ATTACHED:
		on_attached(a, ev);
		break;
	case TP_EV_GOAWAY:
		a->going_away = true;
		log_crowd(LOG_LEVEL_NOTICE, WHO(a), "tunnel %s: session %.8s takes no new calls (%s), %zu open", a->tunnel_id, a->session,
			  tp_reason_name(ev->reason), tp_conn_streams(transport_conn(a->transport)));
		break;
	case TP_EV_NOTE:
		on_note(a, ev);
		break;
	case TP_EV_HEAD:
	case TP_EV_DATA:
	case TP_EV_RESET:
	case TP_EV_WRITABLE:
		call_event(tp_stream_user(ev->stream), ev);
		break;
	default:
		break;
	}
}

bool attach_has_room(const struct relay *r, const char *tunnel_id)
{
	const struct attached *a;
	size_t n = 0;

	TAILQ_FOREACH(a, &r->attached, link)
		n += !a->lost_ms && strcmp(a->tunnel_id, tunnel_id) == 0;
	return n < ATTACH_TUNNEL_MAX;
}

/* One more of the tunnel is about to wait: where they are too many, the one that has waited the longest is over. */
static void limit_waiting(struct relay *r, const char *tunnel_id)
{
	struct attached *a, *oldest = NULL;
	size_t n = 0;

	TAILQ_FOREACH(a, &r->attached, link) {
		if (!a->lost_ms || strcmp(a->tunnel_id, tunnel_id) != 0)
			continue;
		n++;
		if (!oldest || a->lost_ms < oldest->lost_ms)
			oldest = a;
	}
	if (!oldest || n < ATTACH_TUNNEL_MAX)
		return;
	log_few(LOG_LEVEL_WARNING, WHO(oldest), "tunnel %s: session %.8s is over: more than %d wait for their gateways", oldest->tunnel_id,
		oldest->session, ATTACH_TUNNEL_MAX);
	attached_end(oldest, TP_REASON_SESSION_LOST, TP_REASON_SESSION_LOST, "too many sessions of its tunnel wait");
}

static bool session_waits(const struct relay *r, const char *tunnel_id)
{
	const struct attached *a;

	TAILQ_FOREACH(a, &r->attached, link)
		if (a->lost_ms && strcmp(a->tunnel_id, tunnel_id) == 0)
			return true;
	return false;
}

static void on_lost(void *user, uint32_t reason, const char *detail, bool fatal)
{
	struct attached *a = user;
	const uint64_t grace_ms = a->grace_ms;
	const struct timeval tv = loop_timeval(grace_ms);
	size_t open = tp_conn_streams(transport_conn(a->transport));

	CHECK_OBJ(a, ATTACHED_MAGIC);
	a->up = false;
	if (!a->session[0]) {
		/* One that was to carry on with a session: the line about its loss has been written. */
		log_crowd(session_waits(a->relay, a->tunnel_id) ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, WHO(a),
			  "tunnel %s: a connection ended before its session began (%s): %s", a->tunnel_id, tp_reason_name(reason), detail);
		attached_free(a);
		return;
	}
	if (fatal || grace_ms == 0 || (a->going_away && open == 0)) {
		log_crowd(reason == TP_REASON_GATEWAY_STOPPED ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING,
			   LOG_FIELDS({ "MCP_TUNNEL_ID", a->tunnel_id }, { "MCP_REASON", tp_reason_name(reason) }),
			   "tunnel %s: session %.8s is over (%s): %s", a->tunnel_id, a->session, tp_reason_name(reason), detail);
		attached_end(a, TP_REASON_SESSION_LOST, reason, detail);
		return;
	}
	limit_waiting(a->relay, a->tunnel_id);
	a->relay->counters.sessions_lost[MIN(reason, (uint32_t)ARRAY_LEN(a->relay->counters.sessions_lost) - 1)]++;
	a->lost_ms = loop_now_ms(a->relay->loop);
	event_add(a->grace, &tv);
	log_crowd(LOG_LEVEL_WARNING, WHO(a), "tunnel %s: session %.8s lost its connection (%s%s%s); %zu calls wait up to %.0f s",
		  a->tunnel_id, a->session, reason == TP_REASON_NONE ? "" : tp_reason_name(reason), reason == TP_REASON_NONE ? "" : ": ", detail, open,
		    (double)grace_ms / 1000);
}

static const struct transport_ops transport_callbacks = { .on_event = on_event, .on_lost = on_lost };

static int attached_new(struct relay *r, const char *tunnel_id, const uint8_t token[SHA256_LEN], const struct audit_hash *hash,
			struct attached **ret)
{
	struct attached *a = calloc(1, sizeof(*a));
	struct tp_config tp;
	int rc;

	if (!a)
		return -ENOMEM;
	tp_config_init(&tp, TP_RELAY, random_bytes);
	tp.keepalive_ms = r->cfg->keepalive_ms;
	tp.grace_ms = r->cfg->resume_grace_ms;
	tp.max_streams = r->cfg->max_streams;
	tp.kept = &r->kept_bytes;
	tp.kept_max = KEPT_BYTES_MAX;
	tp.version = "mcp-tunnel-relay/" MCP_TUNNEL_VERSION;
	a->magic = ATTACHED_MAGIC;
	a->relay = r;
	a->grace_ms = tp.grace_ms;
	snprintf(a->tunnel_id, sizeof(a->tunnel_id), "%s", tunnel_id);
	a->hash = *hash;
	memcpy(a->token, token, sizeof(a->token));
	a->began_ms = a->up_ms = loop_now_ms(r->loop);
	budget_init(&a->notes, NOTES_RATE, NOTES_BURST);
	a->grace = event_new(loop_base(r->loop), -1, 0, on_grace_over, a);
	rc = a->grace ? transport_new(r->loop, &tp, &transport_callbacks, a, &a->transport) : -ENOMEM;
	if (rc < 0) {
		if (a->grace)
			event_free(a->grace);
		audit_hash_done(&a->hash);
		free(a);
		return rc;
	}
	TAILQ_INSERT_TAIL(&r->attached, a, link);
	*ret = a;
	return 0;
}

void attach_begin(struct relay *r, struct channel *take_channel, const char *tunnel_id, const uint8_t token[SHA256_LEN],
		  const struct audit_hash *hash, uint8_t *early, size_t len)
{
	struct attached *a;

	/* It may have ended since the token was looked at. */
	if (registry_token_now(r->registry, tunnel_id, token) == REGISTRY_TOKEN_ENDED ||
	    attached_new(r, tunnel_id, token, hash, &a) < 0) {
		channel_abort(take_channel, false);
		return;
	}
	if (transport_attach(a->transport, take_channel, early, len) < 0)
		attached_free(a);
}

struct attached *attach_pick(struct relay *r, struct span tunnel_id)
{
	struct attached *a;

	TAILQ_FOREACH(a, &r->attached, link)
		if (a->up && !a->going_away && span_is(tunnel_id, a->tunnel_id))
			return a;
	return NULL;
}

struct transport *attach_transport(const struct attached *a)
{
	return a->transport;
}

void attach_drain_all(struct relay *r)
{
	struct attached *a;

	TAILQ_FOREACH(a, &r->attached, link) {
		if (!a->session[0])
			continue;
		(void)tp_conn_goaway(transport_conn(a->transport), TP_REASON_RELAY_STOPPED, "the relay stops");
		transport_kick(a->transport);
	}
}

void attach_stop_all(struct relay *r)
{
	struct attached *a;

	while ((a = TAILQ_FIRST(&r->attached))) {
		transport_close(a->transport, TP_REASON_RELAY_STOPPED, "the relay stops");
		attached_end(a, TP_REASON_RELAY_STOPPED, TP_REASON_RELAY_STOPPED, NULL);
	}
}

size_t attach_count(const struct relay *r)
{
	const struct attached *a;
	size_t n = 0;

	TAILQ_FOREACH(a, &r->attached, link)
		n += a->up;
	return n;
}

static void revoke(struct attached *a)
{
	static const char detail[] = "the gateway's token is no longer valid";

	log_crowd(LOG_LEVEL_WARNING,
		   LOG_FIELDS({ "MCP_TUNNEL_ID", a->tunnel_id }, { "MCP_TUNNEL_SESSION", a->session },
			      { "MCP_REASON", tp_reason_name(TP_REASON_TOKEN_REVOKED) }),
		   "tunnel %s: session %.8s is over: its token is no longer valid; %zu calls end with token-revoked", a->tunnel_id, a->session,
		   tp_conn_streams(transport_conn(a->transport)));
	records_auth_failure(a->relay, span_of(a->tunnel_id), a->peer, "the token of a gateway's session is no longer valid");
	transport_close(a->transport, TP_REASON_TOKEN_REVOKED, detail);
	attached_end(a, TP_REASON_TOKEN_REVOKED, TP_REASON_TOKEN_REVOKED, detail);
}

void attach_revoke(struct relay *r)
{
	struct attached *a, *next;

	for (a = TAILQ_FIRST(&r->attached); a; a = next) {
		next = TAILQ_NEXT(a, link);
		if (registry_token_now(r->registry, a->tunnel_id, a->token) == REGISTRY_TOKEN_ENDED)
			revoke(a);
	}
}

static enum attach_state state_of(const struct attached *a)
{
	if (!a->session[0])
		return ATTACH_GREETING;
	if (!a->up)
		return a->lost_ms ? ATTACH_LOST : ATTACH_GREETING;
	return a->going_away ? ATTACH_DRAINING : ATTACH_UP;
}

void attach_each(const struct relay *r, attach_info_fn *fn, void *user)
{
	uint64_t now = loop_now_ms(r->loop);
	const struct attached *a;

	TAILQ_FOREACH(a, &r->attached, link) {
		const struct tp_conn *c = transport_conn(a->transport);

		fn(user, &(struct attach_info){
				 .tunnel_id = a->tunnel_id,
				 .session = a->session,
				 .peer = a->up ? transport_peer(a->transport) : a->peer,
				 .version = a->version,
				 .region = a->region,
				 .state = state_of(a),
				 .token = registry_token_now(r->registry, a->tunnel_id, a->token),
				 .age_ms = now - a->began_ms,
				 .state_ms = now - (a->lost_ms ? a->lost_ms : a->up_ms),
				 .rtt_us = tp_conn_rtt_us(c),
				 .resumed = a->resumed,
				 .calls = tp_conn_streams(c),
			 });
	}
}

void attach_totals(const struct relay *r, struct attach_totals *ret)
{
	const struct attached *a;

	*ret = (struct attach_totals){ .stalls = r->counters.stalls };
	TAILQ_FOREACH(a, &r->attached, link) {
		const struct tp_conn *c = transport_conn(a->transport);

		ret->attached += a->up;
		ret->waiting += a->lost_ms != 0;
		ret->streams += tp_conn_streams(c);
		ret->stalls += tp_conn_stalls(c);
	}
}
