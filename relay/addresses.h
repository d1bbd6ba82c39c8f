/* Connections to the public listeners, in all and by the address that they come from: an IPv4 address, or an IPv6 network of 64 bits,
 * which is what one host can have to itself. Pure. There is an entry for each address that has a connection.
 */
#pragma once

#include <sys/socket.h>

#include "base/check.h"
#include "proto/reasons.h"

struct addresses;
struct address;

/* Embedded in what has a connection; zero: none. */
struct address_ticket {
	struct addresses *addresses;
	struct address *address; /* NULL: of no address */
};

int addresses_new(struct addresses **ret);
struct addresses *addresses_free(struct addresses *a);

/* 0: no limit. */
struct addresses_config {
	unsigned all, each;
};

/* One more connection. peer: NULL where its address does not count; families other than the two count in all only. TP_REASON_NONE: until
 * addresses_leave(); CONNECTIONS, ADDRESS_CONNECTIONS, REFUSED (out of memory). */
uint32_t addresses_enter(struct addresses *a, const struct addresses_config *limit, const struct sockaddr *peer, struct address_ticket *t);
void addresses_leave(struct address_ticket *t);

size_t addresses_connections(const struct addresses *a);
size_t addresses_count(const struct addresses *a);
