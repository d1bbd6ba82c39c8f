#include "relay/limits.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/token.h"
#include "proto/budget.h"
#include "relay/registry.h"

enum {
	IDLE_MS = (LIMITS_BURST + 1) * 1000, /* by then every bucket is full again */
	RECORDS_RATE = 1,                    /* refusals of one agent that are written down */
	RECORDS_BURST = 10,
};

struct limits_account {
	char name[TUNNEL_ID_MAX + 1 + AGENT_NAME_MAX + 1]; /* TUNNEL, or TUNNEL/AGENT: neither has a slash */
	TAILQ_ENTRY(limits_account) link;
	struct budget requests, records;
	uint64_t skipped; /* refusals without a record */
	size_t open;
	uint64_t used_ms;
};

struct limits {
	struct limits_config cfg;
	void *tree;
	TAILQ_HEAD(limits_accounts, limits_account) accounts; /* the longest idle first */
	size_t n;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct limits_account *)a)->name, ((const struct limits_account *)b)->name);
}

static void set_rate(struct budget *b, unsigned rate)
{
	uint64_t burst = (uint64_t)rate * LIMITS_BURST;

	if (b->rate != rate)
		budget_init(b, rate, (uint32_t)burst);
}

static struct limits_account *account_new(struct limits *l, const char *name)
{
	struct limits_account *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	snprintf(a->name, sizeof(a->name), "%s", name);
	budget_init(&a->records, RECORDS_RATE, RECORDS_BURST);
	if (!tsearch(a, &l->tree, by_name)) {
		free(a);
		return NULL;
	}
	TAILQ_INSERT_TAIL(&l->accounts, a, link);
	l->n++;
	return a;
}

/* For every call: printf() would cost as much as all else here. */
static void name_account(char *dst, struct span tunnel, const char *agent)
{
	size_t n = MIN(tunnel.len, (size_t)TUNNEL_ID_MAX), len = agent ? strnlen(agent, AGENT_NAME_MAX) : 0;

	memcpy(dst, tunnel.p, n);
	if (agent)
		dst[n++] = '/';
	memcpy(dst + n, agent ? agent : "", len);
	dst[n + len] = '\0';
}

/* agent: NULL for the tunnel's own. */
static struct limits_account *account(struct limits *l, struct span tunnel, const char *agent, uint64_t now_ms)
{
	struct limits_account key, *a;
	void *found;

	name_account(key.name, tunnel, agent);
	found = tfind(&key, &l->tree, by_name);
	a = found ? *(struct limits_account **)found : account_new(l, key.name);
	if (!a)
		return NULL;
	a->used_ms = now_ms;
	TAILQ_REMOVE(&l->accounts, a, link);
	TAILQ_INSERT_TAIL(&l->accounts, a, link);
	return a;
}

static void account_free(struct limits *l, struct limits_account *a)
{
	tdelete(a, &l->tree, by_name);
	TAILQ_REMOVE(&l->accounts, a, link);
	l->n--;
	free(a);
}

int limits_new(const struct limits_config *cfg, struct limits **ret)
{
	struct limits *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->cfg = *cfg;
	TAILQ_INIT(&l->accounts);
	*ret = l;
	return 0;
}

struct limits *limits_free(struct limits *l)
{
	struct limits_account *a;

	if (!l)
		return NULL;
	while ((a = TAILQ_FIRST(&l->accounts)))
		account_free(l, a);
	free(l);
	return NULL;
}

void limits_set(struct limits *l, const struct limits_config *cfg)
{
	l->cfg = *cfg;
}

static bool may_take(struct limits_account *a, unsigned rate, uint64_t now_ms)
{
	set_rate(&a->requests, rate);
	return rate == 0 || budget_has(&a->requests, now_ms);
}

static void take(struct limits_account *a, unsigned rate, uint64_t now_ms)
{
	if (rate)
		(void)budget_take(&a->requests, now_ms);
}

/* What is refused for one's sake counts against nobody: neither the tunnel for what its agent may not, nor the agent for what others did. */
uint32_t limits_enter(struct limits *l, struct span tunnel, const char *agent, uint64_t now_ms, struct limits_ticket *t)
{
	struct limits_account *a, *all;

	assert(!t->agent);
	a = account(l, tunnel, agent, now_ms);
	all = a ? account(l, tunnel, NULL, now_ms) : NULL;
	if (!all)
		return TP_REASON_REFUSED;
	if (!may_take(a, l->cfg.agent_rate, now_ms))
		return TP_REASON_AGENT_RATE;
	if (l->cfg.agent_streams && a->open >= l->cfg.agent_streams)
		return TP_REASON_AGENT_STREAMS;
	if (!may_take(all, l->cfg.tunnel_rate, now_ms))
		return TP_REASON_TUNNEL_RATE;
	take(a, l->cfg.agent_rate, now_ms);
	take(all, l->cfg.tunnel_rate, now_ms);
	a->open++;
	*t = (struct limits_ticket){ l, a };
	return TP_REASON_NONE;
}

void limits_leave(struct limits_ticket *t)
{
	if (!t->agent)
		return;
	assert(t->agent->open > 0);
	t->agent->open--;
	*t = (struct limits_ticket){ NULL, NULL };
}

bool limits_record(struct limits *l, struct span tunnel, const char *agent, uint64_t now_ms, uint64_t *ret_skipped)
{
	struct limits_account *a = account(l, tunnel, agent, now_ms);

	if (!a)
		return false;
	if (!budget_take(&a->records, now_ms)) {
		a->skipped++;
		return false;
	}
	*ret_skipped = a->skipped;
	a->skipped = 0;
	return true;
}

void limits_sweep(struct limits *l, uint64_t now_ms)
{
	struct limits_account *a;

	while ((a = TAILQ_FIRST(&l->accounts)) && now_ms - a->used_ms >= IDLE_MS) {
		if (!a->open && !a->skipped) {
			account_free(l, a);
			continue;
		}
		a->used_ms = now_ms;
		TAILQ_REMOVE(&l->accounts, a, link);
		TAILQ_INSERT_TAIL(&l->accounts, a, link);
	}
}

size_t limits_accounts(const struct limits *l)
{
	return l->n;
}
