/* Connections to the public listeners, in all and by the address that they come from: an IPv4 address, or an IPv6 network of 64 bits,
 * which is what one host can have to itself. Pure. There is an entry for each address that has a connection.
 *
 * Whoever connects may be a gateway that comes back, and until its request is read nobody can tell. So there is a way in at the limit,
 * too: a connection that has nothing under way has to make room for the next one, and a part of each limit is never given to calls.
 */
#pragma once

#include <sys/queue.h>
#include <sys/socket.h>

#include "base/check.h"
#include "proto/reasons.h"

struct addresses;
struct address;

/* What a connection is to us. The first two may have to make room. */
enum address_rank {
	ADDRESS_STRANGER, /* no key and no token yet, or about to go */
	ADDRESS_IDLE,     /* gave a good key, and waits for its next request */
	ADDRESS_CALL,     /* a call is under way, or waits for its gateway */
	ADDRESS_GATEWAY,
};

/* Embedded in what has a connection; zero: none. */
struct address_ticket {
	struct addresses *addresses;
	struct address *address; /* NULL: of no address */
	enum address_rank rank;
	TAILQ_ENTRY(address_ticket) link[2]; /* of those that may have to make room: of all, and of its address */
};

int addresses_new(struct addresses **ret);
struct addresses *addresses_free(struct addresses *a);

/* 0: no limit. */
struct addresses_config {
	unsigned all, each;
};

/* Of a limit, what calls may not have. It is also how many newcomers are left in peace while others are idle. */
unsigned addresses_reserve(unsigned limit);

/* One more connection. peer: NULL where its address does not count; families other than the two count in all only. TP_REASON_NONE: a
 * stranger, until addresses_leave(); ADDRESS_CONNECTIONS, CONNECTIONS, REFUSED (out of memory). */
uint32_t addresses_enter(struct addresses *a, const struct addresses_config *limit, const struct sockaddr *peer, struct address_ticket *t);
void addresses_leave(struct address_ticket *t);

/* Who has to go where that was the reason of a refusal: of the strangers, then of the idle, the one that has been it for the longest. NULL:
 * all that are there are needed. */
struct address_ticket *addresses_in_the_way(const struct addresses *a, const struct addresses_config *limit, uint32_t reason,
					    const struct sockaddr *peer);

/* It becomes something else; as what it was, it keeps its place. */
void addresses_become(struct address_ticket *t, enum address_rank rank);
/* It becomes ADDRESS_CALL. ADDRESS_CONNECTIONS, CONNECTIONS: it does not, there are too many of these already. */
uint32_t addresses_begin_call(struct address_ticket *t, const struct addresses_config *limit);

size_t addresses_connections(const struct addresses *a);
size_t addresses_count(const struct addresses *a);
