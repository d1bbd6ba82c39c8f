#include "relay/registry.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "relay/registry_file.h"

struct registry {
	char *dir;
	struct reg_data data;
	struct reg_tunnel nobody; /* stands in for a tunnel that is not there; no hash of it can match */
};

/* An edit under the exclusive lock. */
struct edit {
	int dir_fd, lock_fd;
	char *err;
	size_t err_size;
};

bool agent_name_valid(struct span name)
{
	if (name.len == 0 || name.len > AGENT_NAME_MAX)
		return false;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.p[i];
		bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!alnum && (i == 0 || !c || !strchr("._@-", c)))
			return false;
	}
	return true;
}

/* --- reading --- */

int registry_open(const char *dir, char *err, size_t err_size, struct registry **ret)
{
	_cleanup_(registry_freep) struct registry *r = calloc(1, sizeof(*r));
	int result;

	if (r)
		r->dir = strdup(dir);
	if (!r || !r->dir) {
		snprintf(err, err_size, "%s: out of memory", dir);
		return -ENOMEM;
	}
	result = random_bytes(r->nobody.hash, sizeof(r->nobody.hash));
	if (result < 0) {
		snprintf(err, err_size, "no random bytes: %s", strerror(-result));
		return result;
	}
	result = registry_reload(r, err, err_size);
	if (result == 0)
		*ret = steal_ptr(&r);
	return result;
}

struct registry *registry_free(struct registry *r)
{
	if (!r)
		return NULL;
	reg_data_done(&r->data);
	free(r->dir);
	free(r);
	return NULL;
}

static uint64_t now_s(void)
{
	return (uint64_t)time(NULL);
}

static void end_old(struct reg_tunnel *t)
{
	t->n_hashes = 1;
	t->old_until_s = 0;
	memset(t->hash[1], 0, SHA256_LEN);
}

size_t registry_expire(struct registry *r, uint64_t now_s)
{
	size_t n = 0;

	for (size_t i = 0; i < r->data.n_tunnels; i++) {
		struct reg_tunnel *t = &r->data.tunnels[i];

		if (t->n_hashes > 1 && t->old_until_s && t->old_until_s <= now_s) {
			end_old(t);
			n++;
		}
	}
	return n;
}

static int edit_begin(struct registry *r, int lock, struct edit *e)
{
	int result;

	e->dir_fd = reg_dir_open(r->dir, e->err, e->err_size);
	if (e->dir_fd < 0)
		return e->dir_fd;
	e->lock_fd = reg_dir_lock(e->dir_fd, r->dir, lock, e->err, e->err_size);
	result = e->lock_fd < 0 ? e->lock_fd : reg_read(e->dir_fd, r->dir, &r->data, e->err, e->err_size);
	if (result < 0) {
		if (e->lock_fd >= 0)
			close(e->lock_fd);
		close(e->dir_fd);
		return result;
	}
	registry_expire(r, now_s());
	return 0;
}

static void edit_end(struct edit *e)
{
	close(e->lock_fd);
	close(e->dir_fd);
}

int registry_reload(struct registry *r, char *err, size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = edit_begin(r, LOCK_SH, &e);

	if (result == 0)
		edit_end(&e);
	return result;
}

/* --- checking --- */

static int span_cmp_id(const void *key, const void *element)
{
	const struct span *id = key;
	const char *other = ((const struct reg_tunnel *)element)->id;
	size_t len = strlen(other);
	int c = memcmp(id->p, other, MIN(id->len, len));

	return c ? c : (id->len > len) - (id->len < len);
}

static struct reg_tunnel *find_tunnel(const struct registry *r, struct span id)
{
	if (id.len == 0 || r->data.n_tunnels == 0)
		return NULL;
	return bsearch(&id, r->data.tunnels, r->data.n_tunnels, sizeof(*r->data.tunnels), span_cmp_id);
}

bool registry_has_tunnel(const struct registry *r, struct span tunnel)
{
	return find_tunnel(r, tunnel) != NULL;
}

