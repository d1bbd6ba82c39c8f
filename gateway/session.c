#include "gateway/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/encode.h"
#include "base/log.h"
#include "daemon/digest.h"
#include "daemon/file_watch.h"
#include "daemon/upgrade.h"
#include "gateway/backoff.h"
#include "gateway/session_file.h"

#define SESSION_MAGIC 0x73657373

enum {
	DIAL_TIMEOUT_MS = 15 * 1000,
	DIAL_RESUME_TIMEOUT_MS = 4 * 1000, /* two SYNs: a fresh dial finds a network that is back sooner than a third one */
	TLS_TIMEOUT_MS = 10 * 1000,
	UPGRADE_TIMEOUT_MS = 10 * 1000,
	TOKEN_POLL_MS = 1000,
	RENEW_SOON_MS = 5 * 1000, /* the relay may not know of it yet */
	RENEW_AGAIN_MS = 30 * 1000,
	NOTSENT_LOWAT = 64 * 1024,
	UPGRADE_HEAD_MAX = 8 * 1024,
};

struct session {
	unsigned magic;
	struct loop *loop;
	struct session_config cfg;
	const struct session_ops *ops;
	void *user;
	struct session_status status;
	struct backoff *backoffs; /* one for each relay */
	char (*logged)[320];      /* of each, the last failure that has been logged */
	size_t relay;             /* index of the one being tried */
	struct egress *egress;
	struct channel *channel; /* between dial and upgrade; the transport's afterwards */
	struct buf upgrade_out;
	struct http1_reader upgrade_in;
	char upgrade_key[UPGRADE_KEY_LEN + 1];
	struct transport *transport;
	struct event *timer;      /* next attempt, or end of the present one */
	struct event *token_poll;
	struct file_watch token_file;
	char tunnel_id[TUNNEL_ID_MAX + 1]; /* of the token that was given last */
	bool renewing;          /* attached, and dialling besides, with a new token */
	uint64_t renew_ms;      /* when to try that (again); 0: no need */
	unsigned renew_tries;
	struct token *renewed;  /* the one that is being tried */
	uint64_t lost_ms; /* when the session was lost, for the line that says it is back */
	size_t lost_calls; /* that were open then */
	bool unanswered; /* the last attempt got no answer: nobody has said anything new */
	bool denied; /* since the loss, something has said that it cannot go on */
	bool told; /* that it is not attached */
	bool draining;
};

static const char *const state_names[] = {
	[SESSION_WAITING] = "waiting",	 [SESSION_DIALLING] = "dialling", [SESSION_UPGRADING] = "upgrading",
	[SESSION_GREETING] = "greeting", [SESSION_ATTACHED] = "attached", [SESSION_STOPPED] = "stopped",
};

static const char *const failure_names[] = {
	[SESSION_FAILURE_NONE] = "none",
	[SESSION_RESOLVE] = "name-not-resolved",
	[SESSION_CONNECT] = "connect-failed",
	[SESSION_PROXY_REFUSED] = "proxy-refused",
	[SESSION_TLS] = "tls-failed",
	[SESSION_TOKEN_REFUSED] = "token-refused",
	[SESSION_SUBPROTOCOL] = "subprotocol-missing",
	[SESSION_NOT_WEBSOCKET] = "not-a-control-plane",
	[SESSION_TRY_LATER] = "relay-busy",
	[SESSION_LOST] = "connection-lost",
	[SESSION_PROTOCOL] = "protocol-error",
	[SESSION_RELAY_STOPPED] = "relay-stopped",
	[SESSION_TOKEN_REVOKED] = "token-revoked",
};

const char *session_state_name(enum session_state state)
{
	return state_names[state];
}

const char *session_failure_name(enum session_failure failure)
{
	return failure_names[failure];
}

static void attempt(struct session *s);

static const struct url *relay_url(const struct session *s)
{
	return &s->cfg.relays[s->relay];
}

static void set_timer(struct session *s, uint64_t ms)
{
	const struct timeval tv = loop_timeval(ms);

	event_add(s->timer, &tv);
}

