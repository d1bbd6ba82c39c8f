#include "gateway/status.h"

#include <stdio.h>

#include "daemon/openmetrics.h"
#include "proto/reasons.h"

static bool upstream_ok(const struct upstream_health *u)
{
	return u->known && u->reason == TP_REASON_NONE;
}

/* The first whose MCP server is not reachable; NULL: all are. */
static const struct status_route *bad_route(const struct gateway_status *st)
{
	for (size_t i = 0; i < st->n_routes; i++)
		if (!upstream_ok(st->routes[i].upstream))
			return &st->routes[i];
	return NULL;
}

static bool session_ok(const struct gateway_status *st)
{
	return (st->session->state == SESSION_ATTACHED && !st->session->going_away) || st->resuming;
}

static bool audit_ok(const struct gateway_status *st)
{
	return st->audit_ok || st->audit_optional;
}

static bool has_room(const struct gateway_status *st)
{
	return !st->max_streams || st->streams < st->max_streams;
}

bool status_is_ready(const struct gateway_status *st)
{
	return session_ok(st) && !bad_route(st) && audit_ok(st) && has_room(st) && !st->stopping;
}

static void add_check(struct buf *out, bool first, const char *name, bool ok, const char *reason, const char *detail,
		      uint64_t age_ms)
{
	buf_printf(out, "%s\"%s\":{\"ok\":%s,\"reason\":\"%s\",\"detail\":\"", first ? "" : ",", name, ok ? "true" : "false", reason);
	buf_add_json_text(out, detail ? detail : "");
	buf_printf(out, "\",\"age_s\":%.1f}", (double)age_ms / 1000);
}

static const char *session_detail(const struct gateway_status *st)
{
	const struct session_status *s = st->session;

	if (s->state == SESSION_ATTACHED)
		return s->going_away ? "the relay sends no new calls" : "";
	return s->detail[0] ? s->detail : "no attempt has come to an end yet";
}

static const char *session_reason(const struct gateway_status *st)
{
	if (st->resuming)
		return "resuming";
	if (st->session->state == SESSION_ATTACHED && st->session->going_away)
		return "relay-going-away";
	if (st->session->failure != SESSION_FAILURE_NONE)
		return session_failure_name(st->session->failure);
	return session_state_name(st->session->state);
}

static void add_route(const struct gateway_status *st, const struct status_route *route, struct buf *out)
{
	const struct upstream_health *u = route->upstream;
	char name[16 + TUNNEL_ID_MAX];

	snprintf(name, sizeof(name), "upstream%s%s", *route->name ? ":" : "", route->name);
	add_check(out, false, name, upstream_ok(u), upstream_ok(u) ? "reachable" : u->known ? tp_reason_name(u->reason) : "not-tried-yet",
		  u->known ? u->detail : "no answer yet", u->known ? st->now_ms - u->seen_ms : 0);
}

bool status_ready_json(const struct gateway_status *st, struct buf *out)
{
	bool ready = status_is_ready(st);
	char room[64];

	buf_printf(out, "{\"ready\":%s,\"version\":\"" MCP_TUNNEL_VERSION "\",\"checks\":{", ready ? "true" : "false");
	add_check(out, true, "session", session_ok(st), session_reason(st), session_detail(st),
		  st->now_ms - st->session->since_ms);
	for (size_t i = 0; i < st->n_routes; i++)
		add_route(st, &st->routes[i], out);
	add_check(out, false, "audit", audit_ok(st), st->audit_ok ? "ok" : "audit-unavailable", st->audit_detail,
		  st->now_ms - st->audit_since_ms);
	snprintf(room, sizeof(room), "%zu of %zu streams are open", st->streams, st->max_streams);
	add_check(out, false, "room", has_room(st), has_room(st) ? "ok" : "max-streams", room, 0);
	add_check(out, false, "running", !st->stopping, st->stopping ? "stopping" : "ok", "",
		  st->stopping ? st->now_ms - st->stopping_since_ms : 0);
	buf_add_str(out, "}}\n");
	return ready;
}

#define PREFIX "mcp_tunnel_gateway"

