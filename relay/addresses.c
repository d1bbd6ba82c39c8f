#include "relay/addresses.h"

#include <errno.h>
#include <netinet/in.h>
#include <search.h>
#include <string.h>

struct address {
	uint8_t key[16]; /* IPv6: the network, then zeros; IPv4: mapped */
	size_t n;
};

struct addresses {
	void *tree;
	size_t connections, count;
};

static int by_key(const void *a, const void *b)
{
	return memcmp(((const struct address *)a)->key, ((const struct address *)b)->key, sizeof(((const struct address *)a)->key));
}

static bool key_of(const struct sockaddr *peer, uint8_t key[16])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	const struct sockaddr_in6 *in6 = (const void *)peer;
	const struct sockaddr_in *in = (const void *)peer;

	memset(key, 0, 16);
	if (!peer)
		return false;
	if (peer->sa_family == AF_INET) {
		memcpy(key, mapped, sizeof(mapped));
		memcpy(key + sizeof(mapped), &in->sin_addr, 4);
		return true;
	}
	if (peer->sa_family != AF_INET6)
		return false;
	memcpy(key, &in6->sin6_addr, IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) ? 16 : 8);
	return true;
}

static struct address *find(struct addresses *a, const struct address *key)
{
	void *found = tfind(key, &a->tree, by_key);

	return found ? *(struct address **)found : NULL;
}

static struct address *add(struct addresses *a, const struct address *key)
{
	struct address *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	*e = *key;
	if (!tsearch(e, &a->tree, by_key)) {
		free(e);
		return NULL;
	}
	a->count++;
	return e;
}

int addresses_new(struct addresses **ret)
{
	struct addresses *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	*ret = a;
	return 0;
}

struct addresses *addresses_free(struct addresses *a)
{
	if (!a)
		return NULL;
	tdestroy(a->tree, free);
	free(a);
	return NULL;
}

uint32_t addresses_enter(struct addresses *a, const struct addresses_config *limit, const struct sockaddr *peer, struct address_ticket *t)
{
	struct address key = { .n = 0 }, *e = NULL;

	assert(!t->addresses);
	if (limit->all && a->connections >= limit->all)
		return TP_REASON_CONNECTIONS;
	if (key_of(peer, key.key)) {
		e = find(a, &key);
		if (e && limit->each && e->n >= limit->each)
			return TP_REASON_ADDRESS_CONNECTIONS;
		if (!e)
			e = add(a, &key);
		if (!e)
			return TP_REASON_REFUSED;
		e->n++;
	}
	a->connections++;
	*t = (struct address_ticket){ a, e };
	return TP_REASON_NONE;
}

void addresses_leave(struct address_ticket *t)
{
	struct addresses *a = t->addresses;

	if (!a)
		return;
	assert(a->connections > 0);
	a->connections--;
	if (t->address && --t->address->n == 0) {
		tdelete(t->address, &a->tree, by_key);
		a->count--;
		free(t->address);
	}
	*t = (struct address_ticket){ NULL, NULL };
}

size_t addresses_connections(const struct addresses *a)
{
	return a->connections;
}

size_t addresses_count(const struct addresses *a)
{
	return a->count;
}
