/* One call of an agent: its request on a stream to the gateway, and the answer on its way back. The HTTP connection
 * is relay/front.c's; it gives the request's body and pulls the answer's bytes.
 */
#pragma once

#include "proto/http1.h"
#include "proto/tunnel.h"
#include "relay/attach.h"
#include "relay/request.h"

struct call;

struct call_handler {
	void (*on_output)(void *user);   /* call_pull() has something */
	void (*on_writable)(void *user); /* call_wants_body() has become true again */
	/* Over, and no byte of an answer was made: answer in its stead, then call_free(). detail may be empty. */
	void (*on_failed)(void *user, uint32_t reason, const char *detail);
};

struct call_start {
	struct attached *attached;
	const struct http1_head *head;
	const struct request *request;
	const char *agent;      /* name, or "unknown" */
	const char *agent_auth; /* "bearer" or "none" */
	const char *cors_origin; /* see cors_write(); stays as long as the call; or NULL */
	bool end;               /* there is no body */
};

/* 0; positive: a code of reasons.def, nothing was sent (REFUSED, TOO_LARGE for a head that does not fit); -ENOMEM. */
int call_new(struct relay *r, const struct call_start *start, const struct call_handler *handler, void *user,
	     struct call **ret);
/* What is not over is cancelled: the agent is gone, or was answered. */
struct call *call_free(struct call *c);

/* Ends it, where it is not over yet, with that reason at both ends: as if the gateway had. */
void call_abort(struct call *c, uint32_t reason, const char *detail);

/* Bytes of the request's body. TP_REASON_NONE, or why it cannot go on, and *ret_why for people: answer that, then call_free(). */
uint32_t call_body(struct call *c, const uint8_t *p, size_t len, bool end, const char **ret_why);
bool call_wants_body(const struct call *c);

/* For the session: events of the call's stream. */
void call_event(struct call *c, const struct tp_event *ev);

/* Bytes of the answer. */
size_t call_pull(struct call *c, uint8_t *dst, size_t room);
bool call_has_output(const struct call *c);
/* The whole answer has been pulled. */
bool call_is_done(const struct call *c);
/* The answer cannot be completed: everything that came has been pulled; the connection must end without a clean end. */
bool call_is_cut(const struct call *c);
bool call_has_begun(const struct call *c); /* the answer's head was made */

/* The JSON-RPC id of the request as far as it has been read; absent when none. */
struct span call_rpc_id(const struct call *c);
const char *call_id(const struct call *c);
