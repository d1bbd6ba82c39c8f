#include "relay/call.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "daemon/digest.h"
#include "proto/mcp.h"
#include "relay/cors.h"

#define CALL_MAGIC 0x72636c6c

enum {
	HEAD_OUT_MAX = 64 * 1024,
	DATA_OUT_MAX = TP_WINDOW_CEILING + TP_PAYLOAD_CEILING,
	CHUNK_OVERHEAD = HTTP1_CHUNK_PREFIX_MAX + 2,
	MIN_PULL = 512, /* smaller chunks than this are not worth their framing */
};

static const char audit_unavailable[] = "see the relay's log";

enum framing { FRAMING_NONE, FRAMING_LENGTH, FRAMING_CHUNKED };

struct call {
	unsigned magic;
	struct relay *relay;
	struct transport *transport;
	struct tp_stream *stream; /* NULL once over */
	const struct call_handler *handler;
	void *user;
	struct mcp_scan *scan; /* for the id; NULL for GET and DELETE */
	char id[UUID_TEXT_LEN + 1];
	uint64_t request_bytes, max_bytes;
	struct audit_calls *audit; /* NULL: no call, nothing is written down, or over */
	struct buf body;           /* with audit: the whole request body, until its record is accepted */
	size_t sent;               /* of it */
	size_t collected;          /* of it, in collected_bytes */
	uint64_t started_us, complete_us; /* complete_us 0: the request is not, or it is no POST */
	bool request_ended;
	bool close_after; /* the agent said Connection: close */
	const char *cors_origin;
	/* the answer */
	struct buf head, data;
	enum framing framing;
	uint64_t length_left; /* FRAMING_LENGTH */
	bool begun, ended, finished, cut;
	uint32_t reason; /* how it ended */
	const char *why; /* the request's body could not go on */
};

/* ---- the request ---- */

static size_t request_fields(const struct call *c, const struct call_start *s, struct tp_field *fields)
{
	const struct http1_head *h = s->head;
	size_t n = 0;

	fields[n++] = (struct tp_field){ SPAN(":kind"), SPAN("exchange") };
	fields[n++] = (struct tp_field){ SPAN(":route"), s->request->route };
	fields[n++] = (struct tp_field){ SPAN(":method"), h->method };
	fields[n++] = (struct tp_field){ SPAN(":call"), span_of(c->id) };
	fields[n++] = (struct tp_field){ SPAN(":agent"), span_of(s->agent) };
	fields[n++] = (struct tp_field){ SPAN(":agent-auth"), span_of(s->agent_auth) };
	if (s->request->query.p)
		fields[n++] = (struct tp_field){ SPAN(":query"), s->request->query };
	for (size_t i = 0; i < h->n_fields; i++)
		if (request_field_travels(h, s->request, h->fields[i].name))
			fields[n++] = (struct tp_field){ h->fields[i].name, h->fields[i].value };
	return n;
}

/* With audit, the end of the request is not sent before its record is accepted. */
static int open_stream(struct call *c, const struct call_start *s)
{
	struct tp_field fields[HTTP1_FIELDS_MAX + 8];
	size_t n = request_fields(c, s, fields);
	int r = tp_stream_open(transport_conn(c->transport), fields, n, s->end && !c->audit, c, &c->stream);

	if (r == -E2BIG)
		return TP_REASON_TOO_LARGE;
	return r > 0 ? TP_REASON_REFUSED : r;
}

static int new_post(struct call *c, const struct call_start *s)
{
	struct audit_call facts = {
		.call_id = span_of(c->id),
		.agent = span_of(s->agent),
		.agent_auth = span_of(s->agent_auth),
		.route = s->request->route,
		.trace = http1_field_get(s->head, "traceparent", NULL),
		.began_us = c->started_us,
	};
	int r = mcp_scan_new(&c->scan);

	if (r < 0 || !c->relay->audit.shared.audit)
		return r;
	attach_where(s->attached, &facts.where);
	return audit_calls_new(&c->relay->audit.shared, &facts, http1_field_get(s->head, "Mcp-Session-Id", NULL), attach_hash(s->attached),
			       &c->audit);
}

