#include "daemon/url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

static const struct scheme {
	const char *prefix;
	enum url_flags flag;
	uint16_t port;
} schemes[] = {
	{ "http://", URL_HTTP, 80 }, { "https://", URL_HTTPS, 443 }, { "ws://", URL_WS, 80 },
	{ "wss://", URL_WSS, 443 },  { "unix:", URL_UNIX, 0 },       { "http+unix:", URL_HTTP_UNIX, 0 },
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum_lower(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z');
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Path and query characters of RFC 3986; '%' only before two hex digits. */
static bool target_valid(struct span s)
{
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] <= ' ' || s.p[i] > '~' || strchr("#<>\"\\^`{|}[]", s.p[i]))
			return false;
		if (s.p[i] == '%' && (s.len - i < 3 || !is_hex(s.p[i + 1]) || !is_hex(s.p[i + 2])))
			return false;
	}
	return true;
}

static const char *take_target(struct span s, unsigned flags, struct url *u)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a span with a length has bytes. */
	const char *query = s.len ? memchr(s.p, '?', s.len) : NULL;
	bool slash = s.len && s.p[0] == '/';

	if (!target_valid(s))
		return "its path or query has characters that are not allowed there";
	if (query && flags & (URL_NO_QUERY | URL_NO_PATH))
		return "it must not have a query";
	if (flags & URL_NO_PATH && s.len > 1)
		return "it must not have a path";
	/* With the slash where it is missing, and a NUL: what fits fits again when it is put together. */
	if (!slash + s.len + 1 > sizeof(u->target))
		return "its path is too long";
	u->path_given = slash;
	snprintf(u->target, sizeof(u->target), "%s%.*s", slash ? "" : "/", SPAN_FMT(s));
	u->path_len = strcspn(u->target, "?");
	return NULL;
}

/* Whether getaddrinfo() might read a name as a number: "127.1", "0x7f000001", "2130706433". */
static bool looks_numeric(const char *host)
{
	const char *dot = strrchr(host, '.');

	return is_digit(dot ? dot[1] : host[0]);
}

static const char *check_name(const char *host)
{
	struct span rest = span_of(host), label;

	while (rest.p) {
		label = span_split(&rest, '.');
		if (label.len == 0 || label.len > 63 || label.p[0] == '-' || label.p[label.len - 1] == '-')
			return "its host is not a valid name";
		for (size_t i = 0; i < label.len; i++)
			if (!is_alnum_lower(label.p[i]) && label.p[i] != '-' && label.p[i] != '_')
				return "its host is not a valid name";
	}
	return NULL;
}

static const char *take_host(struct span s, struct url *u)
{
	struct in_addr v4;

	if (s.len == 0)
		return "it has no host";
	if (s.len >= sizeof(u->host))
		return "its host is too long";
	for (size_t i = 0; i < s.len; i++)
		u->host[i] = (char)(s.p[i] >= 'A' && s.p[i] <= 'Z' ? s.p[i] + 32 : s.p[i]);
	u->host[s.len] = '\0';
	if (strlen(u->host) != s.len)
		return "its host is not a valid name";
	if (looks_numeric(u->host))
		return inet_pton(AF_INET, u->host, &v4) == 1 ? NULL : "its host looks like an address but is none";
	return check_name(u->host);
}

/* Normal form, so that two spellings of one address compare equal. */
static const char *take_ipv6(struct span s, struct url *u)
{
	char text[INET6_ADDRSTRLEN];
	struct in6_addr v6;

	if (s.len == 0 || s.len >= sizeof(text))
		return "its IPv6 address is not valid";
	memcpy(text, s.p, s.len);
	text[s.len] = '\0';
	if (strlen(text) != s.len || inet_pton(AF_INET6, text, &v6) != 1)
		return "its IPv6 address is not valid";
	inet_ntop(AF_INET6, &v6, u->host, sizeof(u->host));
	u->is_ipv6 = true;
	return NULL;
}

