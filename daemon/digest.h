/* Hashes, keyed hashes, random bytes and secret memory. The one front to OpenSSL's EVP; thread-safe. */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum { SHA256_LEN = 32, SHA1_LEN = 20, UUID_TEXT_LEN = 36 };

/* -EIO when the library refuses (never seen with the default provider), -ENOMEM. */
int digest_sha256(const void *p, size_t len, uint8_t out[SHA256_LEN]);

/* Only for the WebSocket accept key (RFC 6455, section 4.2.2). */
int digest_sha1(const void *p, size_t len, uint8_t out[SHA1_LEN]);

/* RFC 2104 and RFC 5869. HKDF makes out_len <= 255 * 32 bytes: -EINVAL above. */
int digest_hmac_sha256(struct span key, const void *p, size_t len, uint8_t out[SHA256_LEN]);
int digest_hkdf_sha256(struct span secret, struct span salt, struct span info, uint8_t *out, size_t out_len);

/* Incremental SHA-256, reusable: digest_final() leaves it ready for the next message. NULL when out of memory. */
struct digest;
struct digest *digest_new(void);
struct digest *digest_free(struct digest *d);
int digest_update(struct digest *d, const void *p, size_t len);
int digest_final(struct digest *d, uint8_t out[SHA256_LEN]);
DEFINE_CLEANUP(struct digest *, digest_free)

/* From the kernel's generator. -errno; nothing may be used then. */
int random_bytes(void *p, size_t len);

/* The time taken depends on len alone. */
bool digest_equal(const void *a, const void *b, size_t len);

/* Overwrites; the compiler cannot drop it. */
void secret_wipe(void *p, size_t len);

/* A UUIDv7 (RFC 9562, section 5.7) of this time, lower case, with its NUL. -errno when there are no random bytes. */
int uuid7_make(uint64_t unix_ms, char out[UUID_TEXT_LEN + 1]);