static void set_state(struct session *s, enum session_state state)
{
	bool was_attached = s->status.state == SESSION_ATTACHED;

	if (s->status.state == state)
		return;
	log_debug("session: %s -> %s", state_names[s->status.state], state_names[state]);
	s->status.state = state;
	if (was_attached || state == SESSION_ATTACHED)
		s->status.since_ms = loop_now_ms(s->loop);
	s->ops->on_state(s->user, state);
}

/* ---- failure and the way back ---- */

static bool is_token(enum session_failure f)
{
	return f == SESSION_TOKEN_REFUSED || f == SESSION_TOKEN_REVOKED;
}

/* The session has lost its connection, and the relay still keeps it. */
static bool may_resume(const struct session *s)
{
	static const uint8_t none[TP_SESSION_ID_BYTES];
	const struct tp_conn *c = transport_conn(s->transport);

	return s->lost_ms && loop_now_ms(s->loop) - s->lost_ms < tp_conn_grace_ms(c) &&
	       memcmp(tp_conn_session_id(c), none, sizeof(none)) != 0;
}

/* Only the relay that had the session can go on with its calls. */
static bool holds_on(const struct session *s)
{
	const struct tp_conn *c = transport_conn(s->transport);

	return may_resume(s) && (tp_conn_streams(c) || tp_conn_memory(c));
}

/* That dialling does not work while the network is away is no news: the line about the loss has been written. */
static bool is_old_news(const struct session *s)
{
	enum session_failure f = s->status.failure;

	return s->told && may_resume(s) &&
	       (f == SESSION_RESOLVE || f == SESSION_CONNECT || f == SESSION_LOST || s->unanswered);
}

/* What follows from the failure, for people. */
static const char *what_now(const struct session *s, char *dst, size_t size)
{
	if (is_token(s->status.failure))
		return s->cfg.n_relays > 1 ? "trying the others; this one again rarely, and at once when the token file changes" :
					     "trying again rarely, and at once when the token file changes";
	if (!may_resume(s))
		return "trying again until it works";
	snprintf(dst, size, "%zu calls wait up to %.0f s; trying again until it works", s->lost_calls,
		 (double)tp_conn_grace_ms(transport_conn(s->transport)) / 1000);
	return dst;
}

/* One line when the trouble begins or changes, none for each attempt. */
static void log_failure(struct session *s, uint64_t wait_ms)
{
	char line[sizeof(s->logged[0])], now[96];
	char *logged = s->logged[s->relay];

	snprintf(line, sizeof(line), "%s: %s", failure_names[s->status.failure], s->status.detail);
	s->status.failure_is_news = strcmp(line, logged) != 0 && !is_old_news(s);
	if (!s->status.failure_is_news) {
		log_debug("session: %s: %s; not again within %.1f s", relay_url(s)->authority, line, (double)wait_ms / 1000);
		return;
	}
	snprintf(logged, sizeof(line), "%s", line);
	s->told = true;
	log_fields(LOG_LEVEL_WARNING, LOG_FIELDS({ "MCP_REASON", failure_names[s->status.failure] }, { "MCP_PEER", relay_url(s)->authority }),
		   "not connected to %s: %s (%s); %s", relay_url(s)->authority, s->status.detail,
		   failure_names[s->status.failure], what_now(s, now, sizeof(now)));
}

static void close_attempt(struct session *s)
{
	egress_cancel(s->egress);
	s->egress = NULL;
	if (s->channel)
		channel_abort(s->channel, false);
	s->channel = NULL;
	http1_reader_done(&s->upgrade_in);
	/* The request holds the token. */
	if (s->upgrade_out.data)
		secret_wipe(s->upgrade_out.data, s->upgrade_out.cap);
	buf_clear(&s->upgrade_out);
	s->renewed = token_free(s->renewed);
	s->renewing = false;
}

