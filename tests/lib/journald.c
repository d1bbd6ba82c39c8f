#include "tests/lib/journald.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/journal.h"

static const char program[] = "/lib/systemd/systemd-journald";
static pid_t pid = -1;
static char unit_dir[200];
static bool early;

static bool write_text(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool enter(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[40];

	if (unshare(uid == 0 ? CLONE_NEWNS | CLONE_NEWNET : CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUSER) < 0)
		return false;
	if (uid == 0)
		return true;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	if (!write_text("/proc/self/uid_map", map) || !write_text("/proc/self/setgroups", "deny"))
		return false;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return write_text("/proc/self/gid_map", map);
}

bool journald_enter(const char *disk)
{
	bool root = geteuid() == 0;
	char size[40];

	if (access(program, X_OK) < 0 || (disk && !root) || !enter() ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 ||
	    mount("tmpfs", "/etc/systemd", "tmpfs", 0, NULL) < 0 || mkdir("/run/systemd", 0755) < 0 ||
	    mkdir("/run/systemd/journal", 0755) < 0 || mkdir("/run/log", 0755) < 0 ||
	    mkdir("/run/log/journal", 0755) < 0)
		return false;
	if (!disk)
		return true;
	snprintf(size, sizeof(size), "size=%s", disk);
	(void)mkdir("/var/log/journal", 0755);
	return mount("tmpfs", "/var/log/journal", "tmpfs", 0, size) == 0;
}

bool journald_start(const char *conf)
{
	char text[2000];

	snprintf(text, sizeof(text),
		 "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\nSystemMaxUse=1G\n"
		 "SystemKeepFree=0\nRuntimeMaxUse=1G\n%s",
		 conf);
	unlink(JOURNAL_SOCKET);
	unlink("/run/systemd/journal/io.systemd.journal");
	/* As if the journal in memory had been moved to the disk at boot already. */
	if (!write_text("/etc/systemd/journald.conf", text) ||
	    (!early && !write_text("/run/systemd/journal/flushed", "")))
		return false;
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		/* A test that is cut off leaves none behind. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execl(program, program, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 1000; i++) {
		if (access("/run/systemd/journal/io.systemd.journal", F_OK) == 0)
			return journald_ctl("--sync") == 0;
		usleep(10000);
	}
	return false;
}

void journald_early(void)
{
	early = true;
	unlink("/run/systemd/journal/flushed");
}

static void end(int sig)
{
	if (pid <= 0)
		return;
	kill(pid, SIGCONT);
	kill(pid, sig);
	waitpid(pid, NULL, 0);
	pid = -1;
}

void journald_stop(void)
{
	end(SIGTERM);
}

void journald_kill(void)
{
	end(SIGKILL);
}

void journald_pause(void)
{
	char path[40], text[300] = "";
	int fd;

	kill(pid, SIGSTOP);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	for (int i = 0; i < 1000 && !strstr(text, ") T "); i++) {
		fd = open(path, O_RDONLY);
		if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
			perror(path);
		close(fd);
		usleep(1000);
	}
}

void journald_resume(void)
{
	kill(pid, SIGCONT);
}

int journald_ctl(const char *arguments)
{
	char command[300];

	snprintf(command, sizeof(command), "journalctl -q %s", arguments);
	return system(command);
}

void journald_sync(void)
{
	if (journald_ctl("--sync") != 0)
		perror("journalctl --sync");
}

bool journald_unit(const char *name)
{
	static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	char path[300], self[24];

	snprintf(self, sizeof(self), "%d\n", getpid());
	for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
		snprintf(path, sizeof(path), "%s/cgroup.controllers", roots[i]);
		if (access(path, F_OK) < 0)
			continue;
		snprintf(unit_dir, sizeof(unit_dir), "%s/mcptest%d.slice", roots[i], getpid());
		snprintf(path, sizeof(path), "%s/%s", unit_dir, name);
		if (mkdir(unit_dir, 0755) < 0 || mkdir(path, 0755) < 0)
			return false;
		snprintf(path, sizeof(path), "%s/%s/cgroup.procs", unit_dir, name);
		return write_text(path, self);
	}
	return false;
}

void journald_unit_leave(void)
{
	char command[600], self[24], path[300];

	if (!unit_dir[0])
		return;
	snprintf(self, sizeof(self), "%d\n", getpid());
	snprintf(path, sizeof(path), "%s/../cgroup.procs", unit_dir);
	write_text(path, self);
	snprintf(command, sizeof(command), "rmdir %s/*/ %s", unit_dir, unit_dir);
	if (system(command) != 0)
		perror(command);
	unit_dir[0] = '\0';
}
