#include "gateway/config.h"

#include <string.h>

#include "daemon/token.h"

#define CONFIG_STRUCT struct gateway_config
static const struct config_option options[] = {
#include "daemon/config_rows.h"
#include "gateway/config.def"
};

static int finish_relay(struct config *c, struct gateway_config *cfg, const char *text)
{
	struct url *u = &cfg->relays[cfg->n_relays];
	char full[URL_TEXT_MAX];
	const char *why;

	if (strstr(text, "{region}") && !cfg->region)
		return config_fail(c, "region", NULL, "it is missing; --control-plane has {region}, so give its name");
	if (url_subst_region(text, cfg->region ? cfg->region : "none", full, sizeof(full)) < 0)
		return config_fail(c, "control-plane", text, "is too long");
	if (url_parse(span_of(full), URL_WS | URL_WSS, u, &why) < 0)
		return config_fail(c, "control-plane", text,
				   "is not a URL to use here: %s; give wss://HOST[:PORT]/PATH (ws:// only to loopback)",
				   why);
	if (!url_is_tls(u) && !url_is_local(u))
		return config_fail(c, "control-plane", text,
				   "would send the token unencrypted; give wss://, ws:// is only for a loopback host");
	cfg->n_relays++;
	return 0;
}

/* systemd may name several in $STATE_DIRECTORY; the first is meant. */
static int finish_state(struct config *c, struct gateway_config *cfg)
{
	struct span list = span_of(cfg->state_dir ? cfg->state_dir : getenv("STATE_DIRECTORY"));
	struct span path = cfg->state_dir ? list : span_split(&list, ':');

	if (path.len >= sizeof(cfg->state_path))
		return config_fail(c, "state-dir", NULL, "the path is too long");
	snprintf(cfg->state_path, sizeof(cfg->state_path), "%.*s", SPAN_FMT(path));
	return 0;
}

static int check_pair(struct config *c, const char *cert_option, const char *cert, const char *key_option, const char *key)
{
	if (cert && !key)
		return config_fail(c, key_option, NULL, "it is missing; --%s needs its private key", cert_option);
	if (key && !cert)
		return config_fail(c, cert_option, NULL, "it is missing; --%s is the key of a certificate", key_option);
	return 0;
}

static int finish_tls(struct config *c, struct gateway_config *cfg)
{
	int r = check_pair(c, "client-cert", cfg->client_cert, "client-key", cfg->client_key);

	cfg->relay_tls = (struct tls_client_options){
		.ca_file = cfg->ca_file,
		.cert_file = cfg->client_cert,
		.key_file = cfg->client_key,
		.allow_tls12 = cfg->tls_min == 1,
	};
	for (size_t i = 0; r == 0 && i < cfg->pin_texts.n; i++) {
		const char *text = cfg->pin_texts.items[i].text;

		if (tls_pin_parse(text, cfg->relay_tls.pins[cfg->relay_tls.n_pins++]) < 0)
			r = config_fail(c, "pin-sha256", text, "is not the base64 of a SHA-256 (44 characters)");
	}
	return r;
}

/* ---- routes: options that a section may have, too ---- */

static int finish_upstream_tls(struct config *c, struct route_config *rc, const struct route_config *common)
{
	/* Servers of one's own network are older than the relay. */
	rc->tls = (struct tls_client_options){
		.ca_file = rc->upstream_ca ? rc->upstream_ca : common->upstream_ca,
		.cert_file = rc->upstream_cert,
		.key_file = rc->upstream_key,
		.allow_tls12 = true,
	};
	return check_pair(c, "upstream-client-cert", rc->upstream_cert, "upstream-client-key", rc->upstream_key);
}

