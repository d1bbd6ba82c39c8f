/* What the gateway lets pass, whatever the relay sent: head and message in, verdict out. Pure. It trusts nobody and looks
 * at everything again. */
#pragma once

#include "base/buf.h"
#include "gateway/rules.h"
#include "proto/mcp.h"
#include "proto/mcp_list.h"
#include "proto/tunnel.h"

struct policy_config {
	bool allow_query;
	const struct rules *rules; /* NULL: none */
};

enum { POLICY_DETAIL_MAX = 224, POLICY_QUERY_MAX = 4096 };

/* cfg: of the route that the head names; NULL: there is none of that name. TP_REASON_NONE: may go on. Otherwise detail says what is wrong, for people. */
uint32_t policy_check_head(const struct policy_config *cfg, const struct tp_field *fields, size_t n,
			   char detail[POLICY_DETAIL_MAX]);

/* Whether a body of that Content-Type is UTF-8 to everybody: it names no other charset, in no way that a server or a client might
 * understand. */
bool policy_charset_ok(struct span content_type);

/* The headers of 2026-07-28 that repeat what the body says; copies, because the head is gone when the body is complete. One that was
 * sent twice, cannot be decoded or holds a NUL equals nothing. */
struct policy_mirror {
	char *method, *name, *protocol_version; /* NULL: not sent */
};
/* -ENOMEM; positive POLICY_MIRROR_NONE when there is none of them (nothing to free then). */
enum { POLICY_MIRROR_NONE = 1 };
int policy_mirror_init(struct policy_mirror *m, const struct tp_field *fields, size_t n);
void policy_mirror_done(struct policy_mirror *m);

/* TP_REASON_NONE or TP_REASON_HEADER_MISMATCH. */
uint32_t policy_check_message(const struct policy_mirror *m, const struct mcp_view *view, char detail[POLICY_DETAIL_MAX]);

/* TP_REASON_NONE, or TP_REASON_POLICY and the rule that the message is denied by. */
uint32_t policy_check_rules(const struct policy_config *cfg, const struct mcp_view *view, char rule[POLICY_DETAIL_MAX]);

/* For --policy-dry-run: whether the rules would deny it, and the text for its record. rules: a struct rules. */
bool policy_would_deny(const void *rules, const struct mcp_view *view, char text[POLICY_DETAIL_MAX]);

/* The lists in answers that these rules leave entries out of: 1 << enum mcp_list_kind each. */
unsigned policy_lists(const struct policy_config *cfg);
/* Whether an agent gets to see an entry of that name, or uri: whether it may call, get or read it. Where the method for that is
 * denied, there is no such entry. name: absent where it could not be taken. */
bool policy_lists_entry(const struct policy_config *cfg, enum mcp_list_kind kind, struct span name);

/* Whether a request field may go to the MCP server: end-to-end, not about routing, not the tunnel's own. Servers that know names as
 * environment variables cannot tell '_' from '-', so it is neither here. */
bool policy_field_passes(struct span name);
/* Whether name, read like that, begins with the text, case ignored. */
bool policy_name_begins(struct span name, struct span text);
/* Whether it has that name, for such servers. */
bool policy_field_is(struct span name, struct span wanted);
bool policy_field_among(struct span name, const struct span *names, size_t n);
