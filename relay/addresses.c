#include "relay/addresses.h"

#include <errno.h>
#include <netinet/in.h>
#include <search.h>
#include <string.h>

enum { RESERVE_PART = 64, WAITING_RANKS = 2 /* the first ones */ };

TAILQ_HEAD(address_line, address_ticket);

/* Of everybody, or of one address. */
struct group {
	size_t n, calls;
	size_t n_waiting[WAITING_RANKS];
	struct address_line waiting[WAITING_RANKS]; /* the longest first */
};

struct address {
	uint8_t key[16]; /* IPv6: the network, then zeros; IPv4: mapped */
	struct group group;
};

struct addresses {
	void *tree;
	size_t count;
	struct group all;
};

static void group_init(struct group *g)
{
	*g = (struct group){ 0 };
	for (size_t i = 0; i < WAITING_RANKS; i++)
		TAILQ_INIT(&g->waiting[i]);
}

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

static struct address *find(const struct addresses *a, const struct address *key)
{
	void *found = tfind(key, &a->tree, by_key);

	return found ? *(struct address **)found : NULL;
}

static struct address *add(struct addresses *a, const struct address *key)
{
	struct address *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	memcpy(e->key, key->key, sizeof(e->key));
	group_init(&e->group);
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
	group_init(&a->all);
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

unsigned addresses_reserve(unsigned limit)
{
	return MAX(limit / RESERVE_PART, (unsigned)(limit > 1));
}

static bool waits(enum address_rank rank)
{
	return rank <= ADDRESS_IDLE;
}

static struct group *group_of(const struct address_ticket *t, size_t i)
{
	return i == 0 ? &t->addresses->all : t->address ? &t->address->group : NULL;
}

static void join(struct address_ticket *t, enum address_rank rank)
{
	struct group *g;

	t->rank = rank;
	for (size_t i = 0; i < ARRAY_LEN(t->link) && (g = group_of(t, i)); i++) {
		g->calls += rank == ADDRESS_CALL;
		if (!waits(rank))
			continue;
		TAILQ_INSERT_TAIL(&g->waiting[rank], t, link[i]);
		g->n_waiting[rank]++;
	}
}

static void part(struct address_ticket *t)
{
	struct group *g;

	for (size_t i = 0; i < ARRAY_LEN(t->link) && (g = group_of(t, i)); i++) {
		g->calls -= t->rank == ADDRESS_CALL;
		if (!waits(t->rank))
			continue;
		TAILQ_REMOVE(&g->waiting[t->rank], t, link[i]);
		g->n_waiting[t->rank]--;
	}
}

uint32_t addresses_enter(struct addresses *a, const struct addresses_config *limit, const struct sockaddr *peer, struct address_ticket *t)
{
	struct address key = { .key = { 0 } }, *e = NULL;
	bool counts = key_of(peer, key.key);

	assert(!t->addresses);
	if (counts)
		e = find(a, &key);
	/* Its own address first: it is to make room at its own expense. */
	if (e && limit->each && e->group.n >= limit->each)
		return TP_REASON_ADDRESS_CONNECTIONS;
	if (limit->all && a->all.n >= limit->all)
		return TP_REASON_CONNECTIONS;
	if (counts && !e)
		e = add(a, &key);
	if (counts && !e)
		return TP_REASON_REFUSED;
	*t = (struct address_ticket){ .addresses = a, .address = e };
	a->all.n++;
	if (e)
		e->group.n++;
	join(t, ADDRESS_STRANGER);
	return TP_REASON_NONE;
}

void addresses_leave(struct address_ticket *t)
{
	struct addresses *a = t->addresses;

	if (!a)
		return;
	assert(a->all.n > 0);
	part(t);
	a->all.n--;
	if (t->address && --t->address->group.n == 0) {
		tdelete(t->address, &a->tree, by_key);
		a->count--;
		free(t->address);
	}
	*t = (struct address_ticket){ .addresses = NULL };
}

/* Were the strangers few, each would have to go for the next one, and nobody would ever get as far as to show a token. */
static struct address_ticket *oldest(const struct group *g, unsigned limit)
{
	bool idle = g->n_waiting[ADDRESS_STRANGER] <= addresses_reserve(limit) && !TAILQ_EMPTY(&g->waiting[ADDRESS_IDLE]);
	struct address_ticket *stranger = TAILQ_FIRST(&g->waiting[ADDRESS_STRANGER]);

	return idle || !stranger ? TAILQ_FIRST(&g->waiting[ADDRESS_IDLE]) : stranger;
}

struct address_ticket *addresses_in_the_way(const struct addresses *a, const struct addresses_config *limit, uint32_t reason,
					    const struct sockaddr *peer)
{
	struct address key = { .key = { 0 } };
	const struct address *e;

	if (reason == TP_REASON_CONNECTIONS)
		return oldest(&a->all, limit->all);
	if (reason != TP_REASON_ADDRESS_CONNECTIONS || !key_of(peer, key.key))
		return NULL;
	e = find(a, &key);
	return e ? oldest(&e->group, limit->each) : NULL;
}

void addresses_become(struct address_ticket *t, enum address_rank rank)
{
	if (t->rank == rank)
		return;
	part(t);
	join(t, rank);
}

static bool has_room(const struct group *g, unsigned limit)
{
	return limit == 0 || g->calls < limit - addresses_reserve(limit);
}

uint32_t addresses_begin_call(struct address_ticket *t, const struct addresses_config *limit)
{
	if (t->rank == ADDRESS_CALL)
		return TP_REASON_NONE;
	if (t->address && !has_room(&t->address->group, limit->each))
		return TP_REASON_ADDRESS_CONNECTIONS;
	if (!has_room(&t->addresses->all, limit->all))
		return TP_REASON_CONNECTIONS;
	addresses_become(t, ADDRESS_CALL);
	return TP_REASON_NONE;
}

size_t addresses_connections(const struct addresses *a)
{
	return a->all.n;
}

size_t addresses_count(const struct addresses *a)
{
	return a->count;
}