/* over: the session has ended, too. */
static void fail_session(struct session *s, enum session_failure failure, const char *detail, unsigned retry_after_s, bool over)
{
	struct backoff *b = &s->backoffs[s->relay];
	uint64_t now = loop_now_ms(s->loop), wait;
	uint32_t chance[2] = { 0 };

	close_attempt(s);
	(void)random_bytes(chance, sizeof(chance));
	s->status.failure = failure;
	snprintf(s->status.detail, sizeof(s->status.detail), "%s", detail);
	s->status.attempts++;
	(s->status.state == SESSION_ATTACHED ? s->status.lost_total : s->status.failed_total)[failure]++;
	s->status.over = over;
	wait = may_resume(s) && !is_token(failure) ?
		       backoff_lost_resumable(b, now, chance[0], retry_after_s) :
		       backoff_lost(b, now, chance[0], is_token(failure), retry_after_s);
	log_failure(s, wait);
	s->unanswered = false;
	if (!holds_on(s))
		s->relay = backoff_next(s->backoffs, s->cfg.n_relays, s->relay, now, chance[1], &wait);
	set_timer(s, wait);
	set_state(s, SESSION_WAITING);
}

/* The session goes on with the token and the connection that it has. */
static void renew_failed(struct session *s, const char *detail)
{
	const unsigned wait_ms = s->renew_tries == 0 ? RENEW_SOON_MS : RENEW_AGAIN_MS;

	close_attempt(s);
	event_del(s->timer);
	s->renew_ms = loop_now_ms(s->loop) + wait_ms;
	log_write(s->renew_tries < 2 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG, NULL, 0,
		  "the token file has changed, and the new token cannot be used: %s; the session goes on with the old one, trying again in %u s",
		  detail, wait_ms / 1000);
	s->renew_tries++;
}

static void fail(struct session *s, enum session_failure failure, const char *detail, unsigned retry_after_s)
{
	if (s->renewing) {
		renew_failed(s, detail);
		return;
	}
	if (failure != SESSION_RESOLVE && failure != SESSION_CONNECT && failure != SESSION_LOST && !s->unanswered)
		s->denied = true;
	fail_session(s, failure, detail, retry_after_s, false);
}

static void fail_unanswered(struct session *s, enum session_failure failure, const char *detail)
{
	s->unanswered = !s->renewing;
	fail(s, failure, detail, 0);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct session *s = user;

	CHECK_OBJ(s, SESSION_MAGIC);
	if (s->status.state == SESSION_WAITING)
		attempt(s);
	else if (s->status.state == SESSION_UPGRADING || s->renewing)
		fail_unanswered(s, SESSION_NOT_WEBSOCKET, "no answer to the upgrade request within 10 s");
}

static void on_token_poll(evutil_socket_t fd, short what, void *user)
{
	struct session *s = user;

	CHECK_OBJ(s, SESSION_MAGIC);
	if (file_watch_changed(&s->token_file) || (s->renew_ms && loop_now_ms(s->loop) >= s->renew_ms))
		session_poke(s);
}

static bool may_renew(const struct session *s)
{
	return s->status.state == SESSION_ATTACHED && !s->renewing && !s->draining;
}

/* Whether there were any. The one that is tried now may have been refused long ago: it need not be it. */
static bool forget_refusals(struct session *s)
{
	bool any = false;

	for (size_t i = 0; i < s->cfg.n_relays; i++)
		if (s->backoffs[i].token_refused) {
			backoff_reset(&s->backoffs[i]);
			s->relay = any || s->status.state != SESSION_WAITING ? s->relay : i;
			any = true;
		}
	return any;
}

void session_poke(struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	if (file_watch_differs(&s->token_file))
		s->renew_tries = 0;
	if (may_renew(s) && (s->renew_ms || file_watch_differs(&s->token_file))) {
		log_write(s->renew_tries < 2 ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG, NULL, 0,
			  "the token file has changed: giving the new token to the relay");
		s->renewing = true;
		attempt(s);
	}
	if (s->status.state == SESSION_ATTACHED || !forget_refusals(s))
		return;
	log_info("the token file has changed: trying again now");
	if (s->status.state == SESSION_WAITING) {
		event_del(s->timer);
		attempt(s);
	}
}

