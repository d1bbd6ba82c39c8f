#include "daemon/audit_hash.h"

#include <errno.h>
#include <stdio.h>

#include "base/encode.h"
#include "proto/jcs.h"

/* Numbers grow most: 1e20 has 4 bytes, its canonical form 21. */
enum { CANON_GROWTH = 8, CANON_SLACK = 64 };

int audit_hash_init(struct audit_hash *h, struct span secret)
{
	static const struct span no_salt = { NULL, 0 };
	uint8_t id[SHA256_LEN];
	char hex[2 * SHA256_LEN + 1];
	int r;

	r = digest_hkdf_sha256(secret, no_salt, SPAN("mcp-tunnel audit arguments hash v1"), h->key, sizeof(h->key));
	if (r == 0)
		r = digest_sha256(h->key, sizeof(h->key), id);
	if (r < 0)
		return r;
	hex_encode(id, sizeof(id), hex);
	snprintf(h->key_id, sizeof(h->key_id), "%.*s", AUDIT_KEY_ID_LEN, hex);
	return 0;
}

void audit_hash_done(struct audit_hash *h)
{
	secret_wipe(h, sizeof(*h));
}

static int keyed_text(const struct audit_hash *h, const char *form, struct span text, size_t max, char *out)
{
	uint8_t mac[SHA256_LEN];
	size_t n;
	int r;

	r = digest_hmac_sha256(span_make(h->key, sizeof(h->key)), text.p, text.len, mac);
	if (r < 0)
		return r;
	n = (size_t)snprintf(out, max + 1, "hmac-sha256%s:%s:", form, h->key_id);
	hex_encode(mac, sizeof(mac), out + n);
	return 0;
}

static int hash_text(const struct audit_hash *h, const char *form, struct span text, char *out)
{
	uint8_t digest[SHA256_LEN];
	size_t n;
	int r;

	if (!h->plain)
		return keyed_text(h, form, text, AUDIT_HASH_TEXT_LEN, out);
	r = digest_sha256(text.p, text.len, digest);
	if (r < 0)
		return r;
	n = (size_t)snprintf(out, AUDIT_HASH_TEXT_LEN + 1, "sha256%s:", form);
	hex_encode(digest, sizeof(digest), out + n);
	return 0;
}

int audit_hash_session(const struct audit_hash *h, struct span session_id, char out[AUDIT_SESSION_TEXT_LEN + 1])
{
	return keyed_text(h, "", session_id, AUDIT_SESSION_TEXT_LEN, out);
}

int audit_hash_arguments(const struct audit_hash *h, struct span arguments, char out[AUDIT_HASH_TEXT_LEN + 1])
{
	struct buf canon;
	int r;

	if (arguments.len == 0) {
		snprintf(out, AUDIT_HASH_TEXT_LEN + 1, "none");
		return 0;
	}
	if (arguments.len > (SIZE_MAX - CANON_SLACK) / CANON_GROWTH)
		return -ENOMEM;
	buf_init(&canon, arguments.len * CANON_GROWTH + CANON_SLACK);
	r = jcs_canonicalize(arguments, &canon);
	if (r == 0)
		r = hash_text(h, "-jcs", buf_span(&canon), out);
	else if (r == JCS_UNCOVERED)
		r = hash_text(h, "-raw", arguments, out);
	buf_done(&canon);
	return r;
}
