#include "relay/front.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "relay/attach.h"
#include "relay/front_private.h"
#include "relay/records.h"

enum {
	LINGER_MS = 2 * 1000,
	/* Whether an agent that waits for events is still there: gone after two minutes without an answer. */
	ALIVE_IDLE_S = 60,
	ALIVE_AGAIN_S = 15,
	ALIVE_TIMES = 4,
	NOTSENT_LOWAT = 64 * 1024,
	OUT_MAX = 64 * 1024,
	EARLY_MAX = 256 * 1024, /* bytes behind the request that is being served; one read at most, then reading pauses */
	EARLY_STRANGER_MAX = 16 * 1024, /* of one without a key: there may be many */
};

static void read_bytes(struct front *f, const uint8_t *p, size_t len);
static void on_hold_expired(void *user);

/* How long it may stay like this; 0: other things end it. */
static uint64_t time_for(const struct relay_config *cfg, enum front_state state)
{
	switch (state) {
	case FRONT_IDLE:
		return cfg->idle_timeout_ms;
	case FRONT_HEAD:
	case FRONT_UPGRADING:
		return cfg->head_timeout_ms;
	case FRONT_REFUSING:
	case FRONT_ANSWERED:
		return cfg->body_timeout_ms;
	case FRONT_HELD: /* relay/hold.h counts its time */
	case FRONT_BODY: /* relay/pace.h */
	case FRONT_CALL:
	case FRONT_CLOSING:
		break;
	}
	return 0;
}

void front_set_state(struct front *f, enum front_state state)
{
	uint64_t limit_ms = time_for(f->relay->cfg, state), now = loop_now_ms(f->relay->loop);

	if (state == FRONT_BODY && f->state != FRONT_BODY)
		pace_begin(&f->pace, now);
	f->state = state;
	f->deadline_ms = limit_ms ? now + limit_ms : UINT64_MAX;
}

static void front_gone(void *p)
{
	struct front *f = p;

	f->magic = 0;
	free(f);
}

void front_free(struct front *f)
{
	if (f->state == FRONT_CLOSING)
		return;
	front_set_state(f, FRONT_CLOSING);
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
	limits_leave(&f->ticket);
	free(f->cors_origin);
	loop_free_later(f->relay->loop, front_gone, f);
}

/* It goes with the channel, which somebody else has from now on. */
static void leave_place(struct front *f, enum address_rank rank)
{
	addresses_become(&f->place->ticket, rank);
	f->place->front = NULL;
	f->place = NULL;
}

void front_close(struct front *f)
{
	if (f->channel) {
		leave_place(f, ADDRESS_STRANGER);
		/* It still pulls. */
		channel_close(f->channel, LINGER_MS);
	}
	f->channel = NULL;
	front_free(f);
}

void front_set_paused(struct front *f, bool paused)
{
	uint64_t now = loop_now_ms(f->relay->loop);

	if (f->pace.stopped == paused || !f->channel)
		return;
	if (paused)
		pace_stop(&f->pace, now);
	else
		pace_go(&f->pace, now);
	channel_pause(f->channel, paused);
}

/* A page that may read what comes of its request. */
static void note_origin(struct front *f)
{
	size_t n;
	struct span origin = http1_field_get(&f->reader.head, "Origin", &n);

	free(f->cors_origin);
	f->cors_origin = NULL;
	if (n == 1 && relay_config_origin_is_cors(f->relay->cfg, origin))
		f->cors_origin = strndup(origin.p, origin.len);
}

static void on_head(struct front *f)
{
	const struct http1_head *h = &f->reader.head;

	f->relay->counters.requests++;
	f->head_only = span_is(h->method, "HEAD");
	f->body_ended = h->body == HTTP1_BODY_NONE;
	f->close_after = !h->keep_alive || f->relay->stopping;
	f->refusal_call[0] = '\0';
	note_origin(f);
	hold_renew(&f->held);
	front_serve_head(f);
}

static void on_body(struct front *f, struct span data, bool end)
{
	const char *why;
	uint32_t reason;

	f->body_ended = end;
	if (f->state == FRONT_BODY) {
		pace_came(&f->pace, data.len, loop_now_ms(f->relay->loop));
		reason = call_body(f->call, (const uint8_t *)data.p, data.len, end, &why);
		if (reason != TP_REASON_NONE && !call_has_begun(f->call)) {
			front_refuse_reason(f, reason, why);
			return;
		}
		if (end)
			front_set_state(f, FRONT_CALL);
		if (!end && !call_wants_body(f->call))
			front_set_paused(f, true);
	} else if (f->state == FRONT_REFUSING) {
		f->discarded += data.len;
		/* The call has failed; it still wants to know its id. */
		if (f->call)
			(void)call_body(f->call, (const uint8_t *)data.p, data.len, end, &why);
		if (f->scan && mcp_scan_feed(f->scan, data.p, data.len) < 0)
			f->scan = mcp_scan_free(f->scan);
		if (end || f->discarded > FRONT_DISCARD_MAX)
			front_write_answer(f);
	}
}

