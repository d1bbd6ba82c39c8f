#include "relay/doctor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "daemon/state_dir.h"
#include "relay/doctor_private.h"
#include "relay/registry_file.h"
#include "relay/status_command.h"

enum { NAMES_SHOWN = 5, LISTENERS_MS = 30 * 1000, CLOCK_MIN_S = 1767225600 /* 2026-01-01: before there was this program */ };

#define SERVICE "mcp-tunnel-relay"

static const char *const checks[] = { "state dir", "tunnels", "tls files", "listener", "audit", "clock", "running" };

/* ---- state ---- */

static bool check_state_dir(struct doctor *d, const char *path)
{
	struct state_dir_view v;
	char err[512], remedy[256];
	struct stat st;

	doctor_begin(d, "state dir", NULL);
	if (state_dir_look(path, err, sizeof(err), &v) < 0) {
		doctor_fail(d, "run this as root or as the relay's user; the directory must be that user's (chown, chmod 700)", "%s", err);
		return false;
	}
	if (v.missing) {
		doctor_fail(d, "make a tunnel, and with it the directory: mcp-tunnel-relay tunnel add NAME --state-dir DIR", "%s is not there: there are no tunnels", path);
		return false;
	}
	if (stat(path, &st) == 0 && st.st_mode & 0077) {
		snprintf(remedy, sizeof(remedy), "chmod 700 %.200s", path);
		doctor_fail(d, remedy, "others can use %s (mode %04o); the relay does not start like this", path, (unsigned)st.st_mode & 07777);
		return false;
	}
	if (v.foreign[0]) {
		snprintf(remedy, sizeof(remedy), "chown -R %s %.200s", v.owner, path);
		doctor_warn(d, remedy, "%s/%s does not belong to %s, as its directory does: the relay may be unable to use it", path, v.foreign, v.owner);
	} else {
		doctor_ok(d, "%s, owner %s", path, v.owner);
	}
	return true;
}

struct tunnels {
	uint64_t now_s;
	size_t n, n_agents, lonely, expired;
	char names[400];
	size_t len;
};

static void add_name(struct tunnels *t, const char *id, const char *why)
{
	if (t->lonely + t->expired <= NAMES_SHOWN)
		t->len += (size_t)snprintf(t->names + t->len, sizeof(t->names) - t->len, "%s%s %s", t->len ? ", " : "", id, why);
	else if (t->lonely + t->expired == NAMES_SHOWN + 1)
		t->len += (size_t)snprintf(t->names + t->len, sizeof(t->names) - t->len, ", ...");
	t->len = MIN(t->len, sizeof(t->names) - 1);
}

static void count(struct tunnels *t, const struct reg_tunnel *tunnel, bool need_agents)
{
	t->n++;
	t->n_agents += tunnel->n_agents;
	if (!tunnel->n_agents && need_agents) {
		t->lonely++;
		add_name(t, tunnel->id, "has no agent");
	}
	if (tunnel->n_hashes > 1 && tunnel->old_until_s && tunnel->old_until_s <= t->now_s) {
		t->expired++;
		add_name(t, tunnel->id, "has an old token that has ended");
	}
}

static int read_tunnels(const char *dir, bool need_agents, struct tunnels *t, char *err, size_t err_size)
{
	struct reg_data data = { 0 };
	int fd = reg_dir_open(dir, err, err_size), r;

	if (fd < 0)
		return fd;
	r = reg_read(fd, dir, &data, err, err_size);
	for (size_t i = 0; r == 0 && i < data.n_tunnels; i++)
		count(t, &data.tunnels[i], need_agents);
	reg_data_done(&data);
	close(fd);
	return r;
}

static void check_tunnels(struct doctor *d, const struct relay_config *cfg)
{
	struct tunnels t = { .now_s = clock_wall_us() / 1000000 };
	char err[512] = "";

	doctor_begin(d, "tunnels", NULL);
	if (read_tunnels(cfg->state_dir, cfg->agents_need_key, &t, err, sizeof(err)) < 0)
		doctor_fail(d, "put the file back from a copy, or remove the line and add what it named again", "%s", err);
	else if (t.n == 0)
		doctor_warn(d, "make one: mcp-tunnel-relay tunnel add NAME --state-dir DIR", "there is none: no gateway can attach");
	else if (t.lonely || t.expired)
		doctor_warn(d, t.lonely ? "nobody can call a tunnel without agents: mcp-tunnel-relay agent add NAME --tunnel TUNNEL; or remove it" :
					  "nothing takes it any more; be rid of it by: mcp-tunnel-relay tunnel rotate TUNNEL --end-old",
			    "%zu with %zu agent%s; %s", t.n, t.n_agents, plural(t.n_agents), t.names);
	else
		doctor_ok(d, "%zu with %zu agent%s", t.n, t.n_agents, plural(t.n_agents));
}

/* ---- certificate ---- */

/* Root reads everything; the relay's user has to, too. */
static const char *unreadable(const struct relay_config *cfg)
{
	if (geteuid() != 0)
		return NULL;
	if (!state_dir_owner_may_read(cfg->state_dir, cfg->tls_cert))
		return cfg->tls_cert;
	return state_dir_owner_may_read(cfg->state_dir, cfg->tls_key) ? NULL : cfg->tls_key;
}

