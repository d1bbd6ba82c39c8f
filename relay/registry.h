/* Who may use the relay: tunnels with the hashes of their tokens, and each tunnel's agents with the hashes of their
 * keys. No token and no key is ever stored.
 *
 * The state directory (0700, made when missing, refused when others can enter it) holds two text files (0600) and
 * `lock`, which writers hold exclusively and readers shared. A file is replaced as a whole (written aside, fsync,
 * rename):
 *
 *	tunnels:  mcp-tunnel-relay tunnels 1
 *	          TUNNEL CREATED HASH [HASH [UNTIL]]  the newer token first; two only after a rotation; UNTIL: the
 *	                                              older one ends then
 *	agents:   mcp-tunnel-relay agents 1
 *	          TUNNEL AGENT CREATED HASH
 *
 * TUNNEL is a tunnel id; AGENT is [A-Za-z0-9][A-Za-z0-9._@-]{0,62}; CREATED and UNTIL are like 2026-11-20T20:00:00Z; HASH is the
 * SHA-256 of the whole token or key, 64 lower-case hex digits. Fields are separated by one space.
 *
 * Functions with err put one line for people there (which file, which line, what is wrong) on every failure.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"
#include "daemon/digest.h"
#include "daemon/token.h"

enum { AGENT_NAME_MAX = 63, REGISTRY_TUNNELS_MAX = 65536, REGISTRY_AGENTS_MAX = 262144 };

struct registry;

/* 2026-11-20T20:00:00Z, as the files have it. */
enum { REGISTRY_TIME_LEN = 20 };
void registry_time_print(uint64_t unix_s, char out[REGISTRY_TIME_LEN + 1]);

/* Makes the directory when missing, and reads it. -EACCES (permissions), -EINVAL (damaged), -errno. */
int registry_open(const char *dir, char *err, size_t err_size, struct registry **ret);
struct registry *registry_free(struct registry *r);
DEFINE_CLEANUP(struct registry *, registry_free)

/* Reads again what another process may have changed. On failure the old content stays in use. Names that were handed
 * out before are gone after success. */
int registry_reload(struct registry *r, char *err, size_t err_size);

/* Ends old tokens whose time is over by then (wall clock, seconds since 1970). Reading does it, too. How many. */
size_t registry_expire(struct registry *r, uint64_t now_s);

/* The tunnel's id, or NULL. An unknown tunnel costs the same work as a wrong secret. Valid until the next change. */
const char *registry_check_token(const struct registry *r, struct span token);
/* The agent's name, or NULL. Likewise. */
const char *registry_check_agent(const struct registry *r, struct span tunnel, struct span key);
bool registry_has_tunnel(const struct registry *r, struct span tunnel);

/* What became of a token or key that was good once, known by its SHA-256: for those who hold a session or a call by it. */
enum registry_token { REGISTRY_TOKEN_ENDED, REGISTRY_TOKEN_NEWEST, REGISTRY_TOKEN_OLD };
enum registry_token registry_token_now(const struct registry *r, const char *tunnel, const uint8_t hash[SHA256_LEN]);
bool registry_key_is_good(const struct registry *r, struct span tunnel, const uint8_t hash[SHA256_LEN]);

bool agent_name_valid(struct span name);

/* Changes: each takes the lock, reads again, writes. -EINVAL (name), -EEXIST, -ENOENT, -ENOSPC (too many),
 * -EWOULDBLOCK (another process held the lock for two seconds), -errno. After a failure memory is as the files are, or empty.
 * rotate keeps the newest old token valid beside the new one: until the next rotation, for old_for_s, or until end_old (-ENOENT
 * when there is no old one). Removing a tunnel removes its agents. */
#define REGISTRY_OLD_STAYS UINT64_MAX
enum { REGISTRY_OLD_MAX_S = 366 * 24 * 3600 };
int registry_tunnel_add(struct registry *r, const char *tunnel, char token[TOKEN_TEXT_MAX + 1], char *err,
			size_t err_size);
int registry_tunnel_rotate(struct registry *r, const char *tunnel, uint64_t old_for_s, char token[TOKEN_TEXT_MAX + 1], char *err,
			   size_t err_size);
int registry_tunnel_end_old(struct registry *r, const char *tunnel, char *err, size_t err_size);
int registry_tunnel_remove(struct registry *r, const char *tunnel, char *err, size_t err_size);
int registry_agent_add(struct registry *r, const char *tunnel, const char *agent, char key[AGENT_KEY_LEN + 1],
		       char *err, size_t err_size);
int registry_agent_remove(struct registry *r, const char *tunnel, const char *agent, char *err, size_t err_size);

struct registry_tunnel {
	const char *id, *created;
	unsigned n_tokens;
	uint64_t old_until_s; /* wall clock; 0: the old token, where there is one, stays until the next rotation */
	size_t n_agents;
};

/* Visits in the order of names. */
typedef void registry_tunnel_fn(void *user, const struct registry_tunnel *t);
typedef void registry_agent_fn(void *user, const char *agent, const char *created);
void registry_each_tunnel(const struct registry *r, registry_tunnel_fn *fn, void *user);
/* -ENOENT: no such tunnel. */
int registry_each_agent(const struct registry *r, const char *tunnel, registry_agent_fn *fn, void *user);
