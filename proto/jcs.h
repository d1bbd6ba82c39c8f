/* The canonical form of a JSON value (RFC 8785), made from its text without a tree. */
#pragma once

#include "base/buf.h"

enum { JCS_DEPTH_MAX = 64 };

/* Appends the canonical form of `json` (one value, white space around it allowed) to out. 0; positive JCS_UNCOVERED when RFC 8785 does not
 * cover the input (duplicate keys, integers beyond 2^53 - 1, lone surrogates, depth over 64, not JSON) and out is to be
 * ignored; -ENOMEM, -ENOBUFS. */
enum { JCS_UNCOVERED = 1 };
int jcs_canonicalize(struct span json, struct buf *out);
