/* What the gateway says of itself: /readyz, /metrics and systemd's STATUS. Pure: facts in, text out. */
#pragma once

#include "gateway/exchange.h"
#include "gateway/session.h"

struct status_route {
	const char *name; /* "": the default one */
	const char *upstream_name;
	const struct upstream_health *upstream;
};

struct gateway_status {
	uint64_t now_ms;
	const struct session_status *session;
	bool resuming; /* not attached, and it may go on where it was: calls wait for it */
	struct status_route routes[ROUTES_MAX];
	size_t n_routes;
	const struct exchange_context *exchanges;
	bool audit_ok;
	bool audit_optional; /* calls go on without (--audit-on-failure continue) */
	char audit_detail[256]; /* a phrase, or empty */
	uint64_t audit_since_ms; /* of it being so */
	bool stopping;
	uint64_t stopping_since_ms;
	size_t memory; /* of the session, bytes */
	size_t streams, max_streams;
	uint64_t stalls;
	struct upstream_pool pool;
	uint64_t certificate_until; /* seconds since 1970; 0: none is shown */
	uint64_t rtt_us;
	uint64_t turn_max_us;
};

/* True when a call would get through now. */
bool status_is_ready(const struct gateway_status *st);
/* One JSON object that names every check; returns status_is_ready(). */
bool status_ready_json(const struct gateway_status *st, struct buf *out);
/* OpenMetrics text, without the final # EOF. */
int status_metrics(const struct gateway_status *st, struct buf *out);
/* One sentence. */
void status_line(const struct gateway_status *st, char *dst, size_t size);
