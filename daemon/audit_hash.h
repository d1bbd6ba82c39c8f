/* The hash of a call's arguments: a record can be matched to arguments known from elsewhere without holding them.
 *
 *	hmac-sha256-jcs:KEYID:HEX   over the canonical form (RFC 8785)
 *	hmac-sha256-raw:KEYID:HEX   over the bytes as received, where RFC 8785 does not cover them
 *	sha256-jcs:HEX, sha256-raw:HEX   the same without a key, where that was asked for: short arguments can be guessed
 *	none                        no arguments
 *
 * The key is HKDF-SHA256 (RFC 5869) of the secret, no salt, info "mcp-tunnel audit arguments hash v1"; KEYID is the
 * first 8 hex digits of SHA-256(key).
 */
#pragma once

#include "daemon/digest.h"

enum {
	AUDIT_KEY_ID_LEN = 8,
	AUDIT_HASH_TEXT_LEN = 16 + AUDIT_KEY_ID_LEN + 1 + 2 * SHA256_LEN,
	AUDIT_SESSION_TEXT_LEN = 12 + AUDIT_KEY_ID_LEN + 1 + 2 * SHA256_LEN,
};

struct audit_hash {
	uint8_t key[SHA256_LEN];
	char key_id[AUDIT_KEY_ID_LEN + 1];
	bool plain; /* arguments are hashed without the key; the caller sets it */
};

/* secret: the tunnel's token, or what a key file holds. -EIO, -ENOMEM. */
int audit_hash_init(struct audit_hash *h, struct span secret);
void audit_hash_done(struct audit_hash *h);
/* arguments: one JSON value, or absent or empty. out: with its NUL. Any thread. -EIO, -ENOMEM. */
int audit_hash_arguments(const struct audit_hash *h, struct span arguments, char out[AUDIT_HASH_TEXT_LEN + 1]);
/* Of an Mcp-Session-Id, which opens a session to whoever has it: "hmac-sha256:KEYID:HEX", with the key always. */
int audit_hash_session(const struct audit_hash *h, struct span session_id, char out[AUDIT_SESSION_TEXT_LEN + 1]);