static void record_end(struct call *c, uint32_t reason, const char *detail)
{
	if (!c->audit)
		return;
	/* Refused before it was complete; what the agent broke off itself is no call. */
	if (!audit_calls_recorded(c->audit) && !tp_reason_info(reason)->maybe_executed && reason != TP_REASON_NONE)
		audit_calls_denied(c->audit, NULL, &c->body, reason, detail);
	c->audit = audit_calls_end(c->audit, reason);
}

static void body_done(struct call *c)
{
	c->relay->collected_bytes -= c->collected;
	c->collected = 0;
	buf_done(&c->body);
}

static struct call *call_drop(struct call *c)
{
	record_end(c, TP_REASON_NONE, NULL);
	body_done(c);
	mcp_scan_free(c->scan);
	free(c);
	return NULL;
}

static uint32_t body_fails(struct call *c, uint32_t reason, const char *detail);
static uint32_t request_complete(struct call *c);

int call_new(struct relay *r, const struct call_start *start, const struct call_handler *handler, void *user, struct call **ret)
{
	struct call *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	c->magic = CALL_MAGIC;
	c->relay = r;
	c->transport = attach_transport(start->attached);
	c->handler = handler;
	c->user = user;
	c->request_ended = start->end;
	c->close_after = !start->head->keep_alive;
	c->cors_origin = start->cors_origin;
	c->started_us = loop_now_us(r->loop);
	buf_init(&c->head, HEAD_OUT_MAX);
	buf_init(&c->data, DATA_OUT_MAX);
	c->max_bytes = r->cfg->max_request_bytes;
	buf_init(&c->body, c->max_bytes);
	rc = uuid7_make(clock_wall_us() / 1000, c->id);
	if (rc == 0 && span_is(start->head->method, "POST"))
		rc = new_post(c, start);
	if (rc == 0)
		rc = open_stream(c, start);
	if (rc != 0) {
		call_drop(c);
		return rc;
	}
	r->calls_open++;
	r->counters.calls_started++;
	transport_kick(c->transport);
	rc = start->end && c->audit ? (int)request_complete(c) : 0;
	if (rc != 0) {
		call_free(c);
		return rc;
	}
	*ret = c;
	return 0;
}

static void stream_over(struct call *c, uint32_t reason, const char *detail)
{
	if (!c->stream)
		return;
	c->stream = tp_stream_release(c->stream);
	c->reason = reason;
	record_end(c, reason, detail);
	body_done(c);
	transport_kick(c->transport);
}

struct call *call_free(struct call *c)
{
	if (!c)
		return NULL;
	CHECK_OBJ(c, CALL_MAGIC);
	stream_over(c, TP_REASON_CANCELLED, NULL);
	c->relay->calls_open--;
	c->relay->counters.calls_ended[MIN(c->reason, (uint32_t)ARRAY_LEN(c->relay->counters.calls_ended) - 1)]++;
	log_debug("call %s ended: %s", c->id, c->reason == TP_REASON_NONE ? "complete" : tp_reason_name(c->reason));
	mcp_scan_free(c->scan);
	buf_done(&c->head);
	buf_done(&c->data);
	c->magic = 0;
	free(c);
	return NULL;
}

/* Without the whole request there is no whole answer: one that has begun is cut. */
static uint32_t body_fails(struct call *c, uint32_t reason, const char *detail)
{
	c->why = detail;
	if (!c->stream)
		return reason;
	tp_stream_reset(c->stream, reason, detail);
	stream_over(c, reason, detail);
	if (c->begun) {
		c->cut = true;
		c->handler->on_output(c->user);
	}
	return reason;
}

/* The record is accepted: what was kept back goes out, and the end. */
static int send_rest(struct call *c)
{
	int r = tp_stream_send(c->stream, buf_bytes(&c->body) + c->sent, buf_len(&c->body) - c->sent, true);

	body_done(c);
	transport_kick(c->transport);
	return r;
}

static void fail(struct call *c, uint32_t reason, const char *detail);

static void on_recorded(void *user, int r)
{
	struct call *c = user;

	CHECK_OBJ(c, CALL_MAGIC);
	if (r < 0)
		fail(c, TP_REASON_AUDIT_UNAVAILABLE, audit_unavailable);
	else if (send_rest(c) < 0)
		fail(c, TP_REASON_REFUSED, "out of memory");
}

