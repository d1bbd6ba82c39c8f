/* The hash of a call's arguments: a record can be matched to arguments known from elsewhere without holding them.
 *
 *	hmac-sha256-jcs:KEYID:HEX   over the canonical form (RFC 8785)
 *	hmac-sha256-raw:KEYID:HEX   over the bytes as received, where RFC 8785 does not cover them
 *	none                        no arguments
 *
 * The key is HKDF-SHA256 (RFC 5869) of the secret, no salt, info "mcp-tunnel audit arguments hash v1"; KEYID is the
 * first 8 hex digits of SHA-256(key).
 */
#pragma once

#include "daemon/digest.h"

enum { AUDIT_KEY_ID_LEN = 8, AUDIT_HASH_TEXT_LEN = 16 + AUDIT_KEY_ID_LEN + 1 + 2 * SHA256_LEN };

struct audit_hash {
	uint8_t key[SHA256_LEN];
	char key_id[AUDIT_KEY_ID_LEN + 1];
};

/* -EIO, -ENOMEM. */
int audit_hash_init(struct audit_hash *h, struct span secret);
void audit_hash_done(struct audit_hash *h);
/* arguments: one JSON value, or absent or empty. out: with its NUL. -EIO, -ENOMEM. */
int audit_hash_arguments(const struct audit_hash *h, struct span arguments, char out[AUDIT_HASH_TEXT_LEN + 1]);
