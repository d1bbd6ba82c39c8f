/* One value out of a small JSON document. Pure. */
#pragma once

#include "base/span.h"

/* The scalar at path, n names of members from the outermost object on, as text: strings decoded, numbers and literals as they were
 * spelled; cut at size. The first one, where names are there twice. 0; -ENOENT: there is none, or it is no scalar; -EINVAL: no JSON
 * up to there. */
int json_find(struct span doc, const char *const *path, size_t n, char *out, size_t size);
