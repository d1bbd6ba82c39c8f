#include "proto/replay.h"

#include <errno.h>
#include <string.h>

/* Frames lie in chunks, each behind its length, and never straddle two. */
struct replay_chunk {
	TAILQ_ENTRY(replay_chunk) link;
	size_t cap, end;
	size_t start; /* first byte not acknowledged */
	uint8_t data[];
};

enum { LENGTH = sizeof(uint32_t), CHUNK_BYTES = 4 * (16 * 1024 + 8 + LENGTH) + 1024 }; /* four full DATA frames */

void replay_init(struct replay *r, size_t *total)
{
	*r = (struct replay){ .total = total };
	TAILQ_INIT(&r->chunks);
}

static void keep(struct replay *r, size_t len)
{
	r->bytes += len;
	if (r->total)
		*r->total += len;
}

static void forget(struct replay *r, size_t len)
{
	r->bytes -= len;
	if (r->total)
		*r->total -= len;
}

void replay_done(struct replay *r)
{
	struct replay_chunk *c;

	forget(r, r->bytes);
	while ((c = TAILQ_FIRST(&r->chunks))) {
		TAILQ_REMOVE(&r->chunks, c, link);
		free(c);
	}
	free(r->spare);
	r->spare = NULL;
}

void replay_clear(struct replay *r)
{
	replay_done(r);
	replay_init(r, r->total);
}

static uint32_t length_at(const struct replay_chunk *c, size_t at)
{
	uint32_t len;

	memcpy(&len, c->data + at, LENGTH);
	return len;
}

static struct replay_chunk *chunk_new(struct replay *r, size_t need)
{
	struct replay_chunk *c = r->spare;
	size_t cap = MAX((size_t)CHUNK_BYTES, need);

	if (c && c->cap >= need) {
		r->spare = NULL;
	} else {
		c = malloc(sizeof(*c) + cap);
		if (!c)
			return NULL;
		c->cap = cap;
	}
	c->start = c->end = 0;
	return c;
}

/* Keeps one chunk at hand while frames are still kept, so that steady traffic does not go through malloc. */
static void chunk_drop(struct replay *r, struct replay_chunk *c)
{
	TAILQ_REMOVE(&r->chunks, c, link);
	if (!r->spare && c->cap == CHUNK_BYTES && !TAILQ_EMPTY(&r->chunks))
		r->spare = c;
	else
		free(c);
}

int replay_append(struct replay *r, size_t len, uint8_t **ret)
{
	struct replay_chunk *c = TAILQ_LAST(&r->chunks, replay_head_t);
	uint32_t len32 = (uint32_t)len;

	if (!c || c->cap - c->end < LENGTH + len) {
		c = chunk_new(r, LENGTH + len);
		if (!c)
			return -ENOMEM;
		TAILQ_INSERT_TAIL(&r->chunks, c, link);
	}
	if (r->sent == r->count) {
		r->cursor_chunk = c;
		r->cursor_at = c->end;
	}
	memcpy(c->data + c->end, &len32, LENGTH);
	*ret = c->data + c->end + LENGTH;
	c->end += LENGTH + len;
	r->count++;
	keep(r, len);
	r->unsent_bytes += len;
	return 0;
}

struct span replay_peek(const struct replay *r)
{
	if (r->sent == r->count)
		return (struct span){ NULL, 0 };
	return span_make(r->cursor_chunk->data + r->cursor_at + LENGTH, length_at(r->cursor_chunk, r->cursor_at));
}

void replay_advance(struct replay *r)
{
	uint32_t len = length_at(r->cursor_chunk, r->cursor_at);

	assert(r->sent < r->count);
	r->sent++;
	r->unsent_bytes -= len;
	r->cursor_at += LENGTH + len;
	if (r->sent < r->count && r->cursor_at == r->cursor_chunk->end) {
		r->cursor_chunk = TAILQ_NEXT(r->cursor_chunk, link);
		r->cursor_at = r->cursor_chunk->start;
	}
}

bool replay_ack(struct replay *r, uint64_t count)
{
	if (count < r->acked || count > r->sent)
		return false;
	while (r->acked < count) {
		struct replay_chunk *c = TAILQ_FIRST(&r->chunks);
		uint32_t len = length_at(c, c->start);

		c->start += LENGTH + len;
		forget(r, len);
		r->acked++;
		if (c->start == c->end)
			chunk_drop(r, c);
	}
	if (r->acked == r->count) {
		free(r->spare);
		r->spare = NULL;
	}
	return true;
}

bool replay_rewind(struct replay *r, uint64_t count)
{
	if (!replay_ack(r, count))
		return false;
	r->sent = r->acked;
	r->unsent_bytes = r->bytes;
	r->cursor_chunk = TAILQ_FIRST(&r->chunks);
	r->cursor_at = r->cursor_chunk ? r->cursor_chunk->start : 0;
	return true;
}
