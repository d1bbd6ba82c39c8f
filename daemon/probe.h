/* Steps of the network, one at a time: each runs the loop until it is over or its time is. For commands that people wait for; what
 * they do is done by the modules that the daemons use. */
#pragma once

#include "daemon/channel.h"
#include "daemon/egress.h"
#include "daemon/resolve.h"
#include "daemon/tls.h"
#include "proto/http1.h"

enum { PROBE_DETAIL_MAX = 400, PROBE_BODY_MAX = 256 * 1024 };

/* Runs the loop until *done, which whatever sets it follows by loop_stop(). -ETIMEDOUT, -errno. */
int probe_wait(struct loop *l, const bool *done, uint64_t timeout_ms);

/* detail gets one phrase for people on failure. At most RESOLVE_ADDRS. -errno. */
int probe_resolve(struct loop *l, const char *host, uint16_t port, uint64_t timeout_ms, struct resolve_addr *addrs, size_t *ret_n, char *detail);

/* A TCP connection to each address, all at once; none is kept. error: 0, or an errno. */
struct probe_tcp {
	char text[64]; /* "192.0.2.1:443" */
	int error;
	uint64_t took_us;
};
int probe_tcp(struct loop *l, const struct resolve_addr *addrs, size_t n, uint64_t timeout_ms, struct probe_tcp *ret);

/* As egress_start() and dial_start(); cfg NULL: a dial. A connected socket, or -1 with *ret_error and detail. */
int probe_dial(struct loop *l, const struct egress_config *cfg, const struct dial_target *target, enum dial_error *ret_error, char *detail);

/* A connection on which HTTP is spoken. Consumes the socket. opt->open_timeout_ms bounds the handshake. *ret_end: as a channel's. */
struct probe;
int probe_open(struct loop *l, int take_fd, const struct channel_options *opt, enum channel_end *ret_end, char *detail, struct probe **ret);
struct probe *probe_close(struct probe *p);
bool probe_tls_peer(const struct probe *p, struct tls_peer *ret);
/* Sends the request (taken, and left empty) and waits for the final head; with body, for the whole answer, as far as PROBE_BODY_MAX.
 * Once for each probe. *ret_head is valid as long as the probe. -errno: the connection ended, *ret_end says how; or time is over. */
int probe_ask(struct probe *p, struct buf *take_request, bool body, uint64_t timeout_ms, enum channel_end *ret_end, char *detail,
	      const struct http1_head **ret_head);
struct span probe_body(const struct probe *p);
