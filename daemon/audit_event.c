#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "daemon/audit_private.h"
#include "proto/jcs.h"
#include "proto/reasons.h"

enum { ARGS_HASH_MAX = 96, SESSION_HASH_MAX = 128 };

/* What both records of a call say about it, and where it was. */
enum fact {
	FACT_TUNNEL_ID,
	FACT_SESSION,
	FACT_PEER,
	FACT_CALL_ID,
	FACT_KIND,
	FACT_METHOD,
	FACT_TOOL,
	FACT_PROMPT,
	FACT_JSONRPC_ID,
	FACT_AGENT_ID,
	FACT_AGENT_AUTH,
	FACT_N
};
static_assert((int)FACT_N == (int)AUDIT_FACTS_MAX, "facts");

static const struct fact_field {
	const char *name;
	size_t max;
	const char *word; /* in MESSAGE */
	bool quoted;
} fact_fields[FACT_N] = {
	[FACT_TUNNEL_ID] = { "MCP_TUNNEL_ID", 128, NULL, false },
	[FACT_SESSION] = { "MCP_TUNNEL_SESSION", 64, NULL, false },
	[FACT_PEER] = { "MCP_PEER", 128, NULL, false },
	[FACT_CALL_ID] = { "MCP_CALL_ID", 64, "call", false },
	[FACT_KIND] = { "MCP_KIND", 32, NULL, false },
	[FACT_METHOD] = { "MCP_METHOD", AUDIT_NAME_MAX, "method", false },
	[FACT_TOOL] = { "MCP_TOOL", AUDIT_NAME_MAX, "tool", true },
	[FACT_PROMPT] = { "MCP_PROMPT", AUDIT_NAME_MAX, "prompt", true },
	[FACT_JSONRPC_ID] = { "MCP_JSONRPC_ID", AUDIT_NAME_MAX, NULL, false },
	[FACT_AGENT_ID] = { "MCP_AGENT_ID", AUDIT_NAME_MAX, "agent", true },
	[FACT_AGENT_AUTH] = { "MCP_AGENT_AUTH", 32, NULL, false },
};

static const struct audit_kind gateway_start = { "gateway.start", "ed2ace8591ec4094af2e0b47d22092cd" },
			       gateway_stop = { "gateway.stop", "3703804856074a25b701b602aa4dbd13" },
			       call_request = { "call.request", "b841c1811f564dbba297bc18d8dee8aa" },
			       call_response = { "call.response", "ba9050821cf242d4a0d3709bbfbe2dbc" },
			       call_denied = { "call.denied", "af8637b252624887ae3c855d6fa56728" },
			       gap = { "audit.gap", "fd51e8e536664291b0b99ef985095b0a" },
			       checkpoint = { "audit.checkpoint", AUDIT_CHECKPOINT_ID };

static const struct note_kind {
	struct audit_kind kind;
	char priority, bad_priority;
} note_kinds[] = {
	[AUDIT_SESSION_OPEN] = { { "session.open", "8d1190d8970e4fa788c01af984571d6d" }, '6', '4' },
	[AUDIT_SESSION_CLOSE] = { { "session.close", "8302686870ac4ee8bf34a150825741b0" }, '6', '4' },
	[AUDIT_SESSION_RESUME] = { { "session.resume", "d81a258d093847ddab1105a431cb462d" }, '5', '4' },
	[AUDIT_AUTH_FAILURE] = { { "auth.failure", "c55ef14be89042d78813188eafad2062" }, '4', '4' },
	[AUDIT_CONFIG_RELOAD] = { { "config.reload", "b0b293516c8343b0b61abb3d57f9b2d6" }, '5', '3' },
	[AUDIT_CANARY] = { { "audit.checkpoint", AUDIT_CHECKPOINT_ID }, '6', '6' },
	[AUDIT_PEER_CHECKPOINT] = { { "audit.checkpoint", AUDIT_CHECKPOINT_ID }, '6', '6' },
};

