/* A TLS context that follows its files: when certificate, key or CA file have changed there is a new context for new
 * connections, and what is connected goes on. Files that cannot be used leave the old context in use. */
#pragma once

#include "daemon/tls.h"

struct tls_source;

/* Reads the files for the first time; opt's strings are borrowed for as long as the source lives. As tls_client_new() and
 * tls_server_new(). */
int tls_source_new_client(const struct tls_client_options *opt, char *err, size_t err_size, struct tls_source **ret);
int tls_source_new_server(const struct tls_server_options *opt, char *err, size_t err_size, struct tls_source **ret);
struct tls_source *tls_source_free(struct tls_source *s);

/* Valid until tls_source_poll() says TLS_SOURCE_NEW: then everyone has to be given the new one. NULL for a NULL source. */
struct tls_context *tls_source_get(const struct tls_source *s);

enum tls_source_result {
	TLS_SOURCE_SAME,
	TLS_SOURCE_NEW,
	/* Told once for each change, and again now and then while there are no means to read it; err says which file and why. */
	TLS_SOURCE_BAD,
};

/* Looks at the files; to be called every second or two. now: reads them in any case, and at once (SIGHUP); else they are
 * read when they have changed and then stood still from one call to the next. A certificate that has expired is bad.
 * A NULL source is always the same. */
enum tls_source_result tls_source_poll(struct tls_source *s, bool now, char *err, size_t err_size);

/* The same, told in the log: "TLS to the WHOSE: certificates read again". problem gets a line for TLS_SOURCE_BAD, and is left alone else. */
enum tls_source_result tls_source_follow(struct tls_source *s, bool now, const char *whose, char *problem, size_t size);
