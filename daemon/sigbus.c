#include "daemon/sigbus.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

struct range {
	atomic_uintptr_t start; /* 0: free */
	atomic_uintptr_t end;
	atomic_bool hit;
};

static struct range ranges[SIGBUS_RANGES];
static _Thread_local volatile sig_atomic_t thread_guarded, thread_hit;
static _Thread_local sigset_t thread_mask;

static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static struct sigaction before;
static uintptr_t page_bytes;

static struct range *find(uintptr_t at)
{
	for (size_t i = 0; i < SIGBUS_RANGES; i++)
		if (atomic_load(&ranges[i].start) && at >= atomic_load(&ranges[i].start) &&
		    at < atomic_load(&ranges[i].end))
			return &ranges[i];
	return NULL;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	struct range *r = info->si_code > 0 ? find(at) : NULL;

	if (info->si_code > 0 && (r || thread_guarded) &&
	    mmap((void *)(at & ~(page_bytes - 1)), page_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
		if (r)
			atomic_store(&r->hit, true);
		else
			thread_hit = 1;
		return;
	}
	sigaction(SIGBUS, &before, NULL);
	/* A fault comes again by itself. */
	if (info->si_code <= 0)
		raise(sig);
}

static void install(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
	sigemptyset(&sa.sa_mask);
	sigaction(SIGBUS, &sa, &before);
}

void sigbus_guard(const void *p, size_t len)
{
	pthread_once(&install_once, install);
	for (size_t i = 0; i < SIGBUS_RANGES; i++) {
		uintptr_t unused = 0;

		if (!atomic_compare_exchange_strong(&ranges[i].start, &unused, (uintptr_t)p))
			continue;
		atomic_store(&ranges[i].hit, false);
		atomic_store(&ranges[i].end, (uintptr_t)p + len);
		return;
	}
}

bool sigbus_hit(const void *p)
{
	struct range *r = find((uintptr_t)p);

	return r && atomic_load(&r->hit);
}

bool sigbus_unguard(const void *p)
{
	struct range *r = find((uintptr_t)p);
	bool hit;

	if (!r)
		return false;
	hit = atomic_load(&r->hit);
	atomic_store(&r->end, 0);
	atomic_store(&r->start, 0);
	return hit;
}

void sigbus_thread_enter(void)
{
	sigset_t only;

	pthread_once(&install_once, install);
	sigemptyset(&only);
	sigaddset(&only, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &only, &thread_mask);
	thread_hit = 0;
	thread_guarded = 1;
}

bool sigbus_thread_leave(void)
{
	thread_guarded = 0;
	pthread_sigmask(SIG_SETMASK, &thread_mask, NULL);
	return thread_hit;
}
