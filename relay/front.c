#include "relay/front.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/channel.h"
#include "daemon/digest.h"
#include "daemon/upgrade.h"
#include "proto/mcp.h"
#include "relay/answer.h"
#include "relay/attach.h"
#include "relay/call.h"
#include "relay/records.h"

#define FRONT_MAGIC 0x66726e74

enum {
	OPEN_TIMEOUT_MS = 10 * 1000, /* TLS handshake */
	HEAD_TIMEOUT_MS = 10 * 1000, /* a request head, from its first byte */
	IDLE_TIMEOUT_MS = 75 * 1000, /* between requests */
	BODY_TIMEOUT_MS = 60 * 1000, /* without a byte of the body */
	HELD_HEAD_BYTES = 4 * 1024, /* what a call that waits is counted for, besides the bytes behind its head */
	LINGER_MS = 2 * 1000,
	NOTSENT_LOWAT = 64 * 1024,
	OUT_MAX = 64 * 1024,
	EARLY_MAX = 256 * 1024, /* bytes behind the request that is being served; one read at most, then reading pauses */
	DISCARD_MAX = 64 * 1024, /* of a refused body; larger ones are not read to their end */
};

enum front_state {
	FRONT_IDLE,      /* nothing of a request has come */
	FRONT_HEAD,      /* some of its head */
	FRONT_HELD,      /* its head is read; it waits for the tunnel to be attached */
	FRONT_BODY,      /* its body flows to a call */
	FRONT_CALL,      /* complete; the answer is being made */
	FRONT_REFUSING,  /* its body is read for its id and forgotten; then the answer */
	FRONT_ANSWERED,  /* our own answer is in `out` */
	FRONT_UPGRADING, /* the 101 is in `out` */
	FRONT_CLOSING,
};

struct front {
	unsigned magic;
	struct relay *relay;
	TAILQ_ENTRY(front) link;
	struct channel *channel;
	enum front_state state;
	struct http1_reader reader;
	struct buf out;   /* what we say ourselves: 100, 101, errors */
	struct buf early; /* came while a request was being served */
	struct call *call;
	struct mcp_scan *scan; /* REFUSING: for the id */
	struct answer refusal; /* REFUSING */
	char refusal_detail[TP_DETAIL_MAX + 1];
	char refusal_call[37];
	size_t discarded;
	bool head_only; /* the method is HEAD */
	bool body_ended;
	bool close_after; /* the connection ends with this answer */
	bool paused;
	uint64_t deadline_ms;
	struct held held;
	struct loop_task turn; /* after the answer has been pulled */
	char tunnel_id[TUNNEL_ID_MAX + 1]; /* UPGRADING */
	struct audit_hash hash;            /* UPGRADING: of the gateway's token */
	uint8_t secret[SHA256_LEN];        /* hash of the agent's key or the gateway's token */
	char agent_tunnel[TUNNEL_ID_MAX + 1]; /* whose key it is; empty: no key was needed */
	char local[64]; /* the address that the agent connected to: one of our names; empty: not asked yet */
};

static void read_bytes(struct front *f, const uint8_t *p, size_t len);
static void on_hold_expired(void *user);

static void set_state(struct front *f, enum front_state state)
{
	static const uint64_t limits[] = {
		[FRONT_IDLE] = IDLE_TIMEOUT_MS,	    [FRONT_HEAD] = HEAD_TIMEOUT_MS,	[FRONT_BODY] = BODY_TIMEOUT_MS,
		[FRONT_HELD] = 0, /* relay/hold.h counts its time */
		[FRONT_CALL] = 0,		    [FRONT_REFUSING] = BODY_TIMEOUT_MS, [FRONT_ANSWERED] = BODY_TIMEOUT_MS,
		[FRONT_UPGRADING] = OPEN_TIMEOUT_MS, [FRONT_CLOSING] = 0,
	};

	f->state = state;
	f->deadline_ms = limits[state] ? loop_now_ms(f->relay->loop) + limits[state] : UINT64_MAX;
}

static void front_gone(void *p)
{
	struct front *f = p;

	f->magic = 0;
	free(f);
}

static void front_free(struct front *f)
{
	if (f->state == FRONT_CLOSING)
		return;
	set_state(f, FRONT_CLOSING);
	TAILQ_REMOVE(&f->relay->fronts, f, link);
	hold_remove(&f->held);
	f->call = call_free(f->call);
	if (f->channel)
		channel_abort(f->channel, false);
	f->channel = NULL;
	loop_task_cancel(f->relay->loop, &f->turn);
	http1_reader_done(&f->reader);
	f->scan = mcp_scan_free(f->scan);
	buf_done(&f->out);
	buf_done(&f->early);
	audit_hash_done(&f->hash);
	loop_free_later(f->relay->loop, front_gone, f);
}

