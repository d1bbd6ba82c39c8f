#include "daemon/audit_state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "daemon/sigbus.h"

#define FILE_NAME "audit"

enum {
	CHAIN_ID_LEN = 32,
	HEAD_LEN = 64,
	FORMAT_VERSION = 1,
	CALLS_FIRST = 4096, /* growing waits for the disk */
};

/* The file: integers as this machine has them; it is never moved to another. */
struct head {
	uint64_t generation;
	uint64_t seq;
	uint64_t time_us;
	uint64_t clean;
	char chain_id[CHAIN_ID_LEN];
	char head[HEAD_LEN];
	uint64_t sum;
	char unused[376]; /* a sector each: a power cut may tear one */
};

struct entry {
	char id[AUDIT_STATE_ID_MAX]; /* filled up with NUL */
	uint32_t unused;
	uint64_t sum; /* 0: free; written last */
};

struct image {
	char magic[8];
	uint32_t version, entry_bytes;
	uint64_t capacity; /* and its complement in the upper half */
	char unused[488];
	struct head heads[2];
	char unused_too[2560];
	struct entry calls[];
};
static_assert(sizeof(struct head) == 512 && sizeof(struct entry) == 48 && sizeof(struct image) == 4096, "layout");

static const char magic[8] = "MCPAUDST";

struct audit_state {
	int fd;
	struct image *image;
	uint32_t capacity;
	uint64_t generation; /* of the newest head */
	bool head_known; /* by this process */
	bool warned;
	uint32_t *free_slots;
	uint32_t n_free;
	uint32_t *old_slots; /* of the process before */
	size_t n_old;
};

static size_t image_bytes(uint32_t capacity)
{
	return sizeof(struct image) + (size_t)capacity * sizeof(struct entry);
}

static uint64_t capacity_mark(uint32_t capacity)
{
	return (uint64_t)~capacity << 32 | capacity;
}

/* FNV-1a: every step can be undone, so no single byte changes without the sum. */
static uint64_t sum_of(const void *p, size_t len)
{
	const uint8_t *at = p;
	uint64_t h = 0xcbf29ce484222325;

	for (size_t i = 0; i < len; i++)
		h = (h ^ at[i]) * 0x100000001b3;
	return h | 1;
}

static bool head_valid(const struct head *h)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): open_image() has mapped it. */
	return h->generation && h->sum == sum_of(h, offsetof(struct head, sum));
}

static const struct head *newest_head(const struct image *m)
{
	const struct head *a = &m->heads[0], *b = &m->heads[1];

	if (!head_valid(a) || !head_valid(b))
		return head_valid(a) ? a : head_valid(b) ? b : NULL;
	return a->generation > b->generation ? a : b;
}

/* ---- What the process before left ---- */

void audit_state_old_done(struct audit_state_old *old)
{
	free(old->open);
	*old = (struct audit_state_old){ 0 };
}

/* NULL: there is none that could be read. */
static struct image *read_image(int fd, size_t *ret_len)
{
	_cleanup_(freep) struct image *m = NULL;
	struct stat st;
	size_t n;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(*m) ||
	    st.st_size > (off_t)image_bytes(AUDIT_STATE_CALLS_MAX))
		return NULL;
	m = calloc(1, (size_t)st.st_size);
	if (!m || io_read_all(fd, m, (size_t)st.st_size, &n) < 0)
		return NULL;
	if (n < sizeof(*m) || memcmp(m->magic, magic, sizeof(magic)) != 0 || m->version != FORMAT_VERSION ||
	    m->entry_bytes != sizeof(struct entry))
		return NULL;
	*ret_len = n;
	return steal_ptr(&m);
}

static void read_calls(const struct image *m, size_t n_entries, struct audit_state_old *old)
{
	size_t n = 0;

	for (size_t i = 0; i < n_entries; i++)
		n += m->calls[i].sum != 0;
	old->open = n ? calloc(n, sizeof(old->open[0])) : NULL;
	for (size_t i = 0; i < n_entries; i++) {
		const struct entry *e = &m->calls[i];

		if (!e->sum)
			continue;
		if (old->open && e->sum == sum_of(e->id, sizeof(e->id)))
			memcpy(old->open[old->n_open++], e->id, sizeof(e->id));
		else
			old->n_damaged++;
	}
}

static void read_head(const struct image *m, struct audit_state_old *old)
{
	const struct head *h = newest_head(m);

	if (!h)
		return;
	old->found = true;
	old->clean = h->clean == 1 && old->n_open == 0 && old->n_damaged == 0;
	old->seq = h->seq;
	old->time_us = h->time_us;
	memcpy(old->chain_id, h->chain_id, CHAIN_ID_LEN);
	memcpy(old->head, h->head, HEAD_LEN);
}

