#include "gateway/upstream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log_limit.h"
#include "daemon/channel.h"
#include "daemon/dial.h"
#include "gateway/upstream_ask.h"
#include "proto/reasons.h"

#define UPSTREAM_MAGIC 0x75707374
#define CALL_MAGIC 0x7570636c
#define CONN_MAGIC 0x7570636e

enum {
	SWEEP_MS = 1000,
	PROBE_MS = 5 * 1000, /* after the last sign of life */
	LOOK_MS = 1000, /* the same where somebody wants to know */
	SILENT_MS = 5 * 1000, /* how long the server may say nothing to a request before it is asked */
	MUTE_MS = 30 * 1000, /* how long a call without any answer counts against the server, where it cannot be asked */
	INFORMATIONAL_MAX = 16, /* 1xx heads before the answer */
};

/* A connection: kept (call == NULL) or busy with one call. */
struct upstream_conn {
	unsigned magic;
	TAILQ_ENTRY(upstream_conn) link; /* in idle */
	struct upstream *upstream;
	struct channel *channel;
	struct upstream_call *call;
	struct http1_reader reader;
	unsigned tls_changes; /* of the upstream, when it was made */
	uint64_t idle_since_ms;
};

struct upstream_call {
	unsigned magic;
	struct upstream *upstream;
	struct upstream_conn *conn; /* NULL while dialling */
	struct dial *dial;
	const struct upstream_ops *ops;
	void *user;
	struct buf head, body;
	size_t head_at, body_at; /* sent; kept whole while there may be a retry */
	bool idempotent;
	bool reused;   /* on a kept connection */
	bool begun;    /* a byte of the request has gone out on it */
	bool answered; /* a byte of the answer has come: no retry any more */
	bool head_told; /* the final head has been */
	bool sent_told;
	unsigned informational;
	bool paused;
};

struct upstream {
	unsigned magic;
	struct loop *loop;
	struct upstream_config cfg;
	char *host, *unix_path;
	TAILQ_HEAD(idle_head, upstream_conn) idle; /* most recently used first */
	size_t n_idle;
	unsigned tls_changes; /* upstream_set_tls() so far */
	struct event *sweep;
	struct dial *probe;
	struct channel *probe_channel; /* TLS: its handshake */
	struct upstream_ask ask;
	uint64_t silent_since_ms; /* a request was sent, and no byte has come from the server since; 0: it spoke last */
	struct upstream_health health;
	struct upstream_pool own_pool, *pool;
	char label[96];
};

static void call_dial(struct upstream_call *c);

/* One line when the state changes, none for each call. */
static void health_set(struct upstream *u, uint32_t reason, const char *detail)
{
	struct upstream_health *h = &u->health;

	if (reason != TP_REASON_NONE && (!h->known || h->reason != reason))
		log_few(LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_REASON", tp_reason_name(reason) }), "%s: %s: %s", u->label,
			    tp_reason_name(reason), detail);
	else if (reason == TP_REASON_NONE && h->known && h->reason != TP_REASON_NONE)
		log_few(LOG_LEVEL_NOTICE, NULL, 0, "%s answers again", u->label);
	h->seen_ms = loop_now_ms(u->loop);
	if (h->known && h->reason == TP_REASON_NONE && reason == TP_REASON_NONE)
		return;
	h->known = true;
	h->reason = reason;
	snprintf(h->detail, sizeof(h->detail), "%s", detail);
}

static bool is_mute(const struct upstream *u)
{
	return u->health.reason != TP_REASON_NONE && u->health.reason != TP_REASON_UPSTREAM_UNREACHABLE;
}

static bool is_well(const struct upstream *u)
{
	return u->health.known && u->health.reason == TP_REASON_NONE;
}

/* A connection came about, or did not. It keeps a server well that has answered once; it makes none so, where it can be asked. */
static void health_connected(struct upstream *u, bool connected, const char *detail)
{
	const struct upstream_health *h = &u->health;

	if (!connected)
		health_set(u, TP_REASON_UPSTREAM_UNREACHABLE, detail);
	else if (u->ask.target ? is_well(u) : !is_mute(u) || loop_now_ms(u->loop) - h->seen_ms >= MUTE_MS)
		health_set(u, TP_REASON_NONE, "connected");
}

static void conn_gone(void *p)
{
	struct upstream_conn *k = p;

	http1_reader_done(&k->reader);
	k->magic = 0;
	free(k);
}

