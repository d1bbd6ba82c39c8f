/* Reading the journal back (systemd's sd-journal), for audit_watch alone. Runs on threads: these functions wait for
 * the disk and touch nothing but their arguments.
 */
#pragma once

#include <stdatomic.h>

#include "daemon/audit_watch.h"

/* How far a chain was followed in one place. Zeroed: not at all. */
struct audit_read_pos {
	bool any;
	uint64_t seq;     /* the newest that was seen; what was missing before it is known */
	uint64_t wall_us; /* when it was stored */
	char *cursor;     /* the record itself */
};
void audit_read_pos_done(struct audit_read_pos *p);
/* -ENOMEM. */
int audit_read_pos_copy(struct audit_read_pos *dst, const struct audit_read_pos *src);

struct audit_read_scan {
	const char *chain_id;
	const char *directory;    /* journal files there; NULL: all of this machine's */
	const _Atomic uint64_t *told_to; /* missing records below it are known: not counted; may grow meanwhile */
	uint64_t until_us;        /* monotonic; then it stops where it is */
	const atomic_bool *stop;  /* the same */
	struct audit_read_pos *pos;

	/* Added to: holes, each with a record after it. */
	uint64_t missing, first_missing, last_missing;
	uint64_t from_us, to_us;
	uint64_t late;     /* below told_to, and there after all */
	uint64_t vacuumed; /* at the front, and the record before them is gone as well */
	uint64_t counted;
	bool complete; /* reached the end */
};
/* From the position on. 0, or -errno of libsystemd; -ENOENT: no such directory. */
int audit_read_scan(struct audit_read_scan *s);

/* Which records of a chain are there. 0, or -errno of libsystemd; -ECANCELED: stopped. */
int audit_read_have(const char *chain_id, const char *directory, const atomic_bool *stop, const uint64_t *seqs, size_t n,
		    bool *ret_have);

/* Journal files are there and may not be read. */
bool audit_read_denied(const char *directory);

/* Where journald keeps what outlasts a reboot. -errno of the machine id. */
int audit_read_disk(char *dst, size_t size);

/* What audit_watch_find() asks for; the same. */
int audit_read_find(const char *nonce, const char *directory, uint64_t until_us);

/* What audit_watch_last() asks for; waits as long as the disk does. */
int audit_read_last(const char *identifier, const char *directory, uint64_t until_us, struct audit_watch_head *ret);