/* What has been written still goes out. An answer that was cut is seen to be, by its framing. */
static void front_close(struct front *f)
{
	if (f->channel)
		channel_close(f->channel, LINGER_MS);
	f->channel = NULL;
	front_free(f);
}

static void set_paused(struct front *f, bool paused)
{
	if (f->paused == paused || !f->channel)
		return;
	f->paused = paused;
	channel_pause(f->channel, paused);
}

/* ---- our own answers ---- */

static void write_answer(struct front *f)
{
	struct answer a = f->refusal;

	if (f->call)
		a.id = call_rpc_id(f->call);
	else if (f->scan)
		a.id = mcp_scan_id(f->scan);
	a.detail = f->refusal_detail;
	a.call_id = f->refusal_call[0] ? f->refusal_call : NULL;
	if (!f->body_ended)
		f->close_after = true;
	a.close = f->close_after;
	a.head_only = f->head_only;
	f->relay->counters.refused[MIN(a.reason, (uint32_t)ARRAY_LEN(f->relay->counters.refused) - 1)]++;
	log_debug("answered %u (%s)%s%s", a.status, tp_reason_name(a.reason), a.call_id ? ", call " : "", a.call_id ? a.call_id : "");
	if (answer_write(&f->out, &a) < 0) {
		front_close(f);
		return;
	}
	f->call = call_free(f->call);
	f->scan = mcp_scan_free(f->scan);
	set_state(f, FRONT_ANSWERED);
	channel_want_write(f->channel);
}

/* Answers with an error: at once when the request is complete, else when its body has been read for the id. */
static void refuse(struct front *f, unsigned status, const char *extra, uint32_t reason, const char *text, const char *detail)
{
	f->refusal = (struct answer){ .status = status, .extra = extra, .reason = reason, .text = text };
	snprintf(f->refusal_detail, sizeof(f->refusal_detail), "%s", detail ? detail : "");
	if (f->body_ended || f->reader.head.expect_continue) {
		write_answer(f);
		return;
	}
	if (f->reader.head.body == HTTP1_BODY_LENGTH && f->reader.head.content_length > DISCARD_MAX) {
		write_answer(f);
		return;
	}
	f->discarded = 0;
	set_state(f, FRONT_REFUSING);
	set_paused(f, false);
}

static void refuse_reason(struct front *f, uint32_t reason, const char *detail)
{
	const struct tp_reason_info *info = tp_reason_info(reason);
	const char *extra = info->http_status == 503 ? "Retry-After: 2\r\n" : NULL;

	if (f->call)
		snprintf(f->refusal_call, sizeof(f->refusal_call), "%s", call_id(f->call));
	refuse(f, info->http_status, extra, reason, NULL, detail);
}

/* ---- the call ---- */

static void on_call_output(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->channel)
		channel_want_write(f->channel);
}

static void on_call_writable(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->state == FRONT_BODY)
		set_paused(f, false);
}

static void on_call_failed(void *user, uint32_t reason, const char *detail)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->state == FRONT_BODY || f->state == FRONT_CALL)
		refuse_reason(f, reason, detail);
}

static const struct call_handler call_callbacks = {
	.on_output = on_call_output,
	.on_writable = on_call_writable,
	.on_failed = on_call_failed,
};

/* A call that no gateway has seen anything of, refused: the id of its message has still to be found. */
static void deny(struct front *f, const struct request *q, const char *agent, const struct attached *a, uint32_t reason, const char *detail)
{
	records_denied(f->relay, q, &f->reader.head, agent, a, reason, detail);
	if (mcp_scan_new(&f->scan) < 0)
		f->scan = NULL;
	refuse_reason(f, reason, detail);
}

