/* The gateway's audit log besides its calls: start and stop, sessions, refused tokens, reloads; and the key of the hashes, which changes
 * with the token. */
#pragma once

#include "daemon/audit_setup.h"
#include "gateway/config.h"
#include "gateway/session.h"

struct records {
	struct audit_setup setup;
	struct audit_hash hash;   /* of the token of the newest attempt */
	struct audit_where where; /* into what follows */
	char tunnel_id[TUNNEL_ID_MAX + 1];
	char session_id[2 * TP_SESSION_ID_BYTES + 1]; /* empty: none is open */
	char peer[URL_TEXT_MAX];
	struct session *session; /* borrowed, where heads go to */
};

/* -EINVAL: the configuration is to blame. err gets one line for people. records_done() also after a failure. */
int records_init(struct records *r, struct loop *l, const struct gateway_config *cfg, struct state_dir *state, const struct token *token,
		 char *err, size_t err_size);
void records_done(struct records *r);

/* gateway.start. Heads of checkpoints go to the relay of that session from now on. */
void records_start(struct records *r, struct session *s);
/* gateway.stop. */
void records_stop(struct records *r, const char *why);

/* For session_ops. */
void records_token(struct records *r, const struct token *token);
void records_session_state(struct records *r, const struct session_status *st, const char *peer);

/* SIGHUP: the file is opened anew. */
void records_reopen(struct records *r);
/* What was read again, or why it was not. */
void records_reload(struct records *r, const char *detail, bool bad);
