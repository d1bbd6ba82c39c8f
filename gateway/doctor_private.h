/* Shared by doctor.c (order, local checks), doctor_relay.c and doctor_server.c; for nobody else. */
#pragma once

#include "daemon/doctor_checks.h"
#include "daemon/state_dir.h"
#include "daemon/token.h"
#include "gateway/config.h"

/* The way to one relay. token NULL: its file cannot be used; tls NULL: not needed, or tls_broken. */
void doctor_relay(struct doctor *d, const struct gateway_config *cfg, const struct url *u, struct tls_context *tls, bool tls_broken,
		  const struct token *token, struct doctor_clock *ret_clock);

/* The way to the MCP server of one route ("": the default one), and what it says of itself. subject: as doctor_begin(). */
void doctor_server(struct doctor *d, const struct route_config *cfg, const char *route, const char *subject);

/* What to do about a TLS error that a channel tells: the relay's, or an MCP server's. */
const char *doctor_tls_remedy(const char *detail, bool server);