/* The connection leaves us, whatever it was doing; its call is not told. */
static void conn_drop(struct upstream_conn *k, bool at_once)
{
	struct upstream *u = k->upstream;
	struct channel *channel = k->channel;

	u->pool->open--;
	if (!k->call) {
		TAILQ_REMOVE(&u->idle, k, link);
		u->n_idle--;
		u->pool->idle--;
	} else {
		k->call->conn = NULL;
	}
	/* Before the close, which asks for what is still to be sent. */
	k->channel = NULL;
	k->call = NULL;
	if (channel && at_once)
		channel_abort(channel, false);
	else if (channel)
		channel_close(channel, 0);
	loop_free_later(u->loop, conn_gone, k);
}

static bool is_sent(const struct upstream_call *c)
{
	return c->head_at == buf_len(&c->head) && c->body_at == buf_len(&c->body);
}

/* Of no more use: it may be large, and the answer may take its time. */
static void forget_request(struct upstream_call *c)
{
	c->upstream->pool->request_bytes -= buf_len(&c->body);
	buf_clear(&c->head);
	buf_clear(&c->body);
	c->head_at = c->body_at = 0;
}

static void call_free(struct upstream_call *c)
{
	dial_cancel(c->dial);
	c->dial = NULL;
	if (c->conn)
		conn_drop(c->conn, true);
	forget_request(c);
	c->magic = 0;
	free(c);
}

static void call_fail(struct upstream_call *c, uint32_t reason, const char *detail)
{
	const struct upstream_ops *ops = c->ops;
	void *user = c->user;
	char copy[256];

	snprintf(copy, sizeof(copy), "%s", detail);
	/* A kept connection may die of old age: that says nothing of the server. */
	if (!c->head_told && (c->answered || !c->reused) &&
	    (reason == TP_REASON_UPSTREAM_CLOSED || reason == TP_REASON_UPSTREAM_PROTOCOL))
		health_set(c->upstream, reason, detail);
	call_free(c);
	ops->on_fail(user, reason, copy);
}

static bool may_be_kept(const struct upstream_conn *k)
{
	const struct upstream *u = k->upstream;

	return k->channel && k->reader.head.keep_alive && k->tls_changes == u->tls_changes && u->n_idle < u->cfg.max_idle && u->cfg.idle_ms;
}

/* The answer is complete: keeps the connection when both sides can use it again. */
static void call_end(struct upstream_call *c, bool more_bytes)
{
	struct upstream_conn *k = c->conn;
	struct upstream *u = c->upstream;
	const struct upstream_ops *ops = c->ops;
	void *user = c->user;

	if (is_sent(c) && !more_bytes && may_be_kept(k)) {
		k->call = NULL;
		c->conn = NULL;
		http1_reader_next(&k->reader);
		channel_pause(k->channel, false);
		k->idle_since_ms = loop_now_ms(u->loop);
		TAILQ_INSERT_HEAD(&u->idle, k, link);
		u->n_idle++;
		u->pool->idle++;
	} else {
		conn_drop(k, false);
	}
	call_free(c);
	ops->on_end(user);
}

/* Tells one event of the reader. False when the call is over (and gone). */
static bool call_event(struct upstream_call *c, const struct http1_event *ev, bool more_bytes)
{
	switch (ev->type) {
	case HTTP1_MORE:
		return true;
	case HTTP1_HEAD:
		if (c->conn->reader.head.status == 101) {
			call_fail(c, TP_REASON_UPSTREAM_PROTOCOL, "the MCP server switched protocols without being asked");
			return false;
		}
		if (c->conn->reader.head.status < 200 && ++c->informational <= INFORMATIONAL_MAX)
			return true;
		if (c->conn->reader.head.status < 200) {
			call_fail(c, TP_REASON_UPSTREAM_PROTOCOL, "too many 1xx answers");
			return false;
		}
		c->head_told = true;
		health_set(c->upstream, TP_REASON_NONE, "answered");
		/* There is no retry any more. */
		if (is_sent(c))
			forget_request(c);
		c->ops->on_head(c->user, &c->conn->reader.head);
		return true;
	case HTTP1_DATA:
		c->ops->on_data(c->user, (const uint8_t *)ev->data.p, ev->data.len);
		return true;
	case HTTP1_END:
		call_end(c, more_bytes);
		return false;
	case HTTP1_BAD:
		call_fail(c, TP_REASON_UPSTREAM_PROTOCOL, ev->error);
		return false;
	}
	return false;
}

