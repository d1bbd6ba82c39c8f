#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/span.h"
#include "daemon/state_dir.h"

enum { ENTRIES_MAX = 1000, GROUPS_MAX = 64 };

void state_dir_user_name(unsigned uid, char *dst, size_t size)
{
	char text[1024];
	struct passwd pw, *found = NULL;

	if (getpwuid_r(uid, &pw, text, sizeof(text), &found) == 0 && found)
		snprintf(dst, size, "%s", pw.pw_name);
	else
		snprintf(dst, size, "uid %u", uid);
}

static bool is_in_group(const struct passwd *pw, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	int n = GROUPS_MAX;

	/* Where there are more, nobody knows. */
	if (getgrouplist(pw->pw_name, pw->pw_gid, groups, &n) < 0)
		return true;
	for (int i = 0; i < n; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

bool state_dir_owner_may_read(const char *dir, const char *path)
{
	char text[1024];
	struct passwd pw, *found = NULL;
	struct stat of, st;

	if (stat(dir, &of) < 0 || stat(path, &st) < 0 || of.st_uid == 0)
		return true;
	if (st.st_uid == of.st_uid)
		return st.st_mode & 0400;
	if (getpwuid_r(of.st_uid, &pw, text, sizeof(text), &found) != 0 || !found)
		return st.st_mode & (st.st_gid == of.st_gid ? 0040 : 0004);
	return st.st_mode & (is_in_group(&pw, st.st_gid) ? 0040 : 0004);
}

/* A lock that is only tried would be in the way of a program that starts now; this list shows who has one. The numbers of the device
 * are not always those of stat(2), and then the pid decides. */
static bool is_listed(const struct stat *st, int pid)
{
	unsigned major, minor;
	unsigned long long inode;
	bool found = false;
	char line[160];
	int holder;
	FILE *f = fopen("/proc/locks", "re");

	if (!f)
		return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
	/* NOLINTBEGIN(cert-err34-c): the kernel's own numbers, which fit. */
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*[0-9]: FLOCK %*s WRITE %d %x:%x:%llu", &holder, &major, &minor, &inode) == 4 && inode == st->st_ino &&
			((major == major(st->st_dev) && minor == minor(st->st_dev)) || (pid > 0 && holder == pid));
	/* NOLINTEND(cert-err34-c) */
	fclose(f);
	return found;
}

static void look_at_lock(int dir, struct state_dir_view *v)
{
	char text[24] = "";
	struct stat st;
	int fd = openat(dir, "pid", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	uint64_t pid = 0;

	if (fd < 0)
		return;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return;
	}
	if (read(fd, text, sizeof(text) - 1) > 0 &&
	    (span_u64(span_trim(span_make(text, strcspn(text, "\n"))), &pid) < 0 || pid > INT32_MAX))
		pid = 0;
	v->in_use = is_listed(&st, (int)pid);
	v->pid = v->in_use ? (int)pid : 0;
	close(fd);
}

/* A file that root or another user made by hand. */
static void look_at_files(int dir, uid_t owner, struct state_dir_view *v)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *e;
	struct stat st;

	for (int i = 0; d && i < ENTRIES_MAX && !v->foreign[0] && (e = readdir(d)); i++)
		if (strcmp(e->d_name, "..") != 0 && fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid != owner)
			snprintf(v->foreign, sizeof(v->foreign), "%.*s", STATE_NAME_MAX, e->d_name);
	if (d)
		closedir(d);
	else if (fd >= 0)
		close(fd);
}

static int look_at_parent(const char *path, char *err, size_t err_size, struct state_dir_view *v)
{
	_cleanup_(freep) char *copy = strdup(path);
	const char *parent = copy ? dirname(copy) : "/";
	int r;

	v->missing = true;
	if (faccessat(AT_FDCWD, parent, W_OK | X_OK, AT_EACCESS) == 0)
		return 0;
	r = -errno;
	snprintf(err, err_size, "%s is not there, and cannot be made: %s: %s", path, parent, strerror(-r));
	return r;
}

int state_dir_look(const char *path, char *err, size_t err_size, struct state_dir_view *ret)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = -errno;
	struct stat st;

	*ret = (struct state_dir_view){ 0 };
	if (fd < 0 && r == -ENOENT)
		return look_at_parent(path, err, err_size, ret);
	if (fd < 0 || faccessat(fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) < 0 || fstat(fd, &st) < 0) {
		r = -errno;
		snprintf(err, err_size, "%s cannot be used: %s", path, strerror(-r));
		if (fd >= 0)
			close(fd);
		return r;
	}
	state_dir_user_name(st.st_uid, ret->owner, sizeof(ret->owner));
	look_at_lock(fd, ret);
	look_at_files(fd, st.st_uid, ret);
	close(fd);
	return 0;
}
