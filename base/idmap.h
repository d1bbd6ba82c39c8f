/* A hash map from a non-zero 32-bit id to a pointer that somebody else owns. Open addressing, no tombstones. */
#pragma once

#include "base/check.h"

struct idmap {
	struct idmap_slot *slots;
	size_t cap; /* 0 or a power of two */
	size_t used;
};

void idmap_done(struct idmap *m);

/* The pointer, or NULL. */
void *idmap_get(const struct idmap *m, uint32_t id);

/* The id must not be there yet. -ENOMEM. */
int idmap_put(struct idmap *m, uint32_t id, void *ptr);

/* Returns what was there, or NULL. */
void *idmap_take(struct idmap *m, uint32_t id);

/* Visits every entry: start with *it = 0; NULL at the end. The map must not change meanwhile. */
void *idmap_next(const struct idmap *m, size_t *it);
