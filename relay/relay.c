#include "relay/relay.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "daemon/health.h"
#include "daemon/listen.h"
#include "daemon/notify.h"
#include "daemon/process.h"
#include "relay/attach.h"
#include "relay/front.h"
#include "relay/metrics.h"
#include "relay/records.h"

enum { SWEEP_MS = 1000, DRAIN_POLL_MS = 20, COLLECTED_MIN = 64 * 1024 * 1024 };

struct relay_listener {
	struct relay *relay;
	struct listener *listener;
	bool tls;
};

/* What only this file needs, around what the modules share. */
struct relay_program {
	struct relay relay;
	struct relay_listener listeners[RELAY_LISTENERS_MAX];
	struct health *health;
	struct event *signals[3];
	struct event *sweep, *drain, *watchdog;
	uint64_t stop_by_ms;
};

static struct relay_program *program_of(struct relay *r)
{
	CHECK_OBJ(r, RELAY_MAGIC);
	return container_of(r, struct relay_program, relay);
}

static bool on_ready(void *user, struct buf *json_out)
{
	return metrics_ready(user, json_out);
}

static int on_metrics(void *user, struct buf *out)
{
	return metrics_write(user, out);
}

static int on_canary(void *user, struct span nonce)
{
	struct relay *r = user;

	CHECK_OBJ(r, RELAY_MAGIC);
	return audit_setup_canary(&r->audit, nonce);
}

static const struct health_ops health_callbacks = { .ready = on_ready, .metrics = on_metrics, .canary = on_canary };

/* ---- stopping ---- */

static void stop_now(struct relay_program *p)
{
	struct relay *r = &p->relay;

	event_del(p->drain);
	if (r->calls_open)
		log_warning("drain time is over: ending %zu calls", r->calls_open);
	attach_stop_all(r);
	front_close_all(r);
	records_stop(r, "signal");
	log_notice("stopped");
	loop_stop(r->loop);
}

static void on_drain(evutil_socket_t fd, short what, void *user)
{
	struct relay_program *p = program_of(user);

	if ((p->relay.calls_open == 0 && TAILQ_EMPTY(&p->relay.fronts)) || loop_now_ms(p->relay.loop) >= p->stop_by_ms)
		stop_now(p);
}

static void on_stop_signal(evutil_socket_t sig, short what, void *user)
{
	const struct timeval tv = { 0, DRAIN_POLL_MS * 1000 };
	struct relay *r = user;
	struct relay_program *p = program_of(r);

	if (r->stopping) {
		log_notice("second signal: not waiting for open calls");
		p->stop_by_ms = loop_now_ms(r->loop);
		return;
	}
	r->stopping = true;
	p->stop_by_ms = loop_now_ms(r->loop) + r->cfg->drain_timeout_ms;
	notify_stopping("Stopping");
	log_notice("stopping: %zu calls open, drain time %.0f s", r->calls_open, (double)r->cfg->drain_timeout_ms / 1000);
	for (size_t i = 0; i < r->cfg->n_listeners; i++)
		p->listeners[i].listener = listener_free(p->listeners[i].listener);
	attach_drain_all(r);
	hold_expire_all(r->hold);
	front_drain_all(r);
	event_add(p->drain, &tv);
}

static void on_reload_signal(evutil_socket_t sig, short what, void *user)
{
	struct relay *r = user;
	char err[512];
	bool bad;

	CHECK_OBJ(r, RELAY_MAGIC);
	notify_reloading();
	bad = registry_reload(r->registry, err, sizeof(err)) < 0;
	if (bad)
		log_error("SIGHUP: tunnels and agents stay as they were: %s", err);
	else
		log_notice("SIGHUP: tunnels and agents read again");
	records_reload(r, bad ? err : NULL);
	notify_reloaded();
}

static void on_sweep(evutil_socket_t fd, short what, void *user)
{
	struct relay *r = user;

	CHECK_OBJ(r, RELAY_MAGIC);
	front_sweep(r);
	notify_status("%zu gateways attached, %zu calls open", attach_count(r), r->calls_open);
}

static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
	notify_watchdog_ping();
}

/* ---- life ---- */

static void on_accept(void *user, int take_fd)
{
	struct relay_listener *ln = user;

	front_new(ln->relay, take_fd, ln->tls ? ln->relay->tls : NULL);
}

static int add_listener(struct relay_program *p, const struct url *u, struct relay_listener *ln, char *err, size_t err_size)
{
	struct relay *r = &p->relay;
	int rc;

	ln->relay = r;
	ln->tls = u->scheme == URL_HTTPS;
	if (url_is_unix(u))
		rc = listen_unix(r->loop, u->socket, on_accept, ln, &ln->listener);
	else
		rc = listen_tcp(r->loop, u->host, u->port, on_accept, ln, &ln->listener);
	if (rc < 0) {
		snprintf(err, err_size, "cannot listen on %s: %s", url_is_unix(u) ? u->socket : u->authority,
			 strerror(-rc));
		return rc;
	}
	if (url_is_unix(u))
		log_notice("listening on http+unix:%s", u->socket);
	else
		log_notice("listening on %s://%s%s%s:%u", ln->tls ? "https" : "http", u->is_ipv6 ? "[" : "", u->host,
			   u->is_ipv6 ? "]" : "", listener_port(ln->listener));
	return 0;
}

