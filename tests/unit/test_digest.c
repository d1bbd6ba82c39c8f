#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "tests/lib/unit.h"

static void assert_hex(const uint8_t *p, size_t len, const char *expect)
{
	char hex[256];

	hex_encode(p, len, hex);
	ck_assert_str_eq(hex, expect);
}

START_TEST(known_answers)
{
	uint8_t out[SHA256_LEN];

	/* FIPS 180-4 examples. */
	ck_assert_int_eq(digest_sha256("abc", 3, out), 0);
	assert_hex(out, SHA256_LEN, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	ck_assert_int_eq(digest_sha256(NULL, 0, out), 0);
	assert_hex(out, SHA256_LEN, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	ck_assert_int_eq(digest_sha1("abc", 3, out), 0);
	assert_hex(out, SHA1_LEN, "a9993e364706816aba3e25717850c26c9cd0d89d");
}
END_TEST

START_TEST(websocket_accept)
{
	static const char text[] = "dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	uint8_t out[SHA1_LEN];
	char b64[64];

	/* RFC 6455, section 1.3. */
	ck_assert_int_eq(digest_sha1(text, strlen(text), out), 0);
	base64_encode(out, sizeof(out), b64);
	ck_assert_str_eq(b64, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
END_TEST

START_TEST(incremental_is_one_shot)
{
	uint8_t data[1000], a[SHA256_LEN], b[SHA256_LEN];
	struct digest *d = digest_new();

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	ck_assert_int_eq(digest_sha256(data, sizeof(data), a), 0);
	for (size_t step = 1; step < 300; step += 13) {
		for (size_t at = 0; at < sizeof(data); at += step)
			ck_assert_int_eq(digest_update(d, data + at, MIN(step, sizeof(data) - at)), 0);
		/* A one-shot digest in between does not disturb it. */
		ck_assert_int_eq(digest_sha256("abc", 3, b), 0);
		ck_assert_int_eq(digest_final(d, b), 0);
		ck_assert_mem_eq(a, b, sizeof(a));
	}
	ck_assert_int_eq(digest_final(d, b), 0);
	assert_hex(b, sizeof(b), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	digest_free(d);
}
END_TEST

START_TEST(hmac_rfc4231)
{
	uint8_t out[SHA256_LEN], key[131];
	const char *text = "Test Using Larger Than Block-Size Key - Hash Key First";

	ck_assert_int_eq(digest_hmac_sha256(SPAN("Jefe"), "what do ya want for nothing?", 28, out), 0);
	assert_hex(out, sizeof(out), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(key, 0xaa, sizeof(key));
	ck_assert_int_eq(digest_hmac_sha256(span_make(key, sizeof(key)), text, strlen(text), out), 0);
	assert_hex(out, sizeof(out), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}
END_TEST

/* OpenSSL's own HMAC is the oracle for every key length around the block size. */
START_TEST(hmac_oracle)
{
	uint8_t key[200], data[300], a[SHA256_LEN], b[SHA256_LEN];
	unsigned n;

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i ^ 0x5a);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 3);
	for (size_t len = 0; len < sizeof(key); len++) {
		ck_assert_int_eq(digest_hmac_sha256(span_make(key, len), data, len + 100, a), 0);
		HMAC(EVP_sha256(), key, (int)len, data, len + 100, b, &n);
		ck_assert_mem_eq(a, b, sizeof(a));
	}
}
END_TEST

START_TEST(hkdf_rfc5869)
{
	uint8_t ikm[22], salt[13], info[10], out[82];

	memset(ikm, 0x0b, sizeof(ikm));
	for (size_t i = 0; i < sizeof(salt); i++)
		salt[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof(info); i++)
		info[i] = (uint8_t)(0xf0 + i);
	ck_assert_int_eq(digest_hkdf_sha256(span_make(ikm, 22), span_make(salt, 13), span_make(info, 10), out, 42), 0);
	assert_hex(out, 42,
		   "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
	ck_assert_int_eq(digest_hkdf_sha256(span_make(ikm, 22), SPAN(""), SPAN(""), out, 42), 0);
	assert_hex(out, 42,
		   "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}
END_TEST

START_TEST(hkdf_bounds)
{
	uint8_t *out = malloc(255 * SHA256_LEN + 1);

	ck_assert_int_eq(digest_hkdf_sha256(SPAN("k"), SPAN(""), SPAN("i"), out, 255 * SHA256_LEN), 0);
	ck_assert_int_eq(digest_hkdf_sha256(SPAN("k"), SPAN(""), SPAN("i"), out, 255 * SHA256_LEN + 1), -EINVAL);
	free(out);
}
END_TEST

START_TEST(equal_and_wipe)
{
	char a[] = "0123456789", b[] = "0123456789";

	ck_assert(digest_equal(a, b, sizeof(a)));
	ck_assert(digest_equal(a, b, 0));
	b[9] ^= 1;
	ck_assert(!digest_equal(a, b, sizeof(a)));
	secret_wipe(a, sizeof(a));
	for (size_t i = 0; i < sizeof(a); i++)
		ck_assert_int_eq(a[i], 0);
	secret_wipe(NULL, 0);
}
END_TEST

START_TEST(random_differs)
{
	uint8_t a[64] = { 0 }, b[64] = { 0 };

	ck_assert_int_eq(random_bytes(a, sizeof(a)), 0);
	ck_assert_int_eq(random_bytes(b, sizeof(b)), 0);
	ck_assert_int_eq(random_bytes(NULL, 0), 0);
	ck_assert_mem_ne(a, b, sizeof(a));
}
END_TEST

START_TEST(uuid7)
{
	char a[UUID_TEXT_LEN + 1], b[UUID_TEXT_LEN + 1];

	/* RFC 9562, appendix A.6: the time part. */
	ck_assert_int_eq(uuid7_make(0x017f22e279b0, a), 0);
	ck_assert_int_eq((int)strlen(a), UUID_TEXT_LEN);
	ck_assert_int_eq(strncmp(a, "017f22e2-79b0-7", 15), 0);
	ck_assert(a[18] == '-' && a[23] == '-' && strchr("89ab", a[19]));
	ck_assert_int_eq(uuid7_make(0x017f22e279b0, b), 0);
	ck_assert_str_ne(a, b);
	ck_assert_int_eq(uuid7_make(0x017f22e279b1, b), 0);
	ck_assert_int_lt(strcmp(a, b), 0);
}
END_TEST

UNIT_MAIN("digest", ADD(known_answers) ADD(websocket_accept) ADD(incremental_is_one_shot) ADD(hmac_rfc4231)
	  ADD(hmac_oracle) ADD(hkdf_rfc5869) ADD(hkdf_bounds) ADD(equal_and_wipe) ADD(random_differs) ADD(uuid7))
