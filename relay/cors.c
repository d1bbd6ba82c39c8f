#include "relay/cors.h"

#include <strings.h>

/* Of names that a page asks for and that are not in the list below. */
enum { ASKED_BYTES_MAX = 1024 };

static const char methods[] = "GET, POST, DELETE";

/* What MCP clients send, and what browsers do not allow of themselves. */
static const char fields[] = "Authorization, Mcp-Tunnel-Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, "
			     "Mcp-Method, Mcp-Name, Last-Event-ID";

/* What a page may read of an answer, besides what every page may. */
static const char exposed[] = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, Allow";

int cors_write(struct buf *out, bool any, const char *origin)
{
	int r = any ? buf_add_str(out, "Vary: Origin\r\n") : 0;

	if (r == 0 && any && origin)
		r = buf_printf(out, "Access-Control-Allow-Origin: %s\r\nAccess-Control-Expose-Headers: %s\r\n", origin, exposed);
	return r;
}

bool cors_replaces(struct span name)
{
	return name.len >= 15 && span_iis(span_make(name.p, 15), "Access-Control-");
}

static bool is_listed(struct span name)
{
	struct span rest = span_of(fields), one;

	while (rest.p) {
		one = span_trim(span_split(&rest, ','));
		if (one.len == name.len && strncasecmp(one.p, name.p, name.len) == 0)
			return true;
	}
	return false;
}

/* Whatever the relay would carry. "*" would mean all of them. */
static int write_asked(struct buf *out, const struct http1_head *h)
{
	struct span rest = http1_field_get(h, "Access-Control-Request-Headers", NULL), name;
	const struct request q = { .kind = REQUEST_PREFLIGHT };
	size_t left = ASKED_BYTES_MAX;
	int r = 0;

	while (r == 0 && rest.p) {
		name = span_trim(span_split(&rest, ','));
		if (!http1_token_ok(name) || span_is(name, "*") || is_listed(name) || name.len + 2 > left || !request_field_travels(h, &q, name))
			continue;
		left -= name.len + 2;
		r = buf_printf(out, ", %.*s", SPAN_FMT(name));
	}
	return r;
}

int cors_write_preflight(struct buf *out, const struct http1_head *h, const char *origin, bool close)
{
	int r = http1_write_status(out, 204, (struct span){ NULL, 0 });

	if (r == 0)
		r = buf_printf(out, "Access-Control-Allow-Origin: %s\r\nAccess-Control-Allow-Methods: %s\r\nAccess-Control-Allow-Headers: %s",
			       origin, methods, fields);
	if (r == 0)
		r = write_asked(out, h);
	if (r == 0)
		r = buf_printf(out, "\r\nAccess-Control-Max-Age: 7200\r\nVary: Origin, Access-Control-Request-Headers\r\n%s\r\n",
			       close ? "Connection: close\r\n" : "");
	return r;
}
