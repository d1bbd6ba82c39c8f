#include "gateway/exchange.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/log_limit.h"
#include "daemon/url.h"
#include "proto/http1.h"

#define EXCHANGE_MAGIC 0x65786368
#define DENIED_BY "denied by "

enum { DETAIL_MAX = sizeof(DENIED_BY) - 1 + POLICY_DETAIL_MAX }; /* for the agent */

/* What is needed until the request goes out, and not a byte longer: thousands of idle GET streams stay open. */
struct exchange_request {
	struct buf head;
	struct buf body;
	struct mcp_scan *scan; /* NULL for GET and DELETE */
	struct policy_mirror mirror;
	size_t collected; /* what of it counts in collected_bytes */
};

struct exchange {
	unsigned magic;
	struct exchange_context *x;
	struct routes *routes;       /* that it began with */
	const struct route *route;   /* of them; NULL: there is none of that name */
	TAILQ_ENTRY(exchange) link;
	struct tp_stream *stream;
	struct upstream_call *call;
	struct exchange_request *request; /* NULL once sent */
	struct audit_calls *audit; /* NULL for GET and DELETE, which are no calls */
	struct filter *filter; /* NULL: the answer passes as it is */
	struct event *timer;
	char call_id[37];
	bool idempotent; /* GET */
	bool is_post;
	bool end_sent; /* with the last byte of a known length */
	uint64_t response_length; /* Content-Length; UINT64_MAX: not known */
	uint64_t response_bytes;
	uint64_t started_us, complete_us, sent_us;
};

void exchange_context_init(struct exchange_context *x)
{
	*x = (struct exchange_context){ 0 };
	TAILQ_INIT(&x->exchanges);
}

static void request_free(struct exchange *e)
{
	struct exchange_request *q = e->request;

	if (!q)
		return;
	e->x->collected_bytes -= q->collected;
	buf_done(&q->head);
	buf_done(&q->body);
	mcp_scan_free(q->scan);
	policy_mirror_done(&q->mirror);
	free(q);
	e->request = NULL;
}

/* The one place where an exchange ends: writes the response record, counts, frees. */
static void exchange_end(struct exchange *e, uint32_t reason, const char *detail)
{
	struct exchange_context *x = e->x;

	log_debug("call %s ended: %s%s%s", e->call_id, reason == TP_REASON_NONE ? "complete" : tp_reason_name(reason),
		  detail ? ": " : "", detail ? detail : "");
	e->audit = audit_calls_end(e->audit, reason);
	x->counters.ended[MIN(reason, (uint32_t)ARRAY_LEN(x->counters.ended) - 1)]++;
	x->counters.response_bytes += e->response_bytes;
	x->open--;
	TAILQ_REMOVE(&x->exchanges, e, link);
	if (e->call)
		upstream_call_cancel(e->call);
	if (e->timer)
		event_free(e->timer);
	request_free(e);
	filter_free(e->filter);
	routes_unref(e->routes);
	tp_stream_release(e->stream);
	transport_kick(x->transport);
	e->magic = 0;
	free(e);
}

static void exchange_fail(struct exchange *e, uint32_t reason, const char *detail)
{
	tp_stream_reset(e->stream, reason, detail);
	exchange_end(e, reason, detail);
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	struct exchange *e = user;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	exchange_fail(e, TP_REASON_DEADLINE, "--call-timeout of the gateway");
}

static int start_timer(struct exchange *e)
{
	uint64_t timeout_ms = e->routes->cfg->call_timeout_ms;
	const struct timeval tv = loop_timeval(timeout_ms);

	/* A GET stream is no call: it stays open for hours, waiting for events. */
	if (!timeout_ms || e->idempotent)
		return 0;
	e->timer = event_new(loop_base(e->x->loop), -1, 0, on_timeout, e);
	if (!e->timer)
		return -ENOMEM;
	event_add(e->timer, &tv);
	return 0;
}

/* ---- the answer ---- */

/* Fields of the answer as they cross the tunnel: Content-Length only where it frames a body, so that the agent sees it. 0: more
 * than a frame carries. */
