#include "daemon/process.h"

#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { HEAP_KEEP = 8 * 1024 * 1024, MMAP_FROM = 4 * 1024 * 1024 };

void process_init(void)
{
	const struct rlimit none = { 0, 0 };

	mallopt(M_TRIM_THRESHOLD, HEAP_KEEP);
	mallopt(M_MMAP_THRESHOLD, MMAP_FROM);
	mallopt(M_ARENA_MAX, 1);
	(void)setrlimit(RLIMIT_CORE, &none);
	(void)prctl(PR_SET_DUMPABLE, 0);
	umask(0077);
}

void process_signals(bool through)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(through ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

size_t process_files(size_t wanted)
{
	struct rlimit now, more;

	if (getrlimit(RLIMIT_NOFILE, &now) < 0)
		return wanted;
	more = (struct rlimit){ wanted < now.rlim_max ? wanted : now.rlim_max, now.rlim_max };
	if (more.rlim_cur > now.rlim_cur && setrlimit(RLIMIT_NOFILE, &more) == 0)
		return (size_t)more.rlim_cur;
	return (size_t)now.rlim_cur;
}