/* Nothing more is read. */
static void refuse_rest(struct front *f, unsigned status, uint32_t reason, const char *text)
{
	f->close_after = true;
	f->body_ended = true;
	f->head_only = false;
	if (!f->call)
		f->refusal_call[0] = '\0';
	front_refuse(f, status, NULL, reason, text, NULL);
}

static void on_bad(struct front *f, const struct http1_event *ev)
{
	if (f->call && call_has_begun(f->call))
		front_close(f);
	else
		refuse_rest(f, ev->status, TP_REASON_BAD_REQUEST, ev->error);
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
	if (f->place->ticket.rank == ADDRESS_STRANGER && buf_len(&f->early) + len > EARLY_STRANGER_MAX)
		f->close_after = true;
	/* Nobody will read what is behind the last request. */
	if (f->close_after && f->state == FRONT_ANSWERED) {
		front_set_paused(f, true);
		return;
	}
	if (buf_add(&f->early, p, len) < 0) {
		front_close(f);
		return;
	}
	front_set_paused(f, true);
	if (f->state == FRONT_HELD && !hold_add_bytes(&f->held, len))
		on_hold_expired(f);
}

static void read_bytes(struct front *f, const uint8_t *p, size_t len)
{
	struct http1_event ev = { .type = HTTP1_DATA };
	size_t used;

	while (reads(f) && (len || ev.type != HTTP1_MORE)) {
		if (f->state == FRONT_IDLE && len)
			front_set_state(f, FRONT_HEAD);
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
	front_set_paused(f, false);
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
	limits_leave(&f->ticket);
	if (f->place->ticket.rank == ADDRESS_CALL)
		addresses_become(&f->place->ticket, ADDRESS_IDLE);
	free(f->cors_origin);
	f->cors_origin = NULL;
	http1_reader_next(&f->reader);
	front_set_state(f, FRONT_IDLE);
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
	front_set_state(f, FRONT_HEAD);
	front_serve_head(f);
	after_hold(f);
}

static void on_hold_expired(void *user)
{
	struct front *f = user;

	CHECK_OBJ(f, FRONT_MAGIC);
	front_set_state(f, FRONT_HEAD);
	front_serve_expired(f);
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
	front_set_paused(f, false);
	leave_place(f, ADDRESS_GATEWAY);
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
	if (n)
		f->sent_ms = loop_now_ms(f->relay->loop);
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
	if (end == CHANNEL_TIMEOUT)
		f->relay->counters.connections_closed[TP_REASON_TOO_SLOW]++;
	f->channel = NULL;
	front_free(f);
}

static const struct channel_ops channel_callbacks = {
	.on_data = on_channel_data,
	.on_pull = on_channel_pull,
	.on_closed = on_channel_closed,
};

/* Of TCP alone; for a UNIX socket it does nothing. */
static void keep_alive(int fd)
{
	const int on = 1, idle = ALIVE_IDLE_S, again = ALIVE_AGAIN_S, times = ALIVE_TIMES;

	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &again, sizeof(again));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

/* The one that is in the way of another. */
static void make_room(struct relay *r, struct address_ticket *t, uint32_t reason)
{
	struct front_place *p = container_of(t, struct front_place, ticket);

	r->counters.connections_closed[reason]++;
	if (p->front)
		front_free(p->front);
	else
		channel_abort(p->channel, true);
}

/* A place among the connections, at the expense of others that have nothing under way where there are too many. */
static uint32_t take_place(struct relay *r, const struct sockaddr *peer, socklen_t len, struct address_ticket *t)
{
	struct address_ticket *other;
	uint32_t reason;

	while ((reason = addresses_enter(r->addresses, &r->connections, peer, t)) != TP_REASON_NONE) {
		other = addresses_in_the_way(r->addresses, &r->connections, reason, peer);
		if (!other)
			return reason;
		make_room(r, other, reason);
		front_tell_full(reason, true, peer, len);
	}
	return TP_REASON_NONE;
}

/* Before TLS: all that it costs is the accept(). NULL: one too many. */
static struct front_place *enter(struct relay *r, int fd, bool by_address)
{
	struct front_place *p = calloc(1, sizeof(*p));
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	uint32_t reason;

	/* One that is gone already has no name any more. */
	by_address = by_address && getpeername(fd, (struct sockaddr *)&peer, &len) == 0;
	reason = p ? take_place(r, by_address ? (struct sockaddr *)&peer : NULL, len, &p->ticket) : TP_REASON_REFUSED;
	if (reason == TP_REASON_NONE)
		return p;
	r->counters.connections_closed[reason]++;
	front_tell_full(reason, false, by_address ? (struct sockaddr *)&peer : NULL, len);
	free(p);
	return NULL;
}

/* With its socket, whoever has that by then. */
static void on_gone(void *user)
{
	struct front_place *p = user;

	addresses_leave(&p->ticket);
	if (p->front)
		p->front->place = NULL;
	free(p);
}

static int open_channel(struct front *f, int take_fd, struct tls_context *tls)
{
	const struct channel_options opt = {
		.tls = tls,
		.server = true,
		.open_timeout_ms = f->relay->cfg->head_timeout_ms,
		.notsent_lowat = NOTSENT_LOWAT,
	};

	keep_alive(take_fd);
	return channel_new(f->relay->loop, take_fd, &opt, &channel_callbacks, f, &f->channel);
}

void front_new(struct relay *r, int take_fd, struct tls_context *tls, bool by_address)
{
	struct front_place *p = enter(r, take_fd, by_address);
	struct front *f = p ? calloc(1, sizeof(*f)) : NULL;

	r->counters.agent_connections++;
	if (!f) {
		if (p)
			on_gone(p);
		close(take_fd);
		return;
	}
	f->magic = FRONT_MAGIC;
	f->relay = r;
	f->sent_ms = loop_now_ms(r->loop);
	http1_reader_init(&f->reader, HTTP1_REQUEST);
	buf_init(&f->out, OUT_MAX);
	buf_init(&f->early, EARLY_MAX);
	loop_task_init(&f->turn, on_turn, f);
	f->held = (struct held){ .on_attached = on_hold_attached, .on_expired = on_hold_expired, .user = f };
	if (open_channel(f, take_fd, tls) < 0) {
		on_gone(p);
		free(f);
		return;
	}
	p->channel = f->channel;
	p->front = f;
	f->place = p;
	channel_when_gone(f->channel, on_gone, p);
	TAILQ_INSERT_TAIL(&r->fronts, f, link);
	front_set_state(f, FRONT_IDLE);
}

void front_revoke(struct relay *r)
{
	struct front *f, *next;
	char peer[128];

	for (f = TAILQ_FIRST(&r->fronts); f; f = next) {
		next = TAILQ_NEXT(f, link);
		if ((!f->call && f->state != FRONT_HELD) || !f->agent_tunnel[0] ||
		    registry_key_is_good(r->registry, span_of(f->agent_tunnel), f->secret))
			continue;
		if (f->call) {
			channel_peer(f->channel, peer, sizeof(peer));
			records_auth_failure(r, span_of(f->agent_tunnel), peer, "the key of an agent with an open call is no longer valid");
			call_abort(f->call, TP_REASON_KEY_REVOKED, "the agent was removed");
		} else {
			hold_remove(&f->held);
			on_hold_attached(f);
		}
	}
}

/* Bytes for the agent that it has not taken. */
static bool has_output(const struct front *f)
{
	return buf_len(&f->out) || (f->call && call_has_output(f->call));
}

static bool is_unread(struct front *f, uint64_t now)
{
	if (!has_output(f))
		f->sent_ms = now;
	return (f->state == FRONT_BODY || f->state == FRONT_CALL) && now - f->sent_ms >= f->relay->cfg->send_timeout_ms;
}

static bool is_late(const struct front *f, uint64_t now)
{
	if (f->state == FRONT_BODY)
		return pace_is_late(&f->pace, f->relay->cfg->body_timeout_ms, now);
	return now >= f->deadline_ms;
}

static void end_call(struct front *f, uint32_t reason, const char *detail)
{
	call_abort(f->call, reason, detail);
	if (f->state == FRONT_REFUSING)
		front_write_answer(f);
	if (f->state != FRONT_ANSWERED)
		front_free(f);
}

static void on_late(struct front *f)
{
	uint64_t *closed = f->relay->counters.connections_closed;

	switch (f->state) {
	case FRONT_IDLE:
		front_close(f);
		break;
	case FRONT_HEAD:
		closed[TP_REASON_TOO_SLOW]++;
		refuse_rest(f, 408, TP_REASON_TOO_SLOW, "the head of the request did not come in --head-timeout of the relay");
		break;
	case FRONT_BODY:
		closed[TP_REASON_TOO_SLOW]++;
		end_call(f, TP_REASON_TOO_SLOW, "--body-timeout of the relay");
		break;
	case FRONT_REFUSING:
		closed[TP_REASON_TOO_SLOW]++;
		front_write_answer(f);
		break;
	default:
		closed[TP_REASON_NOT_READ] += f->state == FRONT_ANSWERED;
		front_free(f);
	}
}

void front_sweep(struct relay *r)
{
	uint64_t now = loop_now_ms(r->loop);
	struct front *f, *next;

	for (f = TAILQ_FIRST(&r->fronts); f; f = next) {
		next = TAILQ_NEXT(f, link);
		if (is_unread(f, now)) {
			r->counters.connections_closed[TP_REASON_NOT_READ]++;
			call_abort(f->call, TP_REASON_NOT_READ, "--send-timeout of the relay");
			front_free(f);
		} else if (is_late(f, now)) {
			on_late(f);
		}
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
			front_write_answer(f);
		if (f->state != FRONT_CLOSING)
			front_close(f);
	}
}
