#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log_limit.h"
#include "daemon/upgrade.h"
#include "relay/attach.h"
#include "relay/cors.h"
#include "relay/front_private.h"
#include "relay/records.h"

/* What a call that waits is counted for, besides the bytes behind its head. */
enum { HELD_HEAD_BYTES = 4 * 1024 };

/* ---- the call ---- */

static void on_call_output(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->channel)
		channel_want_write(f->channel);
}

static void on_call_writable(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->state == FRONT_BODY)
		front_set_paused(f, false);
}

static void on_call_failed(void *user, uint32_t reason, const char *detail)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->state == FRONT_BODY || f->state == FRONT_CALL)
		front_refuse_reason(f, reason, detail);
}

static const struct call_handler call_callbacks = {
	.on_output = on_call_output,
	.on_writable = on_call_writable,
	.on_failed = on_call_failed,
};

static void start_call(struct front *f, const struct request *q, const char *agent)
{
	const struct http1_head *h = &f->reader.head;
	const struct call_start start = {
		.attached = attach_pick(f->relay, q->tunnel),
		.head = h,
		.request = q,
		.agent = agent,
		.agent_auth = relay_agent_auth(f->relay),
		.cors_origin = f->cors_origin,
		.end = h->body == HTTP1_BODY_NONE,
	};
	int r;

	if (!start.attached) {
		if (hold_add(f->relay->hold, &f->held, q->tunnel, sizeof(*f) + HELD_HEAD_BYTES)) {
			front_set_state(f, FRONT_HELD);
			front_set_paused(f, true);
		} else {
			front_deny(f, q, agent, NULL, TP_REASON_NOT_ATTACHED, NULL);
		}
		return;
	}
	if (h->body == HTTP1_BODY_LENGTH && h->content_length > f->relay->cfg->max_request_bytes) {
		front_deny(f, q, agent, start.attached, TP_REASON_TOO_LARGE, "--max-request-bytes of the relay");
		return;
	}
	r = call_new(f->relay, &start, &call_callbacks, f, &f->call);
	if (r == TP_REASON_AUDIT_UNAVAILABLE) {
		front_refuse_reason(f, TP_REASON_AUDIT_UNAVAILABLE, "see the relay's log");
		return;
	}
	if (r != 0) {
		front_deny(f, q, agent, start.attached, r > 0 ? (uint32_t)r : TP_REASON_REFUSED, r > 0 ? NULL : "out of memory");
		return;
	}
	if (h->expect_continue && !start.end && buf_add_str(&f->out, "HTTP/1.1 100 Continue\r\n\r\n") == 0)
		channel_want_write(f->channel);
	front_set_state(f, start.end ? FRONT_CALL : FRONT_BODY);
}

/* ---- requests ---- */

static bool origin_allowed(const void *user, struct span origin)
{
	return relay_config_origin_allowed(user, origin);
}

/* Absent unless there is such a tunnel. */
static struct span known_tunnel(const struct relay *r, struct span tunnel)
{
	return registry_has_tunnel(r->registry, tunnel) ? tunnel : (struct span){ NULL, 0 };
}

