/* What the next process has to know of this one when it was killed: the newest head, and which calls were open. A
 * file "audit" in the state directory, mapped shared: whatever is stored survives SIGKILL at any instruction, without
 * a system call for each record. A power cut may leave an older state.
 *
 * Two head slots are written in turn, each with a checksum; call ids are in a table of slots, each with a checksum.
 * Damage of any kind reads as an older head or as no state, never as a wrong one. A disk that is full or fails under
 * the mapping costs the state, never the process (daemon/sigbus.h).
 */
#pragma once

#include "daemon/state_dir.h"

enum {
	AUDIT_STATE_CALLS_MAX = 65536, /* open at once; beyond that -ENOSPC */
	AUDIT_STATE_ID_MAX = 36,       /* of a call id; cut at that length */
};

#define AUDIT_STATE_NO_SLOT UINT32_MAX

struct audit_state;

struct audit_state_old {
	bool found;      /* chain_id, seq, head and time_us are there */
	bool clean;      /* it was closed so, and no call was open */
	char chain_id[33];
	uint64_t seq;
	char head[65];
	uint64_t time_us; /* wall clock of that head */
	size_t n_open;
	char (*open)[AUDIT_STATE_ID_MAX + 1];
	size_t n_damaged; /* further open calls, whose ids cannot be read */
};
void audit_state_old_done(struct audit_state_old *old);

/* What the process before left goes to ret_old. Its open calls stay in the file until audit_state_old_told(), so that
 * a process killed before it could tell leaves them to the next one. A file that cannot be read or is damaged is made
 * anew: found is false. -errno when there can be no file at all (read-only, full). */
int audit_state_open(struct state_dir *d, struct audit_state **ret, struct audit_state_old *ret_old);
/* The same without touching the file, for mcp-tunnel-audit: path names the file itself, which a process may be using.
 * -ENOENT and others of opening; -EINVAL: it is no state of this version, or holds no head. */
int audit_state_peek(const char *path, struct audit_state_old *ret);
/* The calls of the process before have their audit.gap in the sink. */
void audit_state_old_told(struct audit_state *s);

/* The newest head that the sink accepted. chain_id: 32 digits, head: 64. */
void audit_state_head(struct audit_state *s, const char *chain_id, uint64_t seq, const char *head, uint64_t wall_us);

/* -ENOSPC: full, or no room on the disk to grow (then *ret_slot is AUDIT_STATE_NO_SLOT, which _done() ignores). */
int audit_state_call_open(struct audit_state *s, const char *call_id, uint32_t *ret_slot);
void audit_state_call_done(struct audit_state *s, uint32_t slot);

/* clean: gateway.stop is in the sink. */
struct audit_state *audit_state_close(struct audit_state *s, bool clean);
