/* One MCP server behind the gateway, and all that is needed to reach it: its connections (gateway/upstream.h), the certificates of TLS
 * to it, the headers it gets, and which addresses it may have. Counted: what is unref'd last is freed at the end of the loop's turn.
 */
#pragma once

#include "gateway/config.h"
#include "gateway/upstream.h"

struct backend {
	unsigned magic, refs;
	struct loop *loop;
	struct url url;
	char name[URL_TEXT_MAX]; /* scheme, host, port and path; for records */
	char label[96];          /* "MCP server", "MCP server of route NAME" */
	struct guard guard;
	char *files[3];          /* CA, certificate, key; NULL: none */
	struct tls_source *tls;  /* NULL: plain */
	struct headers *headers;
	struct upstream *upstream;
};

/* route: its name, "" for the default one. cfg is copied. pool: as in struct upstream_config; it outlives the backend. err gets one line
 * for people. -EINVAL, -ENOMEM, others of TLS. */
int backend_new(struct loop *l, const struct route_config *cfg, const char *route, struct upstream_pool *pool, char *err, size_t err_size,
		struct backend **ret);
struct backend *backend_ref(struct backend *b);
struct backend *backend_unref(struct backend *b);

/* Whether a backend of one can go on as that of the other. */
bool backend_same(const struct route_config *a, const struct route_config *b);

enum backend_news { BACKEND_SAME, BACKEND_NEW, BACKEND_BAD };
/* Looks at the files, as tls_source_follow() and headers_poll(), and tells the log. problem gets a line for BACKEND_BAD. */
enum backend_news backend_follow(struct backend *b, bool now, char *problem, size_t size);