/* The relay took the new token: the session moves to its connection. */
static void renew(struct session *s)
{
	log_notice("the relay took the new token; the session moves to a new connection");
	if (s->ops->on_token)
		s->ops->on_token(s->user, s->renewed);
	s->renew_ms = 0;
	s->lost_ms = loop_now_ms(s->loop);
	s->lost_calls = tp_conn_streams(transport_conn(s->transport));
}

/* ---- upgrade ---- */

static void on_upgrade_answer(struct session *s, const struct http1_head *h, uint8_t *rest, size_t len)
{
	static const enum session_failure failures[] = {
		[UPGRADE_REFUSED_TOKEN] = SESSION_TOKEN_REFUSED,
		[UPGRADE_TRY_LATER] = SESSION_TRY_LATER,
		[UPGRADE_NO_SUBPROTOCOL] = SESSION_SUBPROTOCOL,
		[UPGRADE_NOT_WEBSOCKET] = SESSION_NOT_WEBSOCKET,
	};
	char detail[256];
	unsigned retry_after_s = 0;
	enum upgrade_result result = upgrade_check_response(h, s->upgrade_key, detail, sizeof(detail), &retry_after_s);
	struct channel *c = s->channel;

	if (result != UPGRADE_OK) {
		fail(s, failures[result], detail, retry_after_s);
		return;
	}
	event_del(s->timer);
	s->channel = NULL;
	if (s->renewing)
		renew(s);
	close_attempt(s);
	set_state(s, SESSION_GREETING);
	if (transport_attach(s->transport, c, rest, len) < 0)
		fail(s, SESSION_LOST, "out of memory", 0);
}

/* What the next request says. */
static int take_token(struct session *s, char *err, size_t err_size, struct token **ret)
{
	struct token *token;
	int r;

	/* Before it is read: what changes meanwhile is noticed. */
	file_watch_mark(&s->token_file);
	r = token_load(s->cfg.token_file, err, err_size, &token);
	if (r < 0)
		return r;
	if (s->renewing && strcmp(token->tunnel_id, s->tunnel_id) != 0) {
		snprintf(err, err_size, "it is of the tunnel %s, and this gateway serves %s; restart it", token->tunnel_id, s->tunnel_id);
		token_free(token);
		return -EINVAL;
	}
	snprintf(s->tunnel_id, sizeof(s->tunnel_id), "%s", token->tunnel_id);
	/* When it is to be a new one for a session that is there, it must have been accepted first. */
	if (!s->renewing && s->ops->on_token)
		s->ops->on_token(s->user, token);
	*ret = token;
	return 0;
}

static void on_channel_open(void *user)
{
	struct session *s = user;
	struct upgrade_request u;
	_cleanup_(token_freep) struct token *token = NULL;
	char err[512];

	CHECK_OBJ(s, SESSION_MAGIC);
	if (take_token(s, err, sizeof(err), &token) < 0) {
		fail(s, SESSION_TOKEN_REFUSED, err, 0);
		return;
	}
	u = (struct upgrade_request){ relay_url(s)->authority, relay_url(s)->target, token->text, token->tunnel_id };
	if (upgrade_write_request(&s->upgrade_out, &u, s->upgrade_key) < 0) {
		fail(s, SESSION_LOST, "out of memory or entropy", 0);
		return;
	}
	http1_reader_init(&s->upgrade_in, HTTP1_RESPONSE);
	set_timer(s, UPGRADE_TIMEOUT_MS);
	if (s->renewing)
		s->renewed = steal_ptr(&token);
	else
		set_state(s, SESSION_UPGRADING);
	channel_want_write(s->channel);
}

