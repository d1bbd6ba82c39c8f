#include "base/encode.h"

#include <errno.h>
#include <stdbool.h>

static const char b64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void hex_encode(const void *src, size_t len, char *dst)
{
	const uint8_t *p = src;

	for (size_t i = 0; i < len; i++) {
		*dst++ = "0123456789abcdef"[p[i] >> 4];
		*dst++ = "0123456789abcdef"[p[i] & 15];
	}
	*dst = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int hex_decode(struct span s, void *dst, size_t len)
{
	uint8_t *d = dst;

	if (s.len != len * 2)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int hi = hex_digit(s.p[2 * i]), lo = hex_digit(s.p[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		d[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

static void encode64(const char *alphabet, bool pad, const uint8_t *p, size_t len, char *dst)
{
	for (; len > 0; p += 3) {
		uint32_t v = (uint32_t)p[0] << 16 | (len > 1 ? (uint32_t)p[1] << 8 : 0) | (len > 2 ? p[2] : 0);

		*dst++ = alphabet[v >> 18];
		*dst++ = alphabet[v >> 12 & 63];
		if (len > 1)
			*dst++ = alphabet[v >> 6 & 63];
		else if (pad)
			*dst++ = '=';
		if (len > 2)
			*dst++ = alphabet[v & 63];
		else if (pad)
			*dst++ = '=';
		len = len > 3 ? len - 3 : 0;
	}
	*dst = '\0';
}

void base64_encode(const void *src, size_t len, char *dst)
{
	encode64(b64_std, true, src, len, dst);
}

void base64url_encode(const void *src, size_t len, char *dst)
{
	encode64(b64_url, false, src, len, dst);
}

static int decode64(const char *alphabet, struct span s, uint8_t *dst, size_t *ret_len)
{
	size_t n = 0;

	if (s.len % 4 == 1)
		return -EINVAL;
	while (s.len) {
		size_t chars = s.len < 4 ? s.len : 4;
		uint32_t v = 0;

		for (size_t i = 0; i < 4; i++) {
			const char *at = "";

			if (i < chars) {
				at = s.p[i] ? strchr(alphabet, s.p[i]) : NULL;
				if (!at)
					return -EINVAL;
				v |= (uint32_t)(at - alphabet) << (18 - 6 * i);
			}
		}
		/* Bits that no byte takes must be zero, so that each value has one spelling. */
		if ((chars == 2 && (v & 0xffff)) || (chars == 3 && (v & 0xff)))
			return -EINVAL;
		dst[n++] = (uint8_t)(v >> 16);
		if (chars > 2)
			dst[n++] = (uint8_t)(v >> 8);
		if (chars > 3)
			dst[n++] = (uint8_t)v;
		s.p += chars;
		s.len -= chars;
	}
	*ret_len = n;
	return 0;
}

int base64_decode(struct span s, void *dst, size_t *ret_len)
{
	if (s.len % 4)
		return -EINVAL;
	for (int i = 0; i < 2 && s.len && s.p[s.len - 1] == '='; i++)
		s.len--;
	return decode64(b64_std, s, dst, ret_len);
}

int base64url_decode(struct span s, void *dst, size_t *ret_len)
{
	return decode64(b64_url, s, dst, ret_len);
}
