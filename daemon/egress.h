/* The way out: straight to a host, or through an HTTP proxy that is asked to CONNECT (RFC 9110, section 9.3.6). Ends like
 * a dial: with a connected socket on which nothing has been said to the far end yet.
 *
 * The proxy resolves the far end's name; we resolve only the proxy's own. It is spoken to in plain HTTP, so it sees host and
 * port, and nothing of what TLS then carries.
 */
#pragma once

#include "daemon/dial.h"
#include "daemon/url.h"

struct egress_config {
	struct url proxy;      /* scheme 0: none */
	char *no_proxy;        /* hosts that are reached straight (egress_is_bypassed()); NULL: none. Owned. */
	char *env_credentials; /* USER:PASSWORD out of the environment's URL; NULL: none. Owned, wiped. */
	const char *auth_file; /* USER:PASSWORD, one line, read for each dial; NULL: none. Borrowed. */
};

/* --proxy: "none", "auto" (the environment's HTTPS_PROXY and NO_PROXY, lower case first as curl has it) or "http://HOST:PORT".
 * err gets one line that completes "--proxy ...: ". -EINVAL, -ENOMEM. */
int egress_config_init(struct egress_config *cfg, const char *option, const char *auth_file, char *err, size_t err_size);
void egress_config_done(struct egress_config *cfg);

/* Whether host:port is in a NO_PROXY list: items with commas or blanks between them; "*" is everything, "example.com" and
 * ".example.com" that domain and all below it, addresses and networks (10.0.0.0/8) an address that is written out as such,
 * each with an optional :PORT. Loopback hosts are always reached straight. */
bool egress_is_bypassed(const char *no_proxy, const char *host, uint16_t port);

/* Whether host:port is reached through cfg->proxy. */
bool egress_uses_proxy(const struct egress_config *cfg, const char *host, uint16_t port);

struct egress;

/* As dial_start(); target->unix_path and target->allow are not for proxies. cfg outlives the egress. */
int egress_start(struct loop *l, const struct egress_config *cfg, const struct dial_target *target, dial_fn *fn, void *user,
		 struct egress **ret);
/* No callback after this. NULL does nothing. */
void egress_cancel(struct egress *e);
