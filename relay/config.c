#include "relay/config.h"

#define CONFIG_STRUCT struct relay_config
static const struct config_option options[] = {
#include "daemon/config_rows.h"
#include "relay/config.def"
};

static int finish_listener(struct config *c, struct relay_config *cfg, const char *text)
{
	struct url *u = &cfg->listeners[cfg->n_listeners];
	const char *why;

	if (url_parse(span_of(text), URL_HTTP | URL_HTTPS | URL_HTTP_UNIX | URL_LISTEN | URL_NO_PATH, u, &why) < 0)
		return config_fail(
		    c, "listen", text,
		    "is not a URL to listen on: %s; give https://ADDR:PORT, http://ADDR:PORT or http+unix:/PATH", why);
	if (u->scheme == URL_HTTP && !url_is_local(u) && !cfg->behind_proxy)
		return config_fail(
		    c, "listen", text,
		    "would take keys unencrypted; give https://, a loopback address, or --behind-proxy when a proxy in "
		    "front ends TLS");
	cfg->any_tls |= url_is_tls(u);
	cfg->n_listeners++;
	return 0;
}

static int finish_tls(struct config *c, struct relay_config *cfg)
{
	cfg->allow_tls12 = cfg->tls_min == 1;
	if (!cfg->any_tls)
		return 0;
	if (!cfg->tls_cert)
		return config_fail(c, "tls-cert", NULL,
				   "it is missing; a listener is https://, so give a FILE with its certificate");
	if (!cfg->tls_key)
		return config_fail(c, "tls-key", NULL,
				   "it is missing; a listener is https://, so give a FILE with its private key");
	return 0;
}

static int finish_agent_auth(struct config *c, struct relay_config *cfg)
{
	cfg->agents_need_key = cfg->agent_auth == 0;
	for (size_t i = 0; !cfg->agents_need_key && i < cfg->n_listeners; i++)
		if (!url_is_local(&cfg->listeners[i]))
			return config_fail(
			    c, "agent-auth", "none",
			    "would let everybody in who reaches %s; give bearer, or listen on loopback or UNIX "
			    "sockets only",
			    cfg->listen_urls.items[i].text);
	return 0;
}

static int finish_origins_of(struct config *c, struct relay_config *cfg, const char *option, const struct config_list *list)
{
	const char *why;

	for (size_t i = 0; i < list->n; i++) {
		const char *text = list->items[i].text;

		if (url_parse(span_of(text), URL_HTTP | URL_HTTPS | URL_NO_PATH, &cfg->origins[cfg->n_origins], &why) < 0)
			return config_fail(c, option, text, "is not an origin: %s; give https://HOST[:PORT] or http://HOST[:PORT]", why);
		cfg->n_origins++;
	}
	return 0;
}

static int finish_origins(struct config *c, struct relay_config *cfg)
{
	size_t n = cfg->cors_urls.n + cfg->origin_urls.n;
	int r;

	if (n == 0)
		return 0;
	cfg->origins = calloc(n, sizeof(*cfg->origins));
	if (!cfg->origins)
		return config_fail_memory(c);
	r = finish_origins_of(c, cfg, "cors-origin", &cfg->cors_urls);
	cfg->n_cors = cfg->n_origins;
	return r < 0 ? r : finish_origins_of(c, cfg, "allowed-origin", &cfg->origin_urls);
}

static int finish(struct config *c, void *target)
{
	struct relay_config *cfg = target;
	int r = 0;

	cfg->log_level = (enum log_level)(LOG_LEVEL_ERROR + cfg->log_choice);
	for (size_t i = 0; r == 0 && i < cfg->listen_urls.n; i++)
		r = finish_listener(c, cfg, cfg->listen_urls.items[i].text);
	if (r == 0)
		r = finish_tls(c, cfg);
	if (r == 0)
		r = finish_agent_auth(c, cfg);
	if (r == 0)
		r = finish_origins(c, cfg);
	if (r == 0 && cfg->json && !cfg->doctor)
		r = config_fail(c, "json", NULL, "it goes with --doctor only");
	if (r == 0)
		r = audit_options_finish(c, &cfg->audit);
	if (r == 0)
		r = config_listen_addr(c, "admin-listen", cfg->admin_listen, &cfg->admin_addr);
	return r;
}

static const struct config_spec spec = {
	.program = "mcp-tunnel-relay",
	.section = "relay",
	.usage = "--listen URL --state-dir DIR [--tls-cert FILE --tls-key FILE] [OPTION...]\n"
		 "tunnel add|list|rotate|remove NAME --state-dir DIR\n"
		 "agent add|list|remove NAME --tunnel NAME --state-dir DIR",
	.about = "The public end of the tunnel: agents call it over HTTPS, gateways hold sessions to it.",
	.file = "/etc/mcp-tunnel/relay.conf",
	.file_offset = offsetof(struct relay_config, config_file),
	.options = options,
	.n_options = ARRAY_LEN(options),
	.finish = finish,
};

int relay_config_load(struct relay_config *cfg, int argc, char **argv, char *err, size_t err_size)
{
	int r;

	*cfg = (struct relay_config){ 0 };
	r = config_load(&spec, argc, argv, cfg, err, err_size);
	if (r != 0) {
		relay_config_done(cfg);
		return r;
	}
	cfg->argc = argc;
	cfg->argv = argv;
	return 0;
}

int relay_config_again(const struct relay_config *first, struct relay_config *ret, char *err, size_t err_size)
{
	return relay_config_load(ret, first->argc, first->argv, err, err_size);
}

void relay_config_compare(const struct relay_config *a, const struct relay_config *b, struct config_changes *ret)
{
	config_compare(&spec, a, b, ret);
}

static size_t size_of(enum config_type type)
{
	switch (type) {
	case CONFIG_DURATION:
	case CONFIG_SIZE:
		return sizeof(uint64_t);
	case CONFIG_COUNT:
		return sizeof(unsigned);
	case CONFIG_BOOL:
		return sizeof(bool);
	case CONFIG_CHOICE:
		return sizeof(int);
	case CONFIG_LIST:
		return sizeof(struct config_list);
	case CONFIG_URL:
		return sizeof(struct url);
	case CONFIG_STRING:
	case CONFIG_FILE:
		return sizeof(char *);
	case CONFIG_HEADING:
	case CONFIG_ACTION:
		break;
	}
	return 0;
}

void relay_config_take_live(struct relay_config *cfg, const struct relay_config *from)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (options[i].flags & CONFIG_LIVE)
			memcpy((char *)cfg + options[i].offset, (const char *)from + options[i].offset, size_of(options[i].type));
	cfg->origins = from->origins;
	cfg->n_origins = from->n_origins;
	cfg->n_cors = from->n_cors;
	cfg->log_level = from->log_level;
}

void relay_config_done(struct relay_config *cfg)
{
	config_done(&spec, cfg);
	free(cfg->origins);
	*cfg = (struct relay_config){ 0 };
}

static bool is_one_of(const struct url *origins, size_t n, struct span origin)
{
	const char *why;
	struct url u;

	if (n == 0 || url_parse(origin, URL_HTTP | URL_HTTPS | URL_NO_PATH, &u, &why) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (origins[i].scheme == u.scheme && origins[i].port == u.port && strcmp(origins[i].host, u.host) == 0)
			return true;
	return false;
}

bool relay_config_origin_allowed(const struct relay_config *cfg, struct span origin)
{
	return is_one_of(cfg->origins, cfg->n_origins, origin);
}

bool relay_config_origin_is_cors(const struct relay_config *cfg, struct span origin)
{
	return is_one_of(cfg->origins, cfg->n_cors, origin);
}