static size_t response_fields(const struct http1_head *h, bool filtered, const char *audit_head, struct tp_field *fields,
			      char status[4])
{
	size_t n = 0;

	snprintf(status, 4, "%u", h->status % 1000);
	fields[n++] = (struct tp_field){ SPAN(":status"), span_of(status) };
	if (*audit_head)
		fields[n++] = (struct tp_field){ SPAN(":audit"), span_of(audit_head) };
	for (size_t i = 0; i < h->n_fields; i++) {
		const struct http1_field *f = &h->fields[i];
		bool is_length = span_iis(f->name, "Content-Length");

		if (filtered && !filter_answer_field_passes(f->name))
			continue;
		if (is_length ? h->body != HTTP1_BODY_LENGTH : http1_is_hop_by_hop(h, f->name))
			continue;
		if (n == TP_FIELDS_COUNT_MAX)
			return 0;
		fields[n++] = (struct tp_field){ f->name, f->value };
	}
	return n;
}

static void record_head(struct exchange *e, const struct http1_head *h)
{
	const struct audit_calls_head head = {
		.status = h->status,
		.content_type = http1_field_get(h, "Content-Type", NULL),
		.encoded = http1_field_get(h, "Content-Encoding", NULL).p != NULL,
		.ttfb_us = loop_now_us(e->x->loop) - e->started_us,
	};

	if (e->audit)
		audit_calls_answer_head(e->audit, &head);
}

static void observe(const struct exchange *e, struct openmetrics_times *t, uint64_t since_us, uint64_t now_us)
{
	if (e->is_post)
		openmetrics_observe(t, now_us > since_us ? now_us - since_us : 0);
}

/* At the end of the loop's turn, whose time is that of its beginning. */
static void on_upstream_sent(void *user)
{
	struct exchange *e = user;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	e->sent_us = clock_now_us();
	observe(e, &e->x->counters.added, e->complete_us, e->sent_us);
}

static void refuse_answer(struct exchange *e, int r, const char *why)
{
	if (r < 0) {
		exchange_fail(e, TP_REASON_INTERNAL, "out of memory");
		return;
	}
	log_few(LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_REASON", tp_reason_name(TP_REASON_UPSTREAM_UNFILTERED) }),
		"call %s: lists in the answer of %s cannot be filtered, so it does not pass: %s", e->call_id, e->route->backend->name, why);
	exchange_fail(e, TP_REASON_UPSTREAM_UNFILTERED, why);
}

/* False: it has ended. */
static bool start_filter(struct exchange *e, const struct http1_head *h)
{
	const char *why = NULL;
	int r = 0;

	if (e->route->filtered)
		r = filter_new(&e->route->policy, h, &e->x->counters.filtered, &why, &e->filter);
	if (r)
		refuse_answer(e, r, why);
	return r == 0;
}

static void on_upstream_head(void *user, const struct http1_head *h)
{
	struct exchange *e = user;
	struct tp_field fields[TP_FIELDS_COUNT_MAX];
	char status[4];
	size_t n;
	int r;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	record_head(e, h);
	observe(e, &e->x->counters.first_byte, e->sent_us, loop_now_us(e->x->loop));
	e->x->counters.answers[MIN(h->status / 100, ARRAY_LEN(e->x->counters.answers) - 1)]++;
	if (!start_filter(e, h))
		return;
	e->response_length = h->body == HTTP1_BODY_LENGTH && !e->filter ? h->content_length : UINT64_MAX;
	n = response_fields(h, e->filter, e->x->audit->audit ? audit_head(e->x->audit->audit) : "", fields, status);
	r = n ? tp_stream_head(e->stream, fields, n, false) : -E2BIG;
	if (r < 0) {
		exchange_fail(e, r == -E2BIG ? TP_REASON_UPSTREAM_PROTOCOL : TP_REASON_INTERNAL,
			      r == -E2BIG ? "response head larger than the tunnel carries" : "out of memory");
		return;
	}
	transport_kick(e->x->transport);
}

static void answer_complete(struct exchange *e)
{
	if (!e->end_sent && tp_stream_send(e->stream, NULL, 0, true) < 0)
		exchange_fail(e, TP_REASON_INTERNAL, "out of memory");
	else
		exchange_end(e, TP_REASON_NONE, NULL);
}