static void add_certificate_name(void *user, const char *name)
{
	(void)request_names_add(user, name);
}

static int make_tls(struct relay *r, char *err, size_t err_size)
{
	const struct tls_server_options opt = {
		.cert_file = r->cfg->tls_cert,
		.key_file = r->cfg->tls_key,
		.allow_tls12 = r->cfg->allow_tls12,
	};
	char why[CONFIG_ERROR_MAX];
	int rc;

	if (!r->cfg->any_tls)
		return 0;
	rc = tls_server_new(&opt, why, sizeof(why), &r->tls);
	if (rc < 0)
		snprintf(err, err_size, "--tls-cert, --tls-key: %s", why);
	else
		tls_server_names(r->tls, add_certificate_name, &r->names);
	return rc;
}

static int start_events(struct relay_program *p)
{
	struct relay *r = &p->relay;
	uint64_t watchdog_us = notify_watchdog_us();
	int rc;

	rc = loop_on_signal(r->loop, SIGTERM, on_stop_signal, r, &p->signals[0]);
	if (rc == 0)
		rc = loop_on_signal(r->loop, SIGINT, on_stop_signal, r, &p->signals[1]);
	if (rc == 0)
		rc = loop_on_signal(r->loop, SIGHUP, on_reload_signal, r, &p->signals[2]);
	if (rc == 0)
		rc = loop_every(r->loop, SWEEP_MS, on_sweep, r, &p->sweep);
	if (rc == 0)
		rc = loop_every(r->loop, 0, on_drain, r, &p->drain);
	if (rc == 0 && watchdog_us)
		rc = loop_every(r->loop, watchdog_us / 2000, on_watchdog, r, &p->watchdog);
	return rc;
}

/* Not for a check: it must work beside a relay that runs. */
static int listen_all(struct relay_program *p, char *err, size_t err_size)
{
	struct relay *r = &p->relay;
	const struct relay_config *cfg = r->cfg;
	int rc = 0;

	for (size_t i = 0; i < cfg->n_listeners && rc == 0; i++)
		rc = add_listener(p, &cfg->listeners[i], &p->listeners[i], err, err_size);
	if (rc == 0 && cfg->admin_addr)
		rc = health_start(loop_base(r->loop), cfg->admin_addr, &health_callbacks, r, err, err_size, &p->health);
	return rc;
}

static int build(struct relay_program *p, char *err, size_t err_size)
{
	struct relay *r = &p->relay;
	const struct relay_config *cfg = r->cfg;
	int rc;

	rc = registry_open(cfg->state_dir, err, err_size, &r->registry);
	if (rc < 0)
		return -EINVAL;
	rc = make_tls(r, err, err_size);
	if (rc < 0)
		return rc;
	if (cfg->public_url.scheme && request_names_add(&r->names, cfg->public_url.host) < 0)
		return -ENOMEM;
	snprintf(err, err_size, "out of memory");
	rc = loop_new(&r->loop);
	if (rc == 0)
		rc = records_init(r, err, err_size);
	if (rc == 0)
		rc = hold_new(r->loop, cfg->hold_ms, &r->hold);
	if (rc == 0)
		rc = start_events(p);
	if (rc == 0 && !cfg->check_config)
		rc = listen_all(p, err, err_size);
	return rc;
}

int relay_new(const struct relay_config *cfg, char *err, size_t err_size, struct relay **ret)
{
	struct relay_program *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return -ENOMEM;
	p->relay.magic = RELAY_MAGIC;
	p->relay.cfg = cfg;
	p->relay.max_collected_bytes = MAX((uint64_t)COLLECTED_MIN, 4 * cfg->max_request_bytes);
	TAILQ_INIT(&p->relay.fronts);
	TAILQ_INIT(&p->relay.attached);
	rc = build(p, err, err_size);
	if (rc < 0) {
		relay_free(&p->relay);
		return rc;
	}
	*ret = &p->relay;
	return 0;
}

struct relay *relay_free(struct relay *r)
{
	struct relay_program *p = program_of(r);
	struct event **events[] = { &p->signals[0], &p->signals[1], &p->signals[2], &p->sweep, &p->drain, &p->watchdog };

	health_stop(p->health);
	for (size_t i = 0; i < RELAY_LISTENERS_MAX; i++)
		listener_free(p->listeners[i].listener);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (*events[i])
			event_free(*events[i]);
	hold_free(r->hold);
	records_done(r);
	loop_free(r->loop);
	tls_free(r->tls);
	registry_free(r->registry);
	request_names_done(&r->names);
	r->magic = 0;
	free(p);
	return NULL;
}

int relay_run(struct relay *r)
{
	int rc;

	log_notice("mcp-tunnel-relay " MCP_TUNNEL_VERSION " ready");
	notify_ready("Ready");
	records_start(r);
	process_signals(true);
	rc = loop_run(r->loop);
	process_signals(false);
	return rc;
}
