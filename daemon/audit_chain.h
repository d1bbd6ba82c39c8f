/* The chain of audit records: MCP_CHAIN of a record is the SHA-256 over what the record says, MCP_CHAIN_PREV of it
 * included. Pure; the gateway, the relay and mcp-tunnel-audit compute it with the same code.
 */
#pragma once

#include "daemon/journal.h"

enum { AUDIT_CHAIN_HEX = 64, AUDIT_CHAIN_FIELDS_MAX = 64 };

/* Over every MCP_* field but MCP_CHAIN, and MESSAGE_ID, PRIORITY and MESSAGE, sorted by name (as bytes; the same name
 * twice: by value), each as NAME=LENGTH:VALUE and a newline, LENGTH in decimal. MESSAGE is taken without its last
 * word when that is " chain=" and 64 hex digits. Other fields (SYSLOG_IDENTIFIER, those of journald itself) do not
 * count. Names in capitals, fields in any order; they are not changed. out gets lower-case hex and a NUL. -E2BIG:
 * more than AUDIT_CHAIN_FIELDS_MAX that count; -EIO, -ENOMEM of the digest. */
int audit_chain(const struct journal_field *fields, size_t n, char out[AUDIT_CHAIN_HEX + 1]);

/* MESSAGE without that last word; what audit_chain() takes of it. */
struct span audit_chain_message(struct span message);