static void on_channel_data(void *user, uint8_t *data, size_t len)
{
	struct session *s = user;
	struct http1_event ev;
	size_t used;

	CHECK_OBJ(s, SESSION_MAGIC);
	if (http1_read(&s->upgrade_in, data, len, &used, &ev) < 0)
		fail(s, SESSION_LOST, "out of memory", 0);
	else if (ev.type == HTTP1_HEAD)
		on_upgrade_answer(s, &s->upgrade_in.head, data + used, len - used);
	else if (ev.type == HTTP1_BAD)
		fail(s, SESSION_NOT_WEBSOCKET, "the control plane's answer is not HTTP", 0);
}

static size_t on_channel_pull(void *user, uint8_t *dst, size_t room)
{
	struct session *s = user;
	size_t n = MIN(room, buf_len(&s->upgrade_out));

	CHECK_OBJ(s, SESSION_MAGIC);
	if (n)
		memcpy(dst, buf_bytes(&s->upgrade_out), n);
	buf_drop(&s->upgrade_out, n);
	return n;
}

static void on_channel_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct session *s = user;

	CHECK_OBJ(s, SESSION_MAGIC);
	s->channel = NULL;
	if (end == CHANNEL_TLS)
		fail(s, SESSION_TLS, detail, 0);
	else if (end == CHANNEL_CONNECT || end == CHANNEL_TIMEOUT)
		fail(s, SESSION_CONNECT, detail, 0);
	else if (s->status.state == SESSION_UPGRADING)
		fail_unanswered(s, SESSION_NOT_WEBSOCKET, "the control plane closed the connection instead of upgrading it");
	else
		fail_unanswered(s, SESSION_TLS, detail);
}

static const struct channel_ops channel_callbacks = {
	.on_open = on_channel_open,
	.on_data = on_channel_data,
	.on_pull = on_channel_pull,
	.on_closed = on_channel_closed,
};

static void on_dialled(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct session *s = user;
	const struct channel_options opt = {
		.tls = url_is_tls(relay_url(s)) ? s->cfg.tls : NULL,
		.server_name = relay_url(s)->host,
		.open_timeout_ms = TLS_TIMEOUT_MS,
		.notsent_lowat = NOTSENT_LOWAT,
	};

	CHECK_OBJ(s, SESSION_MAGIC);
	s->egress = NULL;
	s->denied = s->denied || (error == ECONNREFUSED && !s->renewing);
	if (err == DIAL_PROXY)
		fail(s, SESSION_PROXY_REFUSED, detail, 0);
	else if (err != DIAL_OK)
		fail(s, err == DIAL_RESOLVE ? SESSION_RESOLVE : SESSION_CONNECT, detail, 0);
	else if (channel_new(s->loop, take_fd, &opt, &channel_callbacks, s, &s->channel) < 0)
		fail(s, SESSION_CONNECT, "out of memory", 0);
}

static void attempt(struct session *s)
{
	const struct dial_target target = {
		.host = relay_url(s)->host,
		.port = relay_url(s)->port,
		.timeout_ms = may_resume(s) ? DIAL_RESUME_TIMEOUT_MS : DIAL_TIMEOUT_MS,
	};

	if (!s->renewing)
		set_state(s, SESSION_DIALLING);
	if (egress_start(s->loop, s->cfg.egress, &target, on_dialled, s, &s->egress) < 0)
		fail(s, SESSION_CONNECT, "out of memory", 0);
}

/* ---- attached ---- */

static void log_attached(const struct session *s, const struct tp_event *ev, uint64_t now)
{
	const struct log_field fields[] = { { "MCP_TUNNEL_SESSION", s->status.session_id } };
	const double seconds = (double)(now - s->lost_ms) / 1000;
	const char *peer = relay_url(s)->authority;

	if (!s->lost_ms)
		log_write(LOG_LEVEL_NOTICE, fields, 1, "connected to %s, session %.8s", peer, s->status.session_id);
	else if (ev->resumed)
		log_write(LOG_LEVEL_NOTICE, fields, 1,
			  "connected to %s again after %.1f s: session resumed, %zu calls had waited, %llu frames (%llu bytes) sent again",
			  peer, seconds, s->lost_calls, (unsigned long long)ev->replayed_frames,
			  (unsigned long long)ev->replayed_bytes);
	else if (s->lost_calls)
		log_write(LOG_LEVEL_NOTICE, fields, 1,
			  "connected to %s again after %.1f s: session new, %zu calls of the old one were lost", peer, seconds,
			  s->lost_calls);
	else
		log_write(LOG_LEVEL_NOTICE, fields, 1, "connected to %s again after %.1f s: session new", peer, seconds);
}

