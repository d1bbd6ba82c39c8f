/* Reading a JSON-RPC message without a tree: one pass over an object picks out the members asked for.
 * The sample server has its own reader on purpose: it must not share a mistake with the gateway that it sits behind.
 */
#pragma once

#include "base/span.h"

struct json_want {
	const char *key;
	struct span raw; /* the value as written, no white space around; absent when there is no such member */
};

/* The whole of `text` is one object. 0; -EINVAL when it is not JSON or no object. Keys are compared as written. */
int json_object(struct span text, struct json_want *wants, size_t count);

static inline bool json_is_string(struct span raw)
{
	return raw.len >= 2 && raw.p[0] == '"';
}

/* A raw string that reads exactly `s`, which needs no escape. */
bool json_string_is(struct span raw, const char *s);

/* A raw whole number not above max: 0 or -EINVAL. */
int json_u64(struct span raw, uint64_t max, uint64_t *ret);
