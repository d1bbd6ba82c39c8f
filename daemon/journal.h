/* Our own sender of journald's native protocol: one connected, non-blocking datagram socket. sd_journal_send() reports
 * success when the socket is missing and blocks when journald is stopped; this one does neither. Each value is
 * length-prefixed, so no value can make a field of its own. (systemd: "Native Journal Protocol".)
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

enum { JOURNAL_RECORD_MAX = 1024 * 1024 };

/* name: [A-Z][A-Z0-9_]*, at most 64; value: any bytes. */
struct journal_field {
	const char *name;
	struct span value;
};

struct journal;

/* path: NULL for journald's own. Does not connect yet. -ENAMETOOLONG, -ENOMEM. */
int journal_new(const char *path, struct journal **ret);
struct journal *journal_free(struct journal *j);
DEFINE_CLEANUP(struct journal *, journal_free)

/* Connects, if it is not: 0, -ENOENT, -ECONNREFUSED, ... */
int journal_connect(struct journal *j);

/* One record, at once or not at all. 0: journald's socket took it. -EAGAIN: its queue is full; wait for journal_fd() to
 * become writable and send again. -ECONNREFUSED, -ENOENT: nobody is there (one new connection was tried already).
 * -EINVAL: a field's name. -ENOBUFS: larger than JOURNAL_RECORD_MAX. Others of sendmsg() and memfd_create(). Never
 * blocks. */
int journal_send(struct journal *j, const struct journal_field *fields, size_t n);

/* For batches. A record as it travels goes to dst, at most size bytes. -ENOBUFS: no room; -EINVAL: a field's name. */
int journal_encode(const struct journal_field *fields, size_t n, char *dst, size_t size, size_t *ret_len);
/* Encoded records, a datagram each: how many from the front were taken, at least one; or why not even one, as above. */
int journal_send_many(struct journal *j, const struct span *records, size_t n);

/* -1 while not connected. Changes when a send has to connect anew. */
int journal_fd(const struct journal *j);