static int add_state(const struct gateway_status *st, struct buf *out)
{
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "ready", "1 when a call would get through now.", status_is_ready(st) },
		{ OPENMETRICS_GAUGE, "session_attached", "1 while a session to the relay is attached.",
		  st->session->state == SESSION_ATTACHED },
		{ OPENMETRICS_GAUGE, "exchanges_open", "Exchanges under way.", (double)st->exchanges->open },
		{ OPENMETRICS_GAUGE, "streams_open", "Streams of the session that are open.", (double)st->streams },
		{ OPENMETRICS_GAUGE, "session_memory_bytes", "Bytes of frames kept and queued.", (double)st->memory },
		{ OPENMETRICS_GAUGE, "session_rtt_seconds", "Round trip to the relay.", (double)st->rtt_us / 1e6 },
		{ OPENMETRICS_GAUGE, "request_memory_bytes", "Request bodies that are being collected, or not sent yet.",
		  (double)(st->exchanges->collected_bytes + st->pool.request_bytes) },
		{ OPENMETRICS_GAUGE, "loop_turn_seconds_max", "The longest turn of the event loop so far.",
		  (double)st->turn_max_us / 1e6 },
		{ OPENMETRICS_GAUGE, "certificate_expiry_timestamp_seconds", "When the client certificate for the relay ends, since 1970; 0: there is none.",
		  (double)st->certificate_until },
	};

	return openmetrics_rows(out, PREFIX, rows, ARRAY_LEN(rows));
}

/* The default route's has no label: to Prometheus that is the same as an empty one. */
static int add_reachable(const struct gateway_status *st, struct buf *out)
{
	const char *names[ROUTES_MAX] = { NULL };
	double values[ROUTES_MAX] = { 0 };

	for (size_t i = 0; i < st->n_routes; i++) {
		names[i] = st->routes[i].name;
		values[i] = upstream_ok(st->routes[i].upstream);
	}
	return openmetrics_gauges(out, PREFIX, "upstream_reachable", "1 when the last attempt to reach the MCP server (of a route) succeeded.",
				  "route", names, values, st->n_routes);
}

static int add_session(const struct gateway_status *st, struct buf *out)
{
	const struct session_status *s = st->session;
	const char *names[SESSION_FAILURES] = { NULL };
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_COUNTER, "session_attached_times", "Times a session was attached.", .count = s->attached_total },
		{ OPENMETRICS_COUNTER, "session_resumed_times", "Times it went on where it was.", .count = s->resumed_total },
		{ OPENMETRICS_COUNTER, "session_replayed_frames", "Frames sent again when a session went on.",
		  .count = s->replayed_frames_total },
		{ OPENMETRICS_COUNTER, "session_replayed_bytes", "Bytes sent again when a session went on.", .count = s->replayed_bytes_total },
		{ OPENMETRICS_COUNTER, "credit_stalls", "Times that a stream had bytes for the relay and no credit.", .count = st->stalls },
	};
	int r = openmetrics_add(out, PREFIX, rows, ARRAY_LEN(rows));

	for (size_t i = SESSION_FAILURE_NONE + 1; i < SESSION_FAILURES; i++)
		names[i] = session_failure_name((enum session_failure)i);
	if (r == 0)
		r = openmetrics_by_name(out, PREFIX, "session_lost", "Times an attached session lost its connection, by reason.", "reason", names,
					s->lost_total, SESSION_FAILURES);
	return r < 0 ? r : openmetrics_by_name(out, PREFIX, "session_attempts_failed", "Attempts to attach that failed, by reason.", "reason",
					       names, s->failed_total, SESSION_FAILURES);
}