/* ---- Parts ---- */

static struct span time_now(struct audit *a)
{
	uint64_t now = clock_wall_us();
	char *at = a->stamp + AUDIT_TIME_LEN - 1;

	if (a->stamp_s != now / 1000000) {
		audit_format_time(now, a->stamp);
		a->stamp_s = now / 1000000;
	}
	now %= 1000000;
	for (int i = 0; i < 6; i++, now /= 10)
		*--at = (char)('0' + now % 10);
	return span_make(a->stamp, AUDIT_TIME_LEN);
}

static struct audit_record *begin(struct audit *a)
{
	struct audit_record *r = &a->record;

	audit_record_begin(r);
	audit_record_add(r, "MCP_TIME", time_now(a));
	return r;
}

static struct audit_entry *finish(struct audit *a, const struct audit_kind *kind, enum audit_role role, char priority)
{
	struct audit_entry *e = NULL;

	if (audit_queue_has_room(a, sizeof(*e) + sizeof(a->record)))
		e = audit_entry_new(&a->record, kind, role, priority);
	if (e)
		audit_queue_put(a, e);
	return e;
}

void audit_put_again(struct audit *a, struct audit_entry *take_entry)
{
	audit_entry_stamp(take_entry, time_now(a));
	audit_queue_put(a, take_entry);
}

/* A value that is a field and a word of the line, from outside. */
static void put_both(struct audit_record *r, const char *name, const char *word, struct span value, size_t max)
{
	if (!value.p)
		return;
	audit_record_text(r, name, value, max);
	audit_line_word(r, word, value);
}

static void put_number(struct audit_record *r, const char *name, const char *word, uint64_t value)
{
	audit_record_u64(r, name, value);
	audit_line_u64(r, word, value);
}

static void put_reason(struct audit_record *r, const char *reason)
{
	put_both(r, "MCP_REASON", "reason", span_of(reason), AUDIT_NAME_MAX);
}

static void put_detail(struct audit_record *r, const char *detail)
{
	if (!detail || !*detail)
		return;
	audit_record_text(r, "MCP_DETAIL", span_of(detail), AUDIT_NAME_MAX);
	audit_line_quoted(r, "detail", span_of(detail));
}

static bool is_digits(struct span s, const char *digits, size_t min, size_t max)
{
	if (s.len < min || s.len > max)
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (!strchr(digits, s.p[i]) || !s.p[i])
			return false;
	return true;
}

/* CHAINID:SEQ:HEX, or nothing at all. */
static void put_peer_head(struct audit_record *r, struct span head)
{
	struct span rest = head, id = span_split(&rest, ':'), seq = span_split(&rest, ':');
	static const char hex[] = "0123456789abcdef";

	if (!is_digits(id, hex, AUDIT_CHAIN_ID_LEN, AUDIT_CHAIN_ID_LEN) ||
	    !is_digits(seq, "0123456789", 1, AUDIT_U64_DIGITS) ||
	    !is_digits(rest, hex, AUDIT_CHAIN_HEX, AUDIT_CHAIN_HEX))
		return;
	audit_record_text(r, "MCP_PEER_CHAIN_ID", id, AUDIT_CHAIN_ID_LEN);
	audit_record_text(r, "MCP_PEER_SEQ", seq, AUDIT_U64_DIGITS);
	audit_record_text(r, "MCP_PEER_CHAIN", rest, AUDIT_CHAIN_HEX);
}

/* ---- Facts of a call ---- */

