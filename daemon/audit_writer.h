/* Where audit records go: the journal, or a file of JSON lines. Records are taken in batches from the front, each
 * whole or not at all, and never waited for.
 *
 * A JSON line is an object of strings: the names of the fields in lower case, in their order, MESSAGE first. A batch
 * is one write() on a descriptor in append mode. What a write that failed half-way left behind is cut off again; where
 * that cannot be done (a pipe, a file that only grows), it is ended by a newline before the next line, and is no valid
 * JSON.
 */
#pragma once

#include "daemon/audit.h"
#include "daemon/journal.h"

enum { AUDIT_BATCH_MAX = 64, AUDIT_BATCH_BYTES = 128 * 1024 };

struct audit_writer;

/* path: of the file (made with mode 0600), or of the journal's socket, NULL for its own. err gets one line. -errno. */
int audit_writer_new(enum audit_sink sink, const char *path, char *err, size_t err_size, struct audit_writer **ret);
struct audit_writer *audit_writer_free(struct audit_writer *w);
DEFINE_CLEANUP(struct audit_writer *, audit_writer_free)

/* The file anew; the old one is kept when that fails. Nothing to do for the journal. -errno. */
int audit_writer_reopen(struct audit_writer *w);
/* Of the file, or of the connection to the journal; -1 while there is none. Changes when it is opened anew. */
int audit_writer_fd(const struct audit_writer *w);
bool audit_writer_is_file(const struct audit_writer *w);

/* One more record for the batch. -ENOBUFS: the batch is full. -EINVAL: a field's name. */
int audit_writer_add(struct audit_writer *w, const struct journal_field *fields, size_t n);
/* Hands the batch over and empties it. How many records were taken; *error is 0 when all were, else why the next was
 * not: -EAGAIN: flow control; others of write() and journal_send(). */
size_t audit_writer_send(struct audit_writer *w, int *error);
/* Nobody is there: what the old connection still held may be gone. */
bool audit_writer_is_gone(const struct audit_writer *w, int error);
/* For people: what such an error means. */
void audit_writer_explain(const struct audit_writer *w, int error, char *dst, size_t size);
