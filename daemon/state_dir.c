#include "daemon/state_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"

enum { TEMPORARY_MAX = STATE_NAME_MAX + sizeof(".new") };

struct state_dir {
	char *path;
	int fd;
	int lock;
};

int state_dir_fd(const struct state_dir *d)
{
	return d->fd;
}

const char *state_dir_path(const struct state_dir *d)
{
	return d->path;
}

struct state_dir *state_dir_close(struct state_dir *d)
{
	if (!d)
		return NULL;
	if (d->lock >= 0)
		close(d->lock);
	if (d->fd >= 0)
		close(d->fd);
	free(d->path);
	free(d);
	return NULL;
}

void state_dir_adopt(int dir_fd, const char *of, int fd)
{
	struct stat st;

	if (geteuid() == 0 && (fstatat(dir_fd, of, &st, 0) < 0 || fchown(fd, st.st_uid, st.st_gid) < 0))
		log_debug("state: cannot give a file to its directory's owner: %s", strerror(errno));
}

static int open_dir(const char *path)
{
	bool made = mkdir(path, 0700) == 0;
	int fd;

	if (!made && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && made)
		state_dir_adopt(fd, "..", fd);
	return fd < 0 ? -errno : fd;
}

/* For people who wonder which process it is; nobody depends on it. */
static void write_pid(int fd)
{
	char text[24];
	int n = snprintf(text, sizeof(text), "%d\n", getpid());

	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
		log_debug("state: cannot write the pid into the lock: %s", strerror(errno));
}

static int open_lock(int dir)
{
	int fd = openat(dir, "pid", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600), r;

	if (fd < 0)
		return -errno;
	state_dir_adopt(dir, ".", fd);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
		close(fd);
		return r;
	}
	write_pid(fd);
	return fd;
}

static int open_all(const char *path, char *err, size_t err_size, struct state_dir *d)
{
	d->path = strdup(path);
	if (!d->path) {
		snprintf(err, err_size, "state directory %s: out of memory", path);
		return -ENOMEM;
	}
	d->fd = open_dir(path);
	if (d->fd < 0) {
		snprintf(err, err_size, "cannot open the state directory %s: %s", path, strerror(-d->fd));
		return d->fd;
	}
	d->lock = open_lock(d->fd);
	if (d->lock == -EBUSY)
		snprintf(err, err_size,
			 "the state directory %s is in use by another process: its pid is in %s/pid; each needs one of "
			 "its own",
			 path, path);
	else if (d->lock < 0)
		snprintf(err, err_size, "cannot lock the state directory %s: %s", path, strerror(-d->lock));
	return d->lock < 0 ? d->lock : 0;
}

int state_dir_open(const char *path, char *err, size_t err_size, struct state_dir **ret)
{
	_cleanup_(state_dir_closep) struct state_dir *d = calloc(1, sizeof(*d));
	int r;

	if (!d) {
		snprintf(err, err_size, "state directory %s: out of memory", path);
		return -ENOMEM;
	}
	d->fd = d->lock = -1;
	r = open_all(path, err, err_size, d);
	if (r < 0)
		return r;
	*ret = steal_ptr(&d);
	return 0;
}

static bool name_valid(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= STATE_NAME_MAX && name[0] != '.' && !strchr(name, '/');
}

/* -EFBIG: there is more. */
static int read_file(int fd, char *dst, size_t size, size_t *ret_len)
{
	size_t len, more = 0;
	char byte;
	int r = io_read_all(fd, dst, size, &len);

	if (r == 0 && len == size)
		r = io_read_all(fd, &byte, 1, &more);
	if (r < 0)
		return r;
	if (more)
		return -EFBIG;
	*ret_len = len;
	return 0;
}

int state_dir_read(struct state_dir *d, const char *name, char *dst, size_t size, size_t *ret_len)
{
	int fd, r;

	if (!name_valid(name))
		return -EINVAL;
	fd = openat(d->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	r = read_file(fd, dst, size, ret_len);
	close(fd);
	return r;
}

int state_dir_write(struct state_dir *d, const char *name, const void *p, size_t len)
{
	char temporary[TEMPORARY_MAX];
	int fd, r;

	if (!name_valid(name))
		return -EINVAL;
	snprintf(temporary, sizeof(temporary), "%s.new", name);
	/* What a process left there that was killed: it may be anything, a link too. */
	if (unlinkat(d->fd, temporary, 0) < 0 && errno != ENOENT)
		return -errno;
	fd = openat(d->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	state_dir_adopt(d->fd, ".", fd);
	r = io_write_all(fd, p, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0 && renameat(d->fd, temporary, d->fd, name) < 0)
		r = -errno;
	if (r == 0)
		return fsync(d->fd) < 0 ? -errno : 0;
	unlinkat(d->fd, temporary, 0);
	return r;
}

int state_dir_remove(struct state_dir *d, const char *name)
{
	if (!name_valid(name))
		return -EINVAL;
	return unlinkat(d->fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}