/* The form that RFC 8785 gives, without looking further: a whole number of up to 15 digits, or a plain string. */
static bool is_canonical(struct span id)
{
	size_t i = 0, digits;

	if (id.len >= 2 && id.p[0] == '"') {
		for (i = 1; i < id.len - 1; i++)
			if (id.p[i] < ' ' || id.p[i] > '~' || id.p[i] == '"' || id.p[i] == '\\')
				return false;
		return id.p[i] == '"';
	}
	i = id.len && id.p[0] == '-';
	digits = id.len - i;
	if (digits == 0 || digits > 15 || (id.p[i] == '0' && id.len > 1))
		return false;
	for (; i < id.len; i++)
		if (id.p[i] < '0' || id.p[i] > '9')
			return false;
	return true;
}

/* 1 is not "1", but 1.0 is 1. */
static struct span canonical_id(struct span id, struct buf *canon)
{
	if (!id.p || is_canonical(id) || jcs_canonicalize(id, canon) != 0)
		return id;
	return buf_span(canon);
}

static struct span or_else(struct span s, const char *otherwise)
{
	return s.len ? s : span_of(otherwise);
}

void audit_find_facts(const struct audit_call *c, struct span f[AUDIT_FACTS_MAX], struct buf *canon)
{
	static const char *const kinds[] = {
		[MCP_REQUEST] = "request",
		[MCP_NOTIFICATION] = "notification",
		[MCP_RESPONSE] = "response",
		[MCP_BATCH] = "batch",
	};
	const struct mcp_view *v = c->view;

	memset(f, 0, FACT_N * sizeof(*f));
	f[FACT_TUNNEL_ID] = c->where.tunnel_id;
	f[FACT_SESSION] = c->where.session_id;
	f[FACT_PEER] = c->where.peer;
	f[FACT_CALL_ID] = c->call_id;
	if (v) {
		f[FACT_KIND] = span_of(kinds[v->kind]);
		f[FACT_METHOD] = v->method;
		f[FACT_JSONRPC_ID] = canonical_id(v->id, canon);
	}
	if (span_is(f[FACT_METHOD], "tools/call"))
		f[FACT_TOOL] = v->name;
	if (span_is(f[FACT_METHOD], "prompts/get"))
		f[FACT_PROMPT] = v->name;
	f[FACT_AGENT_ID] = or_else(c->agent, "unknown");
	f[FACT_AGENT_AUTH] = or_else(c->agent_auth, "none");
}

static void put_facts(struct audit_record *r, const struct span f[FACT_N])
{
	static const enum fact words[] = { FACT_CALL_ID, FACT_AGENT_ID, FACT_METHOD, FACT_TOOL, FACT_PROMPT };

	for (size_t i = 0; i < FACT_N; i++)
		audit_record_text(r, fact_fields[i].name, f[i], fact_fields[i].max);
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		const struct fact_field *field = &fact_fields[words[i]];

		if (!f[words[i]].p)
			continue;
		if (field->quoted)
			audit_line_quoted(r, field->word, f[words[i]]);
		else
			audit_line_word(r, field->word, f[words[i]]);
	}
}

/* The fields that call.request and call.denied share. */
static void put_call(struct audit_record *r, const struct audit_call *c, const struct span f[FACT_N],
		     const char *decision)
{
	put_facts(r, f);
	put_both(r, "MCP_ARGS_HASH", "args", c->args_hash, ARGS_HASH_MAX);
	audit_record_add(r, "MCP_DECISION", span_of(decision));
	audit_line_word(r, "decision", span_of(decision));
	audit_record_text(r, "MCP_SESSION_HASH", c->session_hash, SESSION_HASH_MAX);
	audit_record_text(r, "MCP_TRACE_ID", audit_trace_id(c->trace), 32);
	audit_record_u64(r, "MCP_REQ_BYTES", c->request_bytes);
	audit_record_text(r, "MCP_ROUTE", c->route, 128);
	audit_record_text(r, "MCP_UPSTREAM", span_of(c->upstream), 256);
	if (c->view) {
		audit_record_text(r, "MCP_PROTOCOL_VERSION", c->view->protocol_version, 48);
		audit_record_text(r, "MCP_AGENT_CLAIMED", c->view->client_name, AUDIT_NAME_MAX);
	}
}

