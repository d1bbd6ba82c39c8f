#include "gateway/audit/heads.h"

#include <errno.h>
#include <string.h>

int heads_init(struct heads *h, size_t n)
{
	h->n = n;
	h->slots = calloc(n, sizeof(*h->slots));
	return h->slots ? 0 : -ENOMEM;
}

void heads_done(struct heads *h)
{
	free(h->slots);
	h->slots = NULL;
}

static struct heads_slot *slot_of(const struct heads *h, uint32_t chain, uint64_t seq)
{
	return &h->slots[(chain * UINT64_C(0x9e3779b97f4a7c15) + seq) & (h->n - 1)];
}

void heads_put(struct heads *h, uint32_t chain, uint64_t seq, const uint8_t hash[SHA256_LEN])
{
	struct heads_slot *s = slot_of(h, chain, seq);

	s->chain = chain + 1;
	s->seq = (uint32_t)seq;
	memcpy(s->hash, hash, sizeof(s->hash));
}

enum heads_answer heads_ask(const struct heads *h, uint32_t chain, uint64_t seq, const uint8_t hash[SHA256_LEN])
{
	const struct heads_slot *s = slot_of(h, chain, seq);

	if (s->chain != chain + 1 || s->seq != (uint32_t)seq)
		return HEADS_UNKNOWN;
	return memcmp(s->hash, hash, sizeof(s->hash)) == 0 ? HEADS_SAME : HEADS_OTHER;
}

bool heads_find(const struct heads *h, const uint8_t hash[SHA256_LEN], uint32_t *ret_chain, uint32_t *ret_seq_low)
{
	for (size_t i = 0; i < h->n; i++)
		if (h->slots[i].chain && memcmp(h->slots[i].hash, hash, HEADS_HASH_LEN) == 0) {
			*ret_chain = h->slots[i].chain - 1;
			*ret_seq_low = h->slots[i].seq;
			return true;
		}
	return false;
}
