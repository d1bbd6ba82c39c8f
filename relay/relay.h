/* What the relay's modules share: configuration, registry, sessions of gateways, connections of agents, counters. Owned by
 * relay/relay.c. */
#pragma once

#include <sys/queue.h>

#include "daemon/audit_setup.h"
#include "daemon/loop.h"
#include "daemon/openmetrics.h"
#include "daemon/tls.h"
#include "proto/budget.h"
#include "proto/tunnel.h"
#include "relay/addresses.h"
#include "relay/config.h"
#include "relay/hold.h"
#include "relay/limits.h"
#include "relay/registry.h"
#include "relay/request.h"

#define RELAY_MAGIC 0x72656c79

struct front;
struct attached;

struct relay_counters {
	uint64_t agent_connections, requests;
	uint64_t preflights;
	uint64_t connections_closed[64];         /* because of a limit, by reason */
	uint64_t refused[64];                    /* by the relay itself, by reason */
	uint64_t calls_started, calls_ended[64]; /* by reason; [NONE]: complete */
	uint64_t request_bytes, response_bytes;
	/* Of POST alone: a GET stream waits for events. */
	struct openmetrics_times first_byte; /* from the complete request to the head of the gateway's answer */
	struct openmetrics_times duration;   /* and to its end */
	uint64_t gateway_connections, gateway_refused, sessions, resumed;
	uint64_t sessions_lost[64], sessions_ended[64]; /* connections that may come back; for good; by reason */
	uint64_t replayed_frames, replayed_bytes;
	uint64_t stalls; /* of sessions that are gone */
};

struct relay {
	unsigned magic;
	const struct relay_config *cfg;
	struct loop *loop;
	struct tls_context *tls; /* for new connections; relay/refresh.c replaces it */
	struct registry *registry;
	struct hold *hold;
	struct limits *limits;
	struct addresses *addresses;
	struct addresses_config connections; /* how many there may be */
	struct request_names names;
	TAILQ_HEAD(front_list, front) fronts;          /* connections of agents, and gateways before their upgrade */
	TAILQ_HEAD(attached_list, attached) attached;  /* sessions, newest first */
	struct audit_setup audit;
	struct state_dir *state; /* of the audit log */
	struct budget auth_failures;
	uint64_t auth_failures_skipped;
	size_t calls_open;
	uint64_t collected_bytes, max_collected_bytes; /* request bodies that wait for their record, all together */
	size_t kept_bytes; /* frames of all sessions, for resumption */
	bool stopping;
	uint64_t started_ms;
	struct relay_counters counters;
};

/* 0; -EINVAL for the configuration, other -errno for the machine; err gets one line for people. */
int relay_new(const struct relay_config *cfg, char *err, size_t err_size, struct relay **ret);
struct relay *relay_free(struct relay *r);
int relay_run(struct relay *r);

/* How agents identify themselves: "bearer" or "none". */
static inline const char *relay_agent_auth(const struct relay *r)
{
	return r->cfg->agents_need_key ? "bearer" : "none";
}
