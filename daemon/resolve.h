/* Name resolution off the event loop: getaddrinfo() in a short-lived thread, the answer back through the loop. Literal
 * addresses and localhost (RFC 6761, section 6.3: never asked of anybody) answer at once, still through the callback, at the end of the
 * turn. At most RESOLVE_THREADS at once; more wait. */
#pragma once

#include <netdb.h>
#include <sys/socket.h>

#include "daemon/loop.h"

struct resolve;

enum { RESOLVE_THREADS = 8, RESOLVE_ADDRS = 16 };

struct resolve_addr {
	struct sockaddr_storage sa;
	socklen_t len;
};

/* gai_error 0 and addrs (at most RESOLVE_ADDRS, owned by the resolver, valid during the call), or a getaddrinfo() error code. */
typedef void resolve_fn(void *user, int gai_error, const struct resolve_addr *addrs, size_t n);

int resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn, void *user, struct resolve **ret);
/* No callback after this; the thread ends on its own. Not after the callback, and NULL does nothing. */
void resolve_cancel(struct resolve *r);
