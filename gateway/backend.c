#include "gateway/backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/tls_source.h"

#define BACKEND_MAGIC 0x6261636b

enum {
	CONNECT_TIMEOUT_MS = 5 * 1000,
	/* Below the five seconds after which Node and uvicorn close idle connections. */
	IDLE_MS = 3 * 1000,
	MAX_IDLE = 128,
};

static bool is_allowed(void *user, const struct sockaddr *sa)
{
	struct backend *b = user;
	struct address a;

	CHECK_OBJ(b, BACKEND_MAGIC);
	return address_of(sa, &a) == 0 && guard_allows(&b->guard, &a);
}

static int copy_file(const char *path, char **ret)
{
	*ret = path ? strdup(path) : NULL;
	return path && !*ret ? -ENOMEM : 0;
}

static int make_tls(struct backend *b, const struct route_config *cfg, char *err, size_t err_size)
{
	const char *const paths[] = { cfg->tls.ca_file, cfg->tls.cert_file, cfg->tls.key_file };
	struct tls_client_options opt = cfg->tls;
	char why[CONFIG_ERROR_MAX];
	int r = 0;

	if (!url_is_tls(&b->url))
		return 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(paths); i++)
		r = copy_file(paths[i], &b->files[i]);
	if (r < 0)
		return r;
	opt.ca_file = b->files[0];
	opt.cert_file = b->files[1];
	opt.key_file = b->files[2];
	r = tls_source_new_client(&opt, why, sizeof(why), &b->tls);
	if (r < 0)
		snprintf(err, err_size, "TLS to the %s: %s", b->label, why);
	return r;
}

static int make_headers(struct backend *b, const struct route_config *cfg, char *err, size_t err_size)
{
	char why[CONFIG_ERROR_MAX];
	int r = headers_new(&cfg->headers, why, sizeof(why), &b->headers);

	if (r < 0)
		snprintf(err, err_size, "--upstream-header-file: %s", why);
	return r < 0 && r != -ENOMEM ? -EINVAL : r;
}

static int make_upstream(struct backend *b, struct upstream_pool *pool)
{
	const struct upstream_config cfg = {
		.label = b->label,
		.host = url_is_unix(&b->url) ? NULL : b->url.host,
		.port = b->url.port,
		.unix_path = url_is_unix(&b->url) ? b->url.socket : NULL,
		.tls = tls_source_get(b->tls),
		.authority = b->url.authority,
		.target = b->url.target,
		.allow = is_allowed,
		.allow_user = b,
		.connect_timeout_ms = CONNECT_TIMEOUT_MS,
		.idle_ms = IDLE_MS,
		.max_idle = MAX_IDLE,
		.pool = pool,
	};

	return upstream_new(b->loop, &cfg, &b->upstream);
}

static void backend_free(void *p)
{
	struct backend *b = p;

	CHECK_OBJ(b, BACKEND_MAGIC);
	upstream_free(b->upstream);
	tls_source_free(b->tls);
	headers_free(b->headers);
	for (size_t i = 0; i < ARRAY_LEN(b->files); i++)
		free(b->files[i]);
	b->magic = 0;
	free(b);
}

int backend_new(struct loop *l, const struct route_config *cfg, const char *route, struct upstream_pool *pool, char *err, size_t err_size,
		struct backend **ret)
{
	struct backend *b = calloc(1, sizeof(*b));
	int r;

	snprintf(err, err_size, "out of memory");
	if (!b)
		return -ENOMEM;
	b->magic = BACKEND_MAGIC;
	b->refs = 1;
	b->loop = l;
	b->url = cfg->mcp_server;
	b->guard = cfg->guard;
	url_print(&b->url, b->name, sizeof(b->name));
	snprintf(b->label, sizeof(b->label), "MCP server%s%s", *route ? " of route " : "", route);
	r = make_tls(b, cfg, err, err_size);
	if (r == 0)
		r = make_headers(b, cfg, err, err_size);
	if (r == 0)
		r = make_upstream(b, pool);
	if (r < 0) {
		backend_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

struct backend *backend_ref(struct backend *b)
{
	CHECK_OBJ(b, BACKEND_MAGIC);
	b->refs++;
	return b;
}

struct backend *backend_unref(struct backend *b)
{
	if (!b)
		return NULL;
	CHECK_OBJ(b, BACKEND_MAGIC);
	/* The end of a call comes from inside its connection. */
	if (--b->refs == 0)
		loop_free_later(b->loop, backend_free, b);
	return NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

bool backend_same(const struct route_config *a, const struct route_config *b)
{
	const struct url *u = &a->mcp_server, *v = &b->mcp_server;

	return u->scheme == v->scheme && u->port == v->port && same_text(u->authority, v->authority) && same_text(u->socket, v->socket) &&
	       same_text(u->target, v->target) && same_text(a->tls.ca_file, b->tls.ca_file) && same_text(a->tls.cert_file, b->tls.cert_file) &&
	       same_text(a->tls.key_file, b->tls.key_file) && config_list_equal(a->allow, b->allow) &&
	       config_list_equal(&a->header_texts, &b->header_texts);
}

static enum backend_news follow_headers(struct backend *b, bool now, char *problem, size_t size)
{
	char err[CONFIG_ERROR_MAX];
	enum headers_result result = headers_poll(b->headers, now, err, sizeof(err));

	if (result == HEADERS_NEW)
		log_notice("headers for the %s read again%s; new requests have them", b->label, now ? " at SIGHUP" : ", as they have changed");
	if (result != HEADERS_BAD)
		return result == HEADERS_NEW ? BACKEND_NEW : BACKEND_SAME;
	snprintf(problem, size, "headers for the %s stay as they were: %s", b->label, err);
	log_warning("%s", problem);
	return BACKEND_BAD;
}

enum backend_news backend_follow(struct backend *b, bool now, char *problem, size_t size)
{
	enum tls_source_result tls = tls_source_follow(b->tls, now, b->label, problem, size);
	enum backend_news headers = follow_headers(b, now, problem, size);

	if (tls == TLS_SOURCE_NEW)
		upstream_set_tls(b->upstream, tls_source_get(b->tls));
	if (tls == TLS_SOURCE_BAD || headers == BACKEND_BAD)
		return BACKEND_BAD;
	return tls == TLS_SOURCE_NEW || headers == BACKEND_NEW ? BACKEND_NEW : BACKEND_SAME;
}
