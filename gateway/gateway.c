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
	UPSTREAM_PROBE_MS = 10 * 1000,
	DRAIN_POLL_MS = 20,
	FILES_POLL_MS = 1000,
	GOAWAY_WAIT_MS = 2 * 1000, /* for the relay's answer, where nothing else is left to do */
};

struct gateway {
	unsigned magic;
	const struct gateway_config *cfg; /* that it has started with: for what is not CONFIG_LIVE */
	struct loop *loop;
	struct tls_source *tls; /* NULL: not needed */
	struct token *token;
	struct routes *routes; /* and what is CONFIG_LIVE */
	struct upstream_pool pool; /* of all MCP servers */
	struct state_dir *state; /* NULL: none */
	struct records records;
	struct session *session;
	struct health *health;
	struct exchange_context exchanges;
	struct event *signals[3];
	struct event *probe, *drain, *watchdog, *files;
	uint64_t stop_by_ms; /* 0: not stopping */
	uint64_t drain_ms;   /* how long it may take */
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
		.pool = g->pool,
		.exchanges = &g->exchanges,
		.resuming = session_is_resuming(g->session),
		.max_streams = g->cfg->max_streams,
		.stopping = g->stop_by_ms != 0,
		.stopping_since_ms = g->stop_by_ms - g->drain_ms,
		.memory = tp_conn_memory(transport_conn(session_transport(g->session))),
		.turn_max_us = loop_turn_max_us(g->loop),
		.rtt_us = tp_conn_rtt_us(transport_conn(session_transport(g->session))),
	};
	st->streams = tp_conn_streams(transport_conn(session_transport(g->session)));
	st->stalls = tp_conn_stalls(transport_conn(session_transport(g->session)));
	for (size_t i = 0; i < g->routes->n; i++) {
		const struct route *route = &g->routes->list[i];

		st->routes[st->n_routes++] = (struct status_route){ route->name, route->backend->name, upstream_health(route->backend->upstream) };
	}
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
	routes_look(g->routes);
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
	       loop_now_ms(g->loop) + g->drain_ms >= g->stop_by_ms + GOAWAY_WAIT_MS;
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
	g->drain_ms = g->routes->cfg->drain_timeout_ms;
	g->stop_by_ms = loop_now_ms(g->loop) + g->drain_ms;
	notify_stopping("Stopping");
	log_notice("stopping: %zu calls open, drain time %.0f s", g->exchanges.open, (double)g->drain_ms / 1000);
	session_drain(g->session, TP_REASON_GATEWAY_STOPPED, "the gateway stops");
	event_add(g->drain, &tv);
	tell_systemd(g);
}

/* ---- reloading ---- */

/* Certificates and headers. True: some have changed, or cannot be used; then problem says what and *ret_bad is set. */
static bool follow_files(struct gateway *g, bool now, char *problem, size_t size, bool *ret_bad)
{
	enum tls_source_result relay = tls_source_follow(g->tls, now, "relay", problem, size);
	enum backend_news servers = routes_follow(g->routes, now, problem, size);

	if (relay == TLS_SOURCE_NEW)
		session_set_tls(g->session, tls_source_get(g->tls));
	*ret_bad = relay == TLS_SOURCE_BAD || servers == BACKEND_BAD;
	return relay != TLS_SOURCE_SAME || servers != BACKEND_SAME;
}

static void on_files(evutil_socket_t fd, short what, void *user)
{
	char text[CONFIG_ERROR_MAX + 64] = "certificates or headers read again";
	struct gateway *g = user;
	bool bad;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	log_limits_poll();
	if (follow_files(g, false, text, sizeof(text), &bad))
		records_reload(&g->records, text, bad);
	tell_systemd(g);
}

static struct routes_config routes_env(struct gateway *g)
{
	return (struct routes_config){ .loop = g->loop, .pool = &g->pool, .audit = &g->records.setup.shared };
}

static void warn_dry_run(const struct gateway_config *cfg)
{
	if (cfg->policy_dry_run)
		log_warning("the rules of what agents may ask for are tried out: calls that they deny pass (--policy-dry-run)");
}

/* From here on new calls go by these. */
static void set_routes(struct gateway *g, struct routes *take_routes)
{
	routes_unref(g->routes);
	g->routes = g->exchanges.routes = take_routes;
	routes_probe(take_routes, false);
}

/* What has changed, in words for the log and the record. */
static void tell_changes(const struct config_changes *live, const struct config_changes *start, char *text, size_t size)
{
	snprintf(text, size, "configuration read again: %s%s%s%s", live->n_live ? "changed: " : "nothing to apply", live->live,
		 start->n_restart ? "; needs a restart: " : "", start->restart);
	log_notice("configuration read again: %s%s", live->n_live ? "changed: " : "nothing to apply", live->live);
	if (start->n_restart)
		log_warning("these options have changed and need a restart: %s", start->restart);
}

