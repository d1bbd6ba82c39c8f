#include "daemon/audit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "daemon/audit_hash.h"
#include "daemon/audit_writer.h"
#include "proto/jcs.h"
#include "proto/reasons.h"

enum {
	AUDIT_MAGIC = 0x41554454,
	DETAIL_MAX = 320,
	WARN_EVERY_US = 2000000,
	LABEL_MAX = 128, /* identifier, tunnel, session, peer */
	FACT_KEEP = AUDIT_NAME_MAX + 8, /* cut at this length, a value is escaped and cut to the same text as the whole */
};

/* What both records of a call say about it. */
enum fact { FACT_CALL_ID, FACT_KIND, FACT_METHOD, FACT_TOOL, FACT_PROMPT, FACT_AGENT_ID, FACT_AGENT_AUTH, FACT_N };

static const struct {
	const char *name;
	size_t max;
} fact_fields[FACT_N] = {
	[FACT_CALL_ID] = { "MCP_CALL_ID", 64 },
	[FACT_KIND] = { "MCP_KIND", 32 },
	[FACT_METHOD] = { "MCP_METHOD", AUDIT_NAME_MAX },
	[FACT_TOOL] = { "MCP_TOOL", AUDIT_NAME_MAX },
	[FACT_PROMPT] = { "MCP_PROMPT", AUDIT_NAME_MAX },
	[FACT_AGENT_ID] = { "MCP_AGENT_ID", AUDIT_NAME_MAX },
	[FACT_AGENT_AUTH] = { "MCP_AGENT_AUTH", 32 },
};

static const struct event_kind {
	const char *name, *message_id;
} call_request = { "call.request", "b841c1811f564dbba297bc18d8dee8aa" },
  call_response = { "call.response", "ba9050821cf242d4a0d3709bbfbe2dbc" },
  call_denied = { "call.denied", "af8637b252624887ae3c855d6fa56728" };

struct audit_open {
	uint64_t started_us;
	struct span facts[FACT_N];
	char text[];
};

struct label {
	char text[LABEL_MAX];
	size_t len;
	bool present;
};

struct audit {
	unsigned magic;
	struct loop *loop;
	struct audit_writer *writer; /* NULL: AUDIT_NONE */
	struct audit_hash hash;
	struct label identifier, tunnel_id, session, peer;
	uint64_t seq;
	uint64_t stamp_s; /* the second that stamp is of */
	char stamp[sizeof("1970-01-01T00:00:00.000000Z")];
	bool failing;
	bool warned; /* and the end of it is still to be told */
	uint64_t warned_us;
	uint64_t n_refused, n_lost; /* not told yet */
	char detail[DETAIL_MAX];
	struct audit_record record;
};

static void label_set(struct label *l, const char *value)
{
	l->present = value != NULL;
	l->len = value ? audit_escape(span_of(value), l->text, sizeof(l->text), false) : 0;
}

int audit_new(struct loop *l, const struct audit_config *cfg, char *err, size_t err_size, struct audit **ret)
{
	struct audit *a = calloc(1, sizeof(*a));
	int r = 0;

	if (!a) {
		snprintf(err, err_size, "audit: out of memory");
		return -ENOMEM;
	}
	a->magic = AUDIT_MAGIC;
	a->loop = l;
	a->stamp_s = UINT64_MAX;
	label_set(&a->identifier, cfg->identifier ? cfg->identifier : "mcp-tunnel");
	label_set(&a->tunnel_id, cfg->tunnel_id);
	if (cfg->sink != AUDIT_NONE) {
		r = cfg->hash_secret.len ? audit_hash_init(&a->hash, cfg->hash_secret) : -EINVAL;
		if (r < 0)
			snprintf(err, err_size, "audit: no key for the hash of arguments: %s", strerror(-r));
		else
			r = audit_writer_new(cfg->sink, cfg->path, err, err_size, &a->writer);
	}
	if (r < 0) {
		audit_free(a);
		return r;
	}
	*ret = a;
	return 0;
}

struct audit *audit_free(struct audit *a)
{
	if (!a)
		return NULL;
	CHECK_OBJ(a, AUDIT_MAGIC);
	audit_writer_free(a->writer);
	audit_hash_done(&a->hash);
	a->magic = 0;
	free(a);
	return NULL;
}

