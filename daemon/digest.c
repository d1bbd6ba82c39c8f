#include "daemon/digest.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "base/encode.h"

enum { HMAC_BLOCK = 64 };

struct digest {
	EVP_MD_CTX *ctx;
	bool open; /* initialised for a message */
};

static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_MD *md_sha256, *md_sha1;

/* Looking a digest up by name costs more than hashing a short message; a context keeps its inner state too. */
static _Thread_local struct digest scratch;
static pthread_key_t scratch_key;

static void scratch_done(void *ctx)
{
	EVP_MD_CTX_free(ctx);
}

static void fetch_digests(void)
{
	if (pthread_key_create(&scratch_key, scratch_done) != 0)
		return;
	md_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	md_sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
}

static int digest_open(struct digest *d, EVP_MD **md)
{
	pthread_once(&fetch_once, fetch_digests);
	if (!*md)
		return -EIO;
	if (!d->ctx) {
		d->ctx = EVP_MD_CTX_new();
		if (!d->ctx)
			return -ENOMEM;
		/* Of a thread that ends; the main thread's stays. */
		if (d == &scratch)
			pthread_setspecific(scratch_key, d->ctx);
	}
	if (!EVP_DigestInit_ex2(d->ctx, *md, NULL))
		return -EIO;
	d->open = true;
	return 0;
}

struct digest *digest_new(void)
{
	return calloc(1, sizeof(struct digest));
}

struct digest *digest_free(struct digest *d)
{
	if (d)
		EVP_MD_CTX_free(d->ctx);
	free(d);
	return NULL;
}

int digest_update(struct digest *d, const void *p, size_t len)
{
	int r = d->open ? 0 : digest_open(d, &md_sha256);

	if (r < 0)
		return r;
	return len == 0 || EVP_DigestUpdate(d->ctx, p, len) ? 0 : -EIO;
}

static int digest_close(struct digest *d, uint8_t *out)
{
	d->open = false;
	return EVP_DigestFinal_ex(d->ctx, out, NULL) ? 0 : -EIO;
}

int digest_final(struct digest *d, uint8_t out[SHA256_LEN])
{
	int r = d->open ? 0 : digest_open(d, &md_sha256);

	return r < 0 ? r : digest_close(d, out);
}

int digest_sha256(const void *p, size_t len, uint8_t out[SHA256_LEN])
{
	int r = digest_open(&scratch, &md_sha256);

	if (r == 0)
		r = digest_update(&scratch, p, len);
	return r < 0 ? r : digest_close(&scratch, out);
}

int digest_sha1(const void *p, size_t len, uint8_t out[SHA1_LEN])
{
	int r = digest_open(&scratch, &md_sha1);

	if (r == 0)
		r = digest_update(&scratch, p, len);
	return r < 0 ? r : digest_close(&scratch, out);
}

/* HMAC of up to two parts in a row: by hand on the digest, since EVP_MAC sets a key up more slowly than it hashes. */
static int hmac_parts(struct span key, struct span a, struct span b, uint8_t out[SHA256_LEN])
{
	uint8_t block[HMAC_BLOCK] = { 0 }, pad[HMAC_BLOCK], inner[SHA256_LEN];
	int r = 0;

	if (key.len > HMAC_BLOCK)
		r = digest_sha256(key.p, key.len, block);
	else if (key.len)
		memcpy(block, key.p, key.len);
	for (size_t i = 0; i < HMAC_BLOCK; i++)
		pad[i] = block[i] ^ 0x36;
	if (r == 0)
		r = digest_open(&scratch, &md_sha256);
	if (r == 0)
		r = digest_update(&scratch, pad, sizeof(pad));
	if (r == 0)
		r = digest_update(&scratch, a.p, a.len);
	if (r == 0)
		r = digest_update(&scratch, b.p, b.len);
	if (r == 0)
		r = digest_final(&scratch, inner);
	for (size_t i = 0; i < HMAC_BLOCK; i++)
		pad[i] = block[i] ^ 0x5c;
	if (r == 0)
		r = digest_update(&scratch, pad, sizeof(pad));
	if (r == 0)
		r = digest_update(&scratch, inner, sizeof(inner));
	if (r == 0)
		r = digest_final(&scratch, out);
	secret_wipe(block, sizeof(block));
	secret_wipe(pad, sizeof(pad));
	secret_wipe(inner, sizeof(inner));
	return r;
}

int digest_hmac_sha256(struct span key, const void *p, size_t len, uint8_t out[SHA256_LEN])
{
	return hmac_parts(key, span_make(p, len), span_make(NULL, 0), out);
}

/* One round of expansion: T(n) = HMAC(PRK, T(n-1) | info | n). */
static int hkdf_block(struct span prk, struct span prev, struct span info, uint8_t n, uint8_t out[SHA256_LEN])
{
	_cleanup_(freep) uint8_t *tail = malloc(info.len + 1);

	if (!tail)
		return -ENOMEM;
	if (info.len)
		memcpy(tail, info.p, info.len);
	tail[info.len] = n;
	return hmac_parts(prk, prev, span_make(tail, info.len + 1), out);
}

int digest_hkdf_sha256(struct span secret, struct span salt, struct span info, uint8_t *out, size_t out_len)
{
	uint8_t prk[SHA256_LEN], t[SHA256_LEN];
	struct span prev = { NULL, 0 };
	int r;

	if (out_len > 255 * (size_t)SHA256_LEN)
		return -EINVAL;
	r = hmac_parts(salt, secret, prev, prk);
	for (uint8_t n = 1; r == 0 && out_len > 0; n++) {
		size_t take = MIN(out_len, sizeof(t));

		r = hkdf_block(span_make(prk, sizeof(prk)), prev, info, n, t);
		if (r < 0)
			break;
		memcpy(out, t, take);
		prev = span_make(t, sizeof(t));
		out += take;
		out_len -= take;
	}
	secret_wipe(prk, sizeof(prk));
	secret_wipe(t, sizeof(t));
	return r;
}

int random_bytes(void *p, size_t len)
{
	uint8_t *at = p;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

bool digest_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void secret_wipe(void *p, size_t len)
{
	if (len)
		explicit_bzero(p, len);
}

/* Ids need no system call each. Each byte is used once and wiped. */
static int random_pooled(void *p, size_t len)
{
	static _Thread_local uint8_t pool[512];
	static _Thread_local size_t left;
	int r;

	if (left < len) {
		r = random_bytes(pool, sizeof(pool));
		if (r < 0)
			return r;
		left = sizeof(pool);
	}
	left -= len;
	memcpy(p, pool + left, len);
	memset(pool + left, 0, len);
	return 0;
}

int uuid7_make(uint64_t unix_ms, char out[UUID_TEXT_LEN + 1])
{
	static const uint8_t group[] = { 4, 2, 2, 2, 6 };
	uint8_t id[16];
	char *at = out;
	size_t pos = 0;
	int r = random_pooled(id + 6, sizeof(id) - 6);

	if (r < 0)
		return r;
	put_be16(id, (uint16_t)(unix_ms >> 32));
	put_be32(id + 2, (uint32_t)unix_ms);
	id[6] = (uint8_t)(0x70 | (id[6] & 0x0f));
	id[8] = (uint8_t)(0x80 | (id[8] & 0x3f));
	for (size_t i = 0; i < ARRAY_LEN(group); i++) {
		if (i)
			*at++ = '-';
		hex_encode(id + pos, group[i], at);
		at += 2 * group[i];
		pos += group[i];
	}
	return 0;
}