static void on_channel_data(void *user, uint8_t *data, size_t len)
{
	struct upstream_conn *k = user;
	struct http1_event ev;
	size_t used;

	CHECK_OBJ(k, CONN_MAGIC);
	if (!k->call) {
		/* Bytes that nobody asked for: the connection is of no more use. */
		conn_drop(k, true);
		return;
	}
	k->call->answered = true;
	k->upstream->silent_since_ms = 0;
	do {
		struct upstream_call *c = k->call;

		if (http1_read(&k->reader, data, len, &used, &ev) < 0) {
			call_fail(c, TP_REASON_INTERNAL, "out of memory");
			return;
		}
		data += used;
		len -= used;
		if (!call_event(c, &ev, len > 0))
			return;
		if (ev.type == HTTP1_HEAD && k->call == c)
			http1_head_release(&k->reader);
	} while (k->call && (len > 0 || ev.type != HTTP1_MORE));
}

static size_t take(uint8_t *dst, size_t room, const struct buf *b, size_t *at)
{
	size_t n = MIN(room, buf_len(b) - *at);

	if (n)
		memcpy(dst, buf_bytes(b) + *at, n);
	*at += n;
	return n;
}

static size_t on_channel_pull(void *user, uint8_t *dst, size_t room)
{
	struct upstream_conn *k = user;
	struct upstream_call *c = k->call;
	size_t n;

	CHECK_OBJ(k, CONN_MAGIC);
	if (!c)
		return 0;
	if (!c->sent_told && c->ops->on_sent)
		c->ops->on_sent(c->user);
	if (!c->sent_told && !k->upstream->silent_since_ms)
		k->upstream->silent_since_ms = loop_now_ms(k->upstream->loop);
	c->sent_told = c->begun = true;
	n = take(dst, room, &c->head, &c->head_at);
	n += take(dst + n, room - n, &c->body, &c->body_at);
	if (is_sent(c) && !c->idempotent)
		forget_request(c);
	return n;
}

static void on_channel_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct upstream_conn *k = user;
	struct upstream_call *c = k->call;
	struct http1_event ev = { .type = HTTP1_MORE };
	char text[256];

	CHECK_OBJ(k, CONN_MAGIC);
	k->channel = NULL;
	if (!c) {
		conn_drop(k, true);
		return;
	}
	if (end == CHANNEL_EOF)
		http1_read_eof(&k->reader, &ev);
	if (ev.type == HTTP1_END) {
		call_end(c, false);
		return;
	}
	if (!c->answered && c->reused && (c->idempotent || !c->begun)) {
		conn_drop(k, true);
		c->reused = c->begun = false;
		c->upstream->pool->retried++;
		c->head_at = c->body_at = 0;
		call_dial(c);
		return;
	}
	if (c->upstream->cfg.tls && !c->reused && !c->answered && !c->begun) {
		/* No handshake, no request. */
		health_set(c->upstream, TP_REASON_UPSTREAM_UNREACHABLE, detail);
		snprintf(text, sizeof(text), "%s", detail);
		call_fail(c, TP_REASON_UPSTREAM_UNREACHABLE, text);
		return;
	}
	snprintf(text, sizeof(text), "%s: %s", c->answered ? "in the middle of the answer" : "before the answer", detail);
	call_fail(c, TP_REASON_UPSTREAM_CLOSED, text);
}

static const struct channel_ops conn_callbacks = {
	.on_data = on_channel_data,
	.on_pull = on_channel_pull,
	.on_closed = on_channel_closed,
};

static struct channel_options channel_options_of(const struct upstream *u)
{
	return (struct channel_options){
		.tls = u->cfg.tls,
		.server_name = u->host,
		.open_timeout_ms = u->cfg.tls ? u->cfg.connect_timeout_ms : 0,
	};
}

static int conn_new(struct upstream_call *c, int take_fd)
{
	const struct channel_options opt = channel_options_of(c->upstream);
	struct upstream_conn *k = calloc(1, sizeof(*k));
	int r;

	if (!k) {
		close(take_fd);
		return -ENOMEM;
	}
	k->magic = CONN_MAGIC;
	k->upstream = c->upstream;
	k->tls_changes = c->upstream->tls_changes;
	http1_reader_init(&k->reader, HTTP1_RESPONSE);
	r = channel_new(c->upstream->loop, take_fd, &opt, &conn_callbacks, k, &k->channel);
	if (r < 0) {
		free(k);
		return r;
	}
	k->call = c;
	c->conn = k;
	c->upstream->pool->open++;
	return 0;
}

