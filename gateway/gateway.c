#include "gateway/gateway.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log_limit.h"
#include "daemon/digest.h"
#include "daemon/health.h"
#include "daemon/notify.h"
#include "daemon/state_dir.h"
#include "daemon/process.h"
#include "daemon/tls_source.h"
#include "gateway/exchange.h"
#include "gateway/records.h"
#include "gateway/session.h"
#include "gateway/status.h"

#define GATEWAY_MAGIC 0x67617465

enum {
	UPSTREAM_CONNECT_TIMEOUT_MS = 5 * 1000,
	/* Below the five seconds after which Node and uvicorn close idle connections. */
	UPSTREAM_IDLE_MS = 3 * 1000,
	UPSTREAM_MAX_IDLE = 128,
	UPSTREAM_PROBE_MS = 10 * 1000,
	COLLECTED_MIN = 64 * 1024 * 1024,
	DRAIN_POLL_MS = 20,
	FILES_POLL_MS = 1000,
	GOAWAY_WAIT_MS = 2 * 1000, /* for the relay's answer, where nothing else is left to do */
};

struct gateway {
	unsigned magic;
	const struct gateway_config *cfg;
	struct loop *loop;
	struct tls_source *tls, *upstream_tls; /* NULL: not needed */
	struct token *token;
	struct upstream *upstream;
	struct state_dir *state; /* NULL: none */
	struct records records;
	struct session *session;
	struct health *health;
	struct exchange_context exchanges;
	char upstream_name[URL_TEXT_MAX];
	struct event *signals[3];
	struct event *probe, *drain, *watchdog, *files;
	uint64_t stop_by_ms; /* 0: not stopping */
	bool audit_ok; /* as last looked at, and since when */
	uint64_t audit_since_ms;
	char status_line[256];
};

/* ---- status ---- */

static void fill_status(struct gateway *g, struct gateway_status *st)
{
	*st = (struct gateway_status){
		.now_ms = loop_now_ms(g->loop),
		.session = session_status(g->session),
		.upstream = upstream_health(g->upstream),
		.upstream_name = g->upstream_name,
		.exchanges = &g->exchanges,
		.resuming = session_is_resuming(g->session),
		.max_streams = g->cfg->max_streams,
		.stopping = g->stop_by_ms != 0,
		.stopping_since_ms = g->stop_by_ms - g->cfg->drain_timeout_ms,
		.memory = tp_conn_memory(transport_conn(session_transport(g->session))),
		.turn_max_us = loop_turn_max_us(g->loop),
		.rtt_us = tp_conn_rtt_us(transport_conn(session_transport(g->session))),
	};
	st->streams = tp_conn_streams(transport_conn(session_transport(g->session)));
	st->stalls = tp_conn_stalls(transport_conn(session_transport(g->session)));
	upstream_pool(g->upstream, &st->pool);
	st->certificate_until = g->tls ? tls_certificate_until(tls_source_get(g->tls)) : 0;
	st->audit_optional = g->records.setup.shared.allow_on_failure;
	st->audit_ok = audit_setup_check(&g->records.setup, st->audit_detail, sizeof(st->audit_detail));
	if (st->audit_ok != g->audit_ok || !g->audit_since_ms)
		g->audit_since_ms = st->now_ms;
	g->audit_ok = st->audit_ok;
	st->audit_since_ms = g->audit_since_ms;
}

static bool on_ready(void *user, struct buf *json_out)
{
	struct gateway *g = user;
	struct gateway_status st;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	upstream_look(g->upstream);
	fill_status(g, &st);
	return status_ready_json(&st, json_out);
}

static int on_metrics(void *user, struct buf *out)
{
	struct gateway *g = user;
	struct gateway_status st;
	int r;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	fill_status(g, &st);
	r = status_metrics(&st, out);
	return r < 0 ? r : audit_setup_metrics(&g->records.setup, out, "mcp_tunnel_gateway");
}

static int on_canary(void *user, struct span nonce)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	return audit_setup_canary(&g->records.setup, nonce);
}

static const struct health_ops health_callbacks = { .ready = on_ready, .metrics = on_metrics, .canary = on_canary };

static void tell_systemd(struct gateway *g)
{
	struct gateway_status st;
	char line[256];

	fill_status(g, &st);
	status_line(&st, line, sizeof(line));
	if (strcmp(line, g->status_line) == 0)
		return;
	snprintf(g->status_line, sizeof(g->status_line), "%s", line);
	notify_status("%s", line);
}

/* ---- session ---- */

