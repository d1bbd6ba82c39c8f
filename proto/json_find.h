/* One value out of a small JSON document. Pure. */
#pragma once

#include "base/span.h"

/* The scalar at path, n names of members from the outermost object on, as text: strings decoded, numbers and literals as they were
 * spelled; cut at size. The first one, where names are there twice. 0; -ENOENT: there is none, or it is no scalar; -EINVAL: no JSON
 * up to there. */
int json_find(struct span doc, const char *const *path, size_t n, char *out, size_t size);

/* Visits the names of the members of the object at path, those of at most JSON_FIND_NAME_MAX bytes; the name is gone after the call.
 * 0; -EINVAL: no JSON up to its end. */
enum { JSON_FIND_NAME_MAX = 63 };
int json_names(struct span doc, const char *const *path, size_t n, void (*fn)(void *user, const char *name), void *user);
