/* What is in force: the routes, and the rules and limits of the configuration that they are of. A reload replaces the whole, and each
 * call goes on with what it has begun with; the last one frees it. A server that is the same before and after keeps its connections.
 */
#pragma once

#include "daemon/audit_calls.h"
#include "gateway/backend.h"
#include "gateway/policy.h"

enum { ROUTES_MAX = 1 + CONFIG_SECTIONS_MAX };

struct route {
	const char *name; /* "": the default one */
	const struct route_config *cfg;
	struct backend *backend;
	struct policy_config policy;
	bool filtered; /* filter_wanted(): the same for all calls */
	struct audit_calls_shared audit; /* with this route's rules, where they are tried out */
};

struct routes {
	unsigned refs;
	const struct gateway_config *cfg;
	struct gateway_config *own; /* the same, freed with this; NULL: it is the one that the program has started with */
	uint64_t max_collected_bytes; /* request bodies of all exchanges together, until they are sent */
	size_t n;
	struct route list[ROUTES_MAX];
};

struct routes_config {
	struct loop *loop;
	struct upstream_pool *pool; /* of all servers together; outlives the loop */
	const struct audit_calls_shared *audit; /* what is in it is copied; see routes_set_audit() */
};

/* The first; cfg stays borrowed. err gets one line for people. -EINVAL and others of a bad file, -ENOMEM. */
int routes_new(const struct routes_config *env, const struct gateway_config *cfg, char *err, size_t err_size, struct routes **ret);
/* The next ones: take_cfg is from malloc(). On failure `before` is as it was. */
int routes_next(const struct routes_config *env, const struct routes *before, struct gateway_config *take_cfg, char *err, size_t err_size,
		struct routes **ret);
/* For the first, which are made before there is an audit log: a bad configuration is told before anything is touched. */
void routes_set_audit(struct routes *r, const struct audit_calls_shared *audit);
struct routes *routes_ref(struct routes *r);
struct routes *routes_unref(struct routes *r);

/* NULL: there is none of that name. */
const struct route *routes_find(const struct routes *r, struct span name);

/* upstream_probe() of all that have not been tried yet, or of all. */
void routes_probe(const struct routes *r, bool all);
/* upstream_look() of all. */
void routes_look(const struct routes *r);
/* backend_follow() of all; problem gets the last line. */
enum backend_news routes_follow(const struct routes *r, bool now, char *problem, size_t size);