static void on_stream(void *user, struct tp_event *ev)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	if (ev->type == TP_EV_OPEN)
		exchange_open(&g->exchanges, ev);
	else
		exchange_event(&g->exchanges, ev);
}

static void on_state(void *user, enum session_state state)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	records_session_state(&g->records, session_status(g->session), session_peer(g->session));
	tell_systemd(g);
}

static void on_token(void *user, const struct token *token)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	records_token(&g->records, token);
}

static const struct session_ops session_callbacks = { .on_stream = on_stream, .on_state = on_state, .on_token = on_token };

/* ---- stopping ---- */

static void stop_now(struct gateway *g)
{
	event_del(g->drain);
	if (g->exchanges.open)
		log_warning("drain time is over: ending %zu calls", g->exchanges.open);
	exchange_end_all(&g->exchanges, TP_REASON_GATEWAY_STOPPED, "--drain-timeout of the gateway");
	session_stop(g->session, TP_REASON_GATEWAY_STOPPED, "the gateway stops");
	records_stop(&g->records, "signal");
	log_limits_done();
	log_notice("stopped");
	loop_stop(g->loop);
}

/* The relay has the last answers, no call of its can still be on the way, and what there is to write down is written. */
static bool drained(struct gateway *g)
{
	struct transport *t = session_transport(g->session);
	struct tp_conn *c = transport_conn(t);

	if (g->exchanges.open || !audit_setup_is_idle(&g->records.setup))
		return false;
	(void)tp_conn_ask(c, loop_now_us(g->loop));
	transport_kick(t);
	if (!tp_conn_is_delivered(c))
		return false;
	return session_status(g->session)->state != SESSION_ATTACHED || tp_conn_goaway_answered(c) ||
	       loop_now_ms(g->loop) + g->cfg->drain_timeout_ms >= g->stop_by_ms + GOAWAY_WAIT_MS;
}

static void on_drain(evutil_socket_t fd, short what, void *user)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	if (drained(g) || loop_now_ms(g->loop) >= g->stop_by_ms)
		stop_now(g);
}

static void on_stop_signal(evutil_socket_t sig, short what, void *user)
{
	const struct timeval tv = { 0, DRAIN_POLL_MS * 1000 };
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	if (g->stop_by_ms) {
		log_notice("second signal: not waiting for open calls");
		g->stop_by_ms = loop_now_ms(g->loop);
		return;
	}
	g->stop_by_ms = loop_now_ms(g->loop) + g->cfg->drain_timeout_ms;
	notify_stopping("Stopping");
	log_notice("stopping: %zu calls open, drain time %.0f s", g->exchanges.open, (double)g->cfg->drain_timeout_ms / 1000);
	session_drain(g->session, TP_REASON_GATEWAY_STOPPED, "the gateway stops");
	event_add(g->drain, &tv);
	tell_systemd(g);
}

/* problem gets a line when the files cannot be used, and is left alone else. */
static enum tls_source_result follow(struct tls_source *source, bool now, const char *whose, char *problem, size_t size)
{
	char err[CONFIG_ERROR_MAX];
	enum tls_source_result result = tls_source_poll(source, now, err, sizeof(err));

	if (result == TLS_SOURCE_NEW)
		log_notice("TLS to the %s: certificates read again%s; new connections use them", whose, now ? " at SIGHUP" : ", as they have changed");
	if (result == TLS_SOURCE_BAD) {
		snprintf(problem, size, "TLS to the %s: certificates stay as they were: %s", whose, err);
		log_error("%s", problem);
	}
	return result;
}

/* One record for all of it: at SIGHUP, or when something has changed. */
static void follow_files(struct gateway *g, bool now)
{
	enum tls_source_result relay, upstream;
	char why[CONFIG_ERROR_MAX + 64] = "certificates read again";

	if (now)
		snprintf(why, sizeof(why), "the audit file is open anew; certificates and the token file are looked at");
	relay = follow(g->tls, now, "relay", why, sizeof(why));
	if (relay == TLS_SOURCE_NEW)
		session_set_tls(g->session, tls_source_get(g->tls));
	upstream = follow(g->upstream_tls, now, "MCP server", why, sizeof(why));
	if (upstream == TLS_SOURCE_NEW)
		upstream_set_tls(g->upstream, tls_source_get(g->upstream_tls));
	if (now || relay != TLS_SOURCE_SAME || upstream != TLS_SOURCE_SAME)
		records_reload(&g->records, why, relay == TLS_SOURCE_BAD || upstream == TLS_SOURCE_BAD);
}

static void on_files(evutil_socket_t fd, short what, void *user)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	log_limits_poll();
	tell_systemd(g);
	follow_files(g, false);
}

