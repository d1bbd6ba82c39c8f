#include "relay/request.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "daemon/token.h"
#include "daemon/url.h"
#include "proto/tunnel.h"

enum { ROUTE_MAX = 63 };

static const struct refusal foreign_host = { 421, "the relay does not answer to this Host", NULL, TP_REASON_BAD_REQUEST };
static const struct refusal foreign_origin = { 403, "this Origin may not call the relay", NULL, TP_REASON_BAD_REQUEST };
static const struct refusal no_such_path = { 404, "no such path; agents call /t/TUNNEL/mcp", NULL, TP_REASON_BAD_REQUEST };
const struct refusal request_bad_method = { 405, "only POST, GET and DELETE are carried",
					    "Allow: POST, GET, DELETE\r\n", TP_REASON_BAD_REQUEST };
static const struct refusal bad_target = { 400, "the request target must be a path", NULL, TP_REASON_BAD_REQUEST };
static const struct refusal two_credentials = { 400, "more than one Authorization field", NULL, TP_REASON_BAD_REQUEST };
static const struct refusal old_version = { 505, "only HTTP/1.1 is spoken here", NULL, TP_REASON_BAD_REQUEST };

int request_names_add(struct request_names *names, const char *name)
{
	char **grown = realloc(names->names, (names->n + 1) * sizeof(*grown));
	char *copy;

	if (!grown)
		return -ENOMEM;
	names->names = grown;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	for (char *p = copy; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	names->names[names->n++] = copy;
	return 0;
}

void request_names_done(struct request_names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->names[i]);
	free(names->names);
	*names = (struct request_names){ 0 };
}

/* The host of a Host field, without port and brackets. */
static struct span host_only(struct span host)
{
	const char *end;

	if (host.len && host.p[0] == '[') {
		end = memchr(host.p, ']', host.len);
		return end ? span_make(host.p + 1, (size_t)(end - host.p) - 1) : host;
	}
	end = host.len ? memchr(host.p, ':', host.len) : NULL;
	return end ? span_make(host.p, (size_t)(end - host.p)) : host;
}

static bool name_matches(const char *name, struct span host)
{
	const char *dot;

	if (name[0] != '*' || name[1] != '.')
		return span_iis(host, name);
	dot = host.len ? memchr(host.p, '.', host.len) : NULL;
	return dot && dot > host.p && span_iis(span_make(dot, host.len - (size_t)(dot - host.p)), name + 1);
}

static bool host_allowed(struct span field, const struct request_names *names, const char *local)
{
	struct span host = host_only(field);
	bool on_loopback = strcmp(local, "unix") == 0 || host_is_loopback(local);

	if (span_iis(host, local))
		return true;
	if (on_loopback && span_iis(host, "localhost"))
		return true;
	for (size_t i = 0; i < names->n; i++)
		if (name_matches(names->names[i], host))
			return true;
	return false;
}

/* /t/TUNNEL/mcp or /t/TUNNEL/ROUTE/mcp, exactly: nothing is decoded or normalised. */
static bool parse_path(struct span path, struct request *q)
{
	struct span part;

	if (!span_starts(path, "/t/"))
		return false;
	path.p += 3;
	path.len -= 3;
	q->tunnel = span_split(&path, '/');
	if (!tunnel_id_valid(q->tunnel) || !path.p)
		return false;
	part = span_split(&path, '/');
	if (!path.p) {
		q->route = SPAN("");
		return span_is(part, "mcp");
	}
	q->route = part;
	return part.len <= ROUTE_MAX && tunnel_id_valid(part) && span_is(path, "mcp");
}

/* KEY of "Bearer KEY"; absent otherwise. */
static struct span bearer(struct span value)
{
	struct span rest = value, scheme = span_split(&rest, ' ');

	if (!rest.p || !span_iis(scheme, "Bearer"))
		return (struct span){ NULL, 0 };
	return span_trim(rest);
}

static bool read_key(const struct http1_head *h, struct request *q)
{
	size_t n_own, n_plain;
	struct span own = http1_field_get(h, "Mcp-Tunnel-Authorization", &n_own);
	struct span plain = http1_field_get(h, "Authorization", &n_plain);

	if (n_own > 1 || n_plain > 1)
		return false;
	q->key_in_authorization = n_own == 0 && n_plain == 1;
	q->key = bearer(n_own ? own : plain);
	return true;
}

/* Fetch standard, 4.8: CORS-preflight fetch. */
static bool is_preflight(const struct http1_head *h)
{
	return span_is(h->method, "OPTIONS") && h->body == HTTP1_BODY_NONE && http1_field_get(h, "Origin", NULL).p &&
	       http1_field_get(h, "Access-Control-Request-Method", NULL).p;
}

static bool refuse(struct refusal *ret, const struct refusal *why)
{
	*ret = *why;
	return false;
}

bool request_check(const struct http1_head *h, const struct request_names *names, const char *local,
		   bool (*origin_allowed)(const void *user, struct span origin), const void *user, struct request *ret,
		   struct refusal *ret_refusal)
{
	struct request q = { .kind = REQUEST_AGENT };
	size_t n_origins;
	struct span origin = http1_field_get(h, "Origin", &n_origins);
	struct span rest = h->target, path;

	if (h->minor != 1)
		return refuse(ret_refusal, &old_version);
	if (!host_allowed(http1_field_get(h, "Host", NULL), names, local))
		return refuse(ret_refusal, &foreign_host);
	if (n_origins > 1 || (n_origins && !origin_allowed(user, origin)))
		return refuse(ret_refusal, &foreign_origin);
	if (!h->target.len || h->target.p[0] != '/')
		return refuse(ret_refusal, &bad_target);
	path = span_split(&rest, '?');
	q.query = rest;
	if (!read_key(h, &q))
		return refuse(ret_refusal, &two_credentials);
	if (span_is(path, TP_PATH)) {
		q.kind = REQUEST_ATTACH;
		*ret = q;
		return true;
	}
	if (!parse_path(path, &q))
		return refuse(ret_refusal, &no_such_path);
	if (is_preflight(h)) {
		q.kind = REQUEST_PREFLIGHT;
		*ret = q;
		return true;
	}
	if (!span_is(h->method, "POST") && !span_is(h->method, "GET") && !span_is(h->method, "DELETE"))
		return refuse(ret_refusal, &request_bad_method);
	*ret = q;
	return true;
}

bool request_field_travels(const struct http1_head *h, const struct request *q, struct span name)
{
	if (http1_is_hop_by_hop(h, name) || span_iis(name, "Host") || span_iis(name, "Origin") || span_iis(name, "Expect"))
		return false;
	if (name.len >= 11 && span_iis(span_make(name.p, 11), "Mcp-Tunnel-"))
		return false;
	return !(q->key_in_authorization && span_iis(name, "Authorization"));
}
