/* The frame header: type (1), flags (1), reserved zero (2), stream id (4, big endian). PROTOCOL.md, section Frames. */
#pragma once

#include "base/check.h"
#include "proto/tunnel.h"

enum { TP_FRAME_HEADER = 8 };
enum { TP_FLAG_END = 0x01 };

enum tp_frame_type {
#define FRAME(id, type, scope, counted, flags, min, max) TP_##id = (type),
#include "proto/frames.def"
#undef FRAME
};

struct tp_frame {
	uint8_t type;
	uint8_t flags;
	uint32_t stream_id;
	uint8_t *payload;
	size_t len;
};

/* NULL for an unknown type. */
const char *frame_name(uint8_t type);
bool frame_is_counted(uint8_t type);
/* Its payload is fields, and nothing else. */
bool frame_has_fields(uint8_t type);

void frame_put_header(uint8_t dst[TP_FRAME_HEADER], uint8_t type, uint8_t flags, uint32_t stream_id);

/* One whole message: NULL and *ret, or what is wrong (static text). max_payload bounds DATA. */
const char *frame_decode(uint8_t *msg, size_t len, size_t max_payload, struct tp_frame *ret);
