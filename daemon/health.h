/* Health and metrics over plain HTTP (evhttp), for probes and scrapers on the same machine: /healthz (the loop turns),
 * /readyz (a call would get through now), /metrics (OpenMetrics; for a reader that
 * asks for text/plain alone, Prometheus' older format). GET and HEAD only; everything else is a JSON error.
 *
 * POST /audit/canary with the header Mcp-Tunnel-Nonce asks for an audit record with that nonce (`mcp-tunnel-audit
 * canary`). Web pages are refused (Origin), and so is more than one a second.
 *
 * Where the program has one, GET /status is its state in detail: JSON, or with /status.txt a table for people. Web pages are
 * refused (Origin, or a Host that is neither an address nor localhost).
 */
#pragma once

#include "base/buf.h"
#include "base/check.h"

struct event_base;
struct health;

enum { HEALTH_BODY_MAX = 1024 * 1024, HEALTH_STATUS_MAX = 64 * 1024 * 1024 };

struct health_ops {
	/* Writes one JSON object; the answer is 200 when it returns true, else 503. */
	bool (*ready)(void *user, struct buf *json_out);
	/* Writes the metrics without the closing "# EOF", which is added. Anything but 0 becomes a 500. */
	int (*metrics)(void *user, struct buf *out);
	/* Writes the record; nonce: HEALTH_NONCE_MIN to _MAX digits 0-9 a-f. Anything but 0 becomes a 503. NULL: 404. */
	int (*canary)(void *user, struct span nonce);
	/* At most HEALTH_STATUS_MAX bytes. Anything but 0 becomes a 500. NULL: 404. */
	int (*status)(void *user, bool table, struct buf *out);
};

#define HEALTH_STATUS_PATH "/status"
#define HEALTH_STATUS_TABLE_PATH "/status.txt"
#define HEALTH_CANARY_PATH "/audit/canary"
#define HEALTH_NONCE_HEADER "Mcp-Tunnel-Nonce"
enum { HEALTH_NONCE_MIN = 16, HEALTH_NONCE_MAX = 64 };

/* listen: ADDR:PORT (port 0 picks one) or unix:/PATH (a stale socket file is replaced; mode 0660). Logs the real
 * address. ops must outlive it. -EINVAL, -EADDRINUSE and others of bind(), -ENOMEM; err gets one line for people. */
int health_start(struct event_base *base, const char *listen, const struct health_ops *ops, void *user, char *err,
		 size_t err_size, struct health **ret);

/* 0 for a UNIX socket. */
uint16_t health_port(const struct health *h);

/* Removes the socket file. Takes NULL, returns NULL. */
struct health *health_stop(struct health *h);
