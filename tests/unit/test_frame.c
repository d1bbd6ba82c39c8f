#include "proto/frame.h"

#include "tests/lib/unit.h"

#include <string.h>

enum scope { SESSION, STREAM };
#define MAX_DATA SIZE_MAX
#define MAX_FIELDS TP_FIELDS_BYTES_MAX
#define MAX_DETAIL TP_DETAIL_MAX
#define MAX_NOTE TP_NOTE_MAX

enum { LIMIT = 2000 };

static const struct row {
	const char *name;
	uint8_t type;
	enum scope scope;
	bool counted;
	uint8_t flags;
	size_t min, max;
} rows[] = {
#define FRAME(id, type, scope, counted, flags, min, max) { #id, type, scope, counted, flags, min, max },
#include "proto/frames.def"
#undef FRAME
};

static uint8_t msg[TP_FRAME_HEADER + TP_PAYLOAD_CEILING];
static struct tp_frame f;

static const char *decode(const struct row *row, uint8_t flags, uint32_t id, size_t len)
{
	frame_put_header(msg, row->type, flags, id);
	return frame_decode(msg, TP_FRAME_HEADER + len, LIMIT, &f);
}

static uint32_t good_id(const struct row *row)
{
	return row->scope == STREAM ? 0x01020304 : 0;
}

START_TEST(header_bytes)
{
	static const uint8_t want[] = { 0x12, 0x01, 0, 0, 0x01, 0x02, 0x03, 0x04 };

	frame_put_header(msg, TP_DATA, TP_FLAG_END, 0x01020304);
	ck_assert_mem_eq(msg, want, sizeof(want));
	ck_assert_ptr_null(frame_decode(msg, TP_FRAME_HEADER + 5, LIMIT, &f));
	ck_assert_uint_eq(f.type, TP_DATA);
	ck_assert_uint_eq(f.flags, TP_FLAG_END);
	ck_assert_uint_eq(f.stream_id, 0x01020304);
	ck_assert_ptr_eq(f.payload, msg + 8);
	ck_assert_uint_eq(f.len, 5);
}
END_TEST

START_TEST(types)
{
	for (unsigned type = 0; type < 256; type++) {
		const struct row *row = NULL;

		for (size_t i = 0; i < ARRAY_LEN(rows); i++)
			if (rows[i].type == type)
				row = &rows[i];
		if (row) {
			ck_assert_str_eq(frame_name((uint8_t)type), row->name);
			ck_assert_int_eq(frame_is_counted((uint8_t)type), row->counted);
			continue;
		}
		ck_assert_ptr_null(frame_name((uint8_t)type));
		ck_assert(!frame_is_counted((uint8_t)type));
		frame_put_header(msg, (uint8_t)type, 0, 0);
		ck_assert_str_eq(frame_decode(msg, TP_FRAME_HEADER, LIMIT, &f), "unknown frame type");
	}
}
END_TEST

START_TEST(too_short_for_a_header)
{
	frame_put_header(msg, TP_PING, 0, 0);
	for (size_t len = 0; len < TP_FRAME_HEADER; len++)
		ck_assert_str_eq(frame_decode(msg, len, LIMIT, &f), "frame shorter than its header");
}
END_TEST

START_TEST(flags)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (unsigned flag = 0; flag < 256; flag++) {
			const char *bad = decode(&rows[i], (uint8_t)flag, good_id(&rows[i]), rows[i].min);

			if (flag & ~(unsigned)rows[i].flags)
				ck_assert_str_eq(bad, "flag not allowed on this frame");
			else
				ck_assert_ptr_null(bad);
		}
}
END_TEST

START_TEST(reserved_bytes)
{
	for (size_t at = 2; at < 4; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			frame_put_header(msg, TP_DATA, 0, 1);
			msg[at] = (uint8_t)(1 << bit);
			ck_assert_str_eq(frame_decode(msg, TP_FRAME_HEADER, LIMIT, &f),
					 "reserved bytes of a frame are not zero");
		}
}
END_TEST

START_TEST(stream_ids)
{
	static const uint32_t ids[] = { 0, 1, 2, TP_STREAM_ID_MAX, (uint32_t)TP_STREAM_ID_MAX + 1, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (size_t k = 0; k < ARRAY_LEN(ids); k++) {
			const char *bad = decode(&rows[i], 0, ids[k], rows[i].min);

			if (rows[i].scope == SESSION && ids[k] != 0)
				ck_assert_str_eq(bad, "session frame with a stream id");
			else if (rows[i].scope == STREAM && (ids[k] == 0 || ids[k] > TP_STREAM_ID_MAX))
				ck_assert_str_eq(bad, "stream frame without a valid stream id");
			else
				ck_assert_ptr_null(bad);
		}
}
END_TEST

START_TEST(payload_sizes)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		size_t max = rows[i].max == MAX_DATA ? LIMIT : rows[i].max;

		for (size_t len = 0; len < rows[i].min; len++)
			ck_assert_str_eq(decode(&rows[i], 0, good_id(&rows[i]), len), "frame payload too short");
		ck_assert_ptr_null(decode(&rows[i], 0, good_id(&rows[i]), rows[i].min));
		ck_assert_ptr_null(decode(&rows[i], 0, good_id(&rows[i]), max));
		ck_assert_str_eq(decode(&rows[i], 0, good_id(&rows[i]), max + 1), "frame payload too long");
	}
}
END_TEST

/* ret_ is written only on success. */
START_TEST(failure_leaves_the_result_alone)
{
	const struct tp_frame before = { 1, 2, 3, msg, 4 };

	f = before;
	ck_assert_ptr_nonnull(frame_decode(msg, 3, LIMIT, &f));
	ck_assert_ptr_nonnull(decode(&rows[0], 0xff, 0, 0));
	ck_assert(f.type == 1 && f.flags == 2 && f.stream_id == 3 && f.payload == msg && f.len == 4);
}
END_TEST

UNIT_MAIN("frame", ADD(header_bytes) ADD(types) ADD(too_short_for_a_header) ADD(flags) ADD(reserved_bytes)
	  ADD(stream_ids) ADD(payload_sizes) ADD(failure_leaves_the_result_alone))
