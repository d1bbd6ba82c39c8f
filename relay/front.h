/* Connections to the public port: agents' HTTP/1.1, one request at a time, and gateways until their upgrade. */
#pragma once

#include "relay/relay.h"

/* An accepted socket; closed at once where there are too many. tls: NULL for a plain listener. by_address: connections of one address are
 * limited, too. */
void front_new(struct relay *r, int take_fd, struct tls_context *tls, bool by_address);

/* Ends the calls of agents whose key is no longer valid. */
void front_revoke(struct relay *r);

/* Every second: connections that are too slow, or idle for too long. */
void front_sweep(struct relay *r);
/* At a stop: idle connections close now, busy ones after their answer. */
void front_drain_all(struct relay *r);
void front_close_all(struct relay *r);