static void start_call(struct front *f, const struct request *q, const char *agent)
{
	const struct http1_head *h = &f->reader.head;
	const struct call_start start = {
		.attached = attach_pick(f->relay, q->tunnel),
		.head = h,
		.request = q,
		.agent = agent,
		.agent_auth = relay_agent_auth(f->relay),
		.end = h->body == HTTP1_BODY_NONE,
	};
	int r;

	if (!start.attached) {
		if (hold_add(f->relay->hold, &f->held, q->tunnel, sizeof(*f) + HELD_HEAD_BYTES)) {
			set_state(f, FRONT_HELD);
			set_paused(f, true);
		} else {
			deny(f, q, agent, NULL, TP_REASON_NOT_ATTACHED, NULL);
		}
		return;
	}
	if (h->body == HTTP1_BODY_LENGTH && h->content_length > f->relay->cfg->max_request_bytes) {
		deny(f, q, agent, start.attached, TP_REASON_TOO_LARGE, "--max-request-bytes of the relay");
		return;
	}
	r = call_new(f->relay, &start, &call_callbacks, f, &f->call);
	if (r == TP_REASON_AUDIT_UNAVAILABLE) {
		refuse_reason(f, TP_REASON_AUDIT_UNAVAILABLE, "see the relay's log");
		return;
	}
	if (r != 0) {
		deny(f, q, agent, start.attached, r > 0 ? (uint32_t)r : TP_REASON_REFUSED, r > 0 ? NULL : "out of memory");
		return;
	}
	if (h->expect_continue && !start.end && buf_add_str(&f->out, "HTTP/1.1 100 Continue\r\n\r\n") == 0)
		channel_want_write(f->channel);
	set_state(f, start.end ? FRONT_CALL : FRONT_BODY);
}

/* ---- requests ---- */

static bool origin_allowed(const void *user, struct span origin)
{
	return relay_config_origin_allowed(user, origin);
}

/* Absent unless there is such a tunnel. */
static struct span known_tunnel(const struct relay *r, struct span tunnel)
{
	return registry_has_tunnel(r->registry, tunnel) ? tunnel : (struct span){ NULL, 0 };
}

static void begin_upgrade(struct front *f, const struct request *q)
{
	const struct http1_head *h = &f->reader.head;
	const char *bad, *tunnel;
	char peer[128];
	unsigned status;

	f->relay->counters.gateway_connections++;
	bad = upgrade_check_request(h, &status);
	if (bad) {
		f->close_after = true;
		refuse(f, status, status == 426 ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" : NULL,
		       TP_REASON_BAD_REQUEST, bad, NULL);
		return;
	}
	tunnel = registry_check_token(f->relay->registry, q->key);
	if (!tunnel || !span_is(http1_field_get(h, "Mcp-Tunnel", NULL), tunnel)) {
		channel_peer(f->channel, peer, sizeof(peer));
		f->relay->counters.gateway_refused++;
		log_warning("a gateway at %s gave a token that is not valid", peer);
		records_auth_failure(f->relay, known_tunnel(f->relay, http1_field_get(h, "Mcp-Tunnel", NULL)), peer,
				     "a gateway gave a token that is not valid");
		f->close_after = true;
		refuse(f, 401, "WWW-Authenticate: Bearer realm=\"mcp-tunnel\"\r\n", TP_REASON_BAD_REQUEST, "the token is not valid", NULL);
		return;
	}
	if (f->relay->stopping) {
		f->close_after = true;
		refuse(f, 503, "Retry-After: 2\r\n", TP_REASON_RELAY_STOPPED, "the relay stops", NULL);
		return;
	}
	snprintf(f->tunnel_id, sizeof(f->tunnel_id), "%s", tunnel);
	if (digest_sha256(q->key.p, q->key.len, f->secret) < 0 || audit_setup_hash(&f->relay->audit, q->key, &f->hash) < 0 || upgrade_write_response(&f->out, h) < 0) {
		front_close(f);
		return;
	}
	set_state(f, FRONT_UPGRADING);
	channel_want_write(f->channel);
}

static const char *check_agent(const struct relay *r, const struct request *q)
{
	const char *agent = registry_check_agent(r->registry, q->tunnel, q->key);

	if (agent)
		return agent;
	return r->cfg->agents_need_key || !registry_has_tunnel(r->registry, q->tunnel) ? NULL : "unknown";
}