/* What has been filtered goes out as far as the stream takes it, and then the end of an answer that is complete. */
static void pour(struct exchange *e)
{
	struct span s;

	while (tp_stream_wants_data(e->stream) && (s = filter_ready(e->filter)).len) {
		if (tp_stream_send(e->stream, s.p, s.len, false) < 0) {
			exchange_fail(e, TP_REASON_INTERNAL, "out of memory");
			return;
		}
		filter_taken(e->filter, s.len);
	}
	transport_kick(e->x->transport);
	if (e->call)
		upstream_call_pause(e->call, !tp_stream_wants_data(e->stream));
	else if (!filter_ready(e->filter).len)
		answer_complete(e);
}

static void filter_data(struct exchange *e, const uint8_t *p, size_t len)
{
	const char *why;
	int r = filter_feed(e->filter, p, len, &why);

	if (r)
		refuse_answer(e, r, why);
	else
		pour(e);
}

static void on_upstream_data(void *user, const uint8_t *p, size_t len)
{
	struct exchange *e = user;
	uint64_t max_bytes;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	max_bytes = e->routes->cfg->max_response_bytes;
	e->response_bytes += len;
	if (e->audit)
		audit_calls_answer_data(e->audit, p, len);
	if (max_bytes && e->response_bytes > max_bytes) {
		exchange_fail(e, TP_REASON_UPSTREAM_TOO_LARGE, "--max-response-bytes of the gateway");
		return;
	}
	if (e->filter) {
		filter_data(e, p, len);
		return;
	}
	e->end_sent = e->response_bytes == e->response_length;
	if (tp_stream_send(e->stream, p, len, e->end_sent) < 0) {
		exchange_fail(e, TP_REASON_INTERNAL, "out of memory");
		return;
	}
	if (!tp_stream_wants_data(e->stream))
		upstream_call_pause(e->call, true);
	transport_kick(e->x->transport);
}

static void on_upstream_end(void *user)
{
	struct exchange *e = user;
	const char *why;
	int r;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	e->call = NULL;
	observe(e, &e->x->counters.duration, e->sent_us, loop_now_us(e->x->loop));
	if (!e->filter) {
		answer_complete(e);
		return;
	}
	r = filter_finish(e->filter, &why);
	if (r)
		refuse_answer(e, r, why);
	else
		pour(e);
}

static void on_upstream_fail(void *user, uint32_t reason, const char *detail)
{
	struct exchange *e = user;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	e->call = NULL;
	log_debug("call %s: %s: %s", e->call_id, tp_reason_name(reason), detail);
	/* Other details name addresses inside the network: they stay here. */
	exchange_fail(e, reason, reason == TP_REASON_UPSTREAM_PROTOCOL ? detail : NULL);
}

static const struct upstream_ops upstream_callbacks = {
	.on_sent = on_upstream_sent,
	.on_head = on_upstream_head,
	.on_data = on_upstream_data,
	.on_end = on_upstream_end,
	.on_fail = on_upstream_fail,
};

/* ---- the request ---- */

static struct span header(const struct tp_event *ev, const char *name)
{
	for (size_t i = 0; i < ev->n_fields; i++)
		if (span_iis(ev->fields[i].name, name))
			return ev->fields[i].value;
	return (struct span){ NULL, 0 };
}

static int write_field(struct buf *out, const char *name, struct span value)
{
	return value.len ? http1_write_field(out, span_of(name), value) : 0;
}