/* ---- Calls ---- */

static void put_rule(struct audit_record *r, const char *rule)
{
	if (!rule || !*rule)
		return;
	audit_record_text(r, "MCP_RULE", span_of(rule), AUDIT_NAME_MAX);
	audit_line_quoted(r, "rule", span_of(rule));
}

struct audit_entry *audit_put_request(struct audit *a, const struct audit_call *c, const struct span f[AUDIT_FACTS_MAX])
{
	struct audit_record *r = begin(a);

	put_call(r, c, f, "allow");
	put_rule(r, c->rule);
	return finish(a, &call_request, AUDIT_ROLE_REQUEST, '6');
}

struct audit_entry *audit_put_denied(struct audit *a, const struct audit_call *c, const struct span f[AUDIT_FACTS_MAX],
				     uint32_t reason, const char *rule)
{
	struct audit_record *r = begin(a);

	put_call(r, c, f, "deny");
	put_reason(r, tp_reason_name(reason));
	put_rule(r, rule);
	return finish(a, &call_denied, AUDIT_ROLE_FACT, '4');
}

static const char *status_of(const struct audit_ending *e)
{
	switch (e->reason) {
	case TP_REASON_NONE:
		if (e->has_answer && e->has_rpc_error)
			return "rpc_error";
		if (e->http_status >= 400)
			return "http_error";
		return e->has_answer && e->is_error ? "tool_error" : "ok";
	case TP_REASON_UPSTREAM_TIMEOUT:
	case TP_REASON_DEADLINE:
		return "timeout";
	case TP_REASON_UPSTREAM_UNREACHABLE:
		return "upstream_unreachable";
	case TP_REASON_CANCELLED:
	case TP_REASON_KEY_REVOKED:
	case TP_REASON_NOT_READ:
		return "cancelled";
	case TP_REASON_SESSION_LOST:
	case TP_REASON_KEEPALIVE:
	case TP_REASON_REPLACED:
	case TP_REASON_RELAY_STOPPED:
	case TP_REASON_TOKEN_REVOKED:
		return "session_lost";
	case TP_REASON_GATEWAY_STOPPED:
		return "gateway_stopped";
	default:
		return "http_error";
	}
}

static char priority_of(const char *status)
{
	if (strcmp(status, "ok") == 0)
		return '6';
	return strcmp(status, "tool_error") == 0 || strcmp(status, "rpc_error") == 0 ? '5' : '4';
}

static void put_answer(struct audit_record *r, const struct audit_ending *e)
{
	if (!e->has_answer)
		return;
	if (!e->has_rpc_error) {
		audit_record_add(r, "MCP_IS_ERROR", e->is_error ? SPAN("true") : SPAN("false"));
		return;
	}
	audit_record_i64(r, "MCP_RPC_ERROR_CODE", e->rpc_error_code);
	audit_line_i64(r, "rpc", e->rpc_error_code);
}

static void put_ending(struct audit_record *r, const struct audit_ending *e, const char *status, uint64_t duration_us)
{
	audit_record_add(r, "MCP_STATUS", span_of(status));
	audit_line_word(r, "status", span_of(status));
	put_reason(r, tp_reason_name(e->reason));
	if (e->http_status)
		put_number(r, "MCP_HTTP_STATUS", "http", e->http_status);
	put_answer(r, e);
	put_number(r, "MCP_DURATION_US", "duration_us", duration_us);
	if (e->http_status)
		audit_record_u64(r, "MCP_TTFB_US", e->ttfb_us);
	put_number(r, "MCP_RESP_BYTES", "resp_bytes", e->response_bytes);
	if (e->response_events)
		audit_record_u64(r, "MCP_RESP_EVENTS", e->response_events);
	put_peer_head(r, e->peer_head);
}

struct audit_entry *audit_put_response(struct audit *a, const struct audit_open *o, const struct audit_ending *e)
{
	struct audit_record *r = begin(a);
	const char *status = status_of(e);

