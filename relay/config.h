/* The relay's configuration: relay/config.def filled in and checked. */
#pragma once

#include "base/log.h"
#include "daemon/audit_options.h"
#include "daemon/config.h"
#include "daemon/url.h"

enum { RELAY_LISTENERS_MAX = 16, RELAY_ORIGINS_MAX = 64 };

struct relay_config {
	/* As in config.def. */
	struct config_list listen_urls;
	char *tls_cert;
	char *tls_key;
	int tls_min;
	bool behind_proxy;
	struct url public_url; /* scheme 0: not given */
	struct config_list origin_urls, cors_urls;
	unsigned max_connections, max_address_connections; /* 0: no limit */
	uint64_t head_timeout_ms, body_timeout_ms, idle_timeout_ms, send_timeout_ms;
	char *state_dir;
	int agent_auth;
	uint64_t hold_ms; /* 0: do not wait */
	uint64_t resume_grace_ms;
	uint64_t keepalive_ms;
	uint64_t max_request_bytes;
	unsigned max_streams;
	unsigned max_agent_streams, agent_rate, tunnel_rate; /* 0: no limit */
	uint64_t drain_timeout_ms;
	struct audit_options audit;
	char *admin_listen;
	int log_choice;
	char *config_file;
	bool check_config, print_config, doctor, json;

	int argc; /* for relay_config_again() */
	char **argv;

	/* Derived. */
	struct url listeners[RELAY_LISTENERS_MAX]; /* URL_HTTPS, URL_HTTP or URL_HTTP_UNIX */
	size_t n_listeners;
	struct url *origins; /* scheme, host, port: those of cors_urls, then those of origin_urls */
	size_t n_origins, n_cors;
	bool any_tls; /* tls_cert and tls_key are there */
	bool agents_need_key;
	bool allow_tls12;
	const char *admin_addr; /* into admin_listen; NULL: none */
	enum log_level log_level;
};

/* 0, CONFIG_EXIT (printed what was asked for), or negative with one line in err: exit status 2. */
int relay_config_load(struct relay_config *cfg, int argc, char **argv, char *err, size_t err_size);
void relay_config_done(struct relay_config *cfg);

/* The command line of `first` and the file as it is now. */
int relay_config_again(const struct relay_config *first, struct relay_config *ret, char *err, size_t err_size);
void relay_config_compare(const struct relay_config *a, const struct relay_config *b, struct config_changes *ret);
/* What is CONFIG_LIVE, and what is derived of that alone, becomes that of `from`, which still owns it. */
void relay_config_take_live(struct relay_config *cfg, const struct relay_config *from);

/* Whether the value of an Origin field is one of --allowed-origin or --cors-origin; of --cors-origin alone. */
bool relay_config_origin_allowed(const struct relay_config *cfg, struct span origin);
bool relay_config_origin_is_cors(const struct relay_config *cfg, struct span origin);
