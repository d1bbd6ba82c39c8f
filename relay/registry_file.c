#include "relay/registry_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/encode.h"

enum { LOCK_TRIES = 200, LOCK_PAUSE_US = 10000 };

static const char head_tunnels[] = "mcp-tunnel-relay tunnels 1", head_agents[] = "mcp-tunnel-relay agents 1";

static int fail(char *err, size_t err_size, int r, const char *dir, const char *file, const char *doing)
{
	snprintf(err, err_size, "%s%s%s: cannot %s: %s", dir, *file ? "/" : "", file, doing, strerror(-r));
	return r;
}

/* --- the directory --- */

int reg_dir_open(const char *dir, char *err, size_t err_size)
{
	struct stat st;
	int fd, r;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fail(err, err_size, -errno, dir, "", "make the state directory");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(err, err_size, -errno, dir, "", "open the state directory");
	if (fstat(fd, &st) < 0) {
		r = fail(err, err_size, -errno, dir, "", "look at the state directory");
	} else if (st.st_mode & 0077) {
		snprintf(err, err_size, "%s: others can use the state directory (mode %04o); run: chmod 700 %s", dir,
			 (unsigned)st.st_mode & 07777, dir);
		r = -EACCES;
	} else {
		return fd;
	}
	close(fd);
	return r;
}

/* What root makes belongs to the directory's owner: the relay runs as that user. */
static int adopt(int dir_fd, int fd)
{
	struct stat st;

	if (geteuid() != 0)
		return 0;
	return fstat(dir_fd, &st) < 0 || fchown(fd, st.st_uid, st.st_gid) < 0 ? -errno : 0;
}

int reg_dir_lock(int dir_fd, const char *dir, int operation, char *err, size_t err_size)
{
	int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), r;

	if (fd < 0)
		return fail(err, err_size, -errno, dir, "lock", "open it");
	r = adopt(dir_fd, fd);
	/* A stopped process that holds the lock must not stop this one for good. */
	for (int i = 0; r == 0 && flock(fd, operation | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK || i == LOCK_TRIES)
			r = -errno;
		else
			usleep(LOCK_PAUSE_US);
	}
	if (r == 0)
		return fd;
	close(fd);
	if (r == -EWOULDBLOCK) {
		snprintf(err, err_size, "%s/lock: another process has held it for two seconds; try again", dir);
		return r;
	}
	return fail(err, err_size, r, dir, "lock", "lock it");
}

/* --- content --- */

void reg_data_done(struct reg_data *d)
{
	free(d->tunnels);
	free(d->agents);
	free(d->by_hash);
	*d = (struct reg_data){ 0 };
}

/* Doubles at powers of two, so that reading n lines copies O(n). */
static void *grow(void *array, size_t n, size_t size)
{
	return n & (n - 1) ? array : reallocarray(array, n ? 2 * n : 1, size);
}

struct reg_tunnel *reg_data_add_tunnel(struct reg_data *d)
{
	struct reg_tunnel *grown = grow(d->tunnels, d->n_tunnels, sizeof(*grown));

	if (!grown)
		return NULL;
	d->tunnels = grown;
	grown[d->n_tunnels] = (struct reg_tunnel){ 0 };
	return &grown[d->n_tunnels++];
}

struct reg_agent *reg_data_add_agent(struct reg_data *d)
{
	struct reg_agent *grown = grow(d->agents, d->n_agents, sizeof(*grown));

	if (!grown)
		return NULL;
	d->agents = grown;
	grown[d->n_agents] = (struct reg_agent){ 0 };
	return &grown[d->n_agents++];
}

static int by_id(const void *a, const void *b)
{
	return strcmp(((const struct reg_tunnel *)a)->id, ((const struct reg_tunnel *)b)->id);
}

static int by_tunnel_and_name(const void *a, const void *b)
{
	const struct reg_agent *x = a, *y = b;
	int c = strcmp(x->tunnel, y->tunnel);

	return c ? c : strcmp(x->name, y->name);
}

static int fail_line(char *err, size_t err_size, const char *dir, const char *file, unsigned line, const char *why)
{
	snprintf(err, err_size, "%s/%s:%u: %s", dir, file, line, why);
	return -EINVAL;
}