static int add_upstream(const struct gateway_status *st, struct buf *out)
{
	static const char *const classes[] = { NULL, NULL, "2xx", "3xx", "4xx", "5xx" };
	const struct upstream_pool *p = &st->pool;
	const struct exchange_counters *c = &st->exchanges->counters;
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "upstream_connections", "Connections to the MCP server for calls.", (double)p->open },
		{ OPENMETRICS_GAUGE, "upstream_connections_idle", "Of them, those that no call uses at the moment.", (double)p->idle },
		{ OPENMETRICS_COUNTER, "upstream_dials", "Connections to the MCP server asked for.", .count = p->dialled },
		{ OPENMETRICS_COUNTER, "upstream_dials_failed", "Of them, those that came to nothing.", .count = p->failed },
		{ OPENMETRICS_COUNTER, "upstream_reused", "Calls that went over a kept connection.", .count = p->reused },
		{ OPENMETRICS_COUNTER, "upstream_retried", "Of them, those that needed a new one, as the kept one had died.", .count = p->retried },
		{ OPENMETRICS_COUNTER, "request_bytes", "Request body bytes sent to the MCP server.", .count = c->request_bytes },
		{ OPENMETRICS_COUNTER, "response_bytes", "Response body bytes taken from the MCP server.", .count = c->response_bytes },
		{ OPENMETRICS_COUNTER, "filtered_entries", "Entries that the rules left out of lists in answers.", .count = c->filtered.removed },
	};
	int r = openmetrics_add(out, PREFIX, rows, ARRAY_LEN(rows));

	return r < 0 ? r : openmetrics_by_name(out, PREFIX, "upstream_answers", "Answers of the MCP server, by class of their status.", "status",
					       classes, c->answers, ARRAY_LEN(classes));
}

static int add_calls(const struct exchange_counters *c, struct buf *out)
{
	const struct openmetrics_row started = { OPENMETRICS_COUNTER, "exchanges_started", "Exchanges opened by the relay.",
						 .count = c->started };
	int r = openmetrics_add(out, PREFIX, &started, 1);

	if (r == 0)
		r = openmetrics_by_reason(out, PREFIX, "calls_ended", "Exchanges that ended, by reason; none means complete.", c->ended,
					  ARRAY_LEN(c->ended));
	if (r == 0)
		r = openmetrics_by_outcome(out, PREFIX, "calls_outcome", "Exchanges that ended, by what that means for the caller.", c->ended,
					   ARRAY_LEN(c->ended));
	if (r == 0)
		r = openmetrics_histogram(out, PREFIX, "added_seconds",
					  "Added by the gateway: from the complete request to its first byte on the way to the MCP server.", &c->added);
	if (r == 0)
		r = openmetrics_histogram(out, PREFIX, "upstream_first_byte_seconds",
					  "The MCP server's own: from the request's first byte to the head of the answer.", &c->first_byte);
	return r < 0 ? r : openmetrics_histogram(out, PREFIX, "upstream_duration_seconds",
						 "The MCP server's own: from the request's first byte to the end of the answer.", &c->duration);
}

int status_metrics(const struct gateway_status *st, struct buf *out)
{
	int r = add_state(st, out);

	if (r == 0)
		r = add_reachable(st, out);
	if (r == 0)
		r = add_session(st, out);
	if (r == 0)
		r = add_upstream(st, out);
	if (r == 0)
		r = add_calls(&st->exchanges->counters, out);
	return r < 0 ? r : openmetrics_process(out, PREFIX);
}

/* Of what has a session and room, and can write its records. */
static void routes_line(const struct gateway_status *st, char *dst, size_t size)
{
	const struct status_route *bad = bad_route(st);
	const char *gap = st->audit_ok ? "" : "; calls have no record: ", *why = st->audit_ok ? "" : st->audit_detail;

	if (bad)
		snprintf(dst, size, "Not ready: MCP server %s%s%s%s: %s", bad->upstream_name, *bad->name ? " (route " : "", bad->name,
			 *bad->name ? ")" : "", bad->upstream->known ? bad->upstream->detail : "not tried yet");
	else if (st->resuming)
		snprintf(dst, size, "Ready: resuming, calls wait: %s", session_detail(st));
	else if (st->n_routes == 1)
		snprintf(dst, size, "Ready: attached, MCP server %s reachable%s%s", st->routes[0].upstream_name, gap, why);
	else
		snprintf(dst, size, "Ready: attached, all %zu MCP servers reachable%s%s", st->n_routes, gap, why);
}

void status_line(const struct gateway_status *st, char *dst, size_t size)
{
	if (st->stopping)
		snprintf(dst, size, "Stopping: %zu calls open", st->exchanges->open);
	else if (!session_ok(st))
		snprintf(dst, size, "Not ready: %s: %s", session_reason(st), session_detail(st));
	else if (!audit_ok(st))
		snprintf(dst, size, "Not ready: audit-unavailable: %s", st->audit_detail);
	else if (!has_room(st))
		snprintf(dst, size, "Not ready: all %zu streams are open (--max-streams)", st->max_streams);
	else
		routes_line(st, dst, size);
}
