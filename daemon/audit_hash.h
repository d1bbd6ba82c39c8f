/* The hash of a call's arguments: a record can be matched to arguments known from elsewhere without holding them.
 *
 *	hmac-sha256-jcs:KEYID:HEX   over the canonical form (RFC 8785)
 *	hmac-sha256-raw:KEYID:HEX   over the bytes as received, where RFC 8785 does not cover them
 *	sha256-jcs:HEX, sha256-raw:HEX   the same without a key: whoever reads the log can guess short arguments
 *	none                        no arguments
 *
 * The key is that of a file as it is, or HKDF-SHA256 (RFC 5869) of the tunnel's token, no salt, info
 * "mcp-tunnel audit arguments hash v1". KEYID is the first 8 hex digits of SHA-256(key).
 */
#pragma once

#include "daemon/digest.h"

enum {
	AUDIT_KEY_ID_LEN = 8,
	AUDIT_HASH_TEXT_LEN = 16 + AUDIT_KEY_ID_LEN + 1 + 2 * SHA256_LEN,
	AUDIT_SESSION_TEXT_LEN = 12 + AUDIT_KEY_ID_LEN + 1 + 2 * SHA256_LEN,
};

enum { AUDIT_HASH_KEY_MIN = 32, AUDIT_HASH_KEY_KEEP = 64 };

struct audit_hash {
	uint8_t key[AUDIT_HASH_KEY_KEEP]; /* a longer one: its digest, which is what HMAC takes then */
	size_t key_len;
	char key_id[AUDIT_KEY_ID_LEN + 1]; /* empty: no key */
	bool plain; /* there is a key, but arguments are hashed without it; the caller sets this */
};

/* The key is derived from the secret, a token. -EIO, -ENOMEM. */
int audit_hash_init(struct audit_hash *h, struct span secret);
/* The key itself. -EINVAL: shorter than AUDIT_HASH_KEY_MIN; -EIO, -ENOMEM. */
int audit_hash_init_key(struct audit_hash *h, struct span key);
/* The key of a file (see secret_load_key()). err gets one line for people. */
int audit_hash_init_file(struct audit_hash *h, const char *path, char *err, size_t err_size);
/* No key: plain SHA-256. */
void audit_hash_init_plain(struct audit_hash *h);
void audit_hash_done(struct audit_hash *h);
/* arguments: one JSON value, or absent or empty. out: with its NUL. Any thread. -EIO, -ENOMEM. */
int audit_hash_arguments(const struct audit_hash *h, struct span arguments, char out[AUDIT_HASH_TEXT_LEN + 1]);
/* Of an Mcp-Session-Id, which opens a session to whoever has it: "hmac-sha256:KEYID:HEX". -EINVAL: no key; -EIO, -ENOMEM. */
int audit_hash_session(const struct audit_hash *h, struct span session_id, char out[AUDIT_SESSION_TEXT_LEN + 1]);
