#include "gateway/audit/keymap.h"

#include <errno.h>
#include <string.h>

#include "daemon/digest.h"

enum { CAP_MIN = 64 };

static const uint8_t no_key[KEYMAP_KEY_LEN];

int keymap_init(struct keymap *m, size_t entry_size, size_t max)
{
	*m = (struct keymap){ .entry_size = entry_size, .max = max };
	return random_bytes(m->seed, sizeof(m->seed));
}

void keymap_done(struct keymap *m)
{
	free(m->slots);
	m->slots = NULL;
	m->cap = m->used = 0;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ x >> 32;
}

static size_t home(const struct keymap *m, const uint8_t *key)
{
	uint64_t word[2];

	memcpy(word, key, sizeof(word));
	return (size_t)mix(mix(word[0] ^ m->seed[0]) + (word[1] ^ m->seed[1])) & (m->cap - 1);
}

static uint8_t *slot(const struct keymap *m, size_t i)
{
	return m->slots + i * m->entry_size;
}

static bool is_free(const uint8_t *entry)
{
	return memcmp(entry, no_key, KEYMAP_KEY_LEN) == 0;
}

/* The key's slot, or the free one where it would go. */
static size_t probe(const struct keymap *m, const uint8_t *key)
{
	size_t i = home(m, key);

	while (!is_free(slot(m, i)) && memcmp(slot(m, i), key, KEYMAP_KEY_LEN) != 0)
		i = (i + 1) & (m->cap - 1);
	return i;
}

void *keymap_get(const struct keymap *m, const uint8_t key[KEYMAP_KEY_LEN])
{
	uint8_t *at;

	if (m->cap == 0)
		return NULL;
	at = slot(m, probe(m, key));
	return is_free(at) ? NULL : at;
}

static int grow(struct keymap *m)
{
	struct keymap old = *m;

	m->cap = old.cap ? 2 * old.cap : CAP_MIN;
	m->slots = calloc(m->cap, m->entry_size);
	if (!m->slots) {
		*m = old;
		return -ENOMEM;
	}
	for (size_t i = 0; i < old.cap; i++)
		if (!is_free(slot(&old, i)))
			memcpy(slot(m, probe(m, slot(&old, i))), slot(&old, i), m->entry_size);
	free(old.slots);
	return 0;
}

int keymap_make(struct keymap *m, const uint8_t key[KEYMAP_KEY_LEN], void **ret)
{
	uint8_t *at;
	int r;

	*ret = keymap_get(m, key);
	if (*ret)
		return 0;
	if (m->used >= m->max)
		return -ENOBUFS;
	if (4 * (m->used + 1) > 3 * m->cap) {
		r = grow(m);
		if (r < 0)
			return r;
	}
	at = slot(m, probe(m, key));
	memset(at, 0, m->entry_size);
	memcpy(at, key, KEYMAP_KEY_LEN);
	m->used++;
	*ret = at;
	return 0;
}

void keymap_remove(struct keymap *m, void *entry)
{
	size_t hole = (size_t)((uint8_t *)entry - m->slots) / m->entry_size, i = hole;

	/* Whatever probing would not find past the hole moves into it. */
	for (;;) {
		size_t want;

		i = (i + 1) & (m->cap - 1);
		if (is_free(slot(m, i)))
			break;
		want = home(m, slot(m, i));
		if (((i - want) & (m->cap - 1)) < ((i - hole) & (m->cap - 1)))
			continue;
		memcpy(slot(m, hole), slot(m, i), m->entry_size);
		hole = i;
	}
	memset(slot(m, hole), 0, m->entry_size);
	m->used--;
}

void *keymap_next(const struct keymap *m, size_t *it)
{
	while (*it < m->cap) {
		uint8_t *at = slot(m, (*it)++);

		if (!is_free(at))
			return at;
	}
	return NULL;
}
