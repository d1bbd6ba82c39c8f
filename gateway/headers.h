/* Request headers whose values the operator keeps in files, a credential for the MCP server say: read at start, again when a file
 * has changed, and kept as secrets are (daemon/token.h).
 */
#pragma once

#include "base/buf.h"

struct headers;

enum { HEADERS_MAX = 8, HEADERS_NAME_MAX = 64 };

struct headers_config {
	size_t n;
	struct {
		char name[HEADERS_NAME_MAX + 1];
		const char *path; /* borrowed */
	} items[HEADERS_MAX];
};

/* NAME=FILE; FILE stays borrowed. -EINVAL: *ret_why is a phrase for people. */
int headers_add(struct headers_config *cfg, const char *text, const char **ret_why);

/* Reads all files. err gets one line for people, without what is in the file. */
int headers_new(const struct headers_config *cfg, char *err, size_t err_size, struct headers **ret);
struct headers *headers_free(struct headers *h);

enum headers_result {
	HEADERS_SAME,
	HEADERS_NEW,
	/* Told once for each change, and again now and then while there are no means to read it; err says which file and why. All values
	 * stay as they were. */
	HEADERS_BAD,
};
/* As tls_source_poll(): to be called every second or two, and with `now` at SIGHUP. */
enum headers_result headers_poll(struct headers *h, bool now, char *err, size_t err_size);

/* Whether a server could take the name for one of them. */
bool headers_replace(const struct headers *h, struct span name);
/* As http1_write_field(), all of them. */
int headers_write(const struct headers *h, struct buf *out);
