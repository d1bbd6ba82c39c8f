/* Networks in CIDR form, and whether an address is in one. IPv4 addresses in IPv6 clothes (::ffff:0:0/96) are IPv4. Pure. */
#pragma once

#include "base/check.h"
#include "base/span.h"

struct sockaddr;

struct address {
	size_t len; /* 4 or 16 */
	uint8_t bytes[16];
};

struct network {
	struct address base;
	unsigned bits;
};

/* "192.0.2.1", "2001:db8::1" or "[2001:db8::1]". -EINVAL. */
int address_parse(struct span text, struct address *ret);
/* -EAFNOSUPPORT for anything but AF_INET and AF_INET6. */
int address_of(const struct sockaddr *sa, struct address *ret);
/* An address, or one with /BITS behind it. Bits of the address behind the prefix are ignored. -EINVAL. */
int network_parse(struct span text, struct network *ret);
bool network_has(const struct network *n, const struct address *a);
