#include "daemon/audit_hash.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "daemon/token.h"
#include "proto/jcs.h"

/* Numbers grow most: 1e20 has 4 bytes, its canonical form 21. */
enum { CANON_GROWTH = 8, CANON_SLACK = 64 };

int audit_hash_init_key(struct audit_hash *h, struct span key)
{
	uint8_t digest[SHA256_LEN];
	char hex[2 * SHA256_LEN + 1];
	int r;

	if (key.len < AUDIT_HASH_KEY_MIN)
		return -EINVAL;
	r = digest_sha256(key.p, key.len, digest);
	if (r < 0)
		return r;
	*h = (struct audit_hash){ .key_len = key.len > AUDIT_HASH_KEY_KEEP ? sizeof(digest) : key.len };
	memcpy(h->key, key.len > AUDIT_HASH_KEY_KEEP ? (const char *)digest : key.p, h->key_len);
	hex_encode(digest, sizeof(digest), hex);
	snprintf(h->key_id, sizeof(h->key_id), "%.*s", AUDIT_KEY_ID_LEN, hex);
	secret_wipe(digest, sizeof(digest));
	return 0;
}

int audit_hash_init(struct audit_hash *h, struct span secret)
{
	static const struct span no_salt = { NULL, 0 };
	uint8_t key[SHA256_LEN];
	int r = digest_hkdf_sha256(secret, no_salt, SPAN("mcp-tunnel audit arguments hash v1"), key, sizeof(key));

	if (r == 0)
		r = audit_hash_init_key(h, span_make(key, sizeof(key)));
	secret_wipe(key, sizeof(key));
	return r;
}

int audit_hash_init_file(struct audit_hash *h, const char *path, char *err, size_t err_size)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	int r = secret_load_key("key file", path, AUDIT_HASH_KEY_MIN, err, err_size, &s);

	if (r < 0)
		return r;
	r = audit_hash_init_key(h, span_make(s->text, s->len));
	if (r < 0)
		snprintf(err, err_size, "key file %s: %s", path, strerror(-r));
	return r;
}

void audit_hash_init_plain(struct audit_hash *h)
{
	*h = (struct audit_hash){ .key_len = 0 };
}

void audit_hash_done(struct audit_hash *h)
{
	secret_wipe(h, sizeof(*h));
}

static int hash_text(const struct audit_hash *h, const char *form, struct span text, char *out)
{
	bool keyed = h->key_len && !h->plain;
	uint8_t mac[SHA256_LEN];
	size_t n;
	int r;

	if (keyed)
		r = digest_hmac_sha256(span_make(h->key, h->key_len), text.p, text.len, mac);
	else
		r = digest_sha256(text.p, text.len, mac);
	if (r < 0)
		return r;
	if (keyed)
		n = (size_t)snprintf(out, AUDIT_HASH_TEXT_LEN + 1, "hmac-sha256%s:%s:", form, h->key_id);
	else
		n = (size_t)snprintf(out, AUDIT_HASH_TEXT_LEN + 1, "sha256%s:", form);
	hex_encode(mac, sizeof(mac), out + n);
	return 0;
}

int audit_hash_session(const struct audit_hash *h, struct span session_id, char out[AUDIT_SESSION_TEXT_LEN + 1])
{
	struct audit_hash keyed = *h;
	char text[AUDIT_HASH_TEXT_LEN + 1];
	int r;

	if (!h->key_len)
		return -EINVAL;
	keyed.plain = false;
	r = hash_text(&keyed, "", session_id, text);
	audit_hash_done(&keyed);
	if (r == 0)
		snprintf(out, AUDIT_SESSION_TEXT_LEN + 1, "%.*s", AUDIT_SESSION_TEXT_LEN, text);
	return r;
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
