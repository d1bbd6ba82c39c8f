/* The registry's content and its two files; registry.h describes the format. For registry.c alone. */
#pragma once

#include "daemon/digest.h"
#include "relay/registry.h"

enum { CREATED_LEN = REGISTRY_TIME_LEN, TOKENS_PER_TUNNEL = 2 };

struct reg_tunnel {
	char id[TUNNEL_ID_MAX + 1];
	char created[CREATED_LEN + 1];
	uint8_t hash[TOKENS_PER_TUNNEL][SHA256_LEN];
	unsigned n_hashes;
	uint64_t old_until_s; /* the second one's end; 0: none */
	unsigned line;
	size_t first_agent, n_agents; /* in reg_data.agents */
};

struct reg_agent {
	char tunnel[TUNNEL_ID_MAX + 1];
	char name[AGENT_NAME_MAX + 1];
	char created[CREATED_LEN + 1];
	uint8_t hash[SHA256_LEN];
	unsigned line;
};

/* Both sorted by name; agents by tunnel first. */
struct reg_data {
	struct reg_tunnel *tunnels;
	size_t n_tunnels;
	struct reg_agent *agents;
	size_t n_agents;
	const struct reg_agent **by_hash; /* agents again, by the hash of their key, then by tunnel */
};

void reg_data_done(struct reg_data *d);
/* Sorts, and joins agents with their tunnels. -EINVAL: a name is there twice or an agent's tunnel is not there. */
int reg_data_index(struct reg_data *d, const char *dir, char *err, size_t err_size);
/* The agent of that tunnel with that key, or NULL: as much work for a tunnel that is not there as for one with many agents. How
 * much of a hash is right can be told from the time; how much of a key cannot. */
const struct reg_agent *reg_data_find_key(const struct reg_data *d, struct span tunnel, const uint8_t hash[SHA256_LEN]);
/* One more at the end, to be filled in; then reg_data_index(). NULL when out of memory. */
struct reg_tunnel *reg_data_add_tunnel(struct reg_data *d);
struct reg_agent *reg_data_add_agent(struct reg_data *d);

/* Opens the directory (making it when missing) and checks who can enter. A descriptor or -errno. */
int reg_dir_open(const char *dir, char *err, size_t err_size);
/* operation: LOCK_SH or LOCK_EX. Closing the descriptor unlocks. */
int reg_dir_lock(int dir_fd, const char *dir, int operation, char *err, size_t err_size);

int reg_read(int dir_fd, const char *dir, struct reg_data *d, char *err, size_t err_size);
int reg_write_tunnels(int dir_fd, const char *dir, const struct reg_data *d, char *err, size_t err_size);
int reg_write_agents(int dir_fd, const char *dir, const struct reg_data *d, char *err, size_t err_size);
