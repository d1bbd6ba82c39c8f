#include "proto/websocket.h"

#include "base/encode.h"

#include <string.h>

enum {
	FIN = 0x80,
	RSV = 0x70,
	OPCODE = 0x0f,
	CONTROL = 0x08,
	MASKED = 0x80,
	LEN = 0x7f,
	LEN_16 = 126,
	LEN_64 = 127,
	HEADER_MIN = 2,
};

enum {
	CODE_PROTOCOL = 1002,
	CODE_UNSUPPORTED = 1003,
	CODE_NONE = 1005,
	CODE_NOT_UTF8 = 1007,
	CODE_TOO_BIG = 1009,
};

void ws_decoder_init(struct ws_decoder *d, enum ws_role role, size_t max_message)
{
	*d = (struct ws_decoder){ .role = role, .max_message = max_message, .need = HEADER_MIN };
}

static bool bad(struct ws_decoder *d, struct ws_item *ret, uint16_t code, const char *error)
{
	d->finished = true;
	*ret = (struct ws_item){ .type = WS_ITEM_BAD, .code = code, .error = error };
	return false;
}

static bool more(struct ws_item *ret)
{
	*ret = (struct ws_item){ .type = WS_ITEM_MORE };
	return false;
}

/* Bytes that follow a first byte; 4 when it is none. */
static size_t utf8_tail(uint8_t c)
{
	if (c < 0x80)
		return 0;
	if ((c & 0xe0) == 0xc0)
		return 1;
	if ((c & 0xf0) == 0xe0)
		return 2;
	return (c & 0xf8) == 0xf0 ? 3 : 4;
}