static void call_send(struct upstream_call *c)
{
	channel_pause(c->conn->channel, c->paused);
	channel_want_write(c->conn->channel);
}

static void on_dialled(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct upstream_call *c = user;

	CHECK_OBJ(c, CALL_MAGIC);
	c->dial = NULL;
	if (err != DIAL_OK || !c->upstream->cfg.tls)
		health_connected(c->upstream, err == DIAL_OK, detail);
	c->upstream->pool->failed += err != DIAL_OK;
	if (err != DIAL_OK)
		call_fail(c, TP_REASON_UPSTREAM_UNREACHABLE, detail);
	else if (conn_new(c, take_fd) < 0)
		call_fail(c, TP_REASON_UPSTREAM_UNREACHABLE, "out of memory");
	else
		call_send(c);
}

static struct dial_target target_of(const struct upstream *u)
{
	return (struct dial_target){
		.host = u->host,
		.port = u->cfg.port,
		.unix_path = u->unix_path,
		.timeout_ms = u->cfg.connect_timeout_ms,
		.allow = u->cfg.allow,
		.allow_user = u->cfg.allow_user,
	};
}

static void call_dial(struct upstream_call *c)
{
	const struct dial_target target = target_of(c->upstream);

	c->upstream->pool->dialled++;
	if (dial_start(c->upstream->loop, &target, on_dialled, c, &c->dial) < 0)
		call_fail(c, TP_REASON_UPSTREAM_UNREACHABLE, "out of memory");
}