/* Before the first call can come. */
static void keep_id(const struct session *s, const uint8_t id[TP_SESSION_ID_BYTES])
{
	int r = session_file_write(s->cfg.state, id);

	if (r < 0)
		log_warning("cannot keep the session's id in %s: %s; should this process be killed, its open calls end late",
			    state_dir_path(s->cfg.state), strerror(-r));
}

static void on_attached(struct session *s, const struct tp_event *ev)
{
	uint64_t now = loop_now_ms(s->loop);

	hex_encode(ev->session, sizeof(ev->session), s->status.session_id);
	s->status.failure = SESSION_FAILURE_NONE;
	s->status.detail[0] = '\0';
	s->status.attached_total++;
	s->status.resumed_total += ev->resumed;
	s->status.resumed = ev->resumed;
	s->status.replayed_frames = ev->replayed_frames;
	s->status.replayed_bytes = ev->replayed_bytes;
	s->status.replayed_frames_total += ev->replayed_frames;
	s->status.replayed_bytes_total += ev->replayed_bytes;
	s->status.down_ms = s->lost_ms ? now - s->lost_ms : 0;
	backoff_attached(&s->backoffs[s->relay], now);
	if (!ev->resumed)
		keep_id(s, ev->session);
	log_attached(s, ev, now);
	s->lost_ms = 0;
	s->told = s->denied = false;
	memset(s->logged, 0, s->cfg.n_relays * sizeof(*s->logged));
	s->status.attempts = 0;
	s->status.going_away = false;
	set_state(s, SESSION_ATTACHED);
	if (s->draining)
		session_drain(s, TP_REASON_GATEWAY_STOPPED, NULL);
}

static void on_transport_event(void *user, struct tp_event *ev)
{
	struct session *s = user;

	CHECK_OBJ(s, SESSION_MAGIC);
	switch (ev->type) {
	case TP_EV_ATTACHED:
		on_attached(s, ev);
		break;
	case TP_EV_GOAWAY:
		s->status.going_away = true;
		log_fields(LOG_LEVEL_NOTICE,
			   LOG_FIELDS({ "MCP_REASON", tp_reason_name(ev->reason) }, { "MCP_PEER", relay_url(s)->authority },
				      { "MCP_TUNNEL_SESSION", s->status.session_id }),
			   "the relay is going away (%s): no new calls on this session", tp_reason_name(ev->reason));
		break;
	case TP_EV_OPEN:
	case TP_EV_DATA:
	case TP_EV_RESET:
	case TP_EV_WRITABLE:
		s->ops->on_stream(s->user, ev);
		break;
	default:
		break;
	}
}

static enum session_failure loss(const struct session *s, uint32_t reason, bool fatal)
{
	if (reason == TP_REASON_RELAY_STOPPED)
		return SESSION_RELAY_STOPPED;
	if (reason == TP_REASON_TOKEN_REVOKED)
		return SESSION_TOKEN_REVOKED;
	return fatal ? SESSION_PROTOCOL : SESSION_LOST;
}

