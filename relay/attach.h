/* Gateways: from the upgraded connection to a session, its resumption and its end. */
#pragma once

#include "daemon/channel.h"
#include "daemon/transport.h"
#include "relay/relay.h"

/* A gateway's connection has been upgraded for that tunnel; its token was good, and had that SHA-256. hash: the key that comes of it; copied. early:
 * bytes behind the request head. */
void attach_begin(struct relay *r, struct channel *take_channel, const char *tunnel_id, const uint8_t token[SHA256_LEN],
		  const struct audit_hash *hash, uint8_t *early, size_t len);

/* Gateways of one tunnel that are connected, and likewise sessions of it that wait for theirs: who has a token must not be able to take
 * all places and memory of the other tunnels. */
enum { ATTACH_TUNNEL_MAX = 64 };

/* Whether one more gateway of the tunnel may connect. */
bool attach_has_room(const struct relay *r, const char *tunnel_id);

/* The session that a new call of the tunnel goes to: the newest that is attached and not going away. NULL: none. */
struct attached *attach_pick(struct relay *r, struct span tunnel_id);
struct transport *attach_transport(const struct attached *a);
/* For records of its calls; spans are valid as long as it is. */
void attach_where(const struct attached *a, struct audit_where *ret);
const struct audit_hash *attach_hash(const struct attached *a);

/* Tells every gateway that no new calls come. */
void attach_drain_all(struct relay *r);
/* Closes all sessions in order. */
void attach_stop_all(struct relay *r);

size_t attach_count(const struct relay *r);

/* Ends the sessions whose token is no longer valid. */
void attach_revoke(struct relay *r);

enum attach_state {
	ATTACH_GREETING, /* connected, and no session yet */
	ATTACH_UP,
	ATTACH_DRAINING, /* its gateway takes no new calls */
	ATTACH_LOST,     /* not connected; its gateway may be back soon */
};

/* Text is of the gateway (version, region) or empty; valid during the visit, and as long as nothing happens to the session. */
struct attach_info {
	const char *tunnel_id, *session, *peer, *version, *region;
	enum attach_state state;
	enum registry_token token;
	uint64_t age_ms, state_ms; /* of the session; since it was connected or lost its connection */
	uint64_t rtt_us;           /* 0: not known */
	unsigned resumed;          /* how often */
	size_t calls;
};
typedef void attach_info_fn(void *user, const struct attach_info *i);
void attach_each(const struct relay *r, attach_info_fn *fn, void *user);

struct attach_totals {
	size_t attached, waiting; /* sessions; waiting: for their gateway to come back */
	size_t streams;
	uint64_t stalls; /* of sessions that are gone, too */
};
void attach_totals(const struct relay *r, struct attach_totals *ret);
