/* The MCP server behind the gateway: where requests may go, its keep-alive connections, and one HTTP/1.1 exchange on
 * one of them. Where a request goes is configuration alone; nothing of a call can change it.
 */
#pragma once

#include "base/buf.h"
#include "daemon/loop.h"
#include "proto/http1.h"

struct sockaddr;
struct tls_context;
struct upstream;
struct upstream_call;

struct upstream_pool {
	size_t open, idle;       /* connections for calls: all, and those that are kept */
	uint64_t dialled, failed; /* attempts to open one, and those that came to nothing */
	uint64_t reused;         /* calls on a kept connection */
	uint64_t retried;        /* of them, those that went on a new one because it had died */
	uint64_t request_bytes;  /* of bodies that are not sent yet */
};

struct upstream_config {
	const char *label;     /* "MCP server", for the log; copied */
	const char *host;      /* name or literal address; NULL with unix_path */
	uint16_t port;
	const char *unix_path;
	struct tls_context *tls; /* NULL: plain; borrowed. The certificate must be valid for host. */
	/* Judges each address before it is dialled (daemon/dial.h); NULL allows all. */
	bool (*allow)(void *user, const struct sockaddr *sa);
	void *allow_user;
	uint64_t connect_timeout_ms;
	uint64_t idle_ms; /* how long an unused connection is kept */
	/* Of the endpoint, for asking whether anything is answered (gateway/upstream_ask.h). NULL: connections must do. */
	const char *authority, *target;
	size_t max_idle;
	struct upstream_pool *pool; /* counts in here, with others; outlives the loop's turn. NULL: for itself */
};

struct upstream_ops {
	/* The request's first byte goes out; once, whatever is tried again. May be NULL; touches nothing of this file. */
	void (*on_sent)(void *user);
	/* The final head (1xx are consumed before). Valid during the call. */
	void (*on_head)(void *user, const struct http1_head *h);
	void (*on_data)(void *user, const uint8_t *p, size_t len);
	/* Complete. The call is gone after this, as after on_fail. */
	void (*on_end)(void *user);
	/* reason: UPSTREAM_UNREACHABLE (nothing was sent), UPSTREAM_CLOSED, UPSTREAM_PROTOCOL, INTERNAL. */
	void (*on_fail)(void *user, uint32_t reason, const char *detail);
};

/* What the last attempts to reach the server came to; for readiness and the log. */
struct upstream_health {
	bool known;
	uint32_t reason;   /* TP_REASON_NONE: calls get through; else how the last one failed to get any answer */
	uint64_t seen_ms;  /* last result */
	char detail[256];
};

int upstream_new(struct loop *l, const struct upstream_config *cfg, struct upstream **ret);
struct upstream *upstream_free(struct upstream *u);

/* Sends head and body (whole, as written by http1_write_*; both buffers are taken and left empty) and tells the answer. A
 * kept connection that dies before a byte of the answer is replaced once by a new one when nothing had been sent on it, or
 * when the method is `idempotent`. 0 or -ENOMEM; the callbacks come later. */
int upstream_call_start(struct upstream *u, struct buf *take_head, struct buf *take_body, bool idempotent,
			const struct upstream_ops *ops, void *user, struct upstream_call **ret);
/* No more on_data until resumed: backpressure. */
void upstream_call_pause(struct upstream_call *c, bool paused);
/* Closes the connection at once, which is MCP's cancellation. No callback after this. */
void upstream_call_cancel(struct upstream_call *c);

/* For new connections; those that are kept are not used any more. */
void upstream_set_tls(struct upstream *u, struct tls_context *tls);

/* Finds out now what upstream_health() is to say. A server that is not known to be well, or that has said nothing to anybody for
 * five seconds after a request, is asked for an answer (gateway/upstream_ask.h). With any other, a connection that can be
 * opened (with TLS, up to the end of the handshake) will do; it is closed at once. One at a time. By itself this is done every
 * second while an answer is needed, else five seconds after the last sign of life. */
void upstream_probe(struct upstream *u);
/* Somebody wants to know: does that when the last sign of life is a second ago or more. */
void upstream_look(struct upstream *u);
const struct upstream_health *upstream_health(const struct upstream *u);
void upstream_pool(const struct upstream *u, struct upstream_pool *ret);