static void tell_certificate(struct doctor *d, const struct relay_config *cfg, const struct tls_context *tls)
{
	const uint64_t until_s = tls_certificate_until(tls);
	const char *host = cfg->public_url.scheme ? cfg->public_url.host : NULL;
	char days[64];
	size_t n = 0;

	doctor_days_text(until_s, days, sizeof(days));
	if (!tls_chain_is_in_order(tls, &n))
		doctor_fail(d, "put the relay's own certificate first, then the one that issued it, and so on; the root may be left out",
			    "%s: its certificates do not issue one another in their order", cfg->tls_cert);
	else if (host && !tls_certificate_is_for(tls, host))
		doctor_fail(d, "have a certificate made with this name, or correct --public-url", "%s is not valid for %s, the host of --public-url", cfg->tls_cert,
			    host);
	else if (doctor_has_ended(until_s))
		doctor_fail(d, "renew it: no gateway and no agent connects; a running relay takes new files within seconds", "%s: %s", cfg->tls_cert, days);
	else if (doctor_ends_soon(until_s))
		doctor_warn(d, "renew it; a running relay takes new files within seconds", "%s: %s", cfg->tls_cert, days);
	else
		doctor_ok(d, "%s: %zu certificate%s, the key fits%s%s; %s", cfg->tls_cert, n, n == 1 ? "" : "s", host ? ", good for " : "", host ? host : "", days);
}

static void check_tls_files(struct doctor *d, const struct relay_config *cfg, struct tls_context **ret)
{
	const struct tls_server_options opt = { .cert_file = cfg->tls_cert, .key_file = cfg->tls_key, .allow_tls12 = cfg->allow_tls12 };
	const char *closed;
	char err[512];

	*ret = NULL;
	doctor_begin(d, "tls files", NULL);
	if (!cfg->any_tls) {
		doctor_skip(d, "no listener is https://");
		return;
	}
	if (tls_server_new(&opt, err, sizeof(err), ret) < 0) {
		doctor_fail(d, "certificate and key must be PEM files that the relay's user may read, and belong together", "%s", err);
		return;
	}
	closed = unreadable(cfg);
	if (closed)
		doctor_fail(d, "let the user that the state directory belongs to read it: chgrp, chmod 640", "%s can be read by root, but not by the relay's user", closed);
	else
		tell_certificate(d, cfg, *ret);
}

/* ---- the rest ---- */

static void check_clock(struct doctor *d, const char *state_dir)
{
	uint64_t now_s = clock_wall_us() / 1000000;
	char path[4200], now[REGISTRY_TIME_LEN + 1], then[REGISTRY_TIME_LEN + 1];
	struct stat st = { 0 };

	doctor_begin(d, "clock", NULL);
	registry_time_print(now_s, now);
	snprintf(path, sizeof(path), "%s/tunnels", state_dir);
	if (now_s < CLOCK_MIN_S) {
		doctor_fail(d, "set it (timedatectl): certificates, tokens that end and audit records depend on it", "%s cannot be right", now);
	} else if (stat(path, &st) == 0 && (uint64_t)st.st_mtime > now_s + DOCTOR_SKEW_FAIL_S) {
		registry_time_print((uint64_t)st.st_mtime, then);
		doctor_warn(d, "set it (timedatectl), or the file's time (touch)", "%s, but %s was written at %s: the clock went back", now, path, then);
	} else {
		doctor_ok(d, "%s", now);
	}
}

/* The admin listener, or the socket in the state directory, which every relay has. */
static void find_running(const struct relay_config *cfg, char *address, size_t size, struct doctor_running *ret)
{
	_cleanup_(freep) char *dir = realpath(cfg->state_dir, NULL);

	if (cfg->admin_addr) {
		doctor_find_running(cfg->admin_addr, ret);
		if (ret->answers || !ret->any_port)
			return;
	}
	snprintf(address, size, "unix:%s/" STATUS_SOCKET, dir ? dir : cfg->state_dir);
	doctor_find_running(address, ret);
}

static void make_checks(struct doctor *d, const void *user)
{
	const struct relay_config *cfg = user;
	bool good = check_state_dir(d, cfg->state_dir);
	struct doctor_running running;
	struct tls_context *tls;
	char address[4200];

	if (good)
		check_tunnels(d, cfg);
	else
		doctor_skip_all(d, checks + 1, 1, NULL, "the state directory cannot be used");
	check_tls_files(d, cfg, &tls);
	(void)doctor_section(d, LISTENERS_MS);
	doctor_listeners(d, cfg, tls);
	tls_free(tls);
	find_running(cfg, address, sizeof(address), &running);
	doctor_check_audit(d, &cfg->audit, &running);
	check_clock(d, cfg->state_dir);
	doctor_check_running(d, &running, SERVICE);
}

int doctor_main(int argc, char **argv)
{
	struct relay_config cfg = { 0 };
	char err[CONFIG_ERROR_MAX] = "";
	const struct doctor_walk all = { SERVICE, doctor_flag(argc, argv, "json"), make_checks, checks, ARRAY_LEN(checks) };
	int r = relay_config_load(&cfg, argc, argv, err, sizeof(err)), status = 0;

	if (r != CONFIG_EXIT)
		status = doctor_run(&all, &cfg, cfg.config_file, r < 0 ? err : NULL);
	relay_config_done(&cfg);
	return status;
}