static uint32_t request_complete(struct call *c)
{
	struct mcp_view view;
	int r;

	mcp_scan_finish(c->scan, &view);
	r = audit_calls_request(c->audit, c->scan, &c->body, on_recorded, c);
	if (r < 0)
		return body_fails(c, TP_REASON_AUDIT_UNAVAILABLE, audit_unavailable);
	if (r == AUDIT_AT_ONCE && send_rest(c) < 0)
		return body_fails(c, TP_REASON_REFUSED, "out of memory");
	return TP_REASON_NONE;
}

/* The last piece waits for the record, so that the gateway cannot have the request before it. */
static uint32_t keep_body(struct call *c, const uint8_t *p, size_t len, bool end)
{
	struct relay *r = c->relay;

	if (r->collected_bytes + len > r->max_collected_bytes)
		return body_fails(c, TP_REASON_REFUSED, "too many request bytes at once at the relay");
	if (buf_add(&c->body, p, len) < 0)
		return body_fails(c, TP_REASON_REFUSED, "out of memory");
	c->collected += len;
	r->collected_bytes += len;
	if (end)
		return request_complete(c);
	if (tp_stream_send(c->stream, p, len, false) < 0)
		return body_fails(c, TP_REASON_REFUSED, "out of memory");
	c->sent += len;
	transport_kick(c->transport);
	return TP_REASON_NONE;
}

static uint32_t take_body(struct call *c, const uint8_t *p, size_t len, bool end)
{
	c->request_bytes += len;
	c->relay->counters.request_bytes += len;
	c->request_ended = end;
	if (end && c->scan)
		c->complete_us = loop_now_us(c->relay->loop);
	if (c->request_bytes > c->max_bytes)
		return body_fails(c, TP_REASON_TOO_LARGE, "--max-request-bytes of the relay");
	if (c->scan && mcp_scan_feed(c->scan, p, len) < 0)
		return body_fails(c, TP_REASON_REFUSED, "out of memory");
	/* The answer may have ended before the request did: the rest goes nowhere, and the session may be gone. */
	if (!c->stream)
		return TP_REASON_NONE;
	if (c->audit)
		return keep_body(c, p, len, end);
	if (tp_stream_send(c->stream, p, len, end) < 0)
		return body_fails(c, TP_REASON_REFUSED, "out of memory");
	transport_kick(c->transport);
	return TP_REASON_NONE;
}

uint32_t call_body(struct call *c, const uint8_t *p, size_t len, bool end, const char **ret_why)
{
	uint32_t reason;

	CHECK_OBJ(c, CALL_MAGIC);
	reason = take_body(c, p, len, end);
	if (reason != TP_REASON_NONE)
		*ret_why = c->why;
	return reason;
}

bool call_wants_body(const struct call *c)
{
	return !c->stream || tp_stream_wants_data(c->stream);
}

struct span call_rpc_id(const struct call *c)
{
	return c->scan ? mcp_scan_id(c->scan) : (struct span){ NULL, 0 };
}

const char *call_id(const struct call *c)
{
	return c->id;
}

/* ---- the answer ---- */

static bool field_is_ours(struct span name)
{
	return span_iis(name, "Content-Length") || span_iis(name, "Transfer-Encoding") || span_iis(name, "Connection") ||
	       span_iis(name, "Keep-Alive") || span_iis(name, "Upgrade") || span_iis(name, "Trailer") || span_iis(name, "TE") ||
	       span_iis(name, "Proxy-Connection");
}

static struct span header(const struct tp_event *ev, const char *name)
{
	for (size_t i = 0; i < ev->n_fields; i++)
		if (span_iis(ev->fields[i].name, name))
			return ev->fields[i].value;
	return (struct span){ NULL, 0 };
}

