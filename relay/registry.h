/* Who may use the relay: tunnels with the hashes of their tokens, and each tunnel's agents with the hashes of their
 * keys. No token and no key is ever stored.
 *
 * The state directory (0700, made when missing, refused when others can enter it) holds two text files (0600) and
 * `lock`, which writers hold exclusively and readers shared. A file is replaced as a whole (written aside, fsync,
 * rename):
 *
 *	tunnels:  mcp-tunnel-relay tunnels 1
 *	          TUNNEL CREATED HASH [HASH]          the newer token first; two only after a rotation
 *	agents:   mcp-tunnel-relay agents 1
 *	          TUNNEL AGENT CREATED HASH
 *
 * TUNNEL is a tunnel id; AGENT is [A-Za-z0-9][A-Za-z0-9._@-]{0,62}; CREATED is 2026-11-20T20:00:00Z; HASH is the
 * SHA-256 of the whole token or key, 64 lower-case hex digits. Fields are separated by one space.
 *
 * Functions with err put one line for people there (which file, which line, what is wrong) on every failure.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"
#include "daemon/token.h"

enum { AGENT_NAME_MAX = 63, REGISTRY_TUNNELS_MAX = 65536, REGISTRY_AGENTS_MAX = 262144 };

struct registry;

/* Makes the directory when missing, and reads it. -EACCES (permissions), -EINVAL (damaged), -errno. */
int registry_open(const char *dir, char *err, size_t err_size, struct registry **ret);
struct registry *registry_free(struct registry *r);
DEFINE_CLEANUP(struct registry *, registry_free)

/* Reads again what another process may have changed. On failure the old content stays in use. Names that were handed
 * out before are gone after success. */
int registry_reload(struct registry *r, char *err, size_t err_size);

/* The tunnel's id, or NULL. An unknown tunnel costs the same work as a wrong secret. Valid until the next change. */
const char *registry_check_token(const struct registry *r, struct span token);
/* The agent's name, or NULL. Likewise. */
const char *registry_check_agent(const struct registry *r, struct span tunnel, struct span key);
bool registry_has_tunnel(const struct registry *r, struct span tunnel);

bool agent_name_valid(struct span name);

/* Changes: each takes the lock, reads again, writes. -EINVAL (name), -EEXIST, -ENOENT, -ENOSPC (too many),
 * -EWOULDBLOCK (another process held the lock for two seconds), -errno.
 * rotate keeps the newest old token valid beside the new one; a second rotate ends it. Removing a tunnel removes its
 * agents. */
int registry_tunnel_add(struct registry *r, const char *tunnel, char token[TOKEN_TEXT_MAX + 1], char *err,
			size_t err_size);
int registry_tunnel_rotate(struct registry *r, const char *tunnel, char token[TOKEN_TEXT_MAX + 1], char *err,
			   size_t err_size);
int registry_tunnel_remove(struct registry *r, const char *tunnel, char *err, size_t err_size);
int registry_agent_add(struct registry *r, const char *tunnel, const char *agent, char key[AGENT_KEY_LEN + 1],
		       char *err, size_t err_size);
int registry_agent_remove(struct registry *r, const char *tunnel, const char *agent, char *err, size_t err_size);

/* Visits in the order of names. */
typedef void registry_tunnel_fn(void *user, const char *tunnel, const char *created, unsigned n_tokens,
				size_t n_agents);
typedef void registry_agent_fn(void *user, const char *agent, const char *created);
void registry_each_tunnel(const struct registry *r, registry_tunnel_fn *fn, void *user);
/* -ENOENT: no such tunnel. */
int registry_each_agent(const struct registry *r, const char *tunnel, registry_agent_fn *fn, void *user);
