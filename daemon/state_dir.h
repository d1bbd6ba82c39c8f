/* The directory where a program keeps what has to outlive it: one process at a time. */
#pragma once

#include "base/check.h"

enum { STATE_NAME_MAX = 64 };

struct state_dir;

/* Opens the directory, made with mode 0700 when only it is missing, and locks it (flock() on the file "pid" in it,
 * which holds the pid). -EBUSY: another process has it. err gets one line for people. */
int state_dir_open(const char *path, char *err, size_t err_size, struct state_dir **ret);
struct state_dir *state_dir_close(struct state_dir *d);
DEFINE_CLEANUP(struct state_dir *, state_dir_close)

/* What can be told of it from outside: nothing is made, changed or locked. */
struct state_dir_view {
	bool missing;    /* and can be made: its parent is there */
	bool in_use;     /* a process holds it */
	int pid;         /* of that process; 0: not known */
	char foreign[STATE_NAME_MAX + 1]; /* a file in it that is not its owner's, who may be unable to use it; "": none */
	char owner[33];  /* name, or number */
};
/* -EACCES and others, with one line in err: it cannot be used. */
int state_dir_look(const char *path, char *err, size_t err_size, struct state_dir_view *ret);
/* Whether the owner of the directory may read the file, as far as its own mode tells; only root has to ask. */
bool state_dir_owner_may_read(const char *dir, const char *path);
/* The name of a user, or the number. */
void state_dir_user_name(unsigned uid, char *dst, size_t size);

/* Of the directory, for openat(). */
int state_dir_fd(const struct state_dir *d);
/* What root makes there belongs to the directory's owner, whose service will have to use it; of: "." of dir_fd, or ".." for the
 * directory itself. Others' files are left as they are. */
void state_dir_adopt(int dir_fd, const char *of, int fd);
/* As it was given, for people. */
const char *state_dir_path(const struct state_dir *d);

/* Small files; name: no slash, at most STATE_NAME_MAX, else -EINVAL. */

/* The whole file. -ENOENT: there is none; -EFBIG: larger than size. */
int state_dir_read(struct state_dir *d, const char *name, char *dst, size_t size, size_t *ret_len);
/* Replaced atomically, mode 0600, and on disk when it returns: it waits for the disk, so not from a running loop. On
 * failure the old content stays. */
int state_dir_write(struct state_dir *d, const char *name, const void *p, size_t len);
/* 0 also when there was none. */
int state_dir_remove(struct state_dir *d, const char *name);
