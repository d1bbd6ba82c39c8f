/* Joins a channel and a session: the only file that knows both a socket and proto/tunnel.h. A transport lives as long as its session;
 * channels come and go.
 */
#pragma once

#include "daemon/channel.h"
#include "proto/tunnel.h"

struct transport;

/* The longest pause between two tries of TCP to get a packet through; above the round trip of any usable path. */
enum { TRANSPORT_RTO_MAX_MS = 4000 };

struct transport_ops {
	/* Every event but FAILED and CLOSED. The handler may free the transport. */
	void (*on_event)(void *user, struct tp_event *ev);
	/* The connection is gone and the session detached. `fatal`: the session is over, its streams have ended with `reason`
	 * before this call. detail is for people. The handler may free the transport. */
	void (*on_lost)(void *user, uint32_t reason, const char *detail, bool fatal);
};

int transport_new(struct loop *l, const struct tp_config *cfg, const struct transport_ops *ops, void *user,
		  struct transport **ret);
/* Aborts the connection, frees the session; no event comes after this. */
struct transport *transport_free(struct transport *t);

struct tp_conn *transport_conn(const struct transport *t);

/* The channel has been upgraded; take_channel's owner is the transport from now on. A session that is attached moves over to it from its
 * old one, on_lost is not called. `early`: bytes that came behind the upgrade's head. */
int transport_attach(struct transport *t, struct channel *take_channel, uint8_t *early, size_t len);

/* Relay: `t` takes over the connection on which `fresh` got its HELLO; fresh is freed when this succeeds. 0, TP_RESUME_IMPOSSIBLE, -errno. */
int transport_resume(struct transport *t, struct transport *take_fresh);

/* The session is over: its streams end with that reason, told before this returns. */
void transport_abandon(struct transport *t, uint32_t reason);

/* After anything was done to the session or one of its streams: sends what is due at the end of the turn, tells events. */
void transport_kick(struct transport *t);

/* Says why, closes the connection in order. on_lost is not called. */
void transport_close(struct transport *t, uint32_t reason, const char *detail);

bool transport_has_channel(const struct transport *t);
/* "192.0.2.1:443", or "-" while detached. */
const char *transport_peer(const struct transport *t);
