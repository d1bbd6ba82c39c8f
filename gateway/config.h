/* The gateway's configuration: gateway/config.def filled in and checked. */
#pragma once

#include "base/log.h"
#include "daemon/audit_options.h"
#include "daemon/config.h"
#include "daemon/egress.h"
#include "daemon/tls.h"
#include "daemon/url.h"
#include "gateway/guard.h"
#include "gateway/headers.h"
#include "gateway/rules.h"

enum { GATEWAY_RELAYS_MAX = 8, GATEWAY_PATH_MAX = 4096 };

/* One MCP server and what may be asked of it: the default route's is in [gateway], others' are in [route NAME]. */
struct route_config {
	/* As in config.def, the rows that are CONFIG_EACH. */
	struct url mcp_server; /* scheme 0: none, of the default route alone */
	struct config_list upstream_allow;
	char *upstream_ca, *upstream_cert, *upstream_key; /* NULL: none */
	struct config_list header_texts;
	struct config_list rule_texts[RULES_KIND_N][RULES_SIDE_N];

	/* Derived; with what [gateway] has for every route. */
	struct tls_client_options tls; /* for https:// */
	const struct config_list *allow;
	struct guard guard;
	struct headers_config headers;
	struct rules rules;
};

/* Options that are CONFIG_LIVE are read from the configuration of struct routes alone, which a reload replaces. */
struct gateway_config {
	/* As in config.def. */
	char *token_file;
	struct config_list control_plane_urls;
	char *region;
	char *ca_file; /* NULL: the system's */
	char *client_cert, *client_key; /* NULL: none */
	struct config_list pin_texts;
	char *proxy;
	char *proxy_auth_file; /* NULL: none */
	int tls_min;
	uint64_t keepalive_ms;
	uint64_t drain_timeout_ms;
	struct route_config route; /* the default one */
	struct config_list route_texts;
	bool allow_query;
	uint64_t max_request_bytes;
	uint64_t max_response_bytes; /* 0: no limit */
	unsigned max_streams;
	uint64_t call_timeout_ms; /* 0: none */
	bool policy_dry_run;
	struct audit_options audit;
	char *state_dir;
	char *health_listen;
	int log_choice;
	char *config_file;
	bool check_config, print_config, doctor, json;

	struct config_sections routes; /* targets: struct route_config */

	/* Derived. */
	int argc;
	char **argv; /* borrowed: what a reload goes by */
	struct url relays[GATEWAY_RELAYS_MAX]; /* of control_plane_urls, {region} replaced */
	size_t n_relays;
	struct tls_client_options relay_tls;
	struct egress_config egress;
	char state_path[GATEWAY_PATH_MAX]; /* state_dir, or of $STATE_DIRECTORY; empty: none */
	const char *health_addr;  /* into health_listen; NULL: none */
	enum log_level log_level;
};

/* 0, CONFIG_EXIT (printed what was asked for), or negative with one line in err: exit status 2. */
int gateway_config_load(struct gateway_config *cfg, int argc, char **argv, char *err, size_t err_size);
/* The same command line and file once more; what was asked to be printed is not. As gateway_config_load(). */
int gateway_config_again(const struct gateway_config *first, struct gateway_config *cfg, char *err, size_t err_size);
void gateway_config_compare(const struct gateway_config *a, const struct gateway_config *b, struct config_changes *ret);
void gateway_config_done(struct gateway_config *cfg);
