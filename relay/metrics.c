#include "relay/metrics.h"

#include "proto/reasons.h"
#include "relay/attach.h"

bool metrics_ready(const struct relay *r, struct buf *json_out)
{
	buf_printf(json_out,
		   "{\"ready\":%s,\"version\":\"" MCP_TUNNEL_VERSION "\",\"checks\":{\"running\":{\"ok\":%s,\"reason\":\"%s\"}},"
		   "\"gateways_attached\":%zu,\"calls_open\":%zu}\n",
		   r->stopping ? "false" : "true", r->stopping ? "false" : "true", r->stopping ? "stopping" : "ok", attach_count(r),
		   r->calls_open);
	return !r->stopping;
}

static int metric(struct buf *out, const char *type, const char *name, const char *help, uint64_t value)
{
	return buf_printf(out, "# TYPE mcp_tunnel_relay_%s %s\n# HELP mcp_tunnel_relay_%s %s\nmcp_tunnel_relay_%s%s %llu\n", name,
			  type, name, help, name, type[0] == 'c' ? "_total" : "", (unsigned long long)value);
}

static int calls_ended(struct buf *out, const struct relay_counters *c)
{
	int rc = buf_add_str(out, "# TYPE mcp_tunnel_relay_calls_ended counter\n"
				  "# HELP mcp_tunnel_relay_calls_ended Calls that ended, by reason; none means complete.\n");

	for (uint32_t code = 0; code < ARRAY_LEN(c->calls_ended) && rc == 0; code++)
		if (tp_reason_known(code))
			rc = buf_printf(out, "mcp_tunnel_relay_calls_ended_total{reason=\"%s\"} %llu\n", tp_reason_name(code),
					(unsigned long long)c->calls_ended[code]);
	return rc;
}

int metrics_write(const struct relay *r, struct buf *out)
{
	const struct relay_counters *c = &r->counters;
	const struct {
		const char *type, *name, *help;
		uint64_t value;
	} rows[] = {
		{ "gauge", "gateways_attached", "Sessions that are attached.", attach_count(r) },
		{ "gauge", "calls_open", "Calls under way.", r->calls_open },
		{ "gauge", "calls_held", "Calls that wait for a gateway.", hold_counters(r->hold)->waiting },
		{ "counter", "calls_held_ever", "Times a call waited for a gateway.", hold_counters(r->hold)->held },
		{ "counter", "calls_held_expired", "Calls that waited in vain.", hold_counters(r->hold)->expired },
		{ "counter", "connections", "Connections accepted on public listeners.", c->agent_connections },
		{ "counter", "requests", "HTTP requests read.", c->requests },
		{ "counter", "refused", "Requests that the relay answered with an error itself.", c->refused },
		{ "counter", "calls_started", "Calls opened to gateways.", c->calls_started },
		{ "counter", "gateway_connections", "Upgrades asked for by gateways.", c->gateway_connections },
		{ "counter", "gateway_refused", "Gateways whose token was not valid.", c->gateway_refused },
		{ "counter", "sessions_attached", "Times a session was attached.", c->sessions },
		{ "counter", "sessions_resumed", "Times a session went on where it was.", c->resumed },
	};
	int rc = buf_add_str(out, "# TYPE mcp_tunnel_relay_build info\n# HELP mcp_tunnel_relay_build Version.\n"
				  "mcp_tunnel_relay_build_info{version=\"" MCP_TUNNEL_VERSION "\"} 1\n");

	for (size_t i = 0; i < ARRAY_LEN(rows) && rc == 0; i++)
		rc = metric(out, rows[i].type, rows[i].name, rows[i].help, rows[i].value);
	return rc < 0 ? rc : calls_ended(out, c);
}
