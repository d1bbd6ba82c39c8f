/* A hash table of entries of one size, each beginning with its key of 16 bytes. Open addressing, no tombstones; the hash
 * is seeded, so a hostile log cannot choose what collides. An entry that is all zeros is a free slot, so a key is never
 * that. Entries move when others are added or removed.
 */
#pragma once

#include "base/check.h"

enum { KEYMAP_KEY_LEN = 16 };

struct keymap {
	uint8_t *slots;
	size_t entry_size; /* a multiple of 8 */
	size_t cap;        /* 0 or a power of two */
	size_t used, max;
	uint64_t seed[2];
};

/* -errno: no random bytes. */
int keymap_init(struct keymap *m, size_t entry_size, size_t max);
void keymap_done(struct keymap *m);

/* NULL when it is not there. */
void *keymap_get(const struct keymap *m, const uint8_t key[KEYMAP_KEY_LEN]);
/* The entry, new and zeroed but for its key when there was none. -ENOBUFS: max entries; -ENOMEM. */
int keymap_make(struct keymap *m, const uint8_t key[KEYMAP_KEY_LEN], void **ret);
/* entry: of keymap_get(). */
void keymap_remove(struct keymap *m, void *entry);
/* Each entry: start with *it = 0; NULL at the end. The table must not change meanwhile, but for the entries' own bytes. */
void *keymap_next(const struct keymap *m, size_t *it);