/* The request as the MCP server will see it, up to its framing, which needs the length of the body. */
static int write_head(struct exchange *e, const struct tp_event *ev)
{
	const struct backend *b = e->route->backend;
	struct buf *out = &e->request->head;
	struct span query = tp_field_get(ev->fields, ev->n_fields, ":query");
	bool filtered = e->route->filtered;
	char target[URL_TARGET_MAX + 1 + POLICY_QUERY_MAX + 1];
	int r;

	snprintf(target, sizeof(target), "%s%s%.*s", b->url.target, query.p ? (strchr(b->url.target, '?') ? "&" : "?") : "",
		 SPAN_FMT(query));
	r = http1_write_request(out, tp_field_get(ev->fields, ev->n_fields, ":method"), span_of(target));
	if (r == 0)
		r = http1_write_field(out, SPAN("Host"), span_of(b->url.authority));
	for (size_t i = 0; i < ev->n_fields && r == 0; i++)
		if (ev->fields[i].name.p[0] != ':' && policy_field_passes(ev->fields[i].name) &&
		    !headers_replace(b->headers, ev->fields[i].name) &&
		    (!filtered || filter_request_field_passes(ev->fields[i].name)))
			r = http1_write_field(out, ev->fields[i].name, ev->fields[i].value);
	if (r == 0 && filtered)
		r = http1_write_field(out, SPAN("Accept-Encoding"), SPAN("identity"));
	if (r == 0)
		r = headers_write(b->headers, out);
	if (r == 0)
		r = write_field(out, "Mcp-Tunnel-Agent", tp_field_get(ev->fields, ev->n_fields, ":agent"));
	if (r == 0)
		r = write_field(out, "Mcp-Tunnel-Call", span_of(e->call_id));
	return r;
}

static int finish_head(struct exchange *e)
{
	struct exchange_request *q = e->request;
	char length[24];
	int r = 0;

	if (e->is_post) {
		snprintf(length, sizeof(length), "%zu", buf_len(&q->body));
		r = http1_write_field(&q->head, SPAN("Content-Length"), span_of(length));
	}
	return r < 0 ? r : http1_write_end(&q->head);
}

static struct audit_call audit_facts(const struct exchange *e, const struct tp_event *ev)
{
	return (struct audit_call){
		.where = *e->x->where,
		.call_id = span_of(e->call_id),
		.agent = tp_field_get(ev->fields, ev->n_fields, ":agent"),
		.agent_auth = tp_field_get(ev->fields, ev->n_fields, ":agent-auth"),
		.route = tp_field_get(ev->fields, ev->n_fields, ":route"),
		.trace = header(ev, "traceparent"),
		.upstream = e->route ? e->route->backend->name : NULL,
		.began_us = e->started_us,
	};
}

static int audit_new_calls(struct exchange *e, const struct tp_event *ev)
{
	const struct audit_call facts = audit_facts(e, ev);

	return audit_calls_new(&e->route->audit, &facts, header(ev, "Mcp-Session-Id"), e->x->hash, &e->audit);
}

static int request_new(struct exchange *e, const struct tp_event *ev)
{
	struct exchange_request *q = calloc(1, sizeof(*q));
	int r;

	/* policy_check_head() has refused what has none. */
	assert(e->route);
	if (!q)
		return -ENOMEM;
	e->request = q;
	buf_init(&q->head, 2 * HTTP1_HEAD_BYTES_MAX);
	buf_init(&q->body, e->routes->cfg->max_request_bytes);
	if (e->is_post) {
		r = mcp_scan_new(&q->scan);
		if (r == 0)
			r = audit_new_calls(e, ev);
		if (r < 0)
			return r;
	}
	r = policy_mirror_init(&q->mirror, ev->fields, ev->n_fields);
	return r < 0 ? r : write_head(e, ev);
}

/* Judges one message; rule is what it breaks. */
static uint32_t check_message(const struct exchange *e, const struct mcp_view *view, char rule[POLICY_DETAIL_MAX])
{
	const char *bad = mcp_scan_bad(e->request->scan);
	uint32_t reason;

	if (bad) {
		snprintf(rule, POLICY_DETAIL_MAX, "the body is not a JSON-RPC message: %s", bad);
		return TP_REASON_BAD_REQUEST;
	}
	if (view->kind == MCP_NOT_JSONRPC) {
		/* A lenient server might still take it for a call, and no record could say which. */
		snprintf(rule, POLICY_DETAIL_MAX, "the body is not a JSON-RPC 2.0 message");
		return TP_REASON_BAD_REQUEST;
	}
	reason = policy_check_message(&e->request->mirror, view, rule);
	return reason == TP_REASON_NONE ? policy_check_rules(&e->route->policy, view, rule) : reason;
}

