#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BUF_MIN = 256, BUF_KEEP = 4096 };

void buf_init(struct buf *b, size_t max_bytes)
{
	*b = (struct buf){ .max = max_bytes };
}

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf){ .max = b->max };
}

void buf_clear(struct buf *b)
{
	buf_done(b);
}

static int buf_grow(struct buf *b, size_t need)
{
	size_t cap = b->cap ? b->cap : BUF_MIN;
	uint8_t *data;

	while (cap < need)
		cap = cap > SIZE_MAX / 2 ? need : cap * 2;
	if (b->data && b->start)
		memmove(b->data, buf_bytes(b), buf_len(b));
	b->end = buf_len(b);
	b->start = 0;
	/* What is large is moved by its pages, not copied: megabytes of it would hold everything else up. */
	data = realloc(b->data, cap);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->cap = cap;
	return 0;
}

/* `slack` bytes beyond n are writable for a moment and do not count against the limit. */
static int reserve(struct buf *b, size_t n, size_t slack, uint8_t **ret)
{
	size_t len = buf_len(b);
	int r;

	if (n > b->max - len)
		return -ENOBUFS;
	n += slack;
	if (!b->data || b->cap - b->end < n) {
		/* Sliding down is cheap when little is in use; otherwise growing costs the same copy. */
		if (b->data && b->cap - len >= n && len <= b->cap / 2) {
			if (len)
				memmove(b->data, b->data + b->start, len);
			b->start = 0;
			b->end = len;
		} else {
			r = buf_grow(b, len + n);
			if (r < 0)
				return r;
		}
	}
	*ret = b->data + b->end;
	return 0;
}

int buf_reserve(struct buf *b, size_t n, uint8_t **ret)
{
	return reserve(b, n, 0, ret);
}

void buf_commit(struct buf *b, size_t n)
{
	assert(n <= b->cap - b->end);
	b->end += n;
}

int buf_add(struct buf *b, const void *p, size_t n)
{
	uint8_t *at;
	int r;

	if (n == 0)
		return 0;
	r = buf_reserve(b, n, &at);
	if (r < 0)
		return r;
	memcpy(at, p, n);
	buf_commit(b, n);
	return 0;
}

int buf_add_span(struct buf *b, struct span s)
{
	return buf_add(b, s.p, s.len);
}

int buf_add_str(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	uint8_t *at;
	int n, r;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	/* vsnprintf ends with a NUL that is not committed. */
	r = reserve(b, (size_t)n, 1, &at);
	if (r < 0)
		return r;
	va_start(ap, fmt);
	vsnprintf((char *)at, (size_t)n + 1, fmt, ap);
	va_end(ap);
	buf_commit(b, (size_t)n);
	return 0;
}

int buf_add_json_text(struct buf *b, const char *s)
{
	int r = 0;

	for (; *s && r == 0; s++) {
		if (*s == '"' || *s == '\\')
			r = buf_printf(b, "\\%c", *s);
		else if ((uint8_t)*s < 0x20 || (uint8_t)*s >= 0x7f)
			r = buf_printf(b, "\\u%04x", (uint8_t)*s);
		else
			r = buf_add(b, s, 1);
	}
	return r;
}

void buf_drop(struct buf *b, size_t n)
{
	assert(n <= buf_len(b));
	b->start += n;
	if (b->start < b->end)
		return;
	b->start = b->end = 0;
	if (b->cap > BUF_KEEP)
		buf_clear(b);
}
