#include "gateway/doctor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "gateway/doctor_private.h"

enum { RELAYS_MS = 30 * 1000, SERVERS_MS = 14 * 1000, SERVER_MIN_MS = 1000 };

#define SERVICE "mcp-tunnel-gateway"

static const char *const checks[] = { "token file", "state dir", "tls files", "name", "proxy", "tcp",   "tls",	"upgrade",
				      "token",	    "address",	 "server",    "mcp",  "audit", "clock", "running" };

static const char *without(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(text, prefix, len) == 0 ? text + len : text;
}

static const char *token_remedy(int r, const char *err)
{
	if (strstr(err, "chmod"))
		return "others may have read the token: make a new one, too (mcp-tunnel-relay tunnel rotate NAME)";
	if (r == -EACCES || r == -EPERM)
		return "run this as root, or as the file's owner";
	return "put the tunnel's token into it, one line; on the relay: mcp-tunnel-relay tunnel add NAME, or rotate NAME";
}

static struct token *check_token_file(struct doctor *d, const char *path)
{
	struct token *token;
	char err[512], owner[33] = "?";
	struct stat st = { 0 };
	int r;

	doctor_begin(d, "token file", NULL);
	r = token_load(path, err, sizeof(err), &token);
	if (r < 0) {
		doctor_fail(d, token_remedy(r, err), "%s", without(err, "token file "));
		return NULL;
	}
	if (stat(path, &st) == 0)
		state_dir_user_name(st.st_uid, owner, sizeof(owner));
	doctor_ok(d, "%s, tunnel %s; owner %s, mode %04o", path, token->tunnel_id, owner, (unsigned)st.st_mode & 07777);
	return token;
}

static void check_state_dir(struct doctor *d, const char *path)
{
	struct state_dir_view v;
	char err[512], remedy[256];

	doctor_begin(d, "state dir", NULL);
	if (!path[0]) {
		doctor_skip(d, "none is configured; the service has one by StateDirectory=: add --state-dir DIR to look at it");
	} else if (state_dir_look(path, err, sizeof(err), &v) < 0) {
		doctor_fail(d, "give the directory to the gateway's user, or name another one with --state-dir", "%s", err);
	} else if (v.foreign[0]) {
		snprintf(remedy, sizeof(remedy), "chown -R %s %.200s", v.owner, path);
		doctor_warn(d, remedy, "%s/%s does not belong to %s, as its directory does: the gateway may be unable to use it", path, v.foreign, v.owner);
	} else if (v.missing) {
		doctor_ok(d, "%s will be made at the first start", path);
	} else if (v.in_use && v.pid) {
		doctor_ok(d, "%s, in use by a gateway that runs (process %d)", path, v.pid);
	} else {
		doctor_ok(d, "%s, %s", path, v.in_use ? "in use by a gateway that runs" : "free");
	}
}

/* *ret NULL and true: not needed. */
static bool make_tls(struct doctor *d, const struct gateway_config *cfg, struct tls_context **ret)
{
	const struct tls_client_options *o = &cfg->relay_tls;
	char err[512], days[64] = "", client[96] = "";
	bool wanted = false;
	uint64_t until_s;

	*ret = NULL;
	for (size_t i = 0; i < cfg->n_relays; i++)
		wanted = wanted || url_is_tls(&cfg->relays[i]);
	if (!wanted)
		return true;
	doctor_begin(d, "tls files", NULL);
	if (tls_client_new(o, err, sizeof(err), ret) < 0) {
		doctor_fail(d, "see --ca-file, --client-cert and --client-key; the gateway does not start like this", "%s", err);
		return false;
	}
	until_s = tls_certificate_until(*ret);
	if (until_s) {
		doctor_days_text(until_s, days, sizeof(days));
		snprintf(client, sizeof(client), "; client certificate: %s", days);
	}
	if (until_s && doctor_has_ended(until_s))
		doctor_fail(d, "renew --client-cert; a running gateway takes it within seconds", "%s: client certificate: %s", o->cert_file, days);
	else if (until_s && doctor_ends_soon(until_s))
		doctor_warn(d, "renew --client-cert; a running gateway takes it within seconds", "%s: client certificate: %s", o->cert_file, days);
	else
		doctor_ok(d, "%s trusted for the relay%s%s", o->ca_file ? o->ca_file : "the system's CA certificates are", client,
			  o->n_pins ? "; with pins" : "");
	return true;
}

static void check_relays(struct doctor *d, const struct gateway_config *cfg, const struct token *token, struct doctor_clock *clocks)
{
	struct tls_context *tls;
	bool good = make_tls(d, cfg, &tls);

	for (size_t i = 0; i < cfg->n_relays; i++) {
		/* The same for each, so that one that hangs leaves time for the others. */
		(void)doctor_section(d, RELAYS_MS / cfg->n_relays);
		doctor_relay(d, cfg, &cfg->relays[i], tls, !good, token, &clocks[i]);
	}
	tls_free(tls);
}

static const char *const server_checks[] = { "address", "server", "mcp" };

static void check_servers(struct doctor *d, const struct gateway_config *cfg)
{
	bool has_default = cfg->route.mcp_server.scheme;
	size_t n = cfg->routes.n + has_default;

	for (size_t i = 0; i < cfg->routes.n + 1; i++) {
		const struct config_section *s = i ? &cfg->routes.items[i - 1] : NULL;
		char subject[DOCTOR_SUBJECT_MAX] = "default route";

		if (!s && !has_default)
			continue;
		if (s)
			snprintf(subject, sizeof(subject), "route %s", s->name);
		/* As for the relays. */
		if (doctor_section(d, MAX(SERVERS_MS / n, (size_t)SERVER_MIN_MS)))
			doctor_server(d, s ? s->target : &cfg->route, s ? s->name : "", n > 1 ? subject : NULL);
		else
			doctor_skip_all(d, server_checks, ARRAY_LEN(server_checks), subject, "there is no time left: see what was slow");
	}
}

static void make_checks(struct doctor *d, const void *user)
{
	const struct gateway_config *cfg = user;
	struct doctor_clock clocks[GATEWAY_RELAYS_MAX] = { 0 };
	_cleanup_(token_freep) struct token *token = check_token_file(d, cfg->token_file);
	struct doctor_running running;

	check_state_dir(d, cfg->state_path);
	check_relays(d, cfg, token, clocks);
	check_servers(d, cfg);
	doctor_find_running(cfg->health_addr, &running);
	doctor_check_audit(d, &cfg->audit, &running);
	for (size_t i = 0; i < cfg->n_relays; i++)
		doctor_check_clock(d, cfg->n_relays > 1 ? cfg->relays[i].authority : NULL, &clocks[i]);
	doctor_check_running(d, &running, SERVICE);
}

int doctor_main(int argc, char **argv)
{
	struct gateway_config cfg = { 0 };
	char err[CONFIG_ERROR_MAX + 512] = "";
	const struct doctor_walk all = { SERVICE, doctor_flag(argc, argv, "json"), make_checks, checks, ARRAY_LEN(checks) };
	int r = gateway_config_load(&cfg, argc, argv, err, sizeof(err)), status = 0;

	if (r != CONFIG_EXIT)
		status = doctor_run(&all, &cfg, cfg.config_file, r < 0 ? err : NULL);
	gateway_config_done(&cfg);
	return status;
}
