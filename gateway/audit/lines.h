/* Lines of a file or of standard input, in bounded memory. */
#pragma once

#include "base/check.h"
#include "base/span.h"

/* An audit record takes a few KB; what is longer is somebody else's. */
enum { LINES_MAX_BYTES = 1024 * 1024 };

struct lines;

/* path: "-" is standard input. -errno of opening. */
int lines_open(const char *path, struct lines **ret);
struct lines *lines_close(struct lines *l);
DEFINE_CLEANUP(struct lines *, lines_close)

enum lines_result { LINES_END, LINES_LINE, LINES_TOO_LONG };

/* LINES_LINE: *ret without its newline, valid until the next call. LINES_TOO_LONG: one was skipped. -errno of read(). */
int lines_next(struct lines *l, struct span *ret);
/* The number of the line that came last, from 1. */
uint64_t lines_number(const struct lines *l);
/* Whether the line that came last has no newline: the file ends in the middle of it, perhaps. */
bool lines_is_torn(const struct lines *l);
