#include "relay/refresh.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/units.h"
#include "relay/attach.h"
#include "relay/front.h"
#include "relay/records.h"
#include "relay/reload.h"

/* ---- the certificate ---- */

static void add_name(void *user, const char *name)
{
	(void)request_names_add(user, name);
}

/* Names of a certificate that is no longer shown are no longer ours. */
static int set_names(struct relay *r)
{
	struct request_names names = { 0 };

	if (r->cfg->public_url.scheme && request_names_add(&names, r->cfg->public_url.host) < 0) {
		request_names_done(&names);
		return -ENOMEM;
	}
	if (r->tls)
		tls_server_names(r->tls, add_name, &names);
	request_names_done(&r->names);
	r->names = names;
	return 0;
}

static void log_certificate(const struct relay *r, const char *what)
{
	uint64_t until_s = tls_certificate_until(r->tls);
	char until[REGISTRY_TIME_LEN + 1];

	registry_time_print(until_s, until);
	log_notice("%s: new connections get the certificate that is valid until %s", what, until);
}

/* TLS_SOURCE_BAD: problem says why. */
static enum tls_source_result poll_certificate(struct refresh *u, bool now, char problem[CONFIG_ERROR_MAX])
{
	const char *what = now ? "SIGHUP" : "certificate or key have changed";
	enum tls_source_result result = tls_source_poll(u->tls, now, problem, CONFIG_ERROR_MAX);
	struct relay *r = u->relay;

	if (result == TLS_SOURCE_BAD)
		log_error("%s: the certificate stays as it was: %s", what, problem);
	if (result != TLS_SOURCE_NEW)
		return result;
	r->tls = tls_source_get(u->tls);
	if (set_names(r) < 0)
		log_error("%s: out of memory: the relay's names stay as they were", what);
	log_certificate(r, what);
	return result;
}

/* ---- tunnels and agents ---- */

/* Sessions and calls of those who may no longer. */
static void revoke(struct relay *r)
{
	attach_revoke(r);
	front_revoke(r);
}

/* Negative: problem says why. */
static int read_registry(struct refresh *u, const char *what, char problem[CONFIG_ERROR_MAX])
{
	struct relay *r = u->relay;
	int rc;

	file_watch_mark(&u->registry);
	rc = registry_reload(r->registry, problem, CONFIG_ERROR_MAX);
	file_watch_failed(&u->registry, rc);
	if (rc < 0)
		log_error("%s: tunnels and agents stay as they were: %s", what, problem);
	else
		log_notice("%s: tunnels and agents read again", what);
	/* Whoever holds the lock may be about to change something, and must not hold up everyone's calls each second. */
	u->not_before_ms = rc == -EWOULDBLOCK ? loop_now_ms(r->loop) + REFRESH_RETRY_MS : 0;
	return rc;
}

static bool registry_is_due(struct refresh *u)
{
	bool changed = file_watch_changed(&u->registry);

	if (u->not_before_ms)
		return loop_now_ms(u->relay->loop) >= u->not_before_ms;
	return changed;
}

static void expire(struct relay *r)
{
	size_t n = registry_expire(r->registry, clock_wall_us() / 1000000);

	if (!n)
		return;
	log_notice("the time of %zu old token%s is over", n, plural(n));
	revoke(r);
}

/* ---- life ---- */

int refresh_init(struct refresh *u, struct relay *r, char *err, size_t err_size)
{
	const struct tls_server_options opt = {
		.cert_file = r->cfg->tls_cert,
		.key_file = r->cfg->tls_key,
		.allow_tls12 = r->cfg->allow_tls12,
	};
	char why[CONFIG_ERROR_MAX];
	int rc;

	u->relay = r;
	snprintf(err, err_size, "out of memory");
	if (asprintf(&u->paths[0], "%s/tunnels", r->cfg->state_dir) < 0 || asprintf(&u->paths[1], "%s/agents", r->cfg->state_dir) < 0)
		return -ENOMEM;
	file_watch_add(&u->registry, u->paths[0]);
	file_watch_add(&u->registry, u->paths[1]);
	file_watch_mark(&u->registry);
	if (r->cfg->any_tls) {
		rc = tls_source_new_server(&opt, why, sizeof(why), &u->tls);
		if (rc < 0) {
			snprintf(err, err_size, "--tls-cert, --tls-key: %s", why);
			return rc;
		}
		r->tls = tls_source_get(u->tls);
	}
	return set_names(r);
}

void refresh_done(struct refresh *u)
{
	tls_source_free(u->tls);
	free(u->paths[0]);
	free(u->paths[1]);
	*u = (struct refresh){ 0 };
}

/* One record for all of it. */
void refresh_now(struct refresh *u, bool config_good, const char *config)
{
	char why[2][CONFIG_ERROR_MAX], text[RELOAD_TEXT_MAX + 2 * CONFIG_ERROR_MAX];
	bool bad = read_registry(u, "SIGHUP", why[0]) < 0;
	bool bad_tls = poll_certificate(u, true, why[1]) == TLS_SOURCE_BAD;

	snprintf(text, sizeof(text), "%s; %s", config,
		 bad       ? why[0]
		 : bad_tls ? why[1]
		 : u->tls  ? "tunnels, agents and certificate read again"
			   : "tunnels and agents read again");
	records_reload(u->relay, text, bad || bad_tls || !config_good);
	revoke(u->relay);
}

void refresh_sweep(struct refresh *u)
{
	enum tls_source_result result;
	char why[CONFIG_ERROR_MAX];
	int rc;

	if (registry_is_due(u)) {
		rc = read_registry(u, "tunnels or agents have changed", why);
		records_reload(u->relay, rc < 0 ? why : "tunnels and agents read again", rc < 0);
		revoke(u->relay);
	}
	expire(u->relay);
	result = poll_certificate(u, false, why);
	if (result != TLS_SOURCE_SAME)
		records_reload(u->relay, result == TLS_SOURCE_BAD ? why : "certificate and key read again", result == TLS_SOURCE_BAD);
}
