/* Gateways: from the upgraded connection to a session, its resumption and its end. */
#pragma once

#include "daemon/channel.h"
#include "daemon/transport.h"
#include "relay/relay.h"

/* A gateway's connection has been upgraded for that tunnel; its token was good. hash: the key that comes of it; copied. early:
 * bytes behind the request head. */
void attach_begin(struct relay *r, struct channel *take_channel, const char *tunnel_id, const struct audit_hash *hash, uint8_t *early,
		  size_t len);

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
