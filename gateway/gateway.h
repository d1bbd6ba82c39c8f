/* The daemon put together: session, exchanges, upstream, audit, health, systemd, and how it stops. */
#pragma once

#include "gateway/config.h"

struct gateway;

/* Everything that can be wrong with the configuration is found here. err gets one line for people.
 * -EINVAL: the configuration (exit status 2); other -errno: the machine (exit status 1). */
int gateway_new(const struct gateway_config *cfg, char *err, size_t err_size, struct gateway **ret);
struct gateway *gateway_free(struct gateway *g);

/* Until SIGTERM or SIGINT, and then until drained. 0 after a requested, clean stop; -errno. */
int gateway_run(struct gateway *g);