static int join_agents(struct reg_data *d, const char *dir, char *err, size_t err_size)
{
	size_t t = 0;

	for (size_t i = 0; i < d->n_agents; i++) {
		const struct reg_agent *a = &d->agents[i];

		if (i && by_tunnel_and_name(a - 1, a) == 0)
			return fail_line(err, err_size, dir, "agents", MAX(a->line, a[-1].line),
					 "this agent is there twice");
		while (t < d->n_tunnels && strcmp(d->tunnels[t].id, a->tunnel) < 0)
			t++;
		if (t == d->n_tunnels || strcmp(d->tunnels[t].id, a->tunnel) != 0)
			return fail_line(err, err_size, dir, "agents", a->line,
					 "its tunnel is not in the file tunnels");
		if (d->tunnels[t].n_agents++ == 0)
			d->tunnels[t].first_agent = i;
	}
	return 0;
}

/* Not in constant time: hashes of 256 random bits, which nobody can steer towards each other, and a hash is no key. */
static int by_hash_and_tunnel(const void *a, const void *b)
{
	const struct reg_agent *x = *(const struct reg_agent *const *)a, *y = *(const struct reg_agent *const *)b;
	int c = memcmp(x->hash, y->hash, sizeof(x->hash));

	return c ? c : strcmp(x->tunnel, y->tunnel);
}

static int index_keys(struct reg_data *d, const char *dir, char *err, size_t err_size)
{
	free(d->by_hash);
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers. */
	d->by_hash = calloc(d->n_agents + 1, sizeof(const struct reg_agent *));
	if (!d->by_hash)
		return fail(err, err_size, -ENOMEM, dir, "agents", "index");
	for (size_t i = 0; i < d->n_agents; i++)
		d->by_hash[i] = &d->agents[i];
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): likewise. */
	qsort(d->by_hash, d->n_agents, sizeof(*d->by_hash), by_hash_and_tunnel);
	return 0;
}

const struct reg_agent *reg_data_find_key(const struct reg_data *d, struct span tunnel, const uint8_t hash[SHA256_LEN])
{
	struct reg_agent key;
	const struct reg_agent *at = &key, **found;

	snprintf(key.tunnel, sizeof(key.tunnel), "%.*s", SPAN_FMT(tunnel));
	memcpy(key.hash, hash, sizeof(key.hash));
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): likewise. */
	found = d->n_agents ? bsearch(&at, d->by_hash, d->n_agents, sizeof(*d->by_hash), by_hash_and_tunnel) : NULL;
	return found ? *found : NULL;
}

int reg_data_index(struct reg_data *d, const char *dir, char *err, size_t err_size)
{
	int result;

	if (d->n_tunnels)
		qsort(d->tunnels, d->n_tunnels, sizeof(*d->tunnels), by_id);
	if (d->n_agents)
		qsort(d->agents, d->n_agents, sizeof(*d->agents), by_tunnel_and_name);
	for (size_t i = 0; i < d->n_tunnels; i++) {
		struct reg_tunnel *t = &d->tunnels[i];

		t->first_agent = t->n_agents = 0;
		if (i && by_id(t - 1, t) == 0)
			return fail_line(err, err_size, dir, "tunnels", MAX(t->line, t[-1].line),
					 "this tunnel is there twice");
	}
	result = join_agents(d, dir, err, err_size);
	return result < 0 ? result : index_keys(d, dir, err, err_size);
}

/* --- reading --- */

