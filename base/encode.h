/* Hex and base64 (RFC 4648), big-endian integers. Strict decoders: no white space, no slack. */
#pragma once

#include "base/span.h"

/* dst gets 2 * len lower-case digits and a NUL. */
void hex_encode(const void *src, size_t len, char *dst);
/* Exactly len bytes from 2 * len digits of either case: 0 or -EINVAL. */
int hex_decode(struct span s, void *dst, size_t len);

/* Padded standard alphabet; dst gets 4 * ceil(len / 3) characters and a NUL. */
void base64_encode(const void *src, size_t len, char *dst);
/* Unpadded URL-safe alphabet (section 5); dst gets ceil(len * 4 / 3) characters and a NUL. */
void base64url_encode(const void *src, size_t len, char *dst);
/* Standard alphabet with padding. dst holds at least s.len / 4 * 3 bytes. -EINVAL. */
int base64_decode(struct span s, void *dst, size_t *ret_len);
/* URL-safe, no padding. dst holds at least s.len * 3 / 4 bytes. -EINVAL. */
int base64url_decode(struct span s, void *dst, size_t *ret_len);

static inline void put_be16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void put_be32(uint8_t *p, uint32_t v)
{
	put_be16(p, (uint16_t)(v >> 16));
	put_be16(p + 2, (uint16_t)v);
}

static inline void put_be64(uint8_t *p, uint64_t v)
{
	put_be32(p, (uint32_t)(v >> 32));
	put_be32(p + 4, (uint32_t)v);
}

static inline uint16_t get_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}

static inline uint64_t get_be64(const uint8_t *p)
{
	return (uint64_t)get_be32(p) << 32 | get_be32(p + 4);
}