/* Whether the file can go on being used. */
static bool read_old(int fd, struct audit_state_old *old, uint32_t *ret_capacity)
{
	size_t len = 0, n_entries;
	_cleanup_(freep) struct image *m = read_image(fd, &len);
	uint32_t capacity;
	bool whole;

	if (!m)
		return false;
	capacity = (uint32_t)m->capacity;
	n_entries = (len - sizeof(*m)) / sizeof(struct entry);
	whole = m->capacity == capacity_mark(capacity) && capacity >= CALLS_FIRST && capacity <= n_entries;
	/* Killed while it grew: the rest is empty. */
	if (whole && n_entries > capacity)
		whole = ftruncate(fd, (off_t)image_bytes(capacity)) == 0;
	old->n_damaged = !whole;
	read_calls(m, whole ? capacity : n_entries, old);
	read_head(m, old);
	*ret_capacity = capacity;
	return old->n_damaged == 0;
}

int audit_state_peek(const char *path, struct audit_state_old *ret)
{
	struct audit_state_old old = { 0 };
	struct image *m = NULL;
	size_t len = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	m = read_image(fd, &len);
	close(fd);
	if (!m)
		return -EINVAL;
	read_calls(m, (len - sizeof(*m)) / sizeof(struct entry), &old);
	read_head(m, &old);
	free(m);
	if (!old.found) {
		audit_state_old_done(&old);
		return -EINVAL;
	}
	*ret = old;
	return 0;
}

/* ---- The file of this process ---- */

/* Room on the disk for all of it, so that a store into the mapping cannot find it full. */
static int reserve(int fd, uint32_t capacity)
{
	int r;

	do
		r = posix_fallocate(fd, 0, (off_t)image_bytes(capacity));
	while (r == EINTR);
	return -r;
}