const char *registry_check_token(const struct registry *r, struct span token)
{
	uint8_t secret[SECRET_BYTES], hash[SHA256_LEN];
	const struct reg_tunnel *t;
	unsigned known, good = 0;
	struct span id;

	if (token_split(token, &id, secret) < 0 || digest_sha256(token.p, token.len, hash) < 0)
		return NULL;
	secret_wipe(secret, sizeof(secret));
	t = find_tunnel(r, id);
	known = t != NULL;
	if (!t)
		t = &r->nobody;
	/* Both slots are compared always; an unused one counts for nothing. */
	for (unsigned i = 0; i < TOKENS_PER_TUNNEL; i++)
		good |= (unsigned)digest_equal(hash, t->hash[i], sizeof(hash)) & (unsigned)(i < t->n_hashes);
	return good & known ? t->id : NULL;
}

enum registry_token registry_token_now(const struct registry *r, const char *tunnel, const uint8_t hash[SHA256_LEN])
{
	const struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));

	for (unsigned i = 0; t && i < t->n_hashes; i++)
		if (digest_equal(hash, t->hash[i], SHA256_LEN))
			return i == 0 ? REGISTRY_TOKEN_NEWEST : REGISTRY_TOKEN_OLD;
	return REGISTRY_TOKEN_ENDED;
}

const char *registry_check_agent(const struct registry *r, struct span tunnel, struct span key)
{
	const struct reg_agent *found;
	uint8_t hash[SHA256_LEN];

	if (!agent_key_valid(key) || digest_sha256(key.p, key.len, hash) < 0)
		return NULL;
	found = reg_data_find_key(&r->data, tunnel, hash);
	return found ? found->name : NULL;
}

bool registry_key_is_good(const struct registry *r, struct span tunnel, const uint8_t hash[SHA256_LEN])
{
	return reg_data_find_key(&r->data, tunnel, hash) != NULL;
}

/* --- changing --- */

static int fail(struct edit *e, int result, const char *fmt, ...) _printf_(3, 4);
static int fail(struct edit *e, int result, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->err, e->err_size, fmt, ap);
	va_end(ap);
	return result;
}

static void stamp_now(char out[CREATED_LEN + 1])
{
	registry_time_print(now_s(), out);
}

/* After a failed write memory says again what the files say; or nothing, where they cannot be read. */
static int edit_commit(struct registry *r, struct edit *e, int result)
{
	char ignored[200];

	if (result < 0 && reg_read(e->dir_fd, r->dir, &r->data, ignored, sizeof(ignored)) < 0)
		reg_data_done(&r->data);
	edit_end(e);
	return result;
}

static int save_tunnels(struct registry *r, struct edit *e)
{
	int result = reg_data_index(&r->data, r->dir, e->err, e->err_size);

	return result < 0 ? result : reg_write_tunnels(e->dir_fd, r->dir, &r->data, e->err, e->err_size);
}

static int save_agents(struct registry *r, struct edit *e)
{
	int result = reg_data_index(&r->data, r->dir, e->err, e->err_size);

	return result < 0 ? result : reg_write_agents(e->dir_fd, r->dir, &r->data, e->err, e->err_size);
}

static int new_token(const char *tunnel, struct edit *e, char token[TOKEN_TEXT_MAX + 1], uint8_t hash[SHA256_LEN])
{
	int result = token_make(tunnel, token);

	if (result == 0)
		result = digest_sha256(token, strlen(token), hash);
	return result < 0 ? fail(e, result, "%s: no token could be made", tunnel) : 0;
}

static int add_tunnel(struct registry *r, struct edit *e, const char *tunnel, char token[TOKEN_TEXT_MAX + 1])
{
	uint8_t hash[SHA256_LEN];
	struct reg_tunnel *t;
	int result;

	if (find_tunnel(r, span_of(tunnel)))
		return fail(e, -EEXIST, "tunnel \"%.80s\" exists already; rotate gives it a new token", tunnel);
	if (r->data.n_tunnels >= REGISTRY_TUNNELS_MAX)
		return fail(e, -ENOSPC, "tunnel \"%.80s\" is one too many; remove one that is not used", tunnel);
	result = new_token(tunnel, e, token, hash);
	if (result < 0)
		return result;
	t = reg_data_add_tunnel(&r->data);
	if (!t)
		return fail(e, -ENOMEM, "tunnel \"%.80s\": out of memory", tunnel);
	snprintf(t->id, sizeof(t->id), "%s", tunnel);
	stamp_now(t->created);
	memcpy(t->hash[0], hash, sizeof(hash));
	t->n_hashes = 1;
	return save_tunnels(r, e);
}