static const char *take_port(struct span s, unsigned flags, struct url *u)
{
	uint64_t v;

	if (s.len > 5 || span_u64(s, &v) < 0 || v > 65535 || (v == 0 && !(flags & URL_LISTEN)))
		return "its port must be a number from 1 to 65535";
	u->port = (uint16_t)v;
	return NULL;
}

static const char *take_authority(struct span s, unsigned flags, const struct scheme *scheme, struct url *u)
{
	struct span port = s, host;
	const char *why;

	if (s.len && memchr(s.p, '@', s.len))
		return "it must not have a user name or password";
	if (s.len && s.p[0] == '[') {
		host = span_split(&port, ']');
		if (!port.p)
			return "its IPv6 address is not valid";
		why = take_ipv6(span_make(host.p + 1, host.len - 1), u);
		if (!why && port.len && port.p[0] != ':')
			why = "its IPv6 address is not valid";
		port = port.len ? span_make(port.p + 1, port.len - 1) : span_make(NULL, 0);
	} else {
		why = take_host(span_split(&port, ':'), u);
	}
	if (why)
		return why;
	u->port = scheme->port;
	if (port.p)
		return take_port(port, flags, u);
	return flags & URL_LISTEN ? "it has no port" : NULL;
}

static void set_authority(const struct scheme *scheme, struct url *u)
{
	const char *open = u->is_ipv6 ? "[" : "", *close = u->is_ipv6 ? "]" : "";

	if (u->port == scheme->port)
		snprintf(u->authority, sizeof(u->authority), "%s%s%s", open, u->host, close);
	else
		snprintf(u->authority, sizeof(u->authority), "%s%s%s:%u", open, u->host, close, u->port);
}

static const char *parse_net(struct span s, unsigned flags, const struct scheme *scheme, struct url *u)
{
	size_t n = 0;
	const char *why;

	while (n < s.len && s.p[n] != '/' && s.p[n] != '?')
		n++;
	why = take_authority(span_make(s.p, n), flags, scheme, u);
	if (why)
		return why;
	if (flags & URL_LISTEN && strcmp(u->host, "localhost") == 0)
		snprintf(u->host, sizeof(u->host), "127.0.0.1");
	if (flags & URL_LISTEN && !host_is_address(u->host))
		return "its host must be an IP address to listen on (0.0.0.0 or [::] for all)";
	set_authority(scheme, u);
	return take_target(span_make(s.p + n, s.len - n), flags, u);
}

static const char *parse_unix(struct span s, unsigned flags, const struct scheme *scheme, struct url *u)
{
	struct span sock = s;

	if (scheme->flag == URL_UNIX)
		sock = span_split(&s, ':');
	else
		s = span_make(NULL, 0);
	if (sock.len < 2 || sock.p[0] != '/')
		return "the socket's path must begin with /";
	if (sock.len >= sizeof(u->socket))
		return "the socket's path is too long (107 bytes at most)";
	for (size_t i = 0; i < sock.len; i++)
		if ((unsigned char)sock.p[i] < ' ' || sock.p[i] == 0x7f)
			return "the socket's path has control characters";
	memcpy(u->socket, sock.p, sock.len);
	snprintf(u->authority, sizeof(u->authority), "localhost");
	if (s.p && (s.len == 0 || s.p[0] != '/'))
		return "what follows the socket's path must be a path that begins with /";
	return take_target(s, flags, u);
}