void registry_time_print(uint64_t unix_s, char out[REGISTRY_TIME_LEN + 1])
{
	time_t t = (time_t)unix_s;
	struct tm tm = { .tm_mday = 1 };

	gmtime_r(&t, &tm);
	strftime(out, REGISTRY_TIME_LEN + 1, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* The shape alone. */
static bool created_valid(struct span s)
{
	static const char shape[] = "dddd-dd-ddTdd:dd:ddZ";

	if (s.len != CREATED_LEN)
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (shape[i] == 'd' ? s.p[i] < '0' || s.p[i] > '9' : s.p[i] != shape[i])
			return false;
	return true;
}

/* 0: not a time. */
static uint64_t parse_time(struct span s)
{
	char text[CREATED_LEN + 1] = "", again[CREATED_LEN + 1];
	struct tm tm = { 0 };
	time_t t;

	if (!created_valid(s))
		return 0;
	memcpy(text, s.p, CREATED_LEN);
	if (!strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm))
		return 0;
	t = timegm(&tm);
	if (t <= 0)
		return 0;
	registry_time_print((uint64_t)t, again);
	return strcmp(text, again) == 0 ? (uint64_t)t : 0;
}

static const char no_memory[] = "out of memory";

static const char *parse_tunnel(struct span rest, unsigned line, struct reg_data *d)
{
	struct span id = span_split(&rest, ' '), created = span_split(&rest, ' ');
	struct reg_tunnel t = { .line = line };

	if (!tunnel_id_valid(id))
		return "its first field is not a tunnel id";
	if (!created_valid(created))
		return "its second field is not a time";
	while (rest.p && t.n_hashes < TOKENS_PER_TUNNEL)
		if (hex_decode(span_split(&rest, ' '), t.hash[t.n_hashes++], SHA256_LEN) < 0)
			return "a hash is not 64 hex digits";
	if (t.n_hashes == 0)
		return "it does not have one or two hashes";
	if (rest.p) {
		t.old_until_s = parse_time(rest);
		if (!t.old_until_s)
			return "what follows two hashes is not a time";
	}
	if (d->n_tunnels >= REGISTRY_TUNNELS_MAX)
		return "too many tunnels";
	memcpy(t.id, id.p, id.len);
	memcpy(t.created, created.p, created.len);
	if (!reg_data_add_tunnel(d))
		return no_memory;
	d->tunnels[d->n_tunnels - 1] = t;
	return NULL;
}

static const char *parse_agent(struct span rest, unsigned line, struct reg_data *d)
{
	struct span id = span_split(&rest, ' '), name = span_split(&rest, ' '), created = span_split(&rest, ' ');
	struct reg_agent a = { .line = line };

	if (!tunnel_id_valid(id))
		return "its first field is not a tunnel id";
	if (!agent_name_valid(name))
		return "its second field is not an agent's name";
	if (!created_valid(created))
		return "its third field is not a time";
	if (hex_decode(rest, a.hash, SHA256_LEN) < 0)
		return "its hash is not 64 hex digits";
	if (d->n_agents >= REGISTRY_AGENTS_MAX)
		return "too many agents";
	memcpy(a.tunnel, id.p, id.len);
	memcpy(a.name, name.p, name.len);
	memcpy(a.created, created.p, created.len);
	if (!reg_data_add_agent(d))
		return no_memory;
	d->agents[d->n_agents - 1] = a;
	return NULL;
}

typedef const char *parse_fn(struct span rest, unsigned line, struct reg_data *d);

static int read_lines(FILE *f, const char *dir, const char *file, const char *head, parse_fn *parse, struct reg_data *d,
		      char *err, size_t err_size)
{
	char text[512]; /* the longest valid line has 236 bytes */
	unsigned line = 0;

	while (fgets(text, sizeof(text), f)) {
		struct span s = span_of(text);
		const char *why;

		line++;
		if (s.len && s.p[s.len - 1] == '\n')
			s.len--;
		else
			return fail_line(err, err_size, dir, file, line,
					 "the line is cut short or too long; restore the file");
		if (line == 1)
			why = span_is(s, head) ? NULL : "the first line is not the one this version writes";
		else
			why = parse(s, line, d);
		if (why == no_memory)
			return fail(err, err_size, -ENOMEM, dir, file, "read it");
		if (why)
			return fail_line(err, err_size, dir, file, line, why);
	}
	if (ferror(f))
		return fail(err, err_size, -EIO, dir, file, "read it");
	return line ? 0
		    : fail_line(err, err_size, dir, file, 1,
				"the file is empty; restore it, or remove it to begin anew");
}

static int check_file(int fd, const char *dir, const char *file, char *err, size_t err_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fail(err, err_size, -errno, dir, file, "look at it");
	if (S_ISREG(st.st_mode) && !(st.st_mode & 0077))
		return 0;
	snprintf(err, err_size,
		 "%s/%s: others can use it, or it is not a regular file (mode %04o); run: chmod 600 %s/%s", dir, file,
		 (unsigned)st.st_mode & 07777, dir, file);
	return -EACCES;
}

static int read_file(int dir_fd, const char *dir, const char *file, const char *head, parse_fn *parse,
		     struct reg_data *d, char *err, size_t err_size)
{
	int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), r;
	FILE *f;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return fail(err, err_size, -errno, dir, file, "open it");
	r = check_file(fd, dir, file, err, err_size);
	f = r == 0 ? fdopen(fd, "r") : NULL;
	if (!f) {
		close(fd);
		return r < 0 ? r : fail(err, err_size, -ENOMEM, dir, file, "open it");
	}
	r = read_lines(f, dir, file, head, parse, d, err, err_size);
	fclose(f);
	return r;
}