static void on_reload_signal(evutil_socket_t sig, short what, void *user)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	notify_reloading();
	records_reopen(&g->records);
	session_poke(g->session);
	follow_files(g, true);
	log_info("SIGHUP: the audit file is open anew; certificates and the token file are looked at");
	notify_reloaded();
}

static void on_probe(evutil_socket_t fd, short what, void *user)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	upstream_probe(g->upstream);
	tell_systemd(g);
}

static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
	notify_watchdog_ping();
}

/* ---- life ---- */

static int start_events(struct gateway *g)
{
	uint64_t watchdog_us = notify_watchdog_us();
	int r;

	r = loop_on_signal(g->loop, SIGTERM, on_stop_signal, g, &g->signals[0]);
	if (r == 0)
		r = loop_on_signal(g->loop, SIGINT, on_stop_signal, g, &g->signals[1]);
	if (r == 0)
		r = loop_on_signal(g->loop, SIGHUP, on_reload_signal, g, &g->signals[2]);
	if (r == 0)
		r = loop_every(g->loop, UPSTREAM_PROBE_MS, on_probe, g, &g->probe);
	if (r == 0)
		r = loop_every(g->loop, 0, on_drain, g, &g->drain);
	if (r == 0)
		r = loop_every(g->loop, FILES_POLL_MS, on_files, g, &g->files);
	if (r == 0 && watchdog_us)
		r = loop_every(g->loop, watchdog_us / 2000, on_watchdog, g, &g->watchdog);
	return r;
}

static int make_tls(struct gateway *g, char *err, size_t err_size)
{
	char why[CONFIG_ERROR_MAX];
	bool wanted = false;
	int r = 0;

	for (size_t i = 0; i < g->cfg->n_relays; i++)
		wanted = wanted || url_is_tls(&g->cfg->relays[i]);
	if (wanted)
		r = tls_source_new_client(&g->cfg->relay_tls, why, sizeof(why), &g->tls);
	if (r < 0) {
		snprintf(err, err_size, "TLS to the relay: %s", why);
		return r;
	}
	if (url_is_tls(&g->cfg->mcp_server))
		r = tls_source_new_client(&g->cfg->upstream_tls, why, sizeof(why), &g->upstream_tls);
	if (r < 0)
		snprintf(err, err_size, "TLS to the MCP server: %s", why);
	return r;
}

static bool upstream_allowed(void *user, const struct sockaddr *sa)
{
	struct gateway *g = user;
	struct address a;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	return address_of(sa, &a) == 0 && guard_allows(&g->cfg->guard, &a);
}

static int make_upstream(struct gateway *g)
{
	const struct url *u = &g->cfg->mcp_server;
	const struct upstream_config cfg = {
		.host = url_is_unix(u) ? NULL : u->host,
		.port = u->port,
		.unix_path = url_is_unix(u) ? u->socket : NULL,
		.tls = tls_source_get(g->upstream_tls),
		.authority = u->authority,
		.target = u->target,
		.allow = upstream_allowed,
		.allow_user = g,
		.connect_timeout_ms = UPSTREAM_CONNECT_TIMEOUT_MS,
		.idle_ms = UPSTREAM_IDLE_MS,
		.max_idle = UPSTREAM_MAX_IDLE,
	};

	url_print(u, g->upstream_name, sizeof(g->upstream_name));
	return upstream_new(g->loop, &cfg, &g->upstream);
}

static int make_session(struct gateway *g)
{
	struct session_config cfg = {
		.relays = g->cfg->relays,
		.n_relays = g->cfg->n_relays,
		.tls = tls_source_get(g->tls),
		.egress = &g->cfg->egress,
		.token_file = g->cfg->token_file,
		.state = g->state,
	};

	tp_config_init(&cfg.tp, TP_GATEWAY, random_bytes);
	cfg.tp.keepalive_ms = g->cfg->keepalive_ms;
	cfg.tp.max_streams = g->cfg->max_streams;
	cfg.tp.version = "mcp-tunnel-gateway/" MCP_TUNNEL_VERSION;
	cfg.tp.region = g->cfg->region;
	return session_new(g->loop, &cfg, &session_callbacks, g, &g->session);
}