static int check_tunnel_name(struct edit *e, const char *tunnel)
{
	if (tunnel_id_valid(span_of(tunnel)))
		return 0;
	return fail(e, -EINVAL,
		    "\"%.80s\" is not a tunnel id; it takes a-z, 0-9 and hyphens, not a hyphen first, at most 63",
		    tunnel);
}

int registry_tunnel_add(struct registry *r, const char *tunnel, char token[TOKEN_TEXT_MAX + 1], char *err,
			size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = check_tunnel_name(&e, tunnel);

	if (result == 0)
		result = edit_begin(r, LOCK_EX, &e);
	return result < 0 ? result : edit_commit(r, &e, add_tunnel(r, &e, tunnel, token));
}

static int rotate_tunnel(struct registry *r, struct edit *e, const char *tunnel, uint64_t old_for_s, char token[TOKEN_TEXT_MAX + 1])
{
	struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));
	uint8_t hash[SHA256_LEN];
	int result;

	if (!t)
		return fail(e, -ENOENT, "tunnel \"%.80s\" does not exist", tunnel);
	result = new_token(tunnel, e, token, hash);
	if (result < 0)
		return result;
	memcpy(t->hash[1], t->hash[0], SHA256_LEN);
	memcpy(t->hash[0], hash, SHA256_LEN);
	t->n_hashes = TOKENS_PER_TUNNEL;
	t->old_until_s = old_for_s == REGISTRY_OLD_STAYS ? 0 : now_s() + MIN(old_for_s, (uint64_t)REGISTRY_OLD_MAX_S);
	if (old_for_s == 0)
		end_old(t);
	return save_tunnels(r, e);
}

int registry_tunnel_rotate(struct registry *r, const char *tunnel, uint64_t old_for_s, char token[TOKEN_TEXT_MAX + 1], char *err,
			   size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = edit_begin(r, LOCK_EX, &e);

	return result < 0 ? result : edit_commit(r, &e, rotate_tunnel(r, &e, tunnel, old_for_s, token));
}

static int end_old_token(struct registry *r, struct edit *e, const char *tunnel)
{
	struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));

	if (!t)
		return fail(e, -ENOENT, "tunnel \"%.80s\" does not exist", tunnel);
	if (t->n_hashes < TOKENS_PER_TUNNEL)
		return fail(e, -ENOENT, "tunnel \"%.80s\" has no old token", tunnel);
	end_old(t);
	return save_tunnels(r, e);
}

int registry_tunnel_end_old(struct registry *r, const char *tunnel, char *err, size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = edit_begin(r, LOCK_EX, &e);

	return result < 0 ? result : edit_commit(r, &e, end_old_token(r, &e, tunnel));
}

/* Agents first: what a crash leaves between the two files is a tunnel without agents, which is valid. */
static int remove_tunnel(struct registry *r, struct edit *e, const char *tunnel)
{
	struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));
	struct reg_data *d = &r->data;
	size_t at, first, gone;
	int result = 0;

	if (!t)
		return fail(e, -ENOENT, "tunnel \"%.80s\" does not exist", tunnel);
	at = (size_t)(t - d->tunnels);
	first = t->first_agent;
	gone = t->n_agents;
	if (gone) {
		memmove(d->agents + first, d->agents + first + gone, (d->n_agents - first - gone) * sizeof(*d->agents));
		d->n_agents -= gone;
		result = save_agents(r, e);
	}
	if (result < 0)
		return result;
	memmove(d->tunnels + at, d->tunnels + at + 1, (d->n_tunnels - at - 1) * sizeof(*d->tunnels));
	d->n_tunnels--;
	return save_tunnels(r, e);
}

int registry_tunnel_remove(struct registry *r, const char *tunnel, char *err, size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = edit_begin(r, LOCK_EX, &e);

	return result < 0 ? result : edit_commit(r, &e, remove_tunnel(r, &e, tunnel));
}

