#include "base/encode.h"

#include "base/check.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

/* RFC 4648 section 10, and its alphabets' last two characters. */
static const struct {
	const char *plain, *hex, *base64, *base64url;
} vectors[] = {
	{ "", "", "", "" },
	{ "f", "66", "Zg==", "Zg" },
	{ "fo", "666f", "Zm8=", "Zm8" },
	{ "foo", "666f6f", "Zm9v", "Zm9v" },
	{ "foob", "666f6f62", "Zm9vYg==", "Zm9vYg" },
	{ "fooba", "666f6f6261", "Zm9vYmE=", "Zm9vYmE" },
	{ "foobar", "666f6f626172", "Zm9vYmFy", "Zm9vYmFy" },
	{ "\xfb\xff\xbf", "fbffbf", "+/+/", "-_-_" },
};

START_TEST(rfc4648_vectors)
{
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		size_t n = strlen(vectors[i].plain), got;
		char text[16];
		uint8_t bytes[16];

		hex_encode(vectors[i].plain, n, text);
		ck_assert_str_eq(text, vectors[i].hex);
		ck_assert_int_eq(hex_decode(span_of(text), bytes, n), 0);
		if (n)
			ck_assert_mem_eq(bytes, vectors[i].plain, n);

		base64_encode(vectors[i].plain, n, text);
		ck_assert_str_eq(text, vectors[i].base64);
		ck_assert_int_eq(base64_decode(span_of(text), bytes, &got), 0);
		ck_assert_uint_eq(got, n);
		if (n)
			ck_assert_mem_eq(bytes, vectors[i].plain, n);

		base64url_encode(vectors[i].plain, n, text);
		ck_assert_str_eq(text, vectors[i].base64url);
		ck_assert_int_eq(base64url_decode(span_of(text), bytes, &got), 0);
		ck_assert_uint_eq(got, n);
		if (n)
			ck_assert_mem_eq(bytes, vectors[i].plain, n);
	}
}
END_TEST

START_TEST(hex_is_strict)
{
	uint8_t bytes[4] = { 1, 2, 3, 4 };

	ck_assert_int_eq(hex_decode(SPAN("DEADbeef"), bytes, 4), 0);
	ck_assert_mem_eq(bytes, "\xde\xad\xbe\xef", 4);
	ck_assert_int_eq(hex_decode(SPAN("deadbee"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN("deadbeef0"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN("deadbeeg"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN(" eadbeef"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN("0xadbeef"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN("de\0dbeef"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN("/:@G`g[{"), bytes, 4), -EINVAL);
	ck_assert_int_eq(hex_decode(SPAN(""), bytes, 0), 0);
}
END_TEST

START_TEST(base64_is_strict)
{
	static const char *const bad[] = {
		"Z",	"Zg",	    "Zg=",     "Zg===", "Zm8",	     "Zh==", "Zm9=", "=",    "==",	 "====",
		"Z===", "Zg==Zg==", "Zm9v\n", " Zm9v", "Zm9v Zg==", "Zm=v", "Z=9v", "-_-_", "Zm9vZ===", "Zm9v====",
	};
	uint8_t bytes[16];
	size_t n = 77;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ck_assert_msg(base64_decode(span_of(bad[i]), bytes, &n) == -EINVAL, "\"%s\" was taken", bad[i]);
		ck_assert_uint_eq(n, 77);
	}
	ck_assert_int_eq(base64_decode(SPAN("Zm9\0"), bytes, &n), -EINVAL);
}
END_TEST

START_TEST(base64url_is_strict)
{
	static const char *const bad[] = {
		"Z", "Zm9vZ", "Zg==", "Zm8=", "Zh", "Zm9", "+/+/", "Zm9v\n", " Zg", "Zg ", "=",
	};
	uint8_t bytes[16];
	size_t n = 77;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ck_assert_msg(base64url_decode(span_of(bad[i]), bytes, &n) == -EINVAL, "\"%s\" was taken", bad[i]);
		ck_assert_uint_eq(n, 77);
	}
	ck_assert_int_eq(base64url_decode(SPAN("Zm9\0"), bytes, &n), -EINVAL);
}
END_TEST

/* Every byte value at every length up to 64 survives, and the text has the length that the header promises. */
START_TEST(round_trips)
{
	uint8_t in[64], out[64];
	char text[129];
	size_t n;

	for (size_t len = 0; len <= sizeof(in); len++)
		for (unsigned start = 0; start < 256; start += 16) {
			for (size_t i = 0; i < len; i++)
				in[i] = (uint8_t)(start + i * 5);
			hex_encode(in, len, text);
			ck_assert_uint_eq(strlen(text), 2 * len);
			ck_assert_int_eq(hex_decode(span_of(text), out, len), 0);
			ck_assert(len == 0 || memcmp(in, out, len) == 0);
			base64_encode(in, len, text);
			ck_assert_uint_eq(strlen(text), (len + 2) / 3 * 4);
			ck_assert_int_eq(base64_decode(span_of(text), out, &n), 0);
			ck_assert(n == len && (len == 0 || memcmp(in, out, len) == 0));
			base64url_encode(in, len, text);
			ck_assert_uint_eq(strlen(text), (len * 4 + 2) / 3);
			ck_assert_int_eq(base64url_decode(span_of(text), out, &n), 0);
			ck_assert(n == len && (len == 0 || memcmp(in, out, len) == 0));
		}
}
END_TEST

START_TEST(big_endian)
{
	uint8_t p[9];

	put_be64(p + 1, UINT64_C(0x0123456789abcdef));
	ck_assert_mem_eq(p + 1, "\x01\x23\x45\x67\x89\xab\xcd\xef", 8);
	ck_assert_uint_eq(get_be64(p + 1), UINT64_C(0x0123456789abcdef));
	ck_assert_uint_eq(get_be32(p + 5), 0x89abcdef);
	ck_assert_uint_eq(get_be16(p + 7), 0xcdef);
	put_be32(p, UINT32_MAX);
	put_be16(p + 4, 0x8000);
	ck_assert_mem_eq(p, "\xff\xff\xff\xff\x80\x00", 6);
	ck_assert_uint_eq(get_be32(p), UINT32_MAX);
	ck_assert_uint_eq(get_be16(p + 4), 0x8000);
}
END_TEST

UNIT_MAIN("encode", ADD(rfc4648_vectors) ADD(hex_is_strict) ADD(base64_is_strict) ADD(base64url_is_strict)
		     ADD(round_trips) ADD(big_endian))
