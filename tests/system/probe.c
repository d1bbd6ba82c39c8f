/* Stands in for a daemon in its unit, tries what the unit's sandbox should prevent, and prints what came of it, one line
 * each: NAME: done, an errno's name, or killed by a signal. Each attempt is a child of its own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char scratch[4096];

static const char *in_state(const char *name)
{
	snprintf(scratch, sizeof(scratch), "%s/%s", getenv("STATE_DIRECTORY"), name);
	return scratch;
}

static int try_open(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC, 0700) < 0 ? -1 : 0;
}

static int write_outside(void)
{
	return try_open("/srv/open/file", O_CREAT | O_WRONLY);
}

static int write_state(void)
{
	return try_open(in_state("file"), O_CREAT | O_WRONLY);
}

static int read_tmp(void)
{
	return try_open("/tmp/of-others", O_RDONLY);
}

static int read_home(void)
{
	return try_open("/home/someone/file", O_RDONLY);
}

static int read_proc_of_others(void)
{
	return try_open("/proc/1/status", O_RDONLY);
}

static int read_proc_sys(void)
{
	return try_open("/proc/sys/kernel/hostname", O_RDONLY);
}

static int open_device(void)
{
	return try_open("/dev/kmsg", O_RDONLY);
}

static int open_socket(int family, int type)
{
	return socket(family, type | SOCK_CLOEXEC, 0) < 0 ? -1 : 0;
}

static int socket_inet(void)
{
	return open_socket(AF_INET, SOCK_STREAM);
}

static int socket_unix(void)
{
	return open_socket(AF_UNIX, SOCK_DGRAM);
}

static int socket_packet(void)
{
	return open_socket(AF_PACKET, SOCK_RAW);
}

static int socket_vsock(void)
{
	return open_socket(AF_VSOCK, SOCK_STREAM);
}

static int socket_alg(void)
{
	return open_socket(AF_ALG, SOCK_SEQPACKET);
}

static int map_write_execute(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static int new_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static int set_suid(void)
{
	return try_open(in_state("suid"), O_CREAT | O_WRONLY) < 0 ? -1 : chmod(scratch, 04755);
}

static int change_personality(void)
{
	return personality(PER_LINUX32) < 0 ? -1 : 0;
}

static int run_program(void)
{
	return execl("/usr/bin/true", "true", (char *)NULL);
}

static int run_own_file(void)
{
	static const char script[] = "#!/usr/bin/true\n";
	int fd = open(in_state("script"), O_CREAT | O_WRONLY | O_CLOEXEC, 0700);

	if (fd < 0 || write(fd, script, strlen(script)) < 0 || close(fd) < 0)
		return -1;
	return execl(scratch, scratch, (char *)NULL);
}

static int call_mount(void)
{
	return mount("none", "/tmp", "tmpfs", 0, NULL);
}

static int call_reboot(void)
{
	return reboot(RB_DISABLE_CAD);
}

static int call_setuid(void)
{
	return setuid(0);
}

static int call_ptrace(void)
{
	return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int call_keyctl(void)
{
	return (int)syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0);
}

static int call_sethostname(void)
{
	return sethostname("x", 1);
}

static int call_realtime(void)
{
	const struct sched_param p = { .sched_priority = 1 };

	return sched_setscheduler(0, SCHED_FIFO, &p);
}

static int call_bpf(void)
{
	return (int)syscall(SYS_bpf, 0, NULL, 0);
}

/* clang-format off */
#define ATTEMPT(name) { #name, name }

static const struct attempt {
	const char *name;
	int (*run)(void);
} attempts[] = {
	ATTEMPT(write_outside),
	ATTEMPT(write_state),
	ATTEMPT(read_tmp),
	ATTEMPT(read_home),
	ATTEMPT(read_proc_of_others),
	ATTEMPT(read_proc_sys),
	ATTEMPT(open_device),
	ATTEMPT(socket_inet),
	ATTEMPT(socket_unix),
	ATTEMPT(socket_packet),
	ATTEMPT(socket_vsock),
	ATTEMPT(socket_alg),
	ATTEMPT(map_write_execute),
	ATTEMPT(new_namespace),
	ATTEMPT(set_suid),
	ATTEMPT(change_personality),
	ATTEMPT(run_program),
	ATTEMPT(run_own_file),
	ATTEMPT(call_mount),
	ATTEMPT(call_reboot),
	ATTEMPT(call_setuid),
	ATTEMPT(call_ptrace),
	ATTEMPT(call_keyctl),
	ATTEMPT(call_sethostname),
	ATTEMPT(call_realtime),
	ATTEMPT(call_bpf),
};
/* clang-format on */

static void attempt(const struct attempt *a)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(a->run() < 0 ? errno : 0);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		printf("%s: cannot be tried\n", a->name);
	else if (WIFSIGNALED(status))
		printf("%s: killed by SIG%s\n", a->name, sigabbrev_np(WTERMSIG(status)));
	else
		printf("%s: %s\n", a->name, WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "done");
}

int main(void)
{
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		attempt(&attempts[i]);
	return 0;
}
