/* Where audit records go: the journal, or a file of JSON lines. A record is taken whole or refused, never waited for.
 *
 * A JSON line is an object of strings: the names of the fields in lower case, in their order, MESSAGE first. It is one
 * write() on a descriptor in append mode; what a write that failed half-way left behind is ended by a newline before the
 * next line, and is no valid JSON.
 */
#pragma once

#include "daemon/audit.h"
#include "daemon/audit_record.h"

struct audit_writer;

/* path: of the file (made with mode 0600), or of the journal's socket, NULL for its own. err gets one line. -errno. */
int audit_writer_new(enum audit_sink sink, const char *path, char *err, size_t err_size, struct audit_writer **ret);
struct audit_writer *audit_writer_free(struct audit_writer *w);
DEFINE_CLEANUP(struct audit_writer *, audit_writer_free)

/* The file anew; the old one is kept when that fails. Nothing to do for the journal. -errno. */
int audit_writer_reopen(struct audit_writer *w);
/* 0: taken. -EAGAIN: flow control; others of write() and journal_send(). -ENOSPC also when a part was written. */
int audit_writer_put(struct audit_writer *w, const struct audit_record *r);
/* For people: what r of audit_writer_put() means. */
void audit_writer_explain(const struct audit_writer *w, int r, char *dst, size_t size);