static const char *local_name(struct front *f)
{
	static const char mapped[] = "::ffff:";
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (f->local[0])
		return f->local;
	if (getsockname(channel_fd(f->channel), (struct sockaddr *)&ss, &len) < 0 || ss.ss_family == AF_UNIX ||
	    getnameinfo((struct sockaddr *)&ss, len, f->local, sizeof(f->local), NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(f->local, sizeof(f->local), "unix");
	/* A listener on [::] takes IPv4, too. */
	if (strncmp(f->local, mapped, sizeof(mapped) - 1) == 0 && strchr(f->local, '.'))
		memmove(f->local, f->local + sizeof(mapped) - 1, strlen(f->local) - (sizeof(mapped) - 1) + 1);
	return f->local;
}

static void refuse_agent(struct front *f, const struct request *q)
{
	struct span tunnel = known_tunnel(f->relay, q->tunnel);
	char peer[128];

	channel_peer(f->channel, peer, sizeof(peer));
	if (tunnel.p)
		records_auth_failure(f->relay, tunnel, peer, q->key.p ? "an agent gave a key that is not valid" : "an agent gave no key");
	refuse(f, 401, "WWW-Authenticate: Bearer realm=\"mcp-tunnel\"\r\n", TP_REASON_BAD_REQUEST,
	       "no key, or a wrong one: send Authorization: Bearer KEY", NULL);
}

static bool read_head(struct front *f, struct request *q, struct refusal *why)
{
	const struct relay *r = f->relay;

	return request_check(&f->reader.head, &r->names, local_name(f), origin_allowed, r->cfg, q, why);
}

/* Whose call it is, to end it with the key. */
static int keep_key(struct front *f, const struct request *q)
{
	f->agent_tunnel[0] = '\0';
	if (!f->relay->cfg->agents_need_key)
		return 0;
	snprintf(f->agent_tunnel, sizeof(f->agent_tunnel), "%.*s", SPAN_FMT(q->tunnel));
	return digest_sha256(q->key.p, q->key.len, f->secret);
}

/* What the head asks for: done, refused, or made to wait. */
static void serve_head(struct front *f)
{
	struct request q;
	struct refusal why;
	const char *agent;

	if (!read_head(f, &q, &why)) {
		refuse(f, why.status, why.extra, why.reason, why.text, NULL);
		return;
	}
	if (q.kind == REQUEST_ATTACH) {
		begin_upgrade(f, &q);
		return;
	}
	agent = check_agent(f->relay, &q);
	if (!agent)
		refuse_agent(f, &q);
	else if (f->relay->stopping)
		deny(f, &q, agent, NULL, TP_REASON_REFUSED, "the relay stops");
	else if (keep_key(f, &q) < 0)
		deny(f, &q, agent, NULL, TP_REASON_REFUSED, "out of memory");
	else
		start_call(f, &q, agent);
}

static void on_head(struct front *f)
{
	const struct http1_head *h = &f->reader.head;

	f->relay->counters.requests++;
	f->head_only = span_is(h->method, "HEAD");
	f->body_ended = h->body == HTTP1_BODY_NONE;
	f->close_after = !h->keep_alive || f->relay->stopping;
	f->refusal_call[0] = '\0';
	hold_renew(&f->held);
	serve_head(f);
}

static void on_body(struct front *f, struct span data, bool end)
{
	uint32_t reason;

	f->body_ended = end;
	if (f->state == FRONT_BODY) {
		reason = call_body(f->call, (const uint8_t *)data.p, data.len, end);
		if (reason != TP_REASON_NONE && !call_has_begun(f->call)) {
			refuse_reason(f, reason, reason == TP_REASON_TOO_LARGE ? "--max-request-bytes of the relay" : "out of memory");
			return;
		}
		set_state(f, end ? FRONT_CALL : FRONT_BODY);
		if (!end && !call_wants_body(f->call))
			set_paused(f, true);
	} else if (f->state == FRONT_REFUSING) {
		f->discarded += data.len;
		/* The call has failed; it still wants to know its id. */
		if (f->call)
			(void)call_body(f->call, (const uint8_t *)data.p, data.len, end);
		if (f->scan && mcp_scan_feed(f->scan, data.p, data.len) < 0)
			f->scan = mcp_scan_free(f->scan);
		if (end || f->discarded > DISCARD_MAX)
			write_answer(f);
	}
}

static void on_bad(struct front *f, const struct http1_event *ev)
{
	if (f->call && call_has_begun(f->call)) {
		front_close(f);
		return;
	}
	f->close_after = true;
	f->body_ended = true;
	f->head_only = false;
	if (!f->call)
		f->refusal_call[0] = '\0';
	refuse(f, ev->status, NULL, TP_REASON_BAD_REQUEST, ev->error, NULL);
}

static void on_reader_event(struct front *f, const struct http1_event *ev)
{
	switch (ev->type) {
	case HTTP1_HEAD:
		on_head(f);
		if (f->state != FRONT_CLOSING && f->state != FRONT_HELD)
			http1_head_release(&f->reader);
		break;
	case HTTP1_DATA:
		/* The last byte of a known length is the end: one frame instead of two. */
		on_body(f, ev->data, f->reader.head.body == HTTP1_BODY_LENGTH && f->reader.body_left == 0);
		break;
	case HTTP1_END:
		if (!f->body_ended)
			on_body(f, (struct span){ NULL, 0 }, true);
		break;
	case HTTP1_BAD:
		on_bad(f, ev);
		break;
	case HTTP1_MORE:
		break;
	}
}

/* Whether bytes belong to the request being read; otherwise they are early. */
static bool reads(const struct front *f)
{
	return f->state == FRONT_IDLE || f->state == FRONT_HEAD || f->state == FRONT_BODY || f->state == FRONT_REFUSING;
}

static void keep_early(struct front *f, const uint8_t *p, size_t len)
{
	if (!len)
		return;
	if (buf_add(&f->early, p, len) < 0) {
		front_close(f);
		return;
	}
	set_paused(f, true);
	if (f->state == FRONT_HELD && !hold_add_bytes(&f->held, len))
		on_hold_expired(f);
}

static void read_bytes(struct front *f, const uint8_t *p, size_t len)
{
	struct http1_event ev = { .type = HTTP1_DATA };
	size_t used;

	while (reads(f) && (len || ev.type != HTTP1_MORE)) {
		if (f->state == FRONT_IDLE && len)
			set_state(f, FRONT_HEAD);
		if (http1_read(&f->reader, p, len, &used, &ev) < 0) {
			front_close(f);
			return;
		}
		p += used;
		len -= used;
		on_reader_event(f, &ev);
	}
	/* END of a body may still be due without a byte of its own. */
	if (f->state != FRONT_CLOSING)
		keep_early(f, p, len);
}

/* Reading goes on with what came meanwhile. */
static void read_early(struct front *f)
{
	struct buf early = f->early;

	buf_init(&f->early, EARLY_MAX);
	set_paused(f, false);
	if (buf_len(&early))
		read_bytes(f, buf_bytes(&early), buf_len(&early));
	buf_done(&early);
}

static void next_request(struct front *f)
{
	if (f->close_after) {
		front_close(f);
		return;
	}
	f->call = call_free(f->call);
	http1_reader_next(&f->reader);
	set_state(f, FRONT_IDLE);
	read_early(f);
}

/* The head has been served at last, one way or the other. */
static void after_hold(struct front *f)
{
	if (f->state == FRONT_CLOSING || f->state == FRONT_HELD)
		return;
	http1_head_release(&f->reader);
	if (reads(f))
		read_early(f);
}

static void on_hold_attached(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	set_state(f, FRONT_HEAD);
	serve_head(f);
	after_hold(f);
}

static void on_hold_expired(void *user)
{
	struct front *f = user;
	struct request q = { 0 };
	struct refusal why;
	const char *agent = NULL;

	CHECK_OBJ(f, FRONT_MAGIC);
	set_state(f, FRONT_HEAD);
	/* It was good when it began to wait; who it is may be gone since. */
	if (read_head(f, &q, &why))
		agent = check_agent(f->relay, &q);
	if (f->relay->stopping)
		deny(f, &q, agent, NULL, TP_REASON_REFUSED, "the relay stops");
	else
		deny(f, &q, agent, NULL, TP_REASON_NOT_ATTACHED, NULL);
	after_hold(f);
}

static void finish_upgrade(struct front *f)
{
	struct relay *r = f->relay;
	struct channel *c = f->channel;
	struct buf early = f->early;
	struct audit_hash hash = f->hash;
	uint8_t secret[SHA256_LEN];
	char tunnel_id[sizeof(f->tunnel_id)];

	memcpy(tunnel_id, f->tunnel_id, sizeof(tunnel_id));
	memcpy(secret, f->secret, sizeof(secret));
	buf_init(&f->early, 0);
	set_paused(f, false);
	f->channel = NULL;
	front_free(f);
	attach_begin(r, c, tunnel_id, secret, &hash, buf_bytes(&early), buf_len(&early));
	audit_hash_done(&hash);
	buf_done(&early);
}

/* At the end of the turn in which an answer was pulled to its end. */
static void on_turn(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (f->state == FRONT_UPGRADING)
		finish_upgrade(f);
	else if (f->call && call_is_cut(f->call))
		front_close(f);
	else if (f->state == FRONT_ANSWERED || (f->call && call_is_done(f->call)))
		next_request(f);
}

/* ---- the channel ---- */

static void on_channel_data(void *user, uint8_t *data, size_t len)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	read_bytes(f, data, len);
}

static bool answer_is_over(const struct front *f)
{
	if (buf_len(&f->out))
		return false;
	if (f->state == FRONT_ANSWERED || f->state == FRONT_UPGRADING)
		return true;
	return f->call && (call_is_done(f->call) || call_is_cut(f->call));
}

static size_t on_channel_pull(void *user, uint8_t *dst, size_t room)
{
	struct front *f = user;
	size_t n;

	CHECK_OBJ(f, FRONT_MAGIC);
	n = MIN(room, buf_len(&f->out));
	if (n) {
		memcpy(dst, buf_bytes(&f->out), n);
		buf_drop(&f->out, n);
	}
	if (!buf_len(&f->out) && f->call && (f->state == FRONT_BODY || f->state == FRONT_CALL))
		n += call_pull(f->call, dst + n, room - n);
	/* Chunks leave a few bytes of the room unused, which reads as "nothing more". */
	if (n && f->call && call_has_output(f->call))
		channel_want_write(f->channel);
	if (f->state != FRONT_CLOSING && answer_is_over(f)) {
		/* An answer that overtook its request: the rest of the request has nowhere to go. */
		if (!f->body_ended)
			f->close_after = true;
		loop_task_queue(f->relay->loop, &f->turn);
	}
	return n;
}

static void on_channel_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	if (end == CHANNEL_TLS)
		log_debug("an agent's or gateway's connection: %s", detail);
	f->channel = NULL;
	front_free(f);
}

