/* The audit records of one HTTP request: of each call in its body, which is one message or a batch. Joins daemon/audit.h to what a
 * call says (proto/mcp.h), to the hash of its arguments, and to what the answer says of it (proto/mcp_answer.h). The gateway's
 * exchanges and the relay's calls use it alike.
 *
 *	audit_calls_new()           the head is there
 *	audit_calls_request()       the body is complete and may pass: the request records; then the verdict
 *	audit_calls_answer_...()    the answer, as it passes
 *	audit_calls_end()           the response records
 *
 * Arguments that would hold the loop up are hashed on a thread.
 */
#pragma once

#include "base/buf.h"
#include "daemon/audit.h"
#include "daemon/audit_hash.h"
#include "daemon/worker.h"

struct audit_calls;

enum { AUDIT_CALLS_RULE_MAX = 256 };

/* What all of a program share; borrowed. */
struct audit_calls_shared {
	struct audit *audit; /* NULL: nothing is written down, every call is accepted at once */
	struct worker *worker;
	/* A rule that is tried out: whether it would deny the message, for the request record. NULL: none. */
	bool (*would_deny)(const void *user, const struct mcp_view *view, char rule[AUDIT_CALLS_RULE_MAX]);
	const void *user;
	bool allow_on_failure; /* as in struct audit_config: where no hash can be made, the record goes without */
};

enum { AUDIT_CALLS_INLINE_MAX = 32 * 1024 }; /* bytes of arguments that are hashed on the loop */

/* facts: known from the head; where, call_id, agent, agent_auth, route, trace are copied, upstream is borrowed, the rest is
 * not looked at. mcp_session_id: absent when there is none. -ENOMEM, -EIO. */
int audit_calls_new(const struct audit_calls_shared *shared, const struct audit_call *facts, struct span mcp_session_id,
		    const struct audit_hash *hash, struct audit_calls **ret);

/* Once. Each message but responses (to requests of the server's) is a call. 0: on_verdict comes later, once, unless
 * audit_calls_end() comes first; scan (finished) and body are borrowed until then. AUDIT_AT_ONCE: accepted. Negative:
 * refused. A batch is accepted whole or not at all; of one that is not, those calls that are written down already get a
 * response record with the reason audit-unavailable. on_verdict may call audit_calls_end(). */
int audit_calls_request(struct audit_calls *c, const struct mcp_scan *scan, struct buf *body, audit_verdict_fn on_verdict, void *user);
/* audit_calls_request() has been called, and there was something to write down. */
bool audit_calls_recorded(const struct audit_calls *c);

/* call.denied, instead of audit_calls_request(). view: the message that is at fault, its arguments in body; NULL: none is known.
 * Arguments above AUDIT_CALLS_INLINE_MAX are not hashed then. */
void audit_calls_denied(struct audit_calls *c, const struct mcp_view *view, const struct buf *body, uint32_t reason, const char *rule);
/* The same of a request that has no struct audit_calls. */
void audit_calls_refused(const struct audit_calls_shared *shared, const struct audit_call *facts, struct span mcp_session_id,
			 const struct audit_hash *hash, uint32_t reason, const char *rule);

struct audit_calls_head {
	unsigned status;
	struct span content_type;
	bool encoded;          /* there is a Content-Encoding: the body says nothing to us */
	uint64_t ttfb_us;
	struct span peer_head; /* at the relay: the gateway's audit_head(); copied */
};
void audit_calls_answer_head(struct audit_calls *c, const struct audit_calls_head *head);
void audit_calls_answer_data(struct audit_calls *c, const void *p, size_t len);

/* It is over for that reason: writes the response records that are owed; before the verdict, withdraws the request records where it
 * can. While a thread still reads the body, it is taken over: body is empty then. Takes NULL, returns NULL. */
struct audit_calls *audit_calls_end(struct audit_calls *c, uint32_t reason);
