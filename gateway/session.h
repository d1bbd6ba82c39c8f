/* Keeps one session to a relay: dial, TLS, upgrade, hello, serve, and again. Design, section 7.
 *
 *   WAITING -> DIALLING -> UPGRADING -> GREETING -> ATTACHED -> (lost) WAITING ...
 *   any -> STOPPED
 */
#pragma once

#include "daemon/egress.h"
#include "daemon/state_dir.h"
#include "daemon/tls.h"
#include "daemon/token.h"
#include "daemon/transport.h"
#include "daemon/url.h"

struct session;

enum session_state {
	SESSION_WAITING,   /* before the next attempt */
	SESSION_DIALLING,
	SESSION_UPGRADING,
	SESSION_GREETING,
	SESSION_ATTACHED,
	SESSION_STOPPED,
};

/* Why the last attempt failed; names for logs and readiness. */
enum session_failure {
	SESSION_FAILURE_NONE,
	SESSION_RESOLVE,        /* "name-not-resolved" */
	SESSION_CONNECT,        /* "connect-failed" */
	SESSION_PROXY_REFUSED,  /* "proxy-refused" */
	SESSION_TLS,            /* "tls-failed" */
	SESSION_TOKEN_REFUSED,  /* "token-refused" */
	SESSION_SUBPROTOCOL,    /* "subprotocol-missing" */
	SESSION_NOT_WEBSOCKET,  /* "not-a-control-plane" */
	SESSION_TRY_LATER,      /* "relay-busy" */
	SESSION_LOST,           /* "connection-lost" */
	SESSION_PROTOCOL,       /* "protocol-error" */
	SESSION_RELAY_STOPPED,  /* "relay-stopped" */
	SESSION_TOKEN_REVOKED,  /* "token-revoked": it was good before */
	SESSION_FAILURES,       /* how many */
};

struct session_config {
	const struct url *relays; /* tried in turn; each has its own back-off */
	size_t n_relays;
	struct tls_context *tls;  /* NULL when every relay is ws:// */
	const struct egress_config *egress;
	const char *token_file;
	struct state_dir *state;  /* keeps the session's id for the process after a kill (gateway/session_file.h); NULL: nothing does */
	struct tp_config tp;
};

struct session_ops {
	/* OPEN, and every event of a stream. */
	void (*on_stream)(void *user, struct tp_event *ev);
	/* The state changed. */
	void (*on_state)(void *user, enum session_state state);
	/* The token that the next connection gives; borrowed during the call. May be NULL. */
	void (*on_token)(void *user, const struct token *token);
};

struct session_status {
	enum session_state state;
	enum session_failure failure;
	char detail[256];       /* of the failure, for people */
	bool failure_is_news;   /* it is another one than before */
	bool over;              /* with that failure the session has ended, too */
	uint64_t since_ms;      /* of `state` being attached or not */
	unsigned attempts;      /* since the last time it was attached */
	uint64_t attached_total, resumed_total;
	uint64_t replayed_frames_total, replayed_bytes_total;
	uint64_t lost_total[SESSION_FAILURES];   /* attached sessions that lost their connection */
	uint64_t failed_total[SESSION_FAILURES]; /* attempts that did not get as far */
	char session_id[2 * TP_SESSION_ID_BYTES + 1];
	/* The last time it was attached: whether it went on where it was, what was sent again, how long it was away. */
	bool resumed;
	uint64_t replayed_frames, replayed_bytes, down_ms;
};

/* The token has been loaded once before, so that a bad file ends the program early; it is read again for each attempt. */
int session_new(struct loop *l, const struct session_config *cfg, const struct session_ops *ops, void *user,
		struct session **ret);
struct session *session_free(struct session *s);

/* The first attempt, at once. */
void session_start(struct session *s);
/* GOAWAY: the relay opens no new streams. */
void session_drain(struct session *s, uint32_t reason, const char *detail);
/* Closes in order, for good. */
void session_stop(struct session *s, uint32_t reason, const char *detail);
/* The token file may be new (SIGHUP): tries at once when the token was the trouble. While attached, a new token is given to the
 * relay on a new connection to which the session then moves, calls and all; while that fails it stays where it is. The same
 * happens without SIGHUP a few seconds after the file has changed. */
void session_poke(struct session *s);
/* For connections from now on. */
void session_set_tls(struct session *s, struct tls_context *tls);

/* It has lost its connection, the relay would still let it go on where it was, and no answer has said otherwise since: calls
 * wait for it. */
bool session_is_resuming(const struct session *s);

struct transport *session_transport(const struct session *s);
const struct session_status *session_status(const struct session *s);
const char *session_peer(const struct session *s);
const char *session_state_name(enum session_state state);
const char *session_failure_name(enum session_failure failure);
