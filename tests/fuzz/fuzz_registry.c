/* The relay's two files, whoever wrote them: the tunnels, up to a byte 0xff, and the agents. What is read is the same after it
 * was written and read again; what is not has one line that says why. */
#include "relay/registry_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/dev/shm/fuzz-registry.XXXXXX";
static int dir_fd = -1;

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void clear(void)
{
	unlinkat(dir_fd, "tunnels", 0);
	unlinkat(dir_fd, "agents", 0);
}

static void at_end(void)
{
	clear();
	rmdir(dir);
}

static void fill(const char *name, const uint8_t *p, size_t n)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0 && (n == 0 || write(fd, p, n) == (ssize_t)n));
	close(fd);
}

static bool same_tunnel(const struct reg_tunnel *a, const struct reg_tunnel *b)
{
	return strcmp(a->id, b->id) == 0 && strcmp(a->created, b->created) == 0 && a->n_hashes == b->n_hashes &&
	       memcmp(a->hash, b->hash, sizeof(a->hash[0]) * a->n_hashes) == 0 && a->old_until_s == b->old_until_s &&
	       a->n_agents == b->n_agents;
}

static bool same_agent(const struct reg_agent *a, const struct reg_agent *b)
{
	return strcmp(a->tunnel, b->tunnel) == 0 && strcmp(a->name, b->name) == 0 && strcmp(a->created, b->created) == 0 &&
	       memcmp(a->hash, b->hash, sizeof(a->hash)) == 0;
}

static void check_again(const struct reg_data *d)
{
	struct reg_data again = { 0 };
	char err[512];

	must(reg_write_tunnels(dir_fd, dir, d, err, sizeof(err)) == 0);
	must(reg_write_agents(dir_fd, dir, d, err, sizeof(err)) == 0);
	must(reg_read(dir_fd, dir, &again, err, sizeof(err)) == 0);
	must(again.n_tunnels == d->n_tunnels && again.n_agents == d->n_agents);
	for (size_t i = 0; i < d->n_tunnels; i++)
		must(same_tunnel(&d->tunnels[i], &again.tunnels[i]));
	for (size_t i = 0; i < d->n_agents; i++)
		must(same_agent(&d->agents[i], &again.agents[i]));
	reg_data_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *mark = size ? memchr(data, 0xff, size) : NULL;
	size_t n = mark ? (size_t)(mark - data) : size;
	struct reg_data d = { 0 };
	char err[512] = "";

	if (dir_fd < 0) {
		must(mkdtemp(dir) && atexit(at_end) == 0);
		dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		must(dir_fd >= 0);
	}
	clear();
	fill("tunnels", data, n);
	if (mark)
		fill("agents", mark + 1, size - n - 1);
	if (reg_read(dir_fd, dir, &d, err, sizeof(err)) == 0)
		check_again(&d);
	else
		must(*err && !strchr(err, '\n') && !d.tunnels && !d.agents);
	reg_data_done(&d);
	return 0;
}