void audit_reopen(struct audit *a)
{
	int r = a->writer ? audit_writer_reopen(a->writer) : 0;

	if (r < 0)
		log_error("audit: cannot open the file anew: %s; records go on into the old one", strerror(-r));
}

bool audit_healthy(const struct audit *a, const char **ret_detail)
{
	if (a->failing)
		*ret_detail = a->detail;
	return !a->failing;
}

void audit_set_session(struct audit *a, const char *session_id, const char *peer)
{
	label_set(&a->session, session_id);
	label_set(&a->peer, peer);
}

/* ---- Parts of a record ---- */

static void digits(char *p, unsigned n, uint64_t value)
{
	while (n--) {
		p[n] = (char)('0' + value % 10);
		value /= 10;
	}
}

static struct span time_now(struct audit *a)
{
	enum { FRACTION_AT = sizeof("1970-01-01T00:00:00.") - 1 };
	uint64_t now = clock_wall_us();
	time_t s = (time_t)(now / 1000000);
	struct tm tm;

	if (a->stamp_s != now / 1000000) {
		gmtime_r(&s, &tm);
		strftime(a->stamp, sizeof(a->stamp), "%Y-%m-%dT%H:%M:%S.000000Z", &tm);
		a->stamp_s = now / 1000000;
	}
	digits(a->stamp + FRACTION_AT, 6, now % 1000000);
	return span_of(a->stamp);
}

static void put_label(struct audit *a, const char *name, const struct label *l)
{
	if (l->present)
		audit_record_add(&a->record, name, span_make(l->text, l->len));
}

static void begin(struct audit *a, const struct event_kind *ev, struct span priority)
{
	struct audit_record *r = &a->record;

	audit_record_begin(r);
	audit_record_add(r, "MESSAGE_ID", span_of(ev->message_id));
	audit_record_add(r, "PRIORITY", priority);
	put_label(a, "SYSLOG_IDENTIFIER", &a->identifier);
	audit_record_add(r, "MCP_SCHEMA", SPAN("1"));
	audit_record_add(r, "MCP_EVENT", span_of(ev->name));
	audit_record_add(r, "MCP_TIME", time_now(a));
	audit_record_add(r, "MCP_GATEWAY_VERSION", SPAN(MCP_TUNNEL_VERSION));
	audit_record_u64(r, "MCP_SEQ", a->seq);
	put_label(a, "MCP_TUNNEL_ID", &a->tunnel_id);
	put_label(a, "MCP_TUNNEL_SESSION", &a->session);
	put_label(a, "MCP_PEER", &a->peer);
	audit_line_word(r, "ev", span_of(ev->name));
	audit_line_u64(r, "seq", a->seq);
}

static struct span or_else(struct span s, const char *otherwise)
{
	return s.len ? s : span_of(otherwise);
}

static void find_facts(const struct audit_call *c, struct span f[FACT_N])
{
	static const char *const kinds[] = {
		[MCP_REQUEST] = "request",
		[MCP_NOTIFICATION] = "notification",
		[MCP_RESPONSE] = "response",
		[MCP_BATCH] = "batch",
	};
	const struct mcp_view *v = c->view;

	f[FACT_CALL_ID] = c->call_id;
	f[FACT_KIND] = span_of(kinds[v ? v->kind : MCP_BATCH]);
	f[FACT_METHOD] = v ? v->method : (struct span){ NULL, 0 };
	if (span_is(f[FACT_METHOD], "tools/call"))
		f[FACT_TOOL] = v->name;
	if (span_is(f[FACT_METHOD], "prompts/get"))
		f[FACT_PROMPT] = v->name;
	f[FACT_AGENT_ID] = or_else(c->agent, "unknown");
	f[FACT_AGENT_AUTH] = or_else(c->agent_auth, "none");
}

static void put_facts(struct audit_record *r, const struct span f[FACT_N])
{
	for (size_t i = 0; i < FACT_N; i++)
		audit_record_text(r, fact_fields[i].name, f[i], fact_fields[i].max);
	if (f[FACT_CALL_ID].p)
		audit_line_word(r, "call", f[FACT_CALL_ID]);
	audit_line_quoted(r, "agent", f[FACT_AGENT_ID]);
	if (f[FACT_METHOD].p)
		audit_line_word(r, "method", f[FACT_METHOD]);
	if (f[FACT_TOOL].p)
		audit_line_quoted(r, "tool", f[FACT_TOOL]);
	if (f[FACT_PROMPT].p)
		audit_line_quoted(r, "prompt", f[FACT_PROMPT]);
}