/* The i-th message of the body; a body that is no batch is its only one. */
static void message_at(const struct exchange *e, const struct mcp_view *body, size_t i, struct mcp_view *ret)
{
	if (body->kind == MCP_BATCH)
		mcp_scan_message(e->request->scan, i, ret);
	else
		*ret = *body;
}

/* Judges the complete body, message by message where it is a batch. TP_REASON_NONE: it may pass. */
static uint32_t judge_body(struct exchange *e, char detail[DETAIL_MAX])
{
	char rule[POLICY_DETAIL_MAX] = "";
	struct exchange_request *q = e->request;
	uint32_t reason = TP_REASON_NONE;
	struct mcp_view body, view;
	size_t n;

	mcp_scan_finish(q->scan, &body);
	n = body.kind == MCP_BATCH ? mcp_scan_count(q->scan) : 1;
	for (size_t i = 0; i < n && reason == TP_REASON_NONE; i++) {
		message_at(e, &body, i, &view);
		reason = check_message(e, &view, rule);
		if (reason != TP_REASON_NONE)
			audit_calls_denied(e->audit, &view, &q->body, reason, rule);
	}
	snprintf(detail, DETAIL_MAX, "%s%s", reason == TP_REASON_POLICY ? DENIED_BY : "", rule);
	return reason;
}

/* RECORDING -> UPSTREAM */
static void send_upstream(struct exchange *e)
{
	struct exchange_request *q = e->request;
	size_t len = buf_len(&q->body);

	if (finish_head(e) < 0 || upstream_call_start(e->route->backend->upstream, &q->head, &q->body, e->idempotent,
						      &upstream_callbacks, e, &e->call) < 0) {
		exchange_fail(e, TP_REASON_REFUSED, "out of memory");
		return;
	}
	e->x->counters.request_bytes += len;
	request_free(e);
}

static void on_recorded(void *user, int r)
{
	struct exchange *e = user;

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	if (r < 0)
		exchange_fail(e, TP_REASON_AUDIT_UNAVAILABLE, "see the gateway's log");
	else
		send_upstream(e);
}

/* COLLECT -> RECORDING; what is no call is sent at once. */
static void request_complete(struct exchange *e)
{
	char detail[DETAIL_MAX];
	uint32_t reason;
	int r = AUDIT_AT_ONCE;

	e->complete_us = loop_now_us(e->x->loop);
	if (e->request->scan) {
		reason = judge_body(e, detail);
		if (reason != TP_REASON_NONE) {
			exchange_fail(e, reason, detail);
			return;
		}
		r = audit_calls_request(e->audit, e->request->scan, &e->request->body, on_recorded, e);
	}
	if (r != 0)
		on_recorded(e, MIN(r, 0));
}

/* A limit, before the request was complete. */
static void refuse_body(struct exchange *e, uint32_t reason, const char *detail)
{
	if (e->audit)
		audit_calls_denied(e->audit, NULL, &e->request->body, reason, detail);
	exchange_fail(e, reason, detail);
}

/* Whether so many bytes of bodies more may be kept. What a slow MCP server has not taken yet counts, too. */
static bool has_room(const struct exchange *e, size_t more)
{
	struct upstream_pool pool;

	upstream_pool(e->route->backend->upstream, &pool);
	return e->x->collected_bytes + pool.request_bytes + more <= e->routes->max_collected_bytes;
}

static void on_stream_data(struct exchange *e, const struct tp_event *ev)
{
	struct exchange_request *q = e->request;
	struct exchange_context *x = e->x;

	if (ev->len && !e->is_post) {
		/* Nobody would have judged it, and no record would tell of it. */
		refuse_body(e, TP_REASON_BAD_REQUEST, "only POST carries a body");
		return;
	}
	if (buf_len(&q->body) + ev->len > e->routes->cfg->max_request_bytes) {
		refuse_body(e, TP_REASON_TOO_LARGE, "--max-request-bytes of the gateway");
		return;
	}
	if (!has_room(e, ev->len)) {
		refuse_body(e, TP_REASON_REFUSED, "too many request bytes at once at the gateway");
		return;
	}
	if (buf_add(&q->body, ev->data, ev->len) < 0 || (q->scan && mcp_scan_feed(q->scan, ev->data, ev->len) < 0)) {
		refuse_body(e, TP_REASON_REFUSED, "out of memory");
		return;
	}
	q->collected += ev->len;
	x->collected_bytes += ev->len;
	tp_stream_consumed(e->stream, ev->len, loop_now_us(x->loop));
	if (ev->end)
		request_complete(e);
	transport_kick(x->transport);
}