static int write_framing(struct call *c, const struct tp_event *ev, unsigned status)
{
	struct span length = header(ev, "Content-Length");
	int r;

	c->framing = FRAMING_CHUNKED;
	if (status == 204 || status == 304) {
		c->framing = FRAMING_NONE;
		return 0;
	}
	if (!length.p && ev->end)
		length = SPAN("0");
	if (!length.p)
		return http1_write_field(&c->head, SPAN("Transfer-Encoding"), SPAN("chunked"));
	r = span_u64(length, &c->length_left);
	if (r < 0)
		return r;
	c->framing = FRAMING_LENGTH;
	return http1_write_field(&c->head, SPAN("Content-Length"), length);
}

/* The head as the agent gets it. Trusts nothing of the gateway: http1_write_* refuse what is no status, name or value. */
static int write_head(struct call *c, const struct tp_event *ev)
{
	struct span text = tp_field_get(ev->fields, ev->n_fields, ":status");
	uint64_t status;
	int r = span_u64(text, &status);

	if (r < 0 || text.len != 3 || status < 200 || status > 599)
		return -EINVAL;
	r = http1_write_status(&c->head, (unsigned)status, (struct span){ NULL, 0 });
	for (size_t i = 0; i < ev->n_fields && r == 0; i++)
		if (ev->fields[i].name.p[0] != ':' && !field_is_ours(ev->fields[i].name) &&
		    !(c->cors_origin && cors_replaces(ev->fields[i].name)))
			r = http1_write_field(&c->head, ev->fields[i].name, ev->fields[i].value);
	if (r == 0)
		r = cors_write(&c->head, c->relay->cfg->n_cors > 0, c->cors_origin);
	if (r == 0)
		r = write_framing(c, ev, (unsigned)status);
	/* The rest of the request would be read as the next one; a relay that stops takes no next one. */
	if (r == 0 && (!c->request_ended || c->close_after || c->relay->stopping))
		r = http1_write_field(&c->head, SPAN("Connection"), SPAN("close"));
	return r < 0 ? r : http1_write_end(&c->head);
}

/* It cannot be completed. Before the head the front answers; after it the connection ends uncleanly. */
static void fail(struct call *c, uint32_t reason, const char *detail)
{
	if (c->stream)
		tp_stream_reset(c->stream, reason, detail);
	stream_over(c, reason, detail);
	if (!c->begun) {
		c->handler->on_failed(c->user, reason, detail);
		return;
	}
	c->cut = true;
	c->handler->on_output(c->user);
}

void call_abort(struct call *c, uint32_t reason, const char *detail)
{
	CHECK_OBJ(c, CALL_MAGIC);
	if (c->stream)
		fail(c, reason, detail);
}

static void observe(const struct call *c, struct openmetrics_times *t)
{
	if (c->complete_us)
		openmetrics_observe(t, loop_now_us(c->relay->loop) - c->complete_us);
}

static void on_end(struct call *c)
{
	if (c->framing == FRAMING_LENGTH && c->length_left) {
		fail(c, TP_REASON_UPSTREAM_CLOSED, "the answer is shorter than its Content-Length");
		return;
	}
	c->ended = true;
	observe(c, &c->relay->counters.duration);
	stream_over(c, TP_REASON_NONE, NULL);
}

static void record_head(struct call *c, const struct tp_event *ev)
{
	struct audit_calls_head head = {
		.content_type = header(ev, "Content-Type"),
		.encoded = header(ev, "Content-Encoding").p != NULL,
		.ttfb_us = loop_now_us(c->relay->loop) - c->started_us,
		.peer_head = tp_field_get(ev->fields, ev->n_fields, ":audit"),
	};
	uint64_t status = 0;

	if (!c->audit)
		return;
	(void)span_u64(tp_field_get(ev->fields, ev->n_fields, ":status"), &status);
	head.status = (unsigned)MIN(status, (uint64_t)999);
	audit_calls_answer_head(c->audit, &head);
}

static void on_head(struct call *c, const struct tp_event *ev)
{
	if (write_head(c, ev) < 0) {
		buf_clear(&c->head);
		fail(c, TP_REASON_PROTOCOL, "the gateway sent an answer that is not HTTP");
		return;
	}
	record_head(c, ev);
	observe(c, &c->relay->counters.first_byte);
	c->begun = true;
	if (ev->end)
		on_end(c);
	c->handler->on_output(c->user);
}

