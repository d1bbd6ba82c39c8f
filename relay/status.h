/* The relay's state in detail, for `mcp-tunnel-relay status`: tunnels, sessions, gateways, ages, calls. No secrets: of a
 * session's id the eight digits that the log has, of a token whether it is the newest one. */
#pragma once

#include "base/buf.h"
#include "relay/relay.h"

/* -ENOBUFS, -ENOMEM. now_s: wall clock. */
int status_json(const struct relay *r, uint64_t now_s, struct buf *out);
int status_table(const struct relay *r, uint64_t now_s, struct buf *out);

/* For people: "3d 4h", "4h 5m", "5m 6s", "6.7s". */
void status_age(uint64_t ms, char *dst, size_t size);
