#include "tests/lib/raw.h"

#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "proto/fields.h"
#include "tests/lib/pair.h"

static const char session_hex[] = "00112233445566778899aabbccddeeff";

static void must(bool ok)
{
	if (!ok)
		abort();
}

void raw_init_cfg(struct raw *r, const struct tp_config *cfg)
{
	*r = (struct raw){ .role = cfg->role, .now_us = 5000 * 1000 };
	buf_init(&r->out, SIZE_MAX / 2);
	must(tp_conn_new(cfg, &r->c) == 0);
	must(tp_conn_attach(r->c, r->now_us / 1000) == 0);
}

void raw_init(struct raw *r, enum tp_role role)
{
	struct tp_config cfg;

	tp_config_init(&cfg, role, pair_entropy);
	raw_init_cfg(r, &cfg);
}

void raw_done(struct raw *r)
{
	tp_conn_free(r->c);
	buf_done(&r->out);
}

static void pull(struct raw *r)
{
	uint8_t dst[4096];
	size_t n;

	while (!r->hold && tp_conn_wants_write(r->c)) {
		n = tp_conn_pull(r->c, dst, sizeof(dst));
		must(buf_add(&r->out, dst, n) == 0);
		if (n == 0)
			break;
	}
}

static void take_event(struct raw *r)
{
	static const uint8_t id[TP_SESSION_ID_BYTES] = { 0x00, 0x11, 0x22, 0x33, 0x44 };

	switch (r->ev.type) {
	case TP_EV_HELLO:
		must(tp_conn_welcome(r->c, id, r->now_us / 1000) == 0);
		break;
	case TP_EV_OPEN:
		r->opens++;
		r->last = r->ev.stream;
		if (r->release_opens)
			r->last = tp_stream_release(r->last);
		break;
	case TP_EV_HEAD:
		r->heads++;
		break;
	case TP_EV_DATA:
		r->datas++;
		break;
	case TP_EV_RESET:
		r->resets++;
		snprintf(r->detail, sizeof(r->detail), "%.*s", SPAN_FMT(r->ev.detail));
		break;
	case TP_EV_GOAWAY:
		r->goaways++;
		break;
	case TP_EV_FAILED:
	case TP_EV_CLOSED:
		must(!r->over);
		r->over = true;
		r->failed = r->ev;
		snprintf(r->detail, sizeof(r->detail), "%.*s", SPAN_FMT(r->ev.detail));
		break;
	default:
		break;
	}
}

void raw_bytes(struct raw *r, const void *p, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	must(copy != NULL);
	if (len)
		memcpy(copy, p, len);
	tp_conn_feed(r->c, copy, len);
	while (tp_conn_next(r->c, r->now_us, &r->ev))
		take_event(r);
	free(copy);
	pull(r);
	while (tp_conn_next(r->c, r->now_us, &r->ev))
		take_event(r);
}

void raw_ws(struct raw *r, uint8_t first, const void *payload, size_t len)
{
	static const uint8_t mask[4] = { 0xa1, 0xb2, 0xc3, 0xd4 };
	const uint8_t *key = r->role == TP_RELAY ? mask : NULL;
	uint8_t *bytes = malloc(WS_HEADER_MAX + len);
	size_t n;

	must(bytes != NULL);
	n = ws_header(bytes, WS_BINARY, len, key);
	bytes[0] = first;
	ws_mask_copy(bytes + n, payload, len, key, 0);
	raw_bytes(r, bytes, n + len);
	free(bytes);
}

void raw_frame(struct raw *r, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t len)
{
	uint8_t *msg = malloc(TP_FRAME_HEADER + len);

	must(msg != NULL);
	frame_put_header(msg, type, flags, id);
	if (len)
		memcpy(msg + TP_FRAME_HEADER, payload, len);
	raw_ws(r, 0x80 | WS_BINARY, msg, TP_FRAME_HEADER + len);
	free(msg);
}