static void on_data(struct call *c, const struct tp_event *ev)
{
	if (c->framing == FRAMING_LENGTH && ev->len > c->length_left) {
		fail(c, TP_REASON_PROTOCOL, "the answer is longer than its Content-Length");
		return;
	}
	if (c->framing == FRAMING_NONE && ev->len) {
		fail(c, TP_REASON_PROTOCOL, "an answer of this status has no body");
		return;
	}
	if (c->framing == FRAMING_LENGTH)
		c->length_left -= ev->len;
	c->relay->counters.response_bytes += ev->len;
	if (c->audit)
		audit_calls_answer_data(c->audit, ev->data, ev->len);
	if (buf_add(&c->data, ev->data, ev->len) < 0) {
		fail(c, TP_REASON_INTERNAL, "out of memory");
		return;
	}
	if (ev->end)
		on_end(c);
	if (!c->cut)
		c->handler->on_output(c->user);
}

void call_event(struct call *c, const struct tp_event *ev)
{
	char detail[TP_DETAIL_MAX + 1];

	CHECK_OBJ(c, CALL_MAGIC);
	switch (ev->type) {
	case TP_EV_HEAD:
		on_head(c, ev);
		break;
	case TP_EV_DATA:
		on_data(c, ev);
		break;
	case TP_EV_WRITABLE:
		c->handler->on_writable(c->user);
		break;
	case TP_EV_RESET:
		snprintf(detail, sizeof(detail), "%.*s", SPAN_FMT(ev->detail));
		fail(c, tp_reason_known(ev->reason) ? ev->reason : TP_REASON_INTERNAL, detail);
		break;
	default:
		break;
	}
}

static size_t pull_head(struct call *c, uint8_t *dst, size_t room)
{
	size_t n = MIN(room, buf_len(&c->head));

	if (n) {
		memcpy(dst, buf_bytes(&c->head), n);
		buf_drop(&c->head, n);
		if (!buf_len(&c->head))
			buf_clear(&c->head);
	}
	return n;
}

/* The bytes have gone to the agent's socket: credit for the gateway. */
static void give_credit(struct call *c, size_t len)
{
	if (!c->stream)
		return;
	tp_stream_consumed(c->stream, len, loop_now_us(c->relay->loop));
	transport_kick(c->transport);
}

/* One chunk (or plain bytes) of what is there. */
static size_t pull_data(struct call *c, uint8_t *dst, size_t room)
{
	bool chunked = c->framing == FRAMING_CHUNKED;
	size_t overhead = chunked ? CHUNK_OVERHEAD : 0, n = 0, len = buf_len(&c->data);

	if (!len || room < MIN(len, (size_t)MIN_PULL) + overhead)
		return 0;
	len = MIN(len, room - overhead);
	if (chunked)
		n = http1_chunk_prefix((char *)dst, len);
	memcpy(dst + n, buf_bytes(&c->data), len);
	n += len;
	if (chunked) {
		memcpy(dst + n, "\r\n", 2);
		n += 2;
	}
	buf_drop(&c->data, len);
	give_credit(c, len);
	return n;
}

static size_t pull_end(struct call *c, uint8_t *dst, size_t room)
{
	if (!c->ended || c->finished || buf_len(&c->head) || buf_len(&c->data))
		return 0;
	if (c->framing != FRAMING_CHUNKED) {
		c->finished = true;
		return 0;
	}
	if (room < 5)
		return 0;
	memcpy(dst, "0\r\n\r\n", 5);
	c->finished = true;
	return 5;
}

size_t call_pull(struct call *c, uint8_t *dst, size_t room)
{
	size_t n;

	CHECK_OBJ(c, CALL_MAGIC);
	n = pull_head(c, dst, room);
	if (!buf_len(&c->head))
		n += pull_data(c, dst + n, room - n);
	return n + pull_end(c, dst + n, room - n);
}

bool call_has_output(const struct call *c)
{
	return buf_len(&c->head) || buf_len(&c->data) || (c->ended && !c->finished);
}

bool call_is_done(const struct call *c)
{
	return c->finished;
}

bool call_is_cut(const struct call *c)
{
	return c->cut && !buf_len(&c->head) && !buf_len(&c->data);
}

bool call_has_begun(const struct call *c)
{
	return c->begun;
}
