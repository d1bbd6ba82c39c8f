/* Everything that a program has for its audit log: the log itself, the threads that it needs, the key of the hashes. */
#pragma once

#include "daemon/audit_calls.h"
#include "daemon/audit_options.h"

struct audit_setup {
	struct audit_calls_shared shared; /* its audit is NULL where nothing is written down */
	struct audit *audit;              /* never NULL */
	struct worker *worker;
	struct audit_hash file_key; /* --audit-hash-key-file */
	bool has_file_key, plain, stopped;
};

struct audit_setup_config {
	const struct audit_options *options;
	const char *side; /* "gateway" or "relay" */
	struct state_dir *state_dir; /* borrowed; NULL: none */
	void (*on_checkpoint)(void *user, const char *head);
	void *user;
};

/* Into zeroed memory; -EINVAL: an option is to blame. err gets one line for people. audit_setup_done() also after a failure. */
int audit_setup_init(struct audit_setup *s, struct loop *l, const struct audit_setup_config *cfg, char *err, size_t err_size);
void audit_setup_done(struct audit_setup *s);

/* The last record; nothing is written after it. */
void audit_setup_stop(struct audit_setup *s, const char *why);

/* The key of a tunnel with this token, or the one of the key file. -EIO, -ENOMEM. */
int audit_setup_hash(const struct audit_setup *s, struct span token, struct audit_hash *ret);

/* audit_event(), unless nothing is written down or the last record is. */
void audit_setup_event(struct audit_setup *s, enum audit_event ev, const struct audit_note *n);

/* For struct health_ops: an audit.checkpoint with that nonce. -ENOTSUP: nothing is written down. */
int audit_setup_canary(struct audit_setup *s, struct span nonce);

/* Nothing waits for the sink, or the sink takes nothing. */
bool audit_setup_is_idle(const struct audit_setup *s);

/* Whether records are taken. If not: "CAUSE: what is the matter", for people; else "". */
bool audit_setup_check(const struct audit_setup *s, char *detail, size_t size);

/* Metrics PREFIX_audit_...: -ENOBUFS, -ENOMEM. */
int audit_setup_metrics(const struct audit_setup *s, struct buf *out, const char *prefix);
