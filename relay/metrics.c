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

int metrics_write(const struct relay *r, struct buf *out)
{
	const struct relay_counters *c = &r->counters;
	const struct openmetrics_row rows[] = {
		{ OPENMETRICS_GAUGE, "gateways_attached", "Sessions that are attached.", (double)attach_count(r) },
		{ OPENMETRICS_GAUGE, "calls_open", "Calls under way.", (double)r->calls_open },
		{ OPENMETRICS_GAUGE, "calls_held", "Calls that wait for a gateway.", (double)hold_counters(r->hold)->waiting },
		{ OPENMETRICS_GAUGE, "loop_turn_seconds_max", "The longest turn of the event loop so far.",
		  (double)loop_turn_max_us(r->loop) / 1e6 },
		{ OPENMETRICS_COUNTER, "calls_held_ever", "Times a call waited for a gateway.", .count = hold_counters(r->hold)->held },
		{ OPENMETRICS_COUNTER, "calls_held_expired", "Calls that waited in vain.", .count = hold_counters(r->hold)->expired },
		{ OPENMETRICS_GAUGE, "kept_bytes", "Bytes of frames queued and kept for resumption, of all sessions.", (double)r->kept_bytes },
		{ OPENMETRICS_COUNTER, "connections", "Connections accepted on public listeners.", .count = c->agent_connections },
		{ OPENMETRICS_COUNTER, "requests", "HTTP requests read.", .count = c->requests },
		{ OPENMETRICS_COUNTER, "calls_started", "Calls opened to gateways.", .count = c->calls_started },
		{ OPENMETRICS_COUNTER, "gateway_connections", "Upgrades asked for by gateways.", .count = c->gateway_connections },
		{ OPENMETRICS_COUNTER, "gateway_refused", "Gateways whose token was not valid.", .count = c->gateway_refused },
		{ OPENMETRICS_COUNTER, "sessions_attached", "Times a session was attached.", .count = c->sessions },
		{ OPENMETRICS_COUNTER, "sessions_resumed", "Times a session went on where it was.", .count = c->resumed },
	};
	int rc = openmetrics_rows(out, "mcp_tunnel_relay", rows, ARRAY_LEN(rows));

	if (rc == 0)
		rc = audit_setup_metrics(&r->audit, out, "mcp_tunnel_relay");
	if (rc == 0)
		rc = openmetrics_by_reason(out, "mcp_tunnel_relay", "refused", "Requests that the relay answered with an error itself, by reason.",
					   c->refused, ARRAY_LEN(c->refused));
	return rc < 0 ? rc : openmetrics_by_reason(out, "mcp_tunnel_relay", "calls_ended", "Calls that ended, by reason; none means complete.",
						   c->calls_ended, ARRAY_LEN(c->calls_ended));
}
