#include "relay/relay.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log_limit.h"
#include "base/units.h"
#include "daemon/health.h"
#include "daemon/listen.h"
#include "daemon/notify.h"
#include "daemon/process.h"
#include "relay/attach.h"
#include "relay/front.h"
#include "relay/metrics.h"
#include "relay/records.h"
#include "relay/refresh.h"
#include "relay/reload.h"
#include "relay/status.h"
#include "relay/status_command.h"

enum { SWEEP_MS = 1000, DRAIN_POLL_MS = 20 };

struct relay_listener {
	struct relay *relay;
	struct listener *listener;
	bool tls, by_address;
};

/* What only this file needs, around what the modules share. */
struct relay_program {
	struct relay relay;
	struct relay_listener listeners[RELAY_LISTENERS_MAX];
	struct health *health, *status; /* status: the socket of `mcp-tunnel-relay status` */
	struct refresh refresh;
	struct reload reload;
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

static int on_status(void *user, bool table, struct buf *out)
{
	uint64_t now_s = clock_wall_us() / 1000000;

	return table ? status_table(user, now_s, out) : status_json(user, now_s, out);
}

static const struct health_ops health_callbacks = {
	.ready = on_ready,
	.metrics = on_metrics,
	.canary = on_canary,
	.status = on_status,
};

/* ---- stopping ---- */

static void stop_now(struct relay_program *p)
{
	struct relay *r = &p->relay;

	event_del(p->drain);
	if (r->calls_open)
		log_warning("drain time is over: ending %zu call%s", r->calls_open, plural(r->calls_open));
	attach_stop_all(r);
	front_close_all(r);
	records_stop(r, "signal");
	log_limits_done();
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
	log_notice("stopping: %zu call%s open, drain time %.0f s", r->calls_open, plural(r->calls_open),
		   (double)r->cfg->drain_timeout_ms / 1000);
	for (size_t i = 0; i < r->cfg->n_listeners; i++)
		p->listeners[i].listener = listener_free(p->listeners[i].listener);
	attach_drain_all(r);
	hold_expire_all(r->hold);
	front_drain_all(r);
	event_add(p->drain, &tv);
}

static void on_reload_signal(evutil_socket_t sig, short what, void *user)
{
	struct relay_program *p = program_of(user);
	char text[RELOAD_TEXT_MAX];
	bool good;

	notify_reloading();
	records_reopen(&p->relay);
	good = reload_now(&p->reload, text);
	refresh_now(&p->refresh, good, text);
	notify_reloaded();
}

static void on_sweep(evutil_socket_t fd, short what, void *user)
{
	struct relay *r = user;
	size_t attached = attach_count(r);

	CHECK_OBJ(r, RELAY_MAGIC);
	log_limits_poll();
	front_sweep(r);
	limits_sweep(r->limits, loop_now_ms(r->loop));
	refresh_sweep(&program_of(r)->refresh);
	notify_status("%zu gateway%s attached, %zu call%s open", attached, plural(attached), r->calls_open, plural(r->calls_open));
}

static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
	notify_watchdog_ping();
}

/* ---- life ---- */

static void on_accept(void *user, int take_fd)
{
	struct relay_listener *ln = user;

	front_new(ln->relay, take_fd, ln->tls ? ln->relay->tls : NULL, ln->by_address);
}

static int add_listener(struct relay_program *p, const struct url *u, struct relay_listener *ln, char *err, size_t err_size)
{
	struct relay *r = &p->relay;
	int rc;

	ln->relay = r;
	ln->tls = u->scheme == URL_HTTPS;
	/* A proxy has one address for everybody. */
	ln->by_address = !url_is_unix(u) && !r->cfg->behind_proxy;
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

/* In the directory that only the relay's user and root can enter. The relay works without it, too. */
static void listen_status(struct relay_program *p)
{
	_cleanup_(freep) char *dir = realpath(p->relay.cfg->state_dir, NULL);
	char address[URL_SOCKET_MAX + 8], err[512];
	int n = snprintf(address, sizeof(address), "unix:%s/" STATUS_SOCKET, dir ? dir : "");

	if (!dir || (size_t)n >= sizeof(address))
		log_warning("no socket for mcp-tunnel-relay status: the path of --state-dir is too long; --admin-listen works, too");
	else if (health_start(loop_base(p->relay.loop), address, &health_callbacks, &p->relay, err, sizeof(err), &p->status) < 0)
		log_warning("no socket for mcp-tunnel-relay status: %s", err);
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
	if (rc == 0)
		listen_status(p);
	return rc;
}

static int build(struct relay_program *p, char *err, size_t err_size)
{
	struct relay *r = &p->relay;
	const struct relay_config *cfg = r->cfg;
	const struct limits_config limits = { cfg->agent_rate, cfg->tunnel_rate, cfg->max_agent_streams };
	int rc;

	/* Its marks come before the reading, so that no change is missed. */
	rc = refresh_init(&p->refresh, r, err, err_size);
	if (rc < 0)
		return rc;
	rc = registry_open(cfg->state_dir, err, err_size, &r->registry);
	if (rc < 0)
		return -EINVAL;
	snprintf(err, err_size, "out of memory");
	rc = loop_new(&r->loop);
	if (rc == 0)
		rc = records_init(r, err, err_size);
	if (rc == 0)
		rc = hold_new(r->loop, cfg->hold_ms, &r->hold);
	if (rc == 0)
		rc = limits_new(&limits, &r->limits);
	if (rc == 0)
		rc = addresses_new(&r->addresses);
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
	reload_init(&p->reload, &p->relay, cfg);
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
	health_stop(p->status);
	for (size_t i = 0; i < RELAY_LISTENERS_MAX; i++)
		listener_free(p->listeners[i].listener);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (*events[i])
			event_free(*events[i]);
	hold_free(r->hold);
	limits_free(r->limits);
	records_done(r);
	loop_free(r->loop);
	addresses_free(r->addresses);
	refresh_done(&p->refresh);
	registry_free(r->registry);
	request_names_done(&r->names);
	reload_done(&p->reload);
	r->magic = 0;
	free(p);
	return NULL;
}

int relay_run(struct relay *r)
{
	int rc;

	r->started_ms = loop_now_ms(r->loop);
	log_notice("mcp-tunnel-relay " MCP_TUNNEL_VERSION " ready");
	notify_ready("Ready");
	records_start(r);
	process_signals(true);
	rc = loop_run(r->loop);
	process_signals(false);
	return rc;
}