/* Copy-on-write file systems need new room for each store; this file does without. */
static void set_nocow(int fd)
{
	int flags = 0;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_NOCOW_FL;
		(void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
}

static int map(struct audit_state *s, uint32_t capacity)
{
	void *p = mmap(NULL, image_bytes(capacity), PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	s->image = p;
	s->capacity = capacity;
	sigbus_guard(p, image_bytes(capacity));
	return 0;
}

static void unmap(struct audit_state *s)
{
	if (!s->image)
		return;
	sigbus_unguard(s->image);
	munmap(s->image, image_bytes(s->capacity));
	s->image = NULL;
}

static int make_file(struct state_dir *d, struct audit_state *s)
{
	int r;

	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	r = state_dir_remove(d, FILE_NAME);
	if (r < 0)
		return r;
	s->fd = openat(state_dir_fd(d), FILE_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (s->fd < 0)
		return -errno;
	state_dir_adopt(state_dir_fd(d), ".", s->fd);
	set_nocow(s->fd);
	r = reserve(s->fd, CALLS_FIRST);
	if (r == 0)
		r = map(s, CALLS_FIRST);
	if (r < 0)
		return r;
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): map() was good. */
	s->image->version = FORMAT_VERSION;
	s->image->entry_bytes = sizeof(struct entry);
	s->image->capacity = capacity_mark(CALLS_FIRST);
	memcpy(s->image->magic, magic, sizeof(magic));
	return 0;
}

static int list_slots(struct audit_state *s)
{
	s->free_slots = calloc(s->capacity, sizeof(s->free_slots[0]));
	s->old_slots = calloc(s->capacity, sizeof(s->old_slots[0]));
	if (!s->free_slots || !s->old_slots)
		return -ENOMEM;
	/* The lowest is taken first. */
	for (uint32_t i = s->capacity; i-- > 0;) {
		if (s->image->calls[i].sum)
			s->old_slots[s->n_old++] = i;
		else
			s->free_slots[s->n_free++] = i;
	}
	return 0;
}

/* Into the new file goes what could be read of the damaged one. */
static void carry_over(struct audit_state *s, const struct audit_state_old *old)
{
	uint32_t slot = AUDIT_STATE_NO_SLOT;

	for (size_t i = 0; i < old->n_open && audit_state_call_open(s, old->open[i], &slot) == 0; i++)
		s->old_slots[s->n_old++] = slot;
	if (old->found)
		audit_state_head(s, old->chain_id, old->seq, old->head, old->time_us);
	s->head_known = false;
}

static int open_image(struct state_dir *d, struct audit_state *s, struct audit_state_old *old)
{
	const struct head *newest;
	uint32_t capacity = 0;
	bool good;
	int r;

	s->fd = openat(state_dir_fd(d), FILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	good = s->fd >= 0 && read_old(s->fd, old, &capacity);
	r = good ? map(s, capacity) : make_file(d, s);
	if (r == 0)
		r = list_slots(s);
	if (r < 0)
		return r;
	newest = newest_head(s->image);
	s->generation = newest ? newest->generation : 0;
	if (!good)
		carry_over(s, old);
	return 0;
}

static struct audit_state *state_free(struct audit_state *s)
{
	if (!s)
		return NULL;
	unmap(s);
	if (s->fd >= 0)
		close(s->fd);
	free(s->free_slots);
	free(s->old_slots);
	free(s);
	return NULL;
}
DEFINE_CLEANUP(struct audit_state *, state_free)

int audit_state_open(struct state_dir *d, struct audit_state **ret, struct audit_state_old *ret_old)
{
	_cleanup_(state_freep) struct audit_state *s = calloc(1, sizeof(*s));
	struct audit_state_old old = { 0 };
	int r;

	if (!s)
		return -ENOMEM;
	s->fd = -1;
	r = open_image(d, s, &old);
	if (r < 0) {
		audit_state_old_done(&old);
		return r;
	}
	*ret_old = old;
	*ret = steal_ptr(&s);
	return 0;
}

struct audit_state *audit_state_close(struct audit_state *s, bool clean)
{
	struct head last;

	if (s && s->head_known && clean) {
		last = s->image->heads[s->generation & 1];
		last.clean = 1;
		last.generation = ++s->generation;
		last.sum = sum_of(&last, offsetof(struct head, sum));
		s->image->heads[s->generation & 1] = last;
	}
	return state_free(s);
}

void audit_state_head(struct audit_state *s, const char *chain_id, uint64_t seq, const char *head, uint64_t wall_us)
{
	struct head h = { .generation = s->generation + 1, .seq = seq, .time_us = wall_us };

	memcpy(h.chain_id, chain_id, strnlen(chain_id, CHAIN_ID_LEN));
	memcpy(h.head, head, strnlen(head, HEAD_LEN));
	h.sum = sum_of(&h, offsetof(struct head, sum));
	/* The other slot is whole while this one is written. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): mapped as long as it is open. */
	s->image->heads[h.generation & 1] = h;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	s->generation = h.generation;
	s->head_known = true;
	if (sigbus_hit(s->image) && !s->warned) {
		log_warning("audit: %s in the state directory failed; the next start will not know what was open",
			    FILE_NAME);
		s->warned = true;
	}
}

/* ---- Open calls ---- */

static int grow_lists(struct audit_state *s, uint32_t capacity)
{
	uint32_t *p = realloc(s->free_slots, capacity * sizeof(*p));

	if (!p)
		return -ENOMEM;
	s->free_slots = p;
	p = realloc(s->old_slots, capacity * sizeof(*p));
	if (!p)
		return -ENOMEM;
	s->old_slots = p;
	return 0;
}

static int grow(struct audit_state *s)
{
	const uint32_t before = s->capacity, capacity = 2 * before;
	void *p;
	int r;

	if (capacity > AUDIT_STATE_CALLS_MAX)
		return -ENOSPC;
	r = grow_lists(s, capacity);
	if (r == 0)
		r = reserve(s->fd, capacity);
	if (r < 0)
		return r;
	sigbus_unguard(s->image);
	p = mremap(s->image, image_bytes(before), image_bytes(capacity), MREMAP_MAYMOVE);
	r = p == MAP_FAILED ? -errno : 0;
	if (r == 0) {
		s->image = p;
		s->capacity = capacity;
	}
	sigbus_guard(s->image, image_bytes(s->capacity));
	if (r < 0)
		return r;
	s->image->capacity = capacity_mark(capacity);
	for (uint32_t i = capacity; i-- > before;)
		s->free_slots[s->n_free++] = i;
	return 0;
}

int audit_state_call_open(struct audit_state *s, const char *call_id, uint32_t *ret_slot)
{
	int r = s->n_free ? 0 : grow(s);
	struct entry *e;
	uint32_t slot;

	if (r < 0) {
		*ret_slot = AUDIT_STATE_NO_SLOT;
		return r;
	}
	slot = s->free_slots[--s->n_free];
	e = &s->image->calls[slot];
	memset(e->id, 0, sizeof(e->id));
	memcpy(e->id, call_id, strnlen(call_id, sizeof(e->id)));
	__atomic_store_n(&e->sum, sum_of(e->id, sizeof(e->id)), __ATOMIC_SEQ_CST);
	*ret_slot = slot;
	return 0;
}

void audit_state_call_done(struct audit_state *s, uint32_t slot)
{
	if (slot == AUDIT_STATE_NO_SLOT)
		return;
	assert(slot < s->capacity && s->n_free < s->capacity);
	__atomic_store_n(&s->image->calls[slot].sum, 0, __ATOMIC_SEQ_CST);
	s->free_slots[s->n_free++] = slot;
}

void audit_state_old_told(struct audit_state *s)
{
	while (s->n_old)
		audit_state_call_done(s, s->old_slots[--s->n_old]);
}
