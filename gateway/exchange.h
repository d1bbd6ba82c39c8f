/* One stream of the session and one request to the MCP server: collects and judges the request, writes it down, sends it,
 * and carries the answer back as it comes.
 *
 * States: COLLECT (the body is not complete) -> RECORDING (it may pass, its records are not accepted yet) -> UPSTREAM (sent, the
 * answer flows) -> gone. An exchange frees itself when its
 * stream is over; the session never outlives the streams it tells about.
 */
#pragma once

#include "daemon/audit_calls.h"
#include "daemon/openmetrics.h"
#include "daemon/transport.h"
#include "gateway/filter.h"
#include "gateway/routes.h"

struct exchange;

struct exchange_counters {
	uint64_t started;
	uint64_t ended[64]; /* by reason; [TP_REASON_NONE]: complete */
	uint64_t request_bytes, response_bytes;
	struct filter_totals filtered;
	uint64_t answers[6]; /* by the first digit of their status */
	/* Of POST alone: a GET stream waits for events. */
	struct openmetrics_times added;         /* from the complete request to its first byte on the way to the MCP server */
	struct openmetrics_times first_byte;    /* from that to the answer's head */
	struct openmetrics_times duration;      /* and to its end */
};

/* What all exchanges of a gateway share. Owned by gateway/gateway.c. */
struct exchange_context {
	struct loop *loop;
	struct transport *transport;
	struct routes *routes; /* for calls from now on; each takes a reference */
	const struct audit_calls_shared *audit;
	const struct audit_hash *hash;   /* of the token that is attached */
	const struct audit_where *where; /* who is */
	/* running */
	uint64_t collected_bytes;
	size_t open;
	TAILQ_HEAD(exchange_list, exchange) exchanges;
	struct exchange_counters counters;
};

void exchange_context_init(struct exchange_context *x);

/* For TP_EV_OPEN. The exchange answers or resets the stream, whatever happens. */
void exchange_open(struct exchange_context *x, const struct tp_event *ev);
/* For TP_EV_DATA, RESET and WRITABLE of a stream that exchange_open() has seen. */
void exchange_event(struct exchange_context *x, const struct tp_event *ev);

/* Ends all that are open, at drain time's end. */
void exchange_end_all(struct exchange_context *x, uint32_t reason, const char *detail);
