/* The audit record (schema version 1). One record before a call goes to the MCP server, exactly one when it has ended.
 * A sink that does not take the request record refuses the call (fail closed).
 *
 * Sinks: the journal by its native protocol (daemon/journal.h), or a file of JSON lines (daemon/audit_writer.h). Neither
 * is ever waited for.
 *
 * MCP_SEQ counts from 0 in each process. The record of a refused call takes no number, since the call was not made; that
 * of an ending or a denial does, so that a lost one shows as a hole. MCP_STATUS comes from the ending alone: tool_error
 * and rpc_error, which are said in the body of the answer, are not told apart from ok.
 */
#pragma once

#include "base/span.h"
#include "daemon/loop.h"
#include "proto/mcp.h"

struct audit;
struct audit_open; /* a call whose response record is still owed */

enum audit_sink { AUDIT_NONE, AUDIT_JOURNALD, AUDIT_FILE };

struct audit_config {
	enum audit_sink sink;
	const char *path;       /* AUDIT_FILE; for AUDIT_JOURNALD another socket than journald's own */
	const char *identifier; /* SYSLOG_IDENTIFIER */
	struct span hash_secret; /* the tunnel's token: the key of the arguments hash is derived from it (HKDF) */
	const char *tunnel_id;
};

/* err gets one line for people. 0, -errno. */
int audit_new(struct loop *l, const struct audit_config *cfg, char *err, size_t err_size, struct audit **ret);
struct audit *audit_free(struct audit *a);
/* SIGHUP: opens the file anew, so that it can be rotated. */
void audit_reopen(struct audit *a);
/* Whether the last record was taken; *ret_detail says why not. */
bool audit_healthy(const struct audit *a, const char **ret_detail);

/* The session that the records belong to from now on; session id in hex, or NULL. */
void audit_set_session(struct audit *a, const char *session_id, const char *peer);

/* Facts of a call, borrowed during the call of the function. */
struct audit_call {
	struct span call_id, agent, agent_auth, route, trace;
	const char *upstream; /* scheme, host, port and path; no query */
	const struct mcp_view *view; /* one message; a batch: NULL */
	struct span arguments; /* raw JSON of params.arguments, absent when there is none */
	uint64_t request_bytes;
};

/* call.request. 0: accepted by the sink, *ret_open is owed to audit_response(); negative: not accepted, nothing is owed. */
int audit_request(struct audit *a, const struct audit_call *call, struct audit_open **ret_open);

struct audit_ending {
	uint32_t reason;      /* TP_REASON_NONE: the answer was complete */
	unsigned http_status; /* 0: no head came */
	uint64_t response_bytes;
	uint64_t ttfb_us;     /* 0: no head came */
};
/* call.response; consumes take_open (NULL is ignored). */
void audit_response(struct audit *a, struct audit_open *take_open, const struct audit_ending *e);

/* call.denied: nothing went upstream. detail: the rule or limit, for people. */
void audit_denied(struct audit *a, const struct audit_call *call, uint32_t reason, const char *detail);