static void on_transport_lost(void *user, uint32_t reason, const char *detail, bool fatal)
{
	struct session *s = user;
	bool greeting = s->status.state == SESSION_GREETING, named;
	char text[256];

	CHECK_OBJ(s, SESSION_MAGIC);
	if (s->status.state == SESSION_STOPPED)
		return;
	if (!s->lost_ms && !greeting) {
		s->lost_ms = loop_now_ms(s->loop);
		s->lost_calls = tp_conn_streams(transport_conn(s->transport));
	}
	s->renewing = false;
	s->denied = s->denied || s->status.going_away || fatal || reason == TP_REASON_RELAY_STOPPED || reason == TP_REASON_TOKEN_REVOKED;
	named = reason == TP_REASON_NONE || reason == TP_REASON_RELAY_STOPPED;
	snprintf(text, sizeof(text), "%s%s%s", named ? "" : tp_reason_name(reason), named ? "" : ": ", detail);
	fail_session(s, loss(s, reason, fatal), text, 0, fatal);
	/* A new one is there already. */
	if (is_token(s->status.failure) && file_watch_differs(&s->token_file))
		session_poke(s);
}

static const struct transport_ops transport_callbacks = {
	.on_event = on_transport_event,
	.on_lost = on_transport_lost,
};

/* ---- life ---- */

/* A process that was killed left its session behind. */
static void replace_predecessor(struct session *s)
{
	uint8_t id[TP_SESSION_ID_BYTES];

	if (session_file_read(s->cfg.state, id))
		tp_conn_replaces(transport_conn(s->transport), id);
}

int session_new(struct loop *l, const struct session_config *cfg, const struct session_ops *ops, void *user,
		struct session **ret)
{
	struct session *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->magic = SESSION_MAGIC;
	s->loop = l;
	s->cfg = *cfg;
	s->ops = ops;
	s->user = user;
	s->status.since_ms = loop_now_ms(l);
	s->backoffs = calloc(cfg->n_relays, sizeof(*s->backoffs));
	s->logged = calloc(cfg->n_relays, sizeof(*s->logged));
	buf_init(&s->upgrade_out, UPGRADE_HEAD_MAX);
	http1_reader_init(&s->upgrade_in, HTTP1_RESPONSE);
	r = transport_new(l, &cfg->tp, &transport_callbacks, s, &s->transport);
	if (r < 0) {
		session_free(s);
		return r;
	}
	s->timer = event_new(loop_base(l), -1, 0, on_timer, s);
	r = loop_every(l, TOKEN_POLL_MS, on_token_poll, s, &s->token_poll);
	if (!s->timer || !s->backoffs || !s->logged || r < 0) {
		session_free(s);
		return -ENOMEM;
	}
	file_watch_add(&s->token_file, s->cfg.token_file);
	file_watch_mark(&s->token_file);
	replace_predecessor(s);
	*ret = s;
	return 0;
}

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	CHECK_OBJ(s, SESSION_MAGIC);
	close_attempt(s);
	if (s->timer)
		event_free(s->timer);
	if (s->token_poll)
		event_free(s->token_poll);
	transport_free(s->transport);
	free(s->backoffs);
	free(s->logged);
	s->magic = 0;
	free(s);
	return NULL;
}

void session_start(struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	attempt(s);
}

void session_drain(struct session *s, uint32_t reason, const char *detail)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	s->draining = true;
	if (tp_conn_goaway(transport_conn(s->transport), reason, detail) < 0)
		log_error("out of memory: the relay was not told to stop sending calls");
	transport_kick(s->transport);
}

void session_stop(struct session *s, uint32_t reason, const char *detail)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	close_attempt(s);
	event_del(s->timer);
	event_del(s->token_poll);
	/* Else the relay is not told now, and waits for this session: the next process tells it. */
	if (s->status.state == SESSION_ATTACHED)
		session_file_remove(s->cfg.state);
	set_state(s, SESSION_STOPPED);
	transport_close(s->transport, reason, detail);
}

void session_set_tls(struct session *s, struct tls_context *tls)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	s->cfg.tls = tls;
}

bool session_is_resuming(const struct session *s)
{
	return s->status.state != SESSION_ATTACHED && s->status.state != SESSION_STOPPED && !s->denied && may_resume(s);
}

struct transport *session_transport(const struct session *s)
{
	return s->transport;
}

const struct session_status *session_status(const struct session *s)
{
	return &s->status;
}

const char *session_peer(const struct session *s)
{
	return transport_peer(s->transport);
}