int url_parse(struct span text, unsigned flags, struct url *ret, const char **ret_why)
{
	const char *why = "its scheme is not one that is allowed here";
	struct url u = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
		size_t n = strlen(schemes[i].prefix);
		struct span rest;

		if (!(flags & schemes[i].flag) || text.len < n || !span_iis(span_make(text.p, n), schemes[i].prefix))
			continue;
		u.scheme = schemes[i].flag;
		rest = span_make(text.p + n, text.len - n);
		if (rest.len && memchr(rest.p, '#', rest.len))
			why = "it must not have a fragment";
		else if (u.scheme & (URL_UNIX | URL_HTTP_UNIX))
			why = parse_unix(rest, flags, &schemes[i], &u);
		else
			why = parse_net(rest, flags, &schemes[i], &u);
		break;
	}
	if (why) {
		*ret_why = why;
		return -EINVAL;
	}
	*ret = u;
	return 0;
}

void url_schemes_text(unsigned flags, char *out, size_t size)
{
	const char *last = NULL;
	size_t n = 0, i;

	if (size)
		*out = '\0';
	for (i = 0; i < ARRAY_LEN(schemes); i++) {
		if (!(flags & schemes[i].flag))
			continue;
		if (last && n < size)
			n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", last);
		last = schemes[i].prefix;
	}
	if (last && n < size)
		snprintf(out + n, size - n, "%s%s", n ? " or " : "", last);
}

int url_parse_listen_addr(const char *text, struct url *ret, const char **ret_why)
{
	char full[URL_TEXT_MAX];

	if (strncmp(text, "unix:", 5) == 0)
		return url_parse(span_of(text), URL_UNIX | URL_NO_PATH, ret, ret_why);
	if (strlen(text) > URL_HOST_MAX + 8 || strchr(text, '/')) {
		*ret_why = "it is not ADDR:PORT";
		return -EINVAL;
	}
	snprintf(full, sizeof(full), "http://%s", text);
	return url_parse(span_of(full), URL_HTTP | URL_LISTEN | URL_NO_PATH, ret, ret_why);
}

bool url_is_tls(const struct url *u)
{
	return u->scheme == URL_HTTPS || u->scheme == URL_WSS;
}

bool url_is_unix(const struct url *u)
{
	return u->socket[0] != '\0';
}

const char *url_scheme_name(const struct url *u)
{
	static const char *const names[] = { "http", "https", "ws", "wss", "unix", "http+unix" };

	return u->scheme ? names[__builtin_ctz(u->scheme)] : "";
}

void url_print(const struct url *u, char *out, size_t size)
{
	const char *name = url_scheme_name(u);

	if (u->scheme == URL_HTTP_UNIX)
		snprintf(out, size, "%s:%s", name, u->socket);
	else if (url_is_unix(u))
		snprintf(out, size, "%s:%s:%.*s", name, u->socket, (int)u->path_len, u->target);
	else
		snprintf(out, size, "%s://%s%.*s", name, u->authority, (int)u->path_len, u->target);
}

bool host_is_loopback(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (span_iis(span_of(host), "localhost"))
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool host_is_address(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	return inet_pton(AF_INET, host, &v4) == 1 || inet_pton(AF_INET6, host, &v6) == 1;
}

bool url_is_local(const struct url *u)
{
	return url_is_unix(u) || host_is_loopback(u->host);
}

bool region_valid(const char *region)
{
	size_t n = strlen(region);

	if (n == 0 || n > 63 || region[0] == '-' || region[n - 1] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!is_alnum_lower(region[i]) && region[i] != '-')
			return false;
	return true;
}

int url_subst_region(const char *tmpl, const char *region, char *out, size_t size)
{
	static const char key[] = "{region}";
	size_t len = 0;

	if (!region_valid(region))
		return -EINVAL;
	while (*tmpl) {
		bool hit = strncmp(tmpl, key, sizeof(key) - 1) == 0;
		const char *piece = hit ? region : tmpl;
		size_t n = hit ? strlen(region) : 1;

		if (n >= size - len)
			return -ENAMETOOLONG;
		memcpy(out + len, piece, n);
		len += n;
		tmpl += hit ? sizeof(key) - 1 : 1;
	}
	if (size == 0)
		return -ENAMETOOLONG;
	out[len] = '\0';
	return 0;
}