static void make_exchanges(struct gateway *g)
{
	const struct gateway_config *cfg = g->cfg;

	g->exchanges.loop = g->loop;
	g->exchanges.transport = session_transport(g->session);
	g->exchanges.upstream = g->upstream;
	g->exchanges.audit = &g->records.setup.shared;
	g->exchanges.hash = &g->records.hash;
	g->exchanges.where = &g->records.where;
	g->exchanges.policy.allow_query = cfg->allow_query;
	if (cfg->policy_dry_run) {
		_Static_assert((int)POLICY_DETAIL_MAX <= (int)AUDIT_CALLS_RULE_MAX, "a text of the policy fits a record's");
		g->records.setup.shared.would_deny = policy_would_deny;
		g->records.setup.shared.user = &cfg->rules;
	} else {
		g->exchanges.policy.rules = &cfg->rules;
	}
	g->exchanges.authority = cfg->mcp_server.authority;
	g->exchanges.target = cfg->mcp_server.target;
	g->exchanges.upstream_name = g->upstream_name;
	g->exchanges.max_request_bytes = cfg->max_request_bytes;
	g->exchanges.max_collected_bytes = MAX((uint64_t)COLLECTED_MIN, 4 * cfg->max_request_bytes);
	g->exchanges.max_response_bytes = cfg->max_response_bytes;
	g->exchanges.call_timeout_ms = cfg->call_timeout_ms;
}

/* Not for --check-config: a gateway that runs holds it. */
static int open_state(struct gateway *g, char *err, size_t err_size)
{
	char why[CONFIG_ERROR_MAX];
	int r;

	if (!g->cfg->state_path[0] || g->cfg->check_config)
		return 0;
	r = state_dir_open(g->cfg->state_path, why, sizeof(why), &g->state);
	if (r < 0)
		snprintf(err, err_size, "--state-dir: %s", why);
	return r;
}

/* Configuration first, so that its errors are told before anything is touched. */
static int build(struct gateway *g, char *err, size_t err_size)
{
	char why[CONFIG_ERROR_MAX];
	int r;

	r = token_load(g->cfg->token_file, why, sizeof(why), &g->token);
	if (r < 0) {
		snprintf(err, err_size, "--token-file: %s", why);
		return -EINVAL;
	}
	r = make_tls(g, err, err_size);
	if (r == 0)
		r = open_state(g, err, err_size);
	if (r < 0)
		return r;
	snprintf(err, err_size, "out of memory");
	r = loop_new(&g->loop);
	if (r == 0)
		r = make_upstream(g);
	if (r == 0)
		r = records_init(&g->records, g->loop, g->cfg, g->state, g->token, err, err_size);
	if (r == 0)
		r = make_session(g);
	if (r < 0)
		return r;
	make_exchanges(g);
	r = start_events(g);
	/* A check must work beside a gateway that runs. */
	if (r == 0 && g->cfg->health_addr && !g->cfg->check_config)
		r = health_start(loop_base(g->loop), g->cfg->health_addr, &health_callbacks, g, err, err_size, &g->health);
	return r;
}

int gateway_new(const struct gateway_config *cfg, char *err, size_t err_size, struct gateway **ret)
{
	struct gateway *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	g->magic = GATEWAY_MAGIC;
	g->cfg = cfg;
	exchange_context_init(&g->exchanges);
	r = build(g, err, err_size);
	if (r < 0) {
		gateway_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

struct gateway *gateway_free(struct gateway *g)
{
	struct event **events[] = { &g->signals[0], &g->signals[1], &g->signals[2], &g->probe, &g->drain, &g->watchdog, &g->files };

	health_stop(g->health);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (*events[i])
			event_free(*events[i]);
	session_free(g->session);
	records_done(&g->records);
	state_dir_close(g->state);
	upstream_free(g->upstream);
	loop_free(g->loop);
	tls_source_free(g->tls);
	tls_source_free(g->upstream_tls);
	token_free(g->token);
	g->magic = 0;
	free(g);
	return NULL;
}

int gateway_run(struct gateway *g)
{
	int r;

	log_notice("mcp-tunnel-gateway " MCP_TUNNEL_VERSION ": tunnel %s, MCP server %s", g->token->tunnel_id,
		   g->upstream_name);
	if (g->cfg->audit.sink == AUDIT_NONE && !g->cfg->audit.chosen)
		log_warning("calls are not written down: there is no journal here; use --audit file:/PATH, or --audit none to "
			    "say that this is meant");
	if (g->cfg->policy_dry_run)
		log_warning("the rules of what agents may ask for are tried out: calls that they deny pass (--policy-dry-run)");
	/* Started is not attached: a boot without network is no failed start. /readyz and STATUS say when calls get through. */
	notify_ready("Starting");
	records_start(&g->records, g->session);
	session_start(g->session);
	upstream_probe(g->upstream);
	process_signals(true);
	r = loop_run(g->loop);
	process_signals(false);
	return r;
}
