#include "sample-json.h"

#include <errno.h>

enum { DEPTH_MAX = 64 };

struct cursor {
	const char *p;
	const char *end;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r'))
		c->p++;
}

static bool take(struct cursor *c, char want)
{
	skip_space(c);
	if (c->p == c->end || *c->p != want)
		return false;
	c->p++;
	return true;
}

static int skip_string(struct cursor *c)
{
	if (!take(c, '"'))
		return -EINVAL;
	for (; c->p < c->end; c->p++) {
		if (*c->p == '"') {
			c->p++;
			return 0;
		}
		if ((unsigned char)*c->p < 0x20)
			return -EINVAL;
		if (*c->p == '\\' && ++c->p == c->end)
			return -EINVAL;
	}
	return -EINVAL;
}

/* Numbers and the three names are told apart only by their letters: a sample need not be a validator. */
static int skip_scalar(struct cursor *c)
{
	const char *start = c->p;

	while (c->p < c->end && *c->p && strchr("+-.0123456789aeEflnrstu", *c->p))
		c->p++;
	return c->p > start ? 0 : -EINVAL;
}

static int skip_value(struct cursor *c, int depth, struct span *ret);

/* After the opening bracket. */
static int skip_array(struct cursor *c, int depth)
{
	struct span item;

	if (take(c, ']'))
		return 0;
	do {
		if (skip_value(c, depth, &item) < 0)
			return -EINVAL;
	} while (take(c, ','));
	return take(c, ']') ? 0 : -EINVAL;
}

static int read_member(struct cursor *c, int depth, struct json_want *wants, size_t count)
{
	struct span key, value;

	skip_space(c);
	key.p = c->p;
	if (skip_string(c) < 0)
		return -EINVAL;
	key.len = (size_t)(c->p - key.p);
	if (!take(c, ':') || skip_value(c, depth, &value) < 0)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		if (json_string_is(key, wants[i].key))
			wants[i].raw = value;
	}
	return 0;
}

static int read_object(struct cursor *c, int depth, struct json_want *wants, size_t count)
{
	if (take(c, '}'))
		return 0;
	do {
		if (read_member(c, depth, wants, count) < 0)
			return -EINVAL;
	} while (take(c, ','));
	return take(c, '}') ? 0 : -EINVAL;
}

static int skip_value(struct cursor *c, int depth, struct span *ret)
{
	const char *start;
	int r;

	if (depth >= DEPTH_MAX)
		return -EINVAL;
	skip_space(c);
	start = c->p;
	if (c->p < c->end && *c->p == '"')
		r = skip_string(c);
	else if (take(c, '{'))
		r = read_object(c, depth + 1, NULL, 0);
	else if (take(c, '['))
		r = skip_array(c, depth + 1);
	else
		r = skip_scalar(c);
	if (r < 0)
		return r;
	*ret = span_make(start, (size_t)(c->p - start));
	return 0;
}

int json_object(struct span text, struct json_want *wants, size_t count)
{
	struct cursor c = { text.p, text.p ? text.p + text.len : NULL };

	if (!take(&c, '{') || read_object(&c, 1, wants, count) < 0)
		return -EINVAL;
	skip_space(&c);
	return c.p == c.end ? 0 : -EINVAL;
}

bool json_string_is(struct span raw, const char *s)
{
	if (!json_is_string(raw))
		return false;
	return span_is(span_make(raw.p + 1, raw.len - 2), s);
}

int json_u64(struct span raw, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	if (raw.len == 0 || span_u64(raw, &v) < 0 || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}