/* 1 is not "1", but 1.0 is 1. */
static void put_jsonrpc_id(struct audit_record *r, struct span id)
{
	enum { CANON_MAX = 8 * MCP_ID_MAX };
	struct buf canon;

	if (!id.p)
		return;
	buf_init(&canon, CANON_MAX);
	if (jcs_canonicalize(id, &canon) == 0)
		id = buf_span(&canon);
	audit_record_text(r, "MCP_JSONRPC_ID", id, AUDIT_NAME_MAX);
	buf_done(&canon);
}

static int put_hash(struct audit *a, const struct audit_call *c)
{
	char text[AUDIT_HASH_TEXT_LEN + 1];
	int r;

	/* The arguments of a batch are not known one by one; "none" would be wrong. */
	if (!c->view)
		return 0;
	r = audit_hash_arguments(&a->hash, c->arguments, text);
	if (r < 0)
		return r;
	audit_record_text(&a->record, "MCP_ARGS_HASH", span_of(text), AUDIT_HASH_TEXT_LEN);
	audit_line_word(&a->record, "args", span_of(text));
	return 0;
}

/* The fields that call.request and call.denied share. */
static int put_call(struct audit *a, const struct audit_call *c, const struct span f[FACT_N], const char *decision)
{
	struct audit_record *r = &a->record;
	int e;

	put_facts(r, f);
	if (c->view)
		put_jsonrpc_id(r, c->view->id);
	e = put_hash(a, c);
	if (e < 0)
		return e;
	if (c->view) {
		audit_record_text(r, "MCP_AGENT_CLAIMED", c->view->client_name, AUDIT_NAME_MAX);
		audit_record_text(r, "MCP_PROTOCOL_VERSION", c->view->protocol_version, 48);
	}
	audit_record_text(r, "MCP_TRACE_ID", audit_trace_id(c->trace), 32);
	audit_record_text(r, "MCP_ROUTE", c->route, 128);
	audit_record_text(r, "MCP_UPSTREAM", span_of(c->upstream), 256);
	audit_record_u64(r, "MCP_REQ_BYTES", c->request_bytes);
	audit_record_add(r, "MCP_DECISION", span_of(decision));
	audit_line_word(r, "decision", span_of(decision));
	return 0;
}

/* ---- What comes of a record ---- */

/* journald's flow control may come and go many times a second: what was not told at once is told together. */
static bool may_log(const struct audit *a)
{
	return !a->warned_us || loop_now_us(a->loop) - a->warned_us >= WARN_EVERY_US;
}

static void on_taken(struct audit *a)
{
	a->seq++;
	a->failing = false;
	if (a->n_refused + a->n_lost == 0 || !(a->warned || may_log(a)))
		return;
	log_notice("audit: records are taken again; %" PRIu64 " calls were refused, and %" PRIu64
		   " records of endings and denials were lost",
		   a->n_refused, a->n_lost);
	a->n_refused = a->n_lost = 0;
	a->warned = false;
}

static void on_failure(struct audit *a, int r, bool made)
{
	a->failing = true;
	if (made)
		audit_writer_explain(a->writer, r, a->detail, sizeof(a->detail));
	else
		snprintf(a->detail, sizeof(a->detail), "cannot make a record: %s", strerror(-r));
	if (a->warned || !may_log(a))
		return;
	log_warning("audit: %s; calls are refused until records are taken again", a->detail);
	a->warned = true;
	a->warned_us = loop_now_us(a->loop);
}

/* making: 0, or why there is no whole record. */
static int deliver(struct audit *a, int making)
{
	int r = making < 0 ? making : audit_writer_put(a->writer, &a->record);

	if (r < 0)
		on_failure(a, r, making == 0);
	else
		on_taken(a);
	return r;
}

/* It happened, and when its record is missing, the sequence shows it. */
static void deliver_fact(struct audit *a, int making)
{
	if (deliver(a, making) < 0) {
		a->seq++;
		a->n_lost++;
	}
}

/* ---- Events ---- */

