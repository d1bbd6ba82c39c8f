#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "daemon/egress.h"
#include "daemon/network.h"

/* ---- NO_PROXY ---- */

static bool names_network_of(struct span item, struct span host)
{
	struct network n;
	struct address a;

	return network_parse(item, &n) == 0 && address_parse(host, &a) == 0 && network_has(&n, &a);
}

static bool domain_has(struct span item, struct span host)
{
	if (span_starts(item, "*."))
		item = span_make(item.p + 1, item.len - 1);
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a span with a length has bytes. */
	if (item.len && item.p[0] == '.')
		item = span_make(item.p + 1, item.len - 1);
	if (item.len == 0 || item.len > host.len)
		return false;
	if (!span_ieq(item, span_make(host.p + host.len - item.len, item.len)))
		return false;
	return item.len == host.len || host.p[host.len - item.len - 1] == '.';
}

/* Takes ":PORT" off the end; false when it names another port. */
static bool port_fits(struct span *item, uint16_t port)
{
	const char *colon = item->p ? memrchr(item->p, ':', item->len) : NULL;
	uint64_t wanted;

	/* An IPv6 address without brackets has no port. */
	if (!colon || (memchr(item->p, ':', (size_t)(colon - item->p)) && item->p[0] != '['))
		return true;
	if (span_u64(span_make(colon + 1, item->len - (size_t)(colon - item->p) - 1), &wanted) < 0)
		return true;
	item->len = (size_t)(colon - item->p);
	return wanted == port;
}

static bool item_has(struct span item, struct span host, uint16_t port)
{
	if (item.len == 0 || !port_fits(&item, port))
		return false;
	return span_is(item, "*") || names_network_of(item, host) || domain_has(item, host);
}

bool egress_is_bypassed(const char *no_proxy, const char *host, uint16_t port)
{
	struct span rest = span_of(no_proxy);

	if (host_is_loopback(host))
		return true;
	while (rest.p) {
		struct span items = span_split(&rest, ',');

		while (items.p)
			if (item_has(span_trim(span_split(&items, ' ')), span_of(host), port))
				return true;
	}
	return false;
}

/* ---- the option ---- */

/* In place; false for what is no percent-encoding, or holds a control character. */
static bool percent_decode(char *s)
{
	char *to = s;

	for (; *s; s++, to++) {
		*to = *s;
		if (*s == '%') {
			if (hex_decode(span_make(s + 1, strnlen(s + 1, 2)), to, 1) < 0)
				return false;
			s += 2;
		}
		if ((unsigned char)*to < ' ' || *to == 0x7f)
			return false;
	}
	*to = '\0';
	return true;
}

/* http://USER:PASSWORD@HOST:PORT, as the environment has it; without a scheme it is http. */
static int parse_env(struct egress_config *cfg, const char *text, char *err, size_t err_size)
{
	struct span rest = span_of(text), credentials = { NULL, 0 };
	char plain[URL_TEXT_MAX];
	const char *at, *why;

	if (span_starts(rest, "http://"))
		rest = span_make(rest.p + 7, rest.len - 7);
	at = memrchr(rest.p, '@', rest.len);
	if (at) {
		credentials = span_make(rest.p, (size_t)(at - rest.p));
		rest = span_make(at + 1, rest.len - credentials.len - 1);
	}
	snprintf(plain, sizeof(plain), "%s%.*s", memmem(rest.p, rest.len, "://", 3) ? "" : "http://", SPAN_FMT(rest));
	if (url_parse(span_of(plain), URL_HTTP | URL_NO_PATH, &cfg->proxy, &why) < 0) {
		snprintf(err, err_size, "HTTPS_PROXY of the environment: %s", why);
		return -EINVAL;
	}
	if (!credentials.p)
		return 0;
	cfg->env_credentials = span_dup(credentials);
	if (!cfg->env_credentials)
		return -ENOMEM;
	if (percent_decode(cfg->env_credentials))
		return 0;
	snprintf(err, err_size, "HTTPS_PROXY of the environment: user and password are not percent-encoded");
	return -EINVAL;
}

static const char *environment(const char *lower, const char *upper)
{
	const char *s = getenv(lower);

	if (!s || !*s)
		s = getenv(upper);
	return s && *s ? s : NULL;
}

static int from_environment(struct egress_config *cfg, char *err, size_t err_size)
{
	const char *proxy = environment("https_proxy", "HTTPS_PROXY"), *except = environment("no_proxy", "NO_PROXY");

	if (!proxy)
		return 0;
	if (except) {
		cfg->no_proxy = strdup(except);
		if (!cfg->no_proxy)
			return -ENOMEM;
	}
	return parse_env(cfg, proxy, err, err_size);
}

int egress_config_init(struct egress_config *cfg, const char *option, const char *auth_file, char *err, size_t err_size)
{
	const char *why;
	int r = 0;

	*cfg = (struct egress_config){ .auth_file = auth_file };
	snprintf(err, err_size, "out of memory");
	if (strcmp(option, "auto") == 0) {
		r = from_environment(cfg, err, err_size);
	} else if (strcmp(option, "none") != 0 &&
		   url_parse(span_of(option), URL_HTTP | URL_NO_PATH, &cfg->proxy, &why) < 0) {
		snprintf(err, err_size, "%s%s", why, strchr(option, '@') ? " (user and password go into --proxy-auth-file)" : "");
		r = -EINVAL;
	}
	if (r < 0)
		egress_config_done(cfg);
	return r;
}

void egress_config_done(struct egress_config *cfg)
{
	free(cfg->no_proxy);
	if (cfg->env_credentials)
		secret_wipe(cfg->env_credentials, strlen(cfg->env_credentials));
	free(cfg->env_credentials);
	*cfg = (struct egress_config){ 0 };
}