static struct reg_agent *find_agent(const struct registry *r, const char *tunnel, const char *agent)
{
	const struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));

	for (size_t i = 0; t && i < t->n_agents; i++)
		if (strcmp(r->data.agents[t->first_agent + i].name, agent) == 0)
			return &r->data.agents[t->first_agent + i];
	return NULL;
}

static int add_agent(struct registry *r, struct edit *e, const char *tunnel, const char *agent,
		     char key[AGENT_KEY_LEN + 1])
{
	struct reg_agent *a;
	int result;

	if (!find_tunnel(r, span_of(tunnel)))
		return fail(e, -ENOENT, "tunnel \"%.80s\" does not exist; add it first", tunnel);
	if (find_agent(r, tunnel, agent))
		return fail(e, -EEXIST, "agent \"%.80s\" exists already; remove it first to give it a new key", agent);
	if (r->data.n_agents >= REGISTRY_AGENTS_MAX)
		return fail(e, -ENOSPC, "agent \"%.80s\" is one too many; remove one that is not used", agent);
	a = reg_data_add_agent(&r->data);
	if (!a)
		return fail(e, -ENOMEM, "agent \"%.80s\": out of memory", agent);
	snprintf(a->tunnel, sizeof(a->tunnel), "%s", tunnel);
	snprintf(a->name, sizeof(a->name), "%s", agent);
	stamp_now(a->created);
	result = agent_key_make(key);
	if (result == 0)
		result = digest_sha256(key, AGENT_KEY_LEN, a->hash);
	return result < 0 ? fail(e, result, "agent \"%.80s\": no key could be made", agent) : save_agents(r, e);
}

int registry_agent_add(struct registry *r, const char *tunnel, const char *agent, char key[AGENT_KEY_LEN + 1],
		       char *err, size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result;

	if (!agent_name_valid(span_of(agent)))
		return fail(&e, -EINVAL,
			    "\"%.80s\" is not an agent's name; it takes letters, digits and . _ @ -, a letter or digit "
			    "first, at most 63",
			    agent);
	result = edit_begin(r, LOCK_EX, &e);
	return result < 0 ? result : edit_commit(r, &e, add_agent(r, &e, tunnel, agent, key));
}

static int remove_agent(struct registry *r, struct edit *e, const char *tunnel, const char *agent)
{
	struct reg_agent *a = find_agent(r, tunnel, agent);
	size_t at;

	if (!find_tunnel(r, span_of(tunnel)))
		return fail(e, -ENOENT, "tunnel \"%.80s\" does not exist", tunnel);
	if (!a)
		return fail(e, -ENOENT, "agent \"%.80s\" does not exist in this tunnel", agent);
	at = (size_t)(a - r->data.agents);
	memmove(a, a + 1, (r->data.n_agents - at - 1) * sizeof(*a));
	r->data.n_agents--;
	return save_agents(r, e);
}

int registry_agent_remove(struct registry *r, const char *tunnel, const char *agent, char *err, size_t err_size)
{
	struct edit e = { .err = err, .err_size = err_size };
	int result = edit_begin(r, LOCK_EX, &e);

	return result < 0 ? result : edit_commit(r, &e, remove_agent(r, &e, tunnel, agent));
}

/* --- visiting --- */

void registry_each_tunnel(const struct registry *r, registry_tunnel_fn *fn, void *user)
{
	for (size_t i = 0; i < r->data.n_tunnels; i++) {
		const struct reg_tunnel *t = &r->data.tunnels[i];

		fn(user, &(struct registry_tunnel){ t->id, t->created, t->n_hashes, t->old_until_s, t->n_agents });
	}
}

int registry_each_agent(const struct registry *r, const char *tunnel, registry_agent_fn *fn, void *user)
{
	const struct reg_tunnel *t = find_tunnel(r, span_of(tunnel));

	if (!t)
		return -ENOENT;
	for (size_t i = 0; i < t->n_agents; i++)
		fn(user, r->data.agents[t->first_agent + i].name, r->data.agents[t->first_agent + i].created);
	return 0;
}
