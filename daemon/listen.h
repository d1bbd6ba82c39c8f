/* Listening sockets, TCP and UNIX. */
#pragma once

#include "daemon/loop.h"

struct listener;

/* An accepted, non-blocking, close-on-exec socket (TCP_NODELAY set). The callee owns it. */
typedef void listen_fn(void *user, int take_fd);

/* addr: numeric IPv4 or IPv6 (without brackets); port 0 picks one. -errno. Accepts in bounded batches per turn; when
 * descriptors run out (EMFILE) it pauses for 100 ms instead of spinning, and logs that once per minute. */
int listen_tcp(struct loop *l, const char *addr, uint16_t port, listen_fn *fn, void *user, struct listener **ret);
/* Removes a stale socket file first (one that refuses connections), mode 0660. */
int listen_unix(struct loop *l, const char *path, listen_fn *fn, void *user, struct listener **ret);
/* Whether these could be listened on: nothing listens, no file is made or removed, and who starts meanwhile is not disturbed. As above. */
int listen_try_tcp(const char *addr, uint16_t port);
int listen_try_unix(const char *path);
/* 0 for a UNIX socket. */
uint16_t listener_port(const struct listener *ln);
/* May be called from the callback. Removes the socket file if it is still the one that was made here. */
struct listener *listener_free(struct listener *ln);
