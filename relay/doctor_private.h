/* Shared by doctor.c (order, files) and doctor_listeners.c; for nobody else. */
#pragma once

#include "daemon/doctor_checks.h"
#include "daemon/tls.h"
#include "relay/config.h"

/* Whether each listener could be, or is held by a relay that runs, and what that one answers. tls: of the files; NULL: none, or broken. */
void doctor_listeners(struct doctor *d, const struct relay_config *cfg, struct tls_context *tls);