/* RFC 3629: shortest form only, no surrogates, nothing above U+10FFFF. */
static bool utf8_valid(const uint8_t *s, size_t len)
{
	static const uint32_t smallest[] = { 0, 0x80, 0x800, 0x10000 };

	for (size_t i = 0; i < len;) {
		uint8_t c = s[i++];
		size_t tail = utf8_tail(c);
		uint32_t v = tail ? c & (0x3fU >> tail) : c;

		if (tail > 3 || len - i < tail)
			return false;
		for (size_t k = 0; k < tail; k++, i++) {
			if ((s[i] & 0xc0) != 0x80)
				return false;
			v = v << 6 | (s[i] & 0x3f);
		}
		if (v < smallest[tail] || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
			return false;
	}
	return true;
}

/* Section 7.4 and the registry: 1004 to 1006 and 1015 are never on the wire, 1016 to 2999 are not assigned. */
static bool close_code_valid(uint16_t code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static bool check_opcode(struct ws_decoder *d, struct ws_item *ret)
{
	switch (d->opcode) {
	case WS_CONTINUATION:
		return d->in_message || bad(d, ret, CODE_PROTOCOL, "continuation without a message");
	case WS_TEXT:
	case WS_BINARY:
		if (d->in_message)
			return bad(d, ret, CODE_PROTOCOL, "new message inside a fragmented one");
		return d->opcode == WS_BINARY || bad(d, ret, CODE_UNSUPPORTED, "text message");
	case WS_CLOSE:
	case WS_PING:
	case WS_PONG:
		if (!d->fin)
			return bad(d, ret, CODE_PROTOCOL, "fragmented control frame");
		return (d->header[1] & LEN) <= WS_CONTROL_MAX ||
		       bad(d, ret, CODE_PROTOCOL, "control frame of more than 125 bytes");
	default:
		return bad(d, ret, CODE_PROTOCOL, "unknown opcode");
	}
}

/* What the first two bytes tell, so that a wrong peer is refused before it sends a length. */
static bool check_start(struct ws_decoder *d, struct ws_item *ret)
{
	uint8_t len = d->header[1] & LEN;
	bool masked = d->header[1] & MASKED;

	d->fin = d->header[0] & FIN;
	d->opcode = d->header[0] & OPCODE;
	if (d->header[0] & RSV)
		return bad(d, ret, CODE_PROTOCOL, "reserved bit set");
	if (!check_opcode(d, ret))
		return false;
	if (masked && d->role == WS_CLIENT)
		return bad(d, ret, CODE_PROTOCOL, "masked frame from a server");
	if (!masked && d->role == WS_SERVER)
		return bad(d, ret, CODE_PROTOCOL, "unmasked frame from a client");
	d->need = (uint8_t)(HEADER_MIN + (len == LEN_16 ? 2 : len == LEN_64 ? 8 : 0) + (masked ? 4 : 0));
	return true;
}

static bool start_payload(struct ws_decoder *d, struct ws_item *ret)
{
	uint8_t len = d->header[1] & LEN;

	d->left = len == LEN_16 ? get_be16(d->header + 2) : len == LEN_64 ? get_be64(d->header + 2) : len;
	if ((len == LEN_16 && d->left < LEN_16) || (len == LEN_64 && d->left <= UINT16_MAX))
		return bad(d, ret, CODE_PROTOCOL, "length is not minimal");
	if (d->left > INT64_MAX)
		return bad(d, ret, CODE_PROTOCOL, "length has its highest bit set");
	memset(d->mask, 0, sizeof(d->mask));
	if (d->header[1] & MASKED)
		memcpy(d->mask, d->header + d->need - 4, sizeof(d->mask));
	d->mask_at = 0;
	if (d->opcode & CONTROL) {
		d->control_len = 0;
	} else {
		if (!d->in_message)
			d->message_bytes = 0;
		if (d->left > d->max_message - d->message_bytes)
			return bad(d, ret, CODE_TOO_BIG, "message is too large");
		d->message_bytes += (size_t)d->left;
		d->in_message = !d->fin;
	}
	d->in_payload = true;
	return true;
}

/* False: *ret holds an item (MORE or BAD). */
static bool take_header(struct ws_decoder *d, uint8_t **p, uint8_t *end, struct ws_item *ret)
{
	while (d->have < d->need) {
		if (*p == end)
			return more(ret);
		d->header[d->have++] = *(*p)++;
		if (d->have == HEADER_MIN && !check_start(d, ret))
			return false;
	}
	return start_payload(d, ret);
}

static size_t payload_here(struct ws_decoder *d, const uint8_t *p, const uint8_t *end)
{
	size_t n = (size_t)(end - p);

	return d->left < n ? (size_t)d->left : n;
}

static void payload_used(struct ws_decoder *d, size_t n)
{
	d->mask_at = (d->mask_at + n) % sizeof(d->mask);
	d->left -= n;
	if (d->left > 0)
		return;
	d->in_payload = false;
	d->have = 0;
	d->need = HEADER_MIN;
}

/* True: *ret holds an item. False: the frame was an empty fragment, which tells the caller nothing. */
static bool take_data(struct ws_decoder *d, uint8_t **p, uint8_t *end, struct ws_item *ret)
{
	size_t n = payload_here(d, *p, end);
	uint8_t *data = *p;
	bool last = n == d->left;

	if (n == 0 && !last) {
		more(ret);
		return true;
	}
	if (d->role == WS_SERVER)
		ws_mask_copy(data, data, n, d->mask, d->mask_at);
	*p += n;
	payload_used(d, n);
	if (n == 0 && !d->fin)
		return false;
	*ret = (struct ws_item){ .type = WS_ITEM_DATA, .data = data, .len = n, .end = last && d->fin };
	return true;
}

static void close_item(struct ws_decoder *d, struct ws_item *ret)
{
	d->finished = true;
	*ret = (struct ws_item){ .type = WS_ITEM_CLOSE, .data = d->control, .code = CODE_NONE };
	if (d->control_len == 0)
		return;
	if (d->control_len == 1) {
		bad(d, ret, CODE_PROTOCOL, "close frame of one byte");
		return;
	}
	ret->code = get_be16(d->control);
	ret->data = d->control + 2;
	ret->len = d->control_len - 2;
	if (!close_code_valid(ret->code))
		bad(d, ret, CODE_PROTOCOL, "close code that must not be sent");
	else if (!utf8_valid(ret->data, ret->len))
		bad(d, ret, CODE_NOT_UTF8, "close reason is not UTF-8");
}

static void take_control(struct ws_decoder *d, uint8_t **p, uint8_t *end, struct ws_item *ret)
{
	size_t n = payload_here(d, *p, end);
	bool last = n == d->left;

	ws_mask_copy(d->control + d->control_len, *p, n, d->mask, d->mask_at);
	*p += n;
	d->control_len += n;
	payload_used(d, n);
	if (!last)
		more(ret);
	else if (d->opcode == WS_CLOSE)
		close_item(d, ret);
	else
		*ret = (struct ws_item){ .type = d->opcode == WS_PING ? WS_ITEM_PING : WS_ITEM_PONG,
					 .data = d->control,
					 .len = d->control_len };
}

void ws_decode(struct ws_decoder *d, uint8_t **p, uint8_t *end, struct ws_item *ret)
{
	if (d->finished) {
		*p = end;
		more(ret);
		return;
	}
	for (;;) {
		if (!d->in_payload && !take_header(d, p, end, ret))
			return;
		if (d->opcode & CONTROL) {
			take_control(d, p, end, ret);
			return;
		}
		if (take_data(d, p, end, ret))
			return;
	}
}

size_t ws_header(uint8_t dst[WS_HEADER_MAX], enum ws_opcode op, size_t payload_len, const uint8_t mask[4])
{
	size_t n = HEADER_MIN;

	dst[0] = (uint8_t)(FIN | op);
	if (payload_len < LEN_16) {
		dst[1] = (uint8_t)payload_len;
	} else if (payload_len <= UINT16_MAX) {
		dst[1] = LEN_16;
		put_be16(dst + 2, (uint16_t)payload_len);
		n += 2;
	} else {
		dst[1] = LEN_64;
		put_be64(dst + 2, payload_len);
		n += 8;
	}
	if (!mask)
		return n;
	dst[1] |= MASKED;
	memcpy(dst + n, mask, 4);
	return n + 4;
}

void ws_mask_copy(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t mask[4], size_t at)
{
	uint64_t key, w[4];
	uint8_t turned[8];
	size_t i = 0;

	if (!mask) {
		if (len)
			memmove(dst, src, len);
		return;
	}
	for (size_t k = 0; k < sizeof(turned); k++)
		turned[k] = mask[(at + k) % 4];
	memcpy(&key, turned, sizeof(key));
	/* Through a local block: any alignment, dst may be src, and one vector operation or two where there are any. */
	for (; len - i >= sizeof(w); i += sizeof(w)) {
		memcpy(w, src + i, sizeof(w));
		for (size_t k = 0; k < 4; k++)
			w[k] ^= key;
		memcpy(dst + i, w, sizeof(w));
	}
	for (; len - i >= sizeof(key); i += sizeof(key)) {
		memcpy(w, src + i, sizeof(key));
		w[0] ^= key;
		memcpy(dst + i, w, sizeof(key));
	}
	for (; i < len; i++)
		dst[i] = src[i] ^ turned[i % 8];
}