/* False: the new configuration cannot be used, and the old one holds, whole. text: what there is to record. */
static bool reload_config(struct gateway *g, char *text, size_t size)
{
	const struct routes_config env = routes_env(g);
	struct config_changes live, start;
	struct gateway_config *fresh = calloc(1, sizeof(*fresh));
	struct routes *routes;
	char err[2 * CONFIG_ERROR_MAX] = "out of memory";
	int r = fresh ? gateway_config_again(g->cfg, fresh, err, sizeof(err)) : -ENOMEM;

	if (r == 0) {
		gateway_config_compare(g->routes->cfg, fresh, &live);
		gateway_config_compare(g->cfg, fresh, &start);
		r = routes_next(&env, g->routes, fresh, err, sizeof(err), &routes);
	} else {
		free(fresh);
	}
	if (r != 0) {
		snprintf(text, size, "configuration stays as it was: %s", err);
		log_error("%s", text);
		return false;
	}
	/* The level that tells more, until it is told. */
	log_set_level(MAX(g->routes->cfg->log_level, fresh->log_level));
	tell_changes(&live, &start, text, size);
	if (!g->routes->cfg->policy_dry_run)
		warn_dry_run(fresh);
	set_routes(g, routes);
	log_set_level(fresh->log_level);
	return true;
}

/* One record for all of it. */
static void on_reload_signal(evutil_socket_t sig, short what, void *user)
{
	char text[2 * CONFIG_NAMES_MAX + 256], problem[CONFIG_ERROR_MAX + 64];
	struct gateway *g = user;
	bool good, bad_files;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	notify_reloading();
	records_reopen(&g->records);
	good = reload_config(g, text, sizeof(text));
	session_poke(g->session);
	follow_files(g, true, problem, sizeof(problem), &bad_files);
	if (bad_files)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "; %s", problem);
	records_reload(&g->records, text, !good || bad_files);
	log_info("SIGHUP: the audit file is open anew; certificates and the token file are looked at");
	notify_reloaded();
}

static void on_probe(evutil_socket_t fd, short what, void *user)
{
	struct gateway *g = user;

	CHECK_OBJ(g, GATEWAY_MAGIC);
	routes_probe(g->routes, true);
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
	if (r < 0)
		snprintf(err, err_size, "TLS to the relay: %s", why);
	return r;
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
	g->exchanges.loop = g->loop;
	g->exchanges.transport = session_transport(g->session);
	g->exchanges.routes = g->routes;
	g->exchanges.audit = &g->records.setup.shared;
	g->exchanges.hash = &g->records.hash;
	g->exchanges.where = &g->records.where;
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

static int make_routes(struct gateway *g, char *err, size_t err_size)
{
	const struct routes_config env = routes_env(g);

	return routes_new(&env, g->cfg, err, err_size, &g->routes);
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
	if (r < 0)
		return r;
	snprintf(err, err_size, "out of memory");
	r = loop_new(&g->loop);
	if (r == 0)
		r = make_routes(g, err, err_size);
	if (r == 0)
		r = open_state(g, err, err_size);
	if (r == 0)
		r = records_init(&g->records, g->loop, g->cfg, g->state, g->token, err, err_size);
	if (r < 0)
		return r;
	routes_set_audit(g->routes, &g->records.setup.shared);
	snprintf(err, err_size, "out of memory");
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
	routes_unref(g->routes);
	loop_free(g->loop);
	tls_source_free(g->tls);
	token_free(g->token);
	g->magic = 0;
	free(g);
	return NULL;
}

int gateway_run(struct gateway *g)
{
	int r;

	for (size_t i = 0; i < g->routes->n; i++)
		log_notice("mcp-tunnel-gateway " MCP_TUNNEL_VERSION ": tunnel %s, %s %s", g->token->tunnel_id,
			   g->routes->list[i].backend->label, g->routes->list[i].backend->name);
	if (g->cfg->audit.sink == AUDIT_NONE && !g->cfg->audit.chosen)
		log_warning("calls are not written down: there is no journal here; use --audit file:/PATH, or --audit none to "
			    "say that this is meant");
	warn_dry_run(g->cfg);
	/* Started is not attached: a boot without network is no failed start. /readyz and STATUS say when calls get through. */
	notify_ready("Starting");
	records_start(&g->records, g->session);
	session_start(g->session);
	routes_probe(g->routes, true);
	process_signals(true);
	r = loop_run(g->loop);
	process_signals(false);
	return r;
}
