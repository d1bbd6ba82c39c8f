/* The URLs that our options take, and nothing more (RFC 3986, narrowed): no userinfo, no fragment, no percent-encoding
 * in the host, IPv4 only as four decimal numbers, IPv6 in brackets, no zone. Pure; no allocation.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum url_flags {
	URL_HTTP = 1 << 0,      /* http://HOST[:PORT][/PATH][?QUERY] */
	URL_HTTPS = 1 << 1,     /* https://... */
	URL_WS = 1 << 2,        /* ws://... */
	URL_WSS = 1 << 3,       /* wss://... */
	URL_UNIX = 1 << 4,      /* unix:/SOCKET[:/PATH[?QUERY]] */
	URL_HTTP_UNIX = 1 << 5, /* http+unix:/SOCKET */
	/* Narrower still. */
	URL_NO_PATH = 1 << 8, /* at most "/", and no query: an origin or a listener */
	/* The port must be there and may be 0; the host is an address, or localhost, which reads as 127.0.0.1. */
	URL_LISTEN = 1 << 9,
	URL_NO_QUERY = 1 << 10,
};

enum { URL_HOST_MAX = 254, URL_TARGET_MAX = 1024, URL_SOCKET_MAX = 108, URL_TEXT_MAX = 1400 };

struct url {
	enum url_flags scheme;            /* one of the first six */
	char host[URL_HOST_MAX];          /* lower case, no brackets; empty for a UNIX socket */
	/* As in a Host field: brackets, port unless it is the default; "localhost" for a UNIX socket. */
	char authority[URL_HOST_MAX + 8];
	char socket[URL_SOCKET_MAX];      /* path of the UNIX socket, else empty */
	char target[URL_TARGET_MAX];      /* path and query as in a request line; "/" where the URL has none */
	size_t path_len;                  /* of target, the part before '?' */
	uint16_t port;                    /* the scheme's default where the URL has none */
	bool path_given;
	bool is_ipv6;
};

/* `flags`: the schemes allowed and restrictions. 0, or -EINVAL with *ret_why set to a phrase for people that completes
 * "URL ...: " ("it has no host"). */
int url_parse(struct span text, unsigned flags, struct url *ret, const char **ret_why);

/* The schemes of a set of flags, for people: "http://, https:// or unix:". */
void url_schemes_text(unsigned flags, char *out, size_t size);

/* "ADDR:PORT" (port 0 allowed) or "unix:/SOCKET", as a listener of plain HTTP: scheme URL_HTTP or URL_UNIX. As
 * url_parse(). */
int url_parse_listen_addr(const char *text, struct url *ret, const char **ret_why);

/* TLS is meant: https, wss. */
bool url_is_tls(const struct url *u);
bool url_is_unix(const struct url *u);
const char *url_scheme_name(const struct url *u);

/* For logs and records: scheme, authority or socket, path; no query. Truncated at size. */
void url_print(const struct url *u, char *out, size_t size);

/* 127.0.0.0/8, ::1 (without brackets) or localhost. */
bool host_is_loopback(const char *host);
/* A UNIX socket, or a loopback host. */
bool url_is_local(const struct url *u);
/* An IPv4 or IPv6 address as inet_pton() reads it. */
bool host_is_address(const char *host);

/* Replaces every "{region}". Region: [a-z0-9-], 1 to 63. -EINVAL (region), -ENAMETOOLONG (out too small). */
int url_subst_region(const char *tmpl, const char *region, char *out, size_t size);
bool region_valid(const char *region);
