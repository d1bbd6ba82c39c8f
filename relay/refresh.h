/* What a running relay learns without a restart: tunnels, agents and the certificate, at SIGHUP and when their files have
 * changed; and what follows from it for those who are connected. */
#pragma once

#include "daemon/file_watch.h"
#include "daemon/tls_source.h"
#include "relay/relay.h"

enum { REFRESH_RETRY_MS = 30 * 1000 };

struct refresh {
	struct relay *relay;
	struct tls_source *tls; /* NULL: no listener needs one */
	char *paths[2];
	struct file_watch registry;
	uint64_t not_before_ms; /* of the next try to read what somebody has locked */
};

/* Reads the certificate; the registry is there already. -EINVAL, -ENOMEM with one line in err. refresh_done() also after a failure. */
int refresh_init(struct refresh *u, struct relay *r, char *err, size_t err_size);
void refresh_done(struct refresh *u);

/* SIGHUP: everything, at once. For the record: what came of the configuration (see reload_now()). */
void refresh_now(struct refresh *u, bool config_good, const char *config);
/* Every second: what has changed, and tokens whose time is over. */
void refresh_sweep(struct refresh *u);