/* An address that is written out and not allowed is told at once, not at the first call. */
static int finish_guard(struct config *c, struct route_config *rc, const struct route_config *common)
{
	const char *host = rc->mcp_server.host;
	struct address a;

	for (size_t i = 0; i < rc->upstream_allow.n; i++) {
		const char *text = rc->upstream_allow.items[i].text;

		if (guard_add(&rc->guard, text) < 0)
			return config_fail(c, "upstream-allow", text, "is not an address or a network such as 10.1.0.0/16 or fd12::/16");
	}
	rc->allow = rc->upstream_allow.n ? &rc->upstream_allow : &common->upstream_allow;
	if (!rc->upstream_allow.n)
		rc->guard = common->guard;
	if (rc->mcp_server.scheme && !url_is_unix(&rc->mcp_server) && address_parse(span_of(host), &a) == 0 &&
	    !guard_allows(&rc->guard, &a))
		return config_fail(c, "mcp-server-url", host,
				   "is not an address that the MCP server may have; see --upstream-allow");
	return 0;
}

static int finish_headers(struct config *c, struct route_config *rc)
{
	const char *why;

	for (size_t i = 0; i < rc->header_texts.n; i++) {
		const char *text = rc->header_texts.items[i].text;

		if (headers_add(&rc->headers, text, &why) < 0)
			return config_fail(c, "upstream-header-file", text, "cannot be used: %s; give NAME=FILE", why);
	}
	return 0;
}

static int finish_rule(struct config *c, struct rules *rules, enum rules_kind kind, enum rules_side side, const char *text)
{
	if (rules_add(rules, kind, side, text) == 0)
		return 0;
	return config_fail(c, rules_option(kind, side), text,
			   kind == RULES_SCHEME ?
				   "is not a pattern of a URI's scheme; give what is before the colon, such as file or git*" :
				   "is not a pattern to use here; give at most 128 bytes of text, * for any characters, ? for one");
}

static int finish_rules(struct config *c, struct route_config *rc)
{
	int r = 0;

	for (enum rules_kind kind = 0; kind < RULES_KIND_N; kind++)
		for (enum rules_side side = 0; side < RULES_SIDE_N; side++) {
			const struct config_list *list = &rc->rule_texts[kind][side];

			for (size_t i = 0; r == 0 && i < list->n; i++)
				r = finish_rule(c, &rc->rules, kind, side, list->items[i].text);
		}
	return r;
}

static int finish_route(struct config *c, struct route_config *rc, const struct route_config *common)
{
	int r = finish_upstream_tls(c, rc, common);

	if (r == 0)
		r = finish_guard(c, rc, common);
	if (r == 0)
		r = finish_headers(c, rc);
	return r < 0 ? r : finish_rules(c, rc);
}

static bool is_given_before(const struct config_list *list, size_t i, struct span name)
{
	for (size_t k = 0; k < i; k++)
		if (strncmp(list->items[k].text, name.p, name.len) == 0 && list->items[k].text[name.len] == '=')
			return true;
	return false;
}

/* --route NAME=URL is the mcp-server-url of [route NAME]; on the command line, it wins over the file's. */
static int finish_route_text(struct config *c, struct gateway_config *cfg, size_t i)
{
	const struct config_item *item = &cfg->route_texts.items[i];
	struct span rest = span_of(item->text), name = span_split(&rest, '=');
	const struct config_option *o = &options[0];
	struct config_section *section;
	struct route_config *rc;
	const char *why;
	int r;

	if (!rest.p)
		return config_fail(c, "route", item->text, "has no URL; give NAME=URL");
	if (is_given_before(&cfg->route_texts, i, name))
		return config_fail(c, "route", item->text, "is of a route that is given before");
	r = config_section_get(c, name, "route", item->text, &section);
	if (r < 0)
		return r;
	while (!o->name || strcmp(o->name, "mcp-server-url") != 0)
		o++;
	rc = section->target;
	if (rc->mcp_server.scheme && item->line)
		return config_fail(c, "route", item->text, "has its URL in [route %s], too; give one of them", section->name);
	if (url_parse(rest, o->flags & 0xffff, &rc->mcp_server, &why) < 0)
		return config_fail(c, "route", item->text, "is not a URL to use here: %s; give NAME=URL, as for --mcp-server-url", why);
	config_enter(c, section);
	config_unset(c, "mcp-server-url");
	config_enter(c, NULL);
	return 0;
}

