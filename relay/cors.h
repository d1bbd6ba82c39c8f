/* CORS (Fetch standard, section 3.2): what browsers are told about pages of --cors-origin. Pure. */
#pragma once

#include "base/buf.h"
#include "relay/request.h"

/* Field lines for an answer. any: whether there is a --cors-origin at all, so that answers differ by Origin; origin: that of this request, where it is
 * one; NULL: it is none. -ENOBUFS, -ENOMEM. */
int cors_write(struct buf *out, bool any, const char *origin);
/* Fields of the MCP server that those lines replace. */
bool cors_replaces(struct span name);

/* The answer to a preflight of that origin, whole. close: the connection ends with it. */
int cors_write_preflight(struct buf *out, const struct http1_head *h, const char *origin, bool close);
