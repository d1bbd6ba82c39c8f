/* Which addresses the MCP server may have, judged again for each connection: a name that suddenly resolves to somewhere else
 * leads nowhere. Pure. */
#pragma once

#include "daemon/network.h"

enum { GUARD_NETWORKS_MAX = 64 };

struct guard {
	size_t n; /* 0: the private networks: loopback, RFC 1918, unique local (RFC 4193) */
	struct network allowed[GUARD_NETWORKS_MAX];
};

/* An address or network in CIDR form. -EINVAL, -ENOSPC. */
int guard_add(struct guard *g, const char *text);
/* Whatever was added: never link-local (where clouds keep their metadata), multicast, broadcast or the wildcard. */
bool guard_allows(const struct guard *g, const struct address *a);