static int finish_routes(struct config *c, struct gateway_config *cfg)
{
	int r = finish_route(c, &cfg->route, &cfg->route);

	for (size_t i = 0; r == 0 && i < cfg->route_texts.n; i++)
		r = finish_route_text(c, cfg, i);
	for (size_t i = 0; r == 0 && i < cfg->routes.n; i++) {
		struct route_config *rc = cfg->routes.items[i].target;

		config_enter(c, &cfg->routes.items[i]);
		if (!rc->mcp_server.scheme)
			return config_fail(c, "mcp-server-url", NULL, "it is missing; give the route's URL");
		r = finish_route(c, rc, &cfg->route);
		rules_merge(&rc->rules, &cfg->route.rules);
		if (r == 0)
			config_enter(c, NULL);
	}
	if (r == 0 && !cfg->route.mcp_server.scheme && !cfg->routes.n)
		return config_missing(c, "mcp-server-url");
	return r;
}

static int finish_proxy(struct config *c, struct gateway_config *cfg)
{
	char why[CONFIG_ERROR_MAX];

	if (egress_config_init(&cfg->egress, cfg->proxy, cfg->proxy_auth_file, why, sizeof(why)) < 0)
		return config_fail(c, "proxy", cfg->proxy, "is not usable: %s; give http://HOST:PORT, none or auto", why);
	return 0;
}

static int finish(struct config *c, void *target)
{
	struct gateway_config *cfg = target;
	int r = 0;

	cfg->log_level = (enum log_level)(LOG_LEVEL_ERROR + cfg->log_choice);
	if (cfg->region && !region_valid(cfg->region))
		return config_fail(c, "region", cfg->region,
				   "is not allowed; give lower-case letters, digits and hyphens, at most 63");
	for (size_t i = 0; r == 0 && i < cfg->control_plane_urls.n; i++)
		r = finish_relay(c, cfg, cfg->control_plane_urls.items[i].text);
	if (r == 0)
		r = finish_tls(c, cfg);
	if (r == 0)
		r = finish_routes(c, cfg);
	if (r == 0)
		r = finish_proxy(c, cfg);
	if (r == 0 && cfg->json && !cfg->doctor)
		r = config_fail(c, "json", NULL, "it goes with --doctor only");
	if (r == 0)
		r = audit_options_finish(c, &cfg->audit);
	if (r == 0)
		r = finish_state(c, cfg);
	if (r == 0)
		r = config_listen_addr(c, "health-listen", cfg->health_listen, &cfg->health_addr);
	return r;
}

static const struct config_spec spec = {
    .program = "mcp-tunnel-gateway",
    .section = "gateway",
    .usage = "--token-file FILE --control-plane URL --mcp-server-url URL [--region NAME] [OPTION...]",
    .about = "Connects a private MCP server to a relay: dials out, carries agents' requests in, needs no inbound port.",
    .file = "/etc/mcp-tunnel/gateway.conf",
    .file_offset = offsetof(struct gateway_config, config_file),
    .options = options,
    .n_options = ARRAY_LEN(options),
    .kind = "route",
    .name_ok = tunnel_id_valid,
    .name_rule = "lower-case letters, digits and hyphens, at most 63, a letter or a digit first",
    .each_offset = offsetof(struct gateway_config, route),
    .each_size = sizeof(struct route_config),
    .sections_offset = offsetof(struct gateway_config, routes),
    .finish = finish,
};

int gateway_config_load(struct gateway_config *cfg, int argc, char **argv, char *err, size_t err_size)
{
	int r;

	*cfg = (struct gateway_config){ 0 };
	r = config_load(&spec, argc, argv, cfg, err, err_size);
	if (r == 0) {
		cfg->argc = argc;
		cfg->argv = argv;
	}
	return r;
}

int gateway_config_again(const struct gateway_config *first, struct gateway_config *cfg, char *err, size_t err_size)
{
	return gateway_config_load(cfg, first->argc, first->argv, err, err_size);
}

void gateway_config_compare(const struct gateway_config *a, const struct gateway_config *b, struct config_changes *ret)
{
	config_compare(&spec, a, b, ret);
}

void gateway_config_done(struct gateway_config *cfg)
{
	egress_config_done(&cfg->egress);
	config_done(&spec, cfg);
	*cfg = (struct gateway_config){ 0 };
}