static const struct channel_ops channel_callbacks = {
	.on_data = on_channel_data,
	.on_pull = on_channel_pull,
	.on_closed = on_channel_closed,
};

void front_new(struct relay *r, int take_fd, struct tls_context *tls)
{
	const struct channel_options opt = {
		.tls = tls,
		.server = true,
		.open_timeout_ms = OPEN_TIMEOUT_MS,
		.notsent_lowat = NOTSENT_LOWAT,
	};
	struct front *f = calloc(1, sizeof(*f));

	if (!f) {
		close(take_fd);
		return;
	}
	f->magic = FRONT_MAGIC;
	f->relay = r;
	http1_reader_init(&f->reader, HTTP1_REQUEST);
	buf_init(&f->out, OUT_MAX);
	buf_init(&f->early, EARLY_MAX);
	loop_task_init(&f->turn, on_turn, f);
	f->held = (struct held){ .on_attached = on_hold_attached, .on_expired = on_hold_expired, .user = f };
	if (channel_new(r->loop, take_fd, &opt, &channel_callbacks, f, &f->channel) < 0) {
		free(f);
		return;
	}
	r->counters.agent_connections++;
	TAILQ_INSERT_TAIL(&r->fronts, f, link);
	set_state(f, FRONT_IDLE);
}

