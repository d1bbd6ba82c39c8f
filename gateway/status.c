#include "gateway/status.h"

#include <stdio.h>

#include "proto/reasons.h"

static bool upstream_ok(const struct gateway_status *st)
{
	return st->upstream->known && st->upstream->reason == TP_REASON_NONE;
}

static bool session_ok(const struct gateway_status *st)
{
	return st->session->state == SESSION_ATTACHED;
}

bool status_is_ready(const struct gateway_status *st)
{
	return session_ok(st) && upstream_ok(st) && st->audit_ok && !st->stopping;
}

/* Text of other machines goes into JSON only through this. */
static int add_json_string(struct buf *out, const char *s)
{
	int r = buf_add_str(out, "\"");

	for (; *s && r == 0; s++) {
		if (*s == '"' || *s == '\\')
			r = buf_printf(out, "\\%c", *s);
		else if ((uint8_t)*s < 0x20 || (uint8_t)*s >= 0x7f)
			r = buf_printf(out, "\\u%04x", (uint8_t)*s);
		else
			r = buf_add(out, s, 1);
	}
	return r < 0 ? r : buf_add_str(out, "\"");
}

static void add_check(struct buf *out, bool first, const char *name, bool ok, const char *reason, const char *detail,
		      uint64_t age_ms)
{
	buf_printf(out, "%s\"%s\":{\"ok\":%s,\"reason\":\"%s\",\"detail\":", first ? "" : ",", name, ok ? "true" : "false", reason);
	add_json_string(out, detail ? detail : "");
	buf_printf(out, ",\"age_s\":%.1f}", (double)age_ms / 1000);
}

static const char *session_reason(const struct gateway_status *st)
{
	if (st->session->failure != SESSION_FAILURE_NONE)
		return session_failure_name(st->session->failure);
	return session_state_name(st->session->state);
}

bool status_ready_json(const struct gateway_status *st, struct buf *out)
{
	const struct upstream_health *u = st->upstream;
	bool ready = status_is_ready(st);

	buf_printf(out, "{\"ready\":%s,\"version\":\"" MCP_TUNNEL_VERSION "\",\"checks\":{", ready ? "true" : "false");
	add_check(out, true, "session", session_ok(st), session_reason(st), st->session->detail,
		  st->now_ms - st->session->since_ms);
	add_check(out, false, "upstream", upstream_ok(st),
		  upstream_ok(st) ? "reachable" : u->known ? tp_reason_name(u->reason) : "not-tried-yet", u->detail,
		  u->known ? st->now_ms - u->seen_ms : 0);
	add_check(out, false, "audit", st->audit_ok, st->audit_ok ? "ok" : "audit-unavailable", st->audit_detail, 0);
	add_check(out, false, "running", !st->stopping, st->stopping ? "stopping" : "ok", "", 0);
	buf_add_str(out, "}}\n");
	return ready;
}

static int gauge(struct buf *out, const char *name, const char *help, double value)
{
	return buf_printf(out, "# TYPE mcp_tunnel_gateway_%s gauge\n# HELP mcp_tunnel_gateway_%s %s\nmcp_tunnel_gateway_%s %.10g\n",
			  name, name, help, name, value);
}

static int counter(struct buf *out, const char *name, const char *help, uint64_t value)
{
	return buf_printf(out,
			  "# TYPE mcp_tunnel_gateway_%s counter\n# HELP mcp_tunnel_gateway_%s %s\n"
			  "mcp_tunnel_gateway_%s_total %llu\n",
			  name, name, help, name, (unsigned long long)value);
}

static int calls_ended(struct buf *out, const struct exchange_counters *c)
{
	int r = buf_add_str(out, "# TYPE mcp_tunnel_gateway_calls_ended counter\n"
				 "# HELP mcp_tunnel_gateway_calls_ended Exchanges that ended, by reason; none means complete.\n");

	for (uint32_t code = 0; code < ARRAY_LEN(c->ended) && r == 0; code++)
		if (tp_reason_known(code))
			r = buf_printf(out, "mcp_tunnel_gateway_calls_ended_total{reason=\"%s\"} %llu\n", tp_reason_name(code),
				       (unsigned long long)c->ended[code]);
	return r;
}

int status_metrics(const struct gateway_status *st, struct buf *out)
{
	const struct exchange_counters *c = &st->exchanges->counters;
	int r;

	r = buf_add_str(out, "# TYPE mcp_tunnel_gateway_build info\n# HELP mcp_tunnel_gateway_build Version.\n"
			     "mcp_tunnel_gateway_build_info{version=\"" MCP_TUNNEL_VERSION "\"} 1\n");
	if (r == 0)
		r = gauge(out, "ready", "1 when a call would get through now.", status_is_ready(st));
	if (r == 0)
		r = gauge(out, "session_attached", "1 while a session to the relay is attached.", session_ok(st));
	if (r == 0)
		r = gauge(out, "upstream_reachable", "1 when the last attempt to reach the MCP server succeeded.", upstream_ok(st));
	if (r == 0)
		r = gauge(out, "exchanges_open", "Exchanges under way.", (double)st->exchanges->open);
	if (r == 0)
		r = gauge(out, "session_memory_bytes", "Bytes of frames kept and queued.", (double)st->memory);
	if (r == 0)
		r = gauge(out, "session_rtt_seconds", "Round trip to the relay.", (double)st->rtt_us / 1e6);
	if (r == 0)
		r = counter(out, "session_attached_times", "Times a session was attached.", st->session->attached_total);
	if (r == 0)
		r = counter(out, "session_resumed_times", "Times it went on where it was.", st->session->resumed_total);
	if (r == 0)
		r = counter(out, "exchanges_started", "Exchanges opened by the relay.", c->started);
	if (r == 0)
		r = counter(out, "request_bytes", "Request body bytes sent to the MCP server.", c->request_bytes);
	if (r == 0)
		r = counter(out, "response_bytes", "Response body bytes taken from the MCP server.", c->response_bytes);
	return r < 0 ? r : calls_ended(out, c);
}

void status_line(const struct gateway_status *st, char *dst, size_t size)
{
	if (st->stopping)
		snprintf(dst, size, "Stopping: %zu calls open", st->exchanges->open);
	else if (!session_ok(st))
		snprintf(dst, size, "Not ready: %s%s%s", session_reason(st), st->session->detail[0] ? ": " : "", st->session->detail);
	else if (!st->audit_ok)
		snprintf(dst, size, "Not ready: audit-unavailable: %s", st->audit_detail ? st->audit_detail : "");
	else if (!upstream_ok(st))
		snprintf(dst, size, "Not ready: MCP server %s: %s", st->upstream_name,
			 st->upstream->known ? st->upstream->detail : "not tried yet");
	else
		snprintf(dst, size, "Ready: attached, MCP server %s reachable", st->upstream_name);
}