static struct audit_open *open_new(struct audit *a, const struct span f[FACT_N])
{
	struct audit_open *o;
	size_t len = 0;
	char *at;

	for (size_t i = 0; i < FACT_N; i++)
		len += MIN(f[i].len, (size_t)FACT_KEEP);
	o = malloc(sizeof(*o) + len);
	if (!o)
		return NULL;
	o->started_us = loop_now_us(a->loop);
	at = o->text;
	for (size_t i = 0; i < FACT_N; i++) {
		o->facts[i] = span_make(f[i].p ? at : NULL, MIN(f[i].len, (size_t)FACT_KEEP));
		if (o->facts[i].len)
			memcpy(at, f[i].p, o->facts[i].len);
		at += o->facts[i].len;
	}
	return o;
}

int audit_request(struct audit *a, const struct audit_call *call, struct audit_open **ret_open)
{
	struct span f[FACT_N] = { 0 };
	struct audit_open *o;
	int r;

	if (!a->writer) {
		*ret_open = NULL;
		return 0;
	}
	find_facts(call, f);
	o = open_new(a, f);
	begin(a, &call_request, SPAN("6"));
	r = deliver(a, o ? put_call(a, call, f, "allow") : -ENOMEM);
	if (r < 0) {
		a->n_refused++;
		free(o);
		return r;
	}
	*ret_open = o;
	return 0;
}

static const char *status_of(const struct audit_ending *e)
{
	switch (e->reason) {
	case TP_REASON_NONE:
		return e->http_status < 400 ? "ok" : "http_error";
	case TP_REASON_UPSTREAM_TIMEOUT:
	case TP_REASON_DEADLINE:
		return "timeout";
	case TP_REASON_UPSTREAM_UNREACHABLE:
		return "upstream_unreachable";
	case TP_REASON_CANCELLED:
		return "cancelled";
	case TP_REASON_SESSION_LOST:
		return "session_lost";
	case TP_REASON_GATEWAY_STOPPED:
		return "gateway_stopped";
	default:
		return "http_error";
	}
}

static void put_ending(struct audit_record *r, const struct audit_ending *e, const char *status, uint64_t duration_us)
{
	struct span reason = span_of(tp_reason_name(e->reason));

	audit_record_add(r, "MCP_STATUS", span_of(status));
	audit_record_add(r, "MCP_REASON", reason);
	audit_line_word(r, "status", span_of(status));
	audit_line_word(r, "reason", reason);
	if (e->http_status) {
		audit_record_u64(r, "MCP_HTTP_STATUS", e->http_status);
		audit_line_u64(r, "http", e->http_status);
	}
	audit_record_u64(r, "MCP_DURATION_US", duration_us);
	audit_line_u64(r, "duration_us", duration_us);
	if (e->http_status)
		audit_record_u64(r, "MCP_TTFB_US", e->ttfb_us);
	audit_record_u64(r, "MCP_RESP_BYTES", e->response_bytes);
	audit_line_u64(r, "resp_bytes", e->response_bytes);
}

void audit_response(struct audit *a, struct audit_open *take_open, const struct audit_ending *e)
{
	_cleanup_(freep) struct audit_open *o = take_open;
	const char *status;

	if (!o)
		return;
	status = status_of(e);
	begin(a, &call_response, strcmp(status, "ok") == 0 ? SPAN("6") : SPAN("4"));
	put_facts(&a->record, o->facts);
	put_ending(&a->record, e, status, loop_now_us(a->loop) - o->started_us);
	deliver_fact(a, 0);
}

void audit_denied(struct audit *a, const struct audit_call *call, uint32_t reason, const char *detail)
{
	struct span name = span_of(tp_reason_name(reason));
	struct span f[FACT_N] = { 0 };
	int r;

	if (!a->writer)
		return;
	find_facts(call, f);
	begin(a, &call_denied, SPAN("4"));
	r = put_call(a, call, f, "deny");
	audit_record_add(&a->record, "MCP_REASON", name);
	audit_line_word(&a->record, "reason", name);
	if (detail && *detail) {
		audit_record_text(&a->record, "MCP_RULE", span_of(detail), AUDIT_NAME_MAX);
		audit_line_quoted(&a->record, "rule", span_of(detail));
	}
	deliver_fact(a, r);
}