void front_revoke(struct relay *r)
{
	struct front *f, *next;

	for (f = TAILQ_FIRST(&r->fronts); f; f = next) {
		next = TAILQ_NEXT(f, link);
		if ((!f->call && f->state != FRONT_HELD) || !f->agent_tunnel[0] ||
		    registry_key_is_good(r->registry, span_of(f->agent_tunnel), f->secret))
			continue;
		if (f->call) {
			call_abort(f->call, TP_REASON_KEY_REVOKED, "the agent was removed");
		} else {
			hold_remove(&f->held);
			on_hold_attached(f);
		}
	}
}

void front_sweep(struct relay *r)
{
	uint64_t now = loop_now_ms(r->loop);
	struct front *f, *next;

	for (f = TAILQ_FIRST(&r->fronts); f; f = next) {
		next = TAILQ_NEXT(f, link);
		/* A body that the gateway does not take yet is not late. */
		if (now < f->deadline_ms || (f->paused && f->state == FRONT_BODY))
			continue;
		if (f->state == FRONT_IDLE)
			front_close(f);
		else
			front_free(f);
	}
}

void front_drain_all(struct relay *r)
{
	struct front *f, *next;

	for (f = TAILQ_FIRST(&r->fronts); f; f = next) {
		next = TAILQ_NEXT(f, link);
		f->close_after = true;
		if (f->state == FRONT_IDLE)
			front_close(f);
	}
}

void front_close_all(struct relay *r)
{
	struct front *f;

	/* Answers that say why go out first; the rest of a refused body is not waited for. */
	while ((f = TAILQ_FIRST(&r->fronts))) {
		if (f->state == FRONT_REFUSING)
			write_answer(f);
		if (f->state != FRONT_CLOSING)
			front_close(f);
	}
}