/* A kept connection that the server has closed meanwhile shows it here, before a request is lost on it. */
static bool conn_is_alive(const struct upstream_conn *k)
{
	char byte;

	return recv(channel_fd(k->channel), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static struct upstream_conn *idle_take(struct upstream *u)
{
	struct upstream_conn *k;

	while ((k = TAILQ_FIRST(&u->idle))) {
		if (!conn_is_alive(k)) {
			conn_drop(k, true);
			continue;
		}
		TAILQ_REMOVE(&u->idle, k, link);
		u->n_idle--;
		u->pool->idle--;
		return k;
	}
	return NULL;
}

int upstream_call_start(struct upstream *u, struct buf *take_head, struct buf *take_body, bool idempotent,
			const struct upstream_ops *ops, void *user, struct upstream_call **ret)
{
	const struct dial_target target = target_of(u);
	struct upstream_call *c = calloc(1, sizeof(*c));
	struct upstream_conn *k;

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	if (!c)
		return -ENOMEM;
	*c = (struct upstream_call){ .magic = CALL_MAGIC, .upstream = u, .ops = ops, .user = user,
				     .head = *take_head, .body = *take_body, .idempotent = idempotent };
	u->pool->request_bytes += buf_len(&c->body);
	buf_init(take_head, take_head->max);
	buf_init(take_body, take_body->max);
	k = idle_take(u);
	u->pool->reused += k != NULL;
	u->pool->dialled += k == NULL;
	if (k) {
		k->call = c;
		c->conn = k;
		c->reused = true;
		call_send(c);
	} else if (dial_start(u->loop, &target, on_dialled, c, &c->dial) < 0) {
		call_free(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void upstream_call_pause(struct upstream_call *c, bool paused)
{
	CHECK_OBJ(c, CALL_MAGIC);
	if (c->paused == paused)
		return;
	c->paused = paused;
	if (c->conn && c->conn->channel)
		channel_pause(c->conn->channel, paused);
}

void upstream_call_cancel(struct upstream_call *c)
{
	CHECK_OBJ(c, CALL_MAGIC);
	call_free(c);
}

static void probe_end(struct upstream *u, bool connected, const char *detail)
{
	if (u->probe_channel)
		channel_abort(u->probe_channel, false);
	u->probe_channel = NULL;
	health_connected(u, connected, detail);
}

static void on_probe_open(void *user)
{
	struct upstream *u = user;

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	probe_end(u, true, "");
}

static void on_probe_data(void *user, uint8_t *data, size_t len)
{
}

static size_t on_probe_pull(void *user, uint8_t *dst, size_t room)
{
	return 0;
}

static void on_probe_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct upstream *u = user;

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	u->probe_channel = NULL;
	probe_end(u, false, detail);
}

static const struct channel_ops probe_callbacks = {
	.on_open = on_probe_open,
	.on_data = on_probe_data,
	.on_pull = on_probe_pull,
	.on_closed = on_probe_closed,
};

static void on_probed(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct upstream *u = user;
	const struct channel_options opt = channel_options_of(u);

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	u->probe = NULL;
	if (err == DIAL_OK && u->cfg.tls) {
		if (channel_new(u->loop, take_fd, &opt, &probe_callbacks, u, &u->probe_channel) < 0)
			probe_end(u, false, "out of memory");
		return;
	}
	if (take_fd >= 0)
		close(take_fd);
	probe_end(u, err == DIAL_OK, detail);
}

void upstream_set_tls(struct upstream *u, struct tls_context *tls)
{
	struct upstream_conn *k;

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	u->cfg.tls = tls;
	u->tls_changes++;
	while ((k = TAILQ_FIRST(&u->idle)))
		conn_drop(k, false);
}

/* Nothing but an answer proves that it is well. */
static bool must_answer(const struct upstream *u)
{
	return u->ask.target && (!is_well(u) || (u->silent_since_ms && loop_now_ms(u->loop) - u->silent_since_ms >= SILENT_MS));
}

void upstream_probe(struct upstream *u)
{
	const struct dial_target target = target_of(u);

	if (u->probe || u->probe_channel || u->ask.call)
		return;
	if (must_answer(u)) {
		upstream_ask_start(&u->ask);
		return;
	}
	if (dial_start(u->loop, &target, on_probed, u, &u->probe) < 0)
		u->probe = NULL;
}

void upstream_look(struct upstream *u)
{
	if (loop_now_ms(u->loop) - u->health.seen_ms >= LOOK_MS)
		upstream_probe(u);
}

const struct upstream_health *upstream_health(const struct upstream *u)
{
	return &u->health;
}

void upstream_pool(const struct upstream *u, struct upstream_pool *ret)
{
	*ret = *u->pool;
}

static void on_sweep(evutil_socket_t fd, short what, void *user)
{
	struct upstream *u = user;
	struct upstream_conn *k;
	uint64_t now = loop_now_ms(u->loop);

	CHECK_OBJ(u, UPSTREAM_MAGIC);
	while ((k = TAILQ_LAST(&u->idle, idle_head)) && now - k->idle_since_ms >= u->cfg.idle_ms)
		conn_drop(k, false);
	if (u->ask.target && (must_answer(u) || now - u->health.seen_ms >= PROBE_MS))
		upstream_probe(u);
}

int upstream_new(struct loop *l, const struct upstream_config *cfg, struct upstream **ret)
{
	const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000 };
	struct upstream *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->magic = UPSTREAM_MAGIC;
	u->loop = l;
	u->cfg = *cfg;
	u->pool = cfg->pool ? cfg->pool : &u->own_pool;
	snprintf(u->label, sizeof(u->label), "%s", cfg->label ? cfg->label : "MCP server");
	TAILQ_INIT(&u->idle);
	u->host = cfg->host ? strdup(cfg->host) : NULL;
	u->unix_path = cfg->unix_path ? strdup(cfg->unix_path) : NULL;
	u->sweep = event_new(loop_base(l), -1, EV_PERSIST, on_sweep, u);
	r = cfg->target ? upstream_ask_init(&u->ask, l, u, cfg->authority, cfg->target, health_set) : 0;
	if (r < 0 || !u->sweep || (!u->host && !u->unix_path)) {
		upstream_free(u);
		return -ENOMEM;
	}
	event_add(u->sweep, &period);
	*ret = u;
	return 0;
}

struct upstream *upstream_free(struct upstream *u)
{
	struct upstream_conn *k;

	if (!u)
		return NULL;
	CHECK_OBJ(u, UPSTREAM_MAGIC);
	upstream_ask_done(&u->ask);
	while ((k = TAILQ_FIRST(&u->idle)))
		conn_drop(k, false);
	dial_cancel(u->probe);
	if (u->probe_channel)
		channel_abort(u->probe_channel, false);
	if (u->sweep)
		event_free(u->sweep);
	free(u->host);
	free(u->unix_path);
	u->magic = 0;
	free(u);
	return NULL;
}