int reg_read(int dir_fd, const char *dir, struct reg_data *d, char *err, size_t err_size)
{
	struct reg_data fresh = { 0 };
	int r = read_file(dir_fd, dir, "tunnels", head_tunnels, parse_tunnel, &fresh, err, err_size);

	if (r == 0)
		r = read_file(dir_fd, dir, "agents", head_agents, parse_agent, &fresh, err, err_size);
	if (r == 0)
		r = reg_data_index(&fresh, dir, err, err_size);
	if (r < 0) {
		reg_data_done(&fresh);
		return r;
	}
	reg_data_done(d);
	*d = fresh;
	return 0;
}

/* --- writing --- */

static void print_tunnels(FILE *f, const struct reg_data *d)
{
	char hex[2 * SHA256_LEN + 1], until[CREATED_LEN + 1];

	fprintf(f, "%s\n", head_tunnels);
	for (size_t i = 0; i < d->n_tunnels; i++) {
		const struct reg_tunnel *t = &d->tunnels[i];

		fprintf(f, "%s %s", t->id, t->created);
		for (unsigned k = 0; k < t->n_hashes; k++) {
			hex_encode(t->hash[k], SHA256_LEN, hex);
			fprintf(f, " %s", hex);
		}
		if (t->n_hashes > 1 && t->old_until_s) {
			registry_time_print(t->old_until_s, until);
			fprintf(f, " %s", until);
		}
		fputc('\n', f);
	}
}

static void print_agents(FILE *f, const struct reg_data *d)
{
	char hex[2 * SHA256_LEN + 1];

	fprintf(f, "%s\n", head_agents);
	for (size_t i = 0; i < d->n_agents; i++) {
		hex_encode(d->agents[i].hash, SHA256_LEN, hex);
		fprintf(f, "%s %s %s %s\n", d->agents[i].tunnel, d->agents[i].name, d->agents[i].created, hex);
	}
}

/* Everything on disk before the name changes; the name on disk before success. */
static int write_file(int dir_fd, const char *dir, const char *file, void (*print)(FILE *f, const struct reg_data *d),
		      const struct reg_data *d, char *err, size_t err_size)
{
	char temp[32];
	int fd, r;
	FILE *f;

	snprintf(temp, sizeof(temp), "%s.new", file);
	fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail(err, err_size, -errno, dir, temp, "write it");
	r = adopt(dir_fd, fd);
	f = r == 0 ? fdopen(fd, "w") : NULL;
	if (!f) {
		close(fd);
		return fail(err, err_size, r < 0 ? r : -ENOMEM, dir, temp, "write it");
	}
	print(f, d);
	if (fflush(f) != 0 || ferror(f) || fsync(fd) < 0)
		r = errno ? -errno : -EIO;
	if (fclose(f) != 0 && r == 0)
		r = -errno;
	if (r == 0 && (renameat(dir_fd, temp, dir_fd, file) < 0 || fsync(dir_fd) < 0))
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temp, 0);
	return r < 0 ? fail(err, err_size, r, dir, file, "write it") : 0;
}

int reg_write_tunnels(int dir_fd, const char *dir, const struct reg_data *d, char *err, size_t err_size)
{
	return write_file(dir_fd, dir, "tunnels", print_tunnels, d, err, err_size);
}

int reg_write_agents(int dir_fd, const char *dir, const struct reg_data *d, char *err, size_t err_size)
{
	return write_file(dir_fd, dir, "agents", print_agents, d, err, err_size);
}