void raw_fields(struct raw *r, uint8_t type, uint8_t flags, uint32_t id, const struct tp_field *fields, size_t n)
{
	uint8_t *payload = malloc(TP_FIELDS_BYTES_MAX);

	must(payload != NULL);
	fields_encode(payload, fields, n);
	raw_frame(r, type, flags, id, payload, fields_size(fields, n));
	free(payload);
}

void raw_u32(struct raw *r, uint8_t type, uint32_t id, uint32_t value)
{
	uint8_t payload[4];

	put_be32(payload, value);
	raw_frame(r, type, 0, id, payload, sizeof(payload));
}

void raw_ping(struct raw *r, uint64_t count)
{
	uint8_t payload[16] = "12345678";

	put_be64(payload + 8, count);
	raw_frame(r, TP_PING, 0, 0, payload, sizeof(payload));
}

void raw_open(struct raw *r, uint32_t id, bool end)
{
	const struct tp_field fields[] = { { SPAN(":kind"), SPAN("exchange") } };

	raw_fields(r, TP_OPEN, end ? TP_FLAG_END : 0, id, fields, ARRAY_LEN(fields));
}

void raw_greet_with(struct raw *r, const char *name, const char *value)
{
	bool welcome = r->role == TP_GATEWAY;
	struct tp_field fields[] = {
		{ SPAN(":version"), SPAN("1") },
		{ SPAN(":session"), welcome ? span_of(session_hex) : SPAN("") },
		{ SPAN(":received"), SPAN("0") },
		{ SPAN(":max-payload"), SPAN("16384") },
		{ SPAN(":window"), SPAN("262144") },
		{ welcome ? SPAN(":resumed") : SPAN(":max-streams"), welcome ? SPAN("0") : SPAN("100") },
		{ welcome ? SPAN(":grace-ms") : SPAN(":replaces"), welcome ? SPAN("7000") : SPAN("") },
	};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		struct tp_field f = fields[i];

		if (name && span_is(f.name, name)) {
			if (!value)
				continue;
			f.value = span_of(value);
		}
		fields[n++] = f;
	}
	raw_fields(r, welcome ? TP_WELCOME : TP_HELLO, 0, 0, fields, n);
}

void raw_greet(struct raw *r)
{
	raw_greet_with(r, NULL, NULL);
	if (r->role == TP_RELAY)
		raw_frame(r, TP_ACK, 0, 0, "\0\0\0\0\0\0\0", 8);
	must(tp_conn_is_attached(r->c));
}

struct tp_stream *raw_local_open(struct raw *r, bool end)
{
	const struct tp_field fields[] = { { SPAN(":kind"), SPAN("exchange") } };
	struct tp_stream *s;

	must(tp_stream_open(r->c, fields, ARRAY_LEN(fields), end, NULL, &s) == 0);
	raw_bytes(r, NULL, 0);
	return s;
}

bool raw_sent(struct raw *r, uint8_t type, struct tp_frame *ret)
{
	static uint8_t copy[1 << 20], message[1 << 17];
	uint8_t *p = copy, *end;
	size_t have = 0;
	struct ws_decoder d;
	struct ws_item item;
	struct tp_frame f;
	bool found = false;

	must(buf_len(&r->out) <= sizeof(copy));
	end = copy + buf_len(&r->out);
	if (buf_len(&r->out))
		memcpy(copy, buf_bytes(&r->out), buf_len(&r->out));
	ws_decoder_init(&d, r->role == TP_GATEWAY ? WS_SERVER : WS_CLIENT, sizeof(message));
	for (;;) {
		ws_decode(&d, &p, end, &item);
		if (item.type == WS_ITEM_MORE || item.type == WS_ITEM_BAD)
			return found;
		if (item.type != WS_ITEM_DATA)
			continue;
		/* Never sent fragmented, but an item may be a piece of what lies in the buffer. */
		memcpy(message + have, item.data, item.len);
		have += item.len;
		if (!item.end)
			continue;
		must(frame_decode(item.len == have ? item.data : message, have, TP_PAYLOAD_CEILING, &f) == NULL);
		if (f.type == type) {
			*ret = f;
			found = true;
		}
		have = 0;
	}
}
