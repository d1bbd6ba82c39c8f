/* The relay's audit log besides its calls: start and stop, sessions, who was not let in, reloads; and calls that were refused before
 * anything of them went to a gateway. */
#pragma once

#include "relay/attach.h"
#include "relay/relay.h"
#include "relay/request.h"

/* -EINVAL: the configuration is to blame. err gets one line for people. records_done() also after a failure. */
int records_init(struct relay *r, char *err, size_t err_size);
void records_done(struct relay *r);
/* relay.start and relay.stop. */
void records_start(struct relay *r);
void records_stop(struct relay *r, const char *why);

/* A gateway or an agent that did not prove itself, at that address; tunnel: absent where there is no such tunnel. What comes more often than some
 * times a second is counted, and told with the next. */
void records_auth_failure(struct relay *r, struct span tunnel, const char *peer, const char *detail);

/* SIGHUP: the file is opened anew. */
void records_reopen(struct relay *r);
/* What was read again, or why it was not. */
void records_reload(struct relay *r, const char *detail, bool bad);

/* call.denied for a POST; for other methods nothing, as they are no calls. a: the session, or NULL. */
void records_denied(struct relay *r, const struct request *q, const struct http1_head *h, const char *agent, const struct attached *a,
		    uint32_t reason, const char *detail);
