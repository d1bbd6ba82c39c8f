#include "base/idmap.h"

#include <errno.h>

struct idmap_slot {
	uint32_t id; /* 0 is free */
	void *ptr;
};

enum { IDMAP_MIN = 8 };

static size_t home(const struct idmap *m, uint32_t id)
{
	return (id * UINT32_C(2654435769)) >> 7 & (m->cap - 1);
}

void idmap_done(struct idmap *m)
{
	free(m->slots);
	*m = (struct idmap){ 0 };
}

/* The slot of id, or the free slot where it would go. */
static size_t find(const struct idmap *m, uint32_t id)
{
	size_t i = home(m, id);

	while (m->slots[i].id && m->slots[i].id != id)
		i = (i + 1) & (m->cap - 1);
	return i;
}

void *idmap_get(const struct idmap *m, uint32_t id)
{
	size_t i;

	if (!m->cap)
		return NULL;
	i = find(m, id);
	return m->slots[i].id ? m->slots[i].ptr : NULL;
}

static int resize(struct idmap *m, size_t cap)
{
	struct idmap next = { .slots = calloc(cap, sizeof(struct idmap_slot)), .cap = cap, .used = m->used };

	if (!next.slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->cap; i++)
		if (m->slots[i].id)
			next.slots[find(&next, m->slots[i].id)] = m->slots[i];
	free(m->slots);
	*m = next;
	return 0;
}

int idmap_put(struct idmap *m, uint32_t id, void *ptr)
{
	size_t i;
	int r;

	assert(id != 0 && ptr != NULL);
	if (m->used * 2 >= m->cap) {
		r = resize(m, m->cap ? m->cap * 2 : IDMAP_MIN);
		if (r < 0)
			return r;
	}
	i = find(m, id);
	assert(m->slots[i].id == 0);
	m->slots[i] = (struct idmap_slot){ id, ptr };
	m->used++;
	return 0;
}

void *idmap_take(struct idmap *m, uint32_t id)
{
	size_t i, j;
	void *ptr;

	if (!m->cap)
		return NULL;
	i = find(m, id);
	if (!m->slots[i].id)
		return NULL;
	ptr = m->slots[i].ptr;
	m->used--;
	/* Close the hole: move back every later entry of the run that may live in it. */
	for (j = (i + 1) & (m->cap - 1); m->slots[j].id; j = (j + 1) & (m->cap - 1)) {
		size_t h = home(m, m->slots[j].id);

		if (((j - h) & (m->cap - 1)) >= ((j - i) & (m->cap - 1))) {
			m->slots[i] = m->slots[j];
			i = j;
		}
	}
	m->slots[i] = (struct idmap_slot){ 0 };
	return ptr;
}

void *idmap_next(const struct idmap *m, size_t *it)
{
	while (*it < m->cap) {
		struct idmap_slot *s = &m->slots[(*it)++];

		if (s->id)
			return s->ptr;
	}
	return NULL;
}
