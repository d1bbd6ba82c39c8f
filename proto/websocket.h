/* WebSocket frames (RFC 6455 section 5): an incremental sans-I/O decoder that unmasks in place, and an encoder that
 * masks while copying. The upgrade (section 4) is HTTP and belongs to daemon/upgrade. No extensions.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum ws_role { WS_CLIENT, WS_SERVER }; /* a client masks what it sends and refuses masked frames; a server the reverse */

enum ws_opcode {
	WS_CONTINUATION = 0x0,
	WS_TEXT = 0x1,
	WS_BINARY = 0x2,
	WS_CLOSE = 0x8,
	WS_PING = 0x9,
	WS_PONG = 0xa,
};

enum {
	WS_CONTROL_MAX = 125,
	WS_HEADER_MAX = 14,
};

enum ws_item_type {
	WS_ITEM_MORE,  /* all bytes used */
	WS_ITEM_DATA,  /* a piece of a binary message; `end` on its last piece; a piece may be empty only when it ends one */
	WS_ITEM_PING,  /* data: payload, answer with a pong of the same bytes */
	WS_ITEM_PONG,  /* data: payload */
	WS_ITEM_CLOSE, /* code (1005 when absent), data: UTF-8 reason. Nothing more is decoded. */
	WS_ITEM_BAD,   /* error: static text; code: the close code to send (1002, 1003 for text, 1007, 1009) */
};

struct ws_item {
	enum ws_item_type type;
	uint8_t *data; /* into the caller's bytes for DATA, into the decoder for control frames */
	size_t len;
	bool end;
	uint16_t code;
	const char *error;
};

struct ws_decoder {
	enum ws_role role;
	size_t max_message; /* bytes of one message over all its fragments; above: BAD with 1009 */
	uint8_t header[WS_HEADER_MAX];
	uint8_t have, need; /* of header */
	uint8_t opcode;
	bool fin;
	bool in_payload;
	bool in_message; /* a fragmented message is open */
	bool finished;   /* after CLOSE or BAD */
	uint8_t mask[4];
	size_t mask_at;       /* position in the mask */
	uint64_t left;        /* payload bytes to come */
	size_t message_bytes; /* of the open message so far */
	size_t control_len;
	uint8_t control[WS_CONTROL_MAX];
};

void ws_decoder_init(struct ws_decoder *d, enum ws_role role, size_t max_message);

/* Takes bytes from *p up to end, advances *p, and yields one item. Call until WS_ITEM_MORE. Bytes at *p are changed
 * (unmasked) in place. Strict: RSV bits, unknown opcodes, a wrong mask bit, a length that is not minimal, fragmented or long control
 * frames, a continuation without a start, a new message inside one, close codes that must not be sent: WS_ITEM_BAD. */
void ws_decode(struct ws_decoder *d, uint8_t **p, uint8_t *end, struct ws_item *ret);

/* Writes the header of one unfragmented frame (FIN set) to dst: 2 to 14 bytes. mask == NULL for a server. */
size_t ws_header(uint8_t dst[WS_HEADER_MAX], enum ws_opcode op, size_t payload_len, const uint8_t mask[4]);

/* dst[i] = src[i] ^ mask[(at + i) % 4], eight bytes at a time; dst may be src. mask == NULL copies. */
void ws_mask_copy(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t mask[4], size_t at);
