/* What one agent, and what all agents of one tunnel may do: requests a second, calls and streams at once. Pure; the time is an argument.
 *
 * There is an account for each agent and tunnel that has done something in the last seconds or has something open, and
 * only who is registered gets one: bounded by the registry, not by what strangers send.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"
#include "proto/reasons.h"

enum { LIMITS_BURST = 10 }; /* times the rate may come at once */

struct limits;
struct limits_account;

/* 0: no limit. Rates are a second. */
struct limits_config {
	unsigned agent_rate, tunnel_rate, agent_streams;
};

/* Embedded in what is open; zero: nothing. */
struct limits_ticket {
	struct limits *limits;
	struct limits_account *agent;
};

int limits_new(const struct limits_config *cfg, struct limits **ret);
struct limits *limits_free(struct limits *l);
/* From now on; what is open stays. */
void limits_set(struct limits *l, const struct limits_config *cfg);

/* A request of a registered agent. TP_REASON_NONE: it is open until limits_leave(); or AGENT_RATE, TUNNEL_RATE, AGENT_STREAMS, or REFUSED
 * (out of memory). */
uint32_t limits_enter(struct limits *l, struct span tunnel, const char *agent, uint64_t now_ms, struct limits_ticket *t);
void limits_leave(struct limits_ticket *t);

/* A refusal is to be written down: false when that happens too often for this agent; else *ret_skipped of them before were not. */
bool limits_record(struct limits *l, struct span tunnel, const char *agent, uint64_t now_ms, uint64_t *ret_skipped);

/* Every second or so: forgets who is idle, but those of whom a record has still to tell that others are missing. */
void limits_sweep(struct limits *l, uint64_t now_ms);
size_t limits_accounts(const struct limits *l);
