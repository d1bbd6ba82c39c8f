#include "gateway/guard.h"

#include <errno.h>

#define NET4(a, b, c, d, n) { { 4, { a, b, c, d } }, n }
#define NET6(a, b, n) { { 16, { a, b } }, n }

static const struct network private_networks[] = {
	NET4(127, 0, 0, 0, 8),
	NET4(10, 0, 0, 0, 8),
	NET4(172, 16, 0, 0, 12),
	NET4(192, 168, 0, 0, 16),
	{ { 16, { [15] = 1 } }, 128 },
	NET6(0xfc, 0, 7),
};

static const struct network never[] = {
	NET4(0, 0, 0, 0, 8),
	NET4(169, 254, 0, 0, 16),
	NET4(224, 0, 0, 0, 3), /* multicast, reserved, broadcast */
	{ { 16, { 0 } }, 128 },
	NET6(0xfe, 0x80, 10),
	NET6(0xff, 0, 8),
	/* Metadata and credentials of clouds among the unique local addresses: fd00:ec2::254 and ::23, fd20:ce::254, fd00:42::42. */
	{ { 16, { 0xfd, 0, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54 } }, 128 },
	{ { 16, { 0xfd, 0, 0x0e, 0xc2, [15] = 0x23 } }, 128 },
	{ { 16, { 0xfd, 0x20, 0, 0xce, [14] = 0x02, [15] = 0x54 } }, 128 },
	{ { 16, { 0xfd, 0, 0, 0x42, [15] = 0x42 } }, 128 },
	/* 169.254.0.0/16 through NAT64, whose prefix somebody may have allowed: 64:ff9b::a9fe:0/112. */
	{ { 16, { 0, 0x64, 0xff, 0x9b, [12] = 169, [13] = 254 } }, 112 },
};

static bool any_has(const struct network *list, size_t n, const struct address *a)
{
	for (size_t i = 0; i < n; i++)
		if (network_has(&list[i], a))
			return true;
	return false;
}

int guard_add(struct guard *g, const char *text)
{
	int r;

	if (g->n == GUARD_NETWORKS_MAX)
		return -ENOSPC;
	r = network_parse(span_of(text), &g->allowed[g->n]);
	if (r == 0)
		g->n++;
	return r;
}

bool guard_allows(const struct guard *g, const struct address *a)
{
	if (any_has(never, ARRAY_LEN(never), a))
		return false;
	return g->n ? any_has(g->allowed, g->n, a) : any_has(private_networks, ARRAY_LEN(private_networks), a);
}
