#include "gateway/routes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gateway/filter.h"

enum { COLLECTED_MIN = 64 * 1024 * 1024 };

const struct route *routes_find(const struct routes *r, struct span name)
{
	for (size_t i = 0; i < r->n; i++)
		if (span_is(name, r->list[i].name))
			return &r->list[i];
	return NULL;
}

static const struct route *reusable(const struct routes *before, const char *name, const struct route_config *cfg)
{
	const struct route *old = before ? routes_find(before, span_of(name)) : NULL;

	return old && backend_same(old->cfg, cfg) ? old : NULL;
}

static int add_route(struct routes *r, const struct routes_config *env, const struct routes *before, const char *name,
		     const struct route_config *cfg, char *err, size_t err_size)
{
	const struct route *old = reusable(before, name, cfg);
	struct route *route = &r->list[r->n];
	char why[CONFIG_ERROR_MAX];
	int rc = 0;

	if (old)
		route->backend = backend_ref(old->backend);
	else
		rc = backend_new(env->loop, cfg, name, env->pool, why, sizeof(why), &route->backend);
	if (rc < 0) {
		snprintf(err, err_size, "%s%s%s%s", *name ? "[route " : "", name, *name ? "] " : "", why);
		return rc;
	}
	route->name = name;
	route->cfg = cfg;
	route->policy.allow_query = r->cfg->allow_query;
	route->policy.rules = r->cfg->policy_dry_run ? NULL : &cfg->rules;
	route->filtered = filter_wanted(&route->policy);
	r->n++;
	return 0;
}

void routes_set_audit(struct routes *r, const struct audit_calls_shared *audit)
{
	_Static_assert((int)POLICY_DETAIL_MAX <= (int)AUDIT_CALLS_RULE_MAX, "a text of the policy fits a record's");
	for (size_t i = 0; i < r->n; i++) {
		struct route *route = &r->list[i];

		route->audit = *audit;
		if (r->cfg->policy_dry_run) {
			route->audit.would_deny = policy_would_deny;
			route->audit.user = &route->cfg->rules;
		}
	}
}

static int make(const struct routes_config *env, const struct routes *before, const struct gateway_config *cfg, char *err, size_t err_size,
		struct routes **ret)
{
	struct routes *r = calloc(1, sizeof(*r));
	int rc = r ? 0 : -ENOMEM;

	snprintf(err, err_size, "out of memory");
	if (r) {
		r->refs = 1;
		r->cfg = cfg;
		r->max_collected_bytes = MAX((uint64_t)COLLECTED_MIN, 4 * cfg->max_request_bytes);
	}
	if (rc == 0 && cfg->route.mcp_server.scheme)
		rc = add_route(r, env, before, "", &cfg->route, err, err_size);
	for (size_t i = 0; rc == 0 && i < cfg->routes.n; i++)
		rc = add_route(r, env, before, cfg->routes.items[i].name, cfg->routes.items[i].target, err, err_size);
	if (rc < 0) {
		routes_unref(r);
		return rc;
	}
	*ret = r;
	return 0;
}

int routes_new(const struct routes_config *env, const struct gateway_config *cfg, char *err, size_t err_size, struct routes **ret)
{
	return make(env, NULL, cfg, err, err_size, ret);
}

int routes_next(const struct routes_config *env, const struct routes *before, struct gateway_config *take_cfg, char *err, size_t err_size,
		struct routes **ret)
{
	struct routes *r;
	int rc = make(env, before, take_cfg, err, err_size, &r);

	if (rc < 0) {
		gateway_config_done(take_cfg);
		free(take_cfg);
		return rc;
	}
	r->own = take_cfg;
	routes_set_audit(r, env->audit);
	*ret = r;
	return 0;
}

struct routes *routes_ref(struct routes *r)
{
	r->refs++;
	return r;
}

struct routes *routes_unref(struct routes *r)
{
	if (!r || --r->refs)
		return NULL;
	for (size_t i = 0; i < r->n; i++)
		backend_unref(r->list[i].backend);
	if (r->own)
		gateway_config_done(r->own);
	free(r->own);
	free(r);
	return NULL;
}

void routes_probe(const struct routes *r, bool all)
{
	for (size_t i = 0; i < r->n; i++)
		if (all || !upstream_health(r->list[i].backend->upstream)->known)
			upstream_probe(r->list[i].backend->upstream);
}

void routes_look(const struct routes *r)
{
	for (size_t i = 0; i < r->n; i++)
		upstream_look(r->list[i].backend->upstream);
}

enum backend_news routes_follow(const struct routes *r, bool now, char *problem, size_t size)
{
	enum backend_news news = BACKEND_SAME;

	for (size_t i = 0; i < r->n; i++)
		news = MAX(news, backend_follow(r->list[i].backend, now, problem, size));
	return news;
}