static void begin_upgrade(struct front *f, const struct request *q)
{
	const struct http1_head *h = &f->reader.head;
	const char *bad, *tunnel;
	char peer[128];
	unsigned status;

	f->relay->counters.gateway_connections++;
	bad = upgrade_check_request(h, &status);
	if (bad) {
		f->close_after = true;
		front_refuse(f, status, status == 426 ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" : NULL,
		       TP_REASON_BAD_REQUEST, bad, NULL);
		return;
	}
	tunnel = registry_check_token(f->relay->registry, q->key);
	if (!tunnel || !span_is(http1_field_get(h, "Mcp-Tunnel", NULL), tunnel)) {
		channel_peer(f->channel, peer, sizeof(peer));
		f->relay->counters.gateway_refused++;
		log_few(LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_PEER", peer }), "a gateway at %s gave a token that is not valid", peer);
		records_auth_failure(f->relay, known_tunnel(f->relay, http1_field_get(h, "Mcp-Tunnel", NULL)), peer,
				     "a gateway gave a token that is not valid");
		f->close_after = true;
		front_refuse(f, 401, "WWW-Authenticate: Bearer realm=\"mcp-tunnel\"\r\n", TP_REASON_BAD_REQUEST, "the token is not valid", NULL);
		return;
	}
	if (f->relay->stopping) {
		f->close_after = true;
		front_refuse(f, 503, "Retry-After: 2\r\n", TP_REASON_RELAY_STOPPED, "the relay stops", NULL);
		return;
	}
	if (!attach_has_room(f->relay, tunnel)) {
		log_few(LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_TUNNEL_ID", tunnel }),
			"tunnel %s: one more gateway was refused: %d are connected already", tunnel, ATTACH_TUNNEL_MAX);
		f->close_after = true;
		front_refuse(f, 503, "Retry-After: 10\r\n", TP_REASON_REFUSED, "the tunnel has as many gateways as it may", NULL);
		return;
	}
	snprintf(f->tunnel_id, sizeof(f->tunnel_id), "%s", tunnel);
	if (digest_sha256(q->key.p, q->key.len, f->secret) < 0 || audit_setup_hash(&f->relay->audit, q->key, &f->hash) < 0 || upgrade_write_response(&f->out, h, clock_wall_us() / 1000000) < 0) {
		front_close(f);
		return;
	}
	addresses_become(&f->place->ticket, ADDRESS_GATEWAY);
	front_set_state(f, FRONT_UPGRADING);
	channel_want_write(f->channel);
}

static const char *check_agent(const struct relay *r, const struct request *q)
{
	const char *agent = registry_check_agent(r->registry, q->tunnel, q->key);

	if (agent)
		return agent;
	return r->cfg->agents_need_key || !registry_has_tunnel(r->registry, q->tunnel) ? NULL : "unknown";
}

static const char *local_name(struct front *f)
{
	static const char mapped[] = "::ffff:";
	struct sockaddr_storage ss = { 0 };
	socklen_t len = sizeof(ss);

	if (f->local[0])
		return f->local;
	if (getsockname(channel_fd(f->channel), (struct sockaddr *)&ss, &len) < 0 || ss.ss_family == AF_UNIX ||
	    getnameinfo((struct sockaddr *)&ss, len, f->local, sizeof(f->local), NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(f->local, sizeof(f->local), "unix");
	/* A listener on [::] takes IPv4, too. */
	if (strncmp(f->local, mapped, sizeof(mapped) - 1) == 0 && strchr(f->local, '.'))
		memmove(f->local, f->local + sizeof(mapped) - 1, strlen(f->local) - (sizeof(mapped) - 1) + 1);
	return f->local;
}

static void refuse_agent(struct front *f, const struct request *q)
{
	struct span tunnel = known_tunnel(f->relay, q->tunnel);
	char peer[128];

	channel_peer(f->channel, peer, sizeof(peer));
	/* A tunnel that is not there costs the same. */
	records_auth_failure(f->relay, tunnel, peer,
			     q->key.p ? "an agent gave a key that is not valid" : "an agent gave no key");
	front_refuse(f, 401, "WWW-Authenticate: Bearer realm=\"mcp-tunnel\"\r\n", TP_REASON_BAD_REQUEST,
	       "no key, or a wrong one: send Authorization: Bearer KEY", NULL);
}

static bool read_head(struct front *f, struct request *q, struct refusal *why)
{
	const struct relay *r = f->relay;

	return request_check(&f->reader.head, &r->names, local_name(f), origin_allowed, r->cfg, q, why);
}

/* Whose call it is, to end it with the key. */
static int keep_key(struct front *f, const struct request *q)
{
	f->agent_tunnel[0] = '\0';
	if (!f->relay->cfg->agents_need_key)
		return 0;
	snprintf(f->agent_tunnel, sizeof(f->agent_tunnel), "%.*s", SPAN_FMT(q->tunnel));
	return digest_sha256(q->key.p, q->key.len, f->secret);
}

/* It needs no key, says nothing about tunnels, and is the same for those that are not there. */
static void answer_preflight(struct front *f)
{
	if (!f->cors_origin) {
		front_refuse(f, request_bad_method.status, request_bad_method.extra, request_bad_method.reason, request_bad_method.text, NULL);
		return;
	}
	f->relay->counters.preflights++;
	if (cors_write_preflight(&f->out, &f->reader.head, f->cors_origin, f->close_after) < 0) {
		front_close(f);
		return;
	}
	front_set_state(f, FRONT_ANSWERED);
	channel_want_write(f->channel);
}

static const char *option_of(uint32_t reason)
{
	switch (reason) {
	case TP_REASON_AGENT_RATE:
		return "--agent-rate of the relay";
	case TP_REASON_TUNNEL_RATE:
		return "--tunnel-rate of the relay";
	case TP_REASON_AGENT_STREAMS:
		return "--max-streams-per-agent of the relay";
	case TP_REASON_CONNECTIONS:
		return "--max-connections of the relay";
	case TP_REASON_ADDRESS_CONNECTIONS:
		return "--max-connections-per-address of the relay";
	default:
		return "out of memory";
	}
}

/* What an agent does too often must not fill log and records. */
static void deny_limited(struct front *f, const struct request *q, const char *agent, uint32_t reason)
{
	const char *option = option_of(reason);
	uint64_t skipped;
	char detail[128];

	if (limits_record(f->relay->limits, q->tunnel, agent, loop_now_ms(f->relay->loop), &skipped)) {
		snprintf(detail, sizeof(detail), skipped ? "%s; %llu more of this agent before have no record" : "%s", option,
			 (unsigned long long)skipped);
		log_few(LOG_LEVEL_INFO, NULL, 0, "tunnel %.*s: a request of agent %s is refused (%s): %s", SPAN_FMT(q->tunnel),
			agent, tp_reason_name(reason), detail);
		records_denied(f->relay, q, &f->reader.head, agent, NULL, reason, detail);
	}
	front_refuse_call(f, reason, option);
}

/* One that waited has its ticket. */
static bool is_within_limits(struct front *f, const struct request *q, const char *agent)
{
	struct address_ticket *place = &f->place->ticket;
	uint32_t reason;

	if (f->ticket.agent)
		return true;
	reason = addresses_begin_call(place, &f->relay->connections);
	if (reason == TP_REASON_NONE)
		reason = limits_enter(f->relay->limits, q->tunnel, agent, loop_now_ms(f->relay->loop), &f->ticket);
	if (reason != TP_REASON_NONE) {
		/* Whatever comes of it: its key is good. */
		addresses_become(place, ADDRESS_IDLE);
		deny_limited(f, q, agent, reason);
	}
	return reason == TP_REASON_NONE;
}

void front_serve_head(struct front *f)
{
	struct request q;
	struct refusal why;
	const char *agent;

	if (!read_head(f, &q, &why)) {
		front_refuse(f, why.status, why.extra, why.reason, why.text, NULL);
		return;
	}
	if (q.kind == REQUEST_ATTACH) {
		begin_upgrade(f, &q);
		return;
	}
	if (q.kind == REQUEST_PREFLIGHT) {
		answer_preflight(f);
		return;
	}
	agent = check_agent(f->relay, &q);
	if (!agent)
		refuse_agent(f, &q);
	else if (f->relay->stopping)
		front_deny(f, &q, agent, NULL, TP_REASON_REFUSED, "the relay stops");
	else if (keep_key(f, &q) < 0)
		front_deny(f, &q, agent, NULL, TP_REASON_REFUSED, "out of memory");
	else if (is_within_limits(f, &q, agent))
		start_call(f, &q, agent);
}

void front_serve_expired(struct front *f)
{
	struct request q = { 0 };
	struct refusal why;
	const char *agent = NULL;

	/* It was good when it began to wait; who it is may be gone since. */
	if (read_head(f, &q, &why))
		agent = check_agent(f->relay, &q);
	if (f->relay->stopping)
		front_deny(f, &q, agent, NULL, TP_REASON_REFUSED, "the relay stops");
	else
		front_deny(f, &q, agent, NULL, TP_REASON_NOT_ATTACHED, NULL);
}
