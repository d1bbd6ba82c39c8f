/* A growing byte queue with a mandatory limit: bytes are added at the end and dropped from the front.
 * Memory is given back when it runs empty, so that an idle owner costs only the struct.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

struct buf {
	uint8_t *data;
	size_t start; /* first byte in use */
	size_t end;   /* one past the last byte in use */
	size_t cap;   /* bytes allocated */
	size_t max;   /* bytes in use never exceed this */
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_done(struct buf *b);

static inline size_t buf_len(const struct buf *b)
{
	return b->end - b->start;
}

static inline uint8_t *buf_bytes(const struct buf *b)
{
	return b->data ? b->data + b->start : NULL;
}

static inline struct span buf_span(const struct buf *b)
{
	return span_make(buf_bytes(b), buf_len(b));
}

/* How many bytes may still be added before the limit. */
static inline size_t buf_room(const struct buf *b)
{
	return b->max - buf_len(b);
}

/* Makes n contiguous writable bytes at the end; write there, then buf_commit(). -ENOBUFS over the limit, -ENOMEM. */
int buf_reserve(struct buf *b, size_t n, uint8_t **ret);
void buf_commit(struct buf *b, size_t n);

/* All of it or nothing: -ENOBUFS over the limit, -ENOMEM. */
int buf_add(struct buf *b, const void *p, size_t n);
int buf_add_span(struct buf *b, struct span s);
int buf_add_str(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3);

/* Text of others as the inside of a JSON string: quotes, backslashes, control bytes and what is not ASCII are escaped. */
int buf_add_json_text(struct buf *b, const char *s);

/* Drops n bytes from the front; n must be there. */
void buf_drop(struct buf *b, size_t n);

/* Drops everything and gives the memory back. */
void buf_clear(struct buf *b);
