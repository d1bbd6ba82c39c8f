#include "relay/metrics.h"

#include "daemon/openmetrics.h"
#include "relay/attach.h"

bool metrics_ready(const struct relay *r, struct buf *json_out)
{
	char detail[256];
	bool audit_ok = audit_setup_check(&r->audit, detail, sizeof(detail));
	bool ready = !r->stopping && (audit_ok || r->audit.shared.allow_on_failure);

	buf_printf(json_out,
		   "{\"ready\":%s,\"version\":\"" MCP_TUNNEL_VERSION "\",\"checks\":{\"running\":{\"ok\":%s,\"reason\":\"%s\"},"
		   "\"audit\":{\"ok\":%s,\"reason\":\"%s\",\"detail\":\"",
		   ready ? "true" : "false", r->stopping ? "false" : "true", r->stopping ? "stopping" : "ok", audit_ok ? "true" : "false",
		   audit_ok ? "ok" : "audit-unavailable");
	buf_add_json_text(json_out, detail);
	buf_printf(json_out, "\"}},\"gateways_attached\":%zu,\"calls_open\":%zu}\n", attach_count(r), r->calls_open);
	return ready;
}

#define PREFIX "mcp_tunnel_relay"

static int add_sessions(const struct relay *r, struct buf *out)
{
	const struct relay_counters *c = &r->counters;
	struct attach_totals t;

	attach_totals(r, &t);

	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "gateways_attached", "Sessions that are attached.", (double)t.attached },
		{ OPENMETRICS_GAUGE, "sessions_waiting", "Sessions that wait for their gateway to come back.", (double)t.waiting },
		{ OPENMETRICS_GAUGE, "streams_open", "Streams of all sessions that are open.", (double)t.streams },
		{ OPENMETRICS_GAUGE, "kept_bytes", "Bytes of frames queued and kept for resumption, of all sessions.", (double)r->kept_bytes },
		{ OPENMETRICS_COUNTER, "gateway_connections", "Upgrades asked for by gateways.", .count = c->gateway_connections },
		{ OPENMETRICS_COUNTER, "gateway_refused", "Gateways whose token was not valid.", .count = c->gateway_refused },
		{ OPENMETRICS_COUNTER, "sessions_attached", "Times a session was attached.", .count = c->sessions },
		{ OPENMETRICS_COUNTER, "sessions_resumed", "Times a session went on where it was.", .count = c->resumed },
		{ OPENMETRICS_COUNTER, "session_replayed_frames", "Frames sent again when a session went on.", .count = c->replayed_frames },
		{ OPENMETRICS_COUNTER, "session_replayed_bytes", "Bytes sent again when a session went on.", .count = c->replayed_bytes },
		{ OPENMETRICS_COUNTER, "credit_stalls", "Times that a stream had bytes for a gateway and no credit.", .count = t.stalls },
	};
	int rc = openmetrics_add(out, PREFIX, rows, ARRAY_LEN(rows));

	if (rc == 0)
		rc = openmetrics_by_reason(out, PREFIX, "sessions_lost", "Sessions that lost their connection and wait to go on, by reason.",
					   c->sessions_lost, ARRAY_LEN(c->sessions_lost));
	return rc < 0 ? rc : openmetrics_by_reason(out, PREFIX, "sessions_ended", "Sessions that are over, by reason.", c->sessions_ended,
						   ARRAY_LEN(c->sessions_ended));
}

static int add_traffic(const struct relay *r, struct buf *out)
{
	const struct relay_counters *c = &r->counters;
	const struct hold_counters *held = hold_counters(r->hold);
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "connections_open", "Connections of agents and gateways.", (double)addresses_connections(r->addresses) },
		{ OPENMETRICS_GAUGE, "calls_open", "Calls under way.", (double)r->calls_open },
		{ OPENMETRICS_GAUGE, "calls_held", "Calls that wait for a gateway.", (double)held->waiting },
		{ OPENMETRICS_GAUGE, "request_memory_bytes", "Request bodies that wait for their audit record.", (double)r->collected_bytes },
		{ OPENMETRICS_GAUGE, "loop_turn_seconds_max", "The longest turn of the event loop so far.",
		  (double)loop_turn_max_us(r->loop) / 1e6 },
		{ OPENMETRICS_GAUGE, "certificate_expiry_timestamp_seconds", "When the relay's certificate ends, since 1970; 0: there is none.",
		  r->tls ? (double)tls_certificate_until(r->tls) : 0 },
		{ OPENMETRICS_COUNTER, "calls_held_ever", "Times a call waited for a gateway.", .count = held->held },
		{ OPENMETRICS_COUNTER, "calls_held_expired", "Calls that waited in vain.", .count = held->expired },
		{ OPENMETRICS_COUNTER, "connections", "Connections accepted on public listeners.", .count = c->agent_connections },
		{ OPENMETRICS_COUNTER, "preflights", "Preflights of browsers that were answered.", .count = c->preflights },
		{ OPENMETRICS_COUNTER, "requests", "HTTP requests read.", .count = c->requests },
		{ OPENMETRICS_COUNTER, "calls_started", "Calls opened to gateways.", .count = c->calls_started },
		{ OPENMETRICS_COUNTER, "request_bytes", "Body bytes of calls, as agents sent them.", .count = c->request_bytes },
		{ OPENMETRICS_COUNTER, "response_bytes", "Body bytes of answers, as gateways sent them.", .count = c->response_bytes },
	};

	int rc = openmetrics_rows(out, PREFIX, rows, ARRAY_LEN(rows));

	return rc < 0 ? rc : openmetrics_by_reason(out, PREFIX, "connections_closed", "Connections that a limit of the relay ended, by reason.",
						   c->connections_closed, ARRAY_LEN(c->connections_closed));
}

static int add_calls(const struct relay_counters *c, struct buf *out)
{
	int rc = openmetrics_by_reason(out, PREFIX, "refused", "Requests that the relay answered with an error itself, by reason.",
				       c->refused, ARRAY_LEN(c->refused));

	if (rc == 0)
		rc = openmetrics_by_reason(out, PREFIX, "calls_ended", "Calls that ended, by reason; none means complete.", c->calls_ended,
					   ARRAY_LEN(c->calls_ended));
	if (rc == 0)
		rc = openmetrics_by_outcome(out, PREFIX, "calls_outcome", "Calls that ended, by what that means for the caller.",
					    c->calls_ended, ARRAY_LEN(c->calls_ended));
	if (rc == 0)
		rc = openmetrics_histogram(out, PREFIX, "call_first_byte_seconds",
					   "From the complete request to the head of the gateway's answer.", &c->first_byte);
	return rc < 0 ? rc : openmetrics_histogram(out, PREFIX, "call_duration_seconds",
						   "From the complete request to the end of the gateway's answer.", &c->duration);
}

int metrics_write(const struct relay *r, struct buf *out)
{
	int rc = add_traffic(r, out);

	if (rc == 0)
		rc = add_sessions(r, out);
	if (rc == 0)
		rc = audit_setup_metrics(&r->audit, out, PREFIX);
	if (rc == 0)
		rc = add_calls(&r->counters, out);
	return rc < 0 ? rc : openmetrics_process(out, PREFIX);
}
