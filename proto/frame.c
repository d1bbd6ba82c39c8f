#include "proto/frame.h"

#include "base/encode.h"

enum scope { SESSION, STREAM };

/* Stands for the negotiated limit, which is only known per connection. */
#define MAX_DATA SIZE_MAX
#define MAX_FIELDS TP_FIELDS_BYTES_MAX
#define MAX_DETAIL TP_DETAIL_MAX
#define MAX_NOTE TP_NOTE_MAX

static const struct frame_rule {
	const char *name;
	enum scope scope;
	bool counted;
	uint8_t flags;
	size_t min, max;
} rules[] = {
#define FRAME(id, type, scope, counted, flags, min, max) [type] = { #id, scope, counted, flags, min, max },
#include "proto/frames.def"
#undef FRAME
};

static const struct frame_rule *rule_of(uint8_t type)
{
	return type < ARRAY_LEN(rules) && rules[type].name ? &rules[type] : NULL;
}

const char *frame_name(uint8_t type)
{
	const struct frame_rule *rule = rule_of(type);

	return rule ? rule->name : NULL;
}

bool frame_is_counted(uint8_t type)
{
	const struct frame_rule *rule = rule_of(type);

	return rule && rule->counted;
}

bool frame_has_fields(uint8_t type)
{
	return type == TP_HELLO || type == TP_WELCOME || type == TP_NOTE || type == TP_OPEN || type == TP_HEAD;
}

void frame_put_header(uint8_t dst[TP_FRAME_HEADER], uint8_t type, uint8_t flags, uint32_t stream_id)
{
	dst[0] = type;
	dst[1] = flags;
	put_be16(dst + 2, 0);
	put_be32(dst + 4, stream_id);
}

const char *frame_decode(uint8_t *msg, size_t len, size_t max_payload, struct tp_frame *ret)
{
	const struct frame_rule *rule;
	struct tp_frame f;

	if (len < TP_FRAME_HEADER)
		return "frame shorter than its header";
	f = (struct tp_frame){ msg[0], msg[1], get_be32(msg + 4), msg + TP_FRAME_HEADER, len - TP_FRAME_HEADER };
	rule = rule_of(f.type);
	if (!rule)
		return "unknown frame type";
	if (f.flags & ~rule->flags)
		return "flag not allowed on this frame";
	if (get_be16(msg + 2) != 0)
		return "reserved bytes of a frame are not zero";
	if (rule->scope == SESSION && f.stream_id != 0)
		return "session frame with a stream id";
	if (rule->scope == STREAM && (f.stream_id == 0 || f.stream_id > TP_STREAM_ID_MAX))
		return "stream frame without a valid stream id";
	if (f.len < rule->min)
		return "frame payload too short";
	if (f.len > (rule->max == MAX_DATA ? max_payload : rule->max))
		return "frame payload too long";
	*ret = f;
	return NULL;
}