static int exchange_new(struct exchange_context *x, const struct tp_event *ev, struct exchange **ret)
{
	struct exchange *e = calloc(1, sizeof(*e));
	struct span id = tp_field_get(ev->fields, ev->n_fields, ":call");
	struct span method = tp_field_get(ev->fields, ev->n_fields, ":method");

	if (!e)
		return -ENOMEM;
	e->magic = EXCHANGE_MAGIC;
	e->x = x;
	e->routes = routes_ref(x->routes);
	e->route = routes_find(e->routes, tp_field_get(ev->fields, ev->n_fields, ":route"));
	e->stream = ev->stream;
	e->idempotent = span_is(method, "GET");
	e->is_post = span_is(method, "POST");
	e->started_us = loop_now_us(x->loop);
	snprintf(e->call_id, sizeof(e->call_id), "%.*s", SPAN_FMT(id));
	tp_stream_set_user(ev->stream, e);
	TAILQ_INSERT_TAIL(&x->exchanges, e, link);
	x->open++;
	x->counters.started++;
	*ret = e;
	return 0;
}

/* Refused for its head alone: its message was not looked at. */
static void deny_head(struct exchange *e, const struct tp_event *ev, uint32_t reason, const char *detail)
{
	const struct audit_call facts = audit_facts(e, ev);

	audit_calls_refused(e->x->audit, &facts, header(ev, "Mcp-Session-Id"), e->x->hash, reason, detail);
	exchange_fail(e, reason, detail);
}

void exchange_open(struct exchange_context *x, const struct tp_event *ev)
{
	char detail[POLICY_DETAIL_MAX];
	struct exchange *e;
	uint32_t reason;

	if (exchange_new(x, ev, &e) < 0) {
		tp_stream_reset(ev->stream, TP_REASON_REFUSED, "out of memory");
		tp_stream_release(ev->stream);
		transport_kick(x->transport);
		return;
	}
	reason = policy_check_head(e->route ? &e->route->policy : NULL, ev->fields, ev->n_fields, detail);
	if (reason != TP_REASON_NONE) {
		deny_head(e, ev, reason, detail);
		return;
	}
	if (request_new(e, ev) < 0 || start_timer(e) < 0) {
		exchange_fail(e, TP_REASON_REFUSED, "out of memory, or a head larger than HTTP/1.1 carries");
		return;
	}
	if (ev->end)
		request_complete(e);
}

/* Of a reset that has come from the relay: a cancel, where it names nothing. A call that was cut has not ended well. */
static uint32_t reset_reason(uint32_t told)
{
	if (told == TP_REASON_NONE)
		return TP_REASON_CANCELLED;
	return tp_reason_known(told) ? told : TP_REASON_INTERNAL;
}

void exchange_event(struct exchange_context *x, const struct tp_event *ev)
{
	struct exchange *e = tp_stream_user(ev->stream);
	char detail[TP_DETAIL_MAX];

	CHECK_OBJ(e, EXCHANGE_MAGIC);
	switch (ev->type) {
	case TP_EV_DATA:
		on_stream_data(e, ev);
		break;
	case TP_EV_WRITABLE:
		if (e->filter)
			pour(e);
		else if (e->call)
			upstream_call_pause(e->call, false);
		break;
	case TP_EV_RESET:
		snprintf(detail, sizeof(detail), "%.*s", SPAN_FMT(ev->detail));
		exchange_end(e, reset_reason(ev->reason), detail);
		break;
	default:
		break;
	}
}

void exchange_end_all(struct exchange_context *x, uint32_t reason, const char *detail)
{
	struct exchange *e;

	while ((e = TAILQ_FIRST(&x->exchanges)))
		exchange_fail(e, reason, detail);
}