	put_facts(r, o->facts);
	put_ending(r, e, status, loop_now_us(a->loop) - o->started_us);
	return finish(a, &call_response, AUDIT_ROLE_RESPONSE, priority_of(status));
}

/* ---- Other events ---- */

static void put_where(struct audit_record *r, const struct audit_where *w)
{
	put_both(r, "MCP_TUNNEL_ID", "tunnel", w->tunnel_id, fact_fields[FACT_TUNNEL_ID].max);
	put_both(r, "MCP_TUNNEL_SESSION", "session", w->session_id, fact_fields[FACT_SESSION].max);
	put_both(r, "MCP_PEER", "peer", w->peer, fact_fields[FACT_PEER].max);
}

static void put_totals(struct audit *a, struct audit_record *r)
{
	put_number(r, "MCP_RECORDS", "records", a->counters.written);
	put_number(r, "MCP_CALLS_OPEN", "open", a->n_open);
	put_number(r, "MCP_CALLS_REFUSED", "refused", a->counters.refused);
	put_number(r, "MCP_GAPS", "gaps", a->counters.gaps);
}

struct audit_entry *audit_put_note(struct audit *a, enum audit_event ev, const struct audit_note *n)
{
	const struct note_kind *k = &note_kinds[ev];
	struct audit_record *r = begin(a);

	put_where(r, &n->where);
	put_reason(r, n->reason);
	put_detail(r, n->detail);
	if (ev == AUDIT_SESSION_RESUME) {
		put_number(r, "MCP_REPLAYED_BYTES", "replayed_bytes", n->replayed_bytes);
		put_number(r, "MCP_REPLAYED_FRAMES", "replayed_frames", n->replayed_frames);
		put_number(r, "MCP_DOWN_MS", "down_ms", n->down_ms);
	}
	if (ev == AUDIT_PEER_CHECKPOINT)
		put_peer_head(r, n->peer_head);
	if (ev == AUDIT_CANARY) {
		put_both(r, "MCP_NONCE", "nonce", n->nonce, AUDIT_NAME_MAX);
		put_totals(a, r);
	}
	return finish(a, &k->kind, ev == AUDIT_CANARY ? AUDIT_ROLE_CHECKPOINT : AUDIT_ROLE_FACT,
		      n->bad ? k->bad_priority : k->priority);
}

struct audit_entry *audit_put_checkpoint(struct audit *a)
{
	put_totals(a, begin(a));
	return finish(a, &checkpoint, AUDIT_ROLE_CHECKPOINT, '6');
}

struct audit_entry *audit_put_start(struct audit *a)
{
	audit_line_word(begin(a), "version", SPAN(MCP_TUNNEL_VERSION));
	return finish(a, &gateway_start, AUDIT_ROLE_FACT, '5');
}

struct audit_entry *audit_put_stop(struct audit *a, const char *why)
{
	struct audit_record *r = begin(a);

	put_reason(r, why);
	put_totals(a, r);
	return finish(a, &gateway_stop, AUDIT_ROLE_FACT, '5');
}

struct audit_entry *audit_put_gap(struct audit *a, const struct audit_gap *g)
{
	struct audit_record *r = begin(a);

	put_both(r, "MCP_CALL_ID", "call", span_of(g->call_id), 64);
	audit_record_time(r, "MCP_GAP_FROM", g->from_us);
	audit_record_time(r, "MCP_GAP_TO", g->to_us);
	put_number(r, "MCP_GAP_COUNT", "count", g->count);
	audit_record_text(r, "MCP_GAP_CAUSE", span_of(g->cause), 64);
	audit_line_word(r, "cause", span_of(g->cause));
	put_detail(r, g->detail);
	return finish(a, &gap, g->last_told ? AUDIT_ROLE_GAP_TOLD : AUDIT_ROLE_GAP, '2');
}
