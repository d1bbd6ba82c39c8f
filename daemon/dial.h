/* Dials a host: resolves it anew, tries all addresses (RFC 8305: the next one 250 ms after the last, families interleaved), and
 * hands over the first socket that connects. */
#pragma once

#include "daemon/loop.h"

struct dial;

struct dial_target {
	const char *host;      /* name or literal (IPv6 without brackets); NULL for a UNIX socket */
	uint16_t port;
	const char *unix_path; /* instead of host */
	uint64_t timeout_ms;   /* for everything together; 0: none */
	/* Judges each address before it is tried; NULL allows all. (The upstream guard.) Not asked about a UNIX socket. */
	bool (*allow)(void *user, const struct sockaddr *sa);
	void *allow_user;
};

enum dial_error {
	DIAL_OK = 0,
	DIAL_RESOLVE,  /* error holds a getaddrinfo code */
	DIAL_CONNECT,  /* error holds errno of the last attempt */
	DIAL_TIMEOUT,
	DIAL_REFUSED_BY_POLICY, /* no address was allowed */
	DIAL_PROXY, /* daemon/egress.h: the proxy was reached, and does not connect us */
};

/* Called once, never from dial_start(); the dial is gone then. fd >= 0 (connected, non-blocking, close-on-exec, TCP_NODELAY) is given to the callee; on failure -1, and `detail` is one phrase for people:
 * "cannot resolve relay.example: Name or service not known", "cannot connect to 192.0.2.1:443: Connection refused". */
typedef void dial_fn(void *user, int take_fd, enum dial_error err, int error, const char *detail);

/* The strings of target need not outlive the call. -EINVAL (a path that is too long, neither host nor path), -ENOMEM. */
int dial_start(struct loop *l, const struct dial_target *target, dial_fn *fn, void *user, struct dial **ret);
/* No callback after this. NULL does nothing. */
void dial_cancel(struct dial *d);
