#include "proto/sse.h"

#include "base/buf.h"
#include "base/check.h"
#include "tests/lib/unit.h"

/* Events as text: the data of each in quotes, `!` behind one of another type than message; all bytes that came out in `bytes`. */
struct heard {
	struct buf text, data, bytes;
};

static void hear(struct heard *h, struct sse *s, const char *p, size_t len)
{
	char *copy = malloc(len ? len : 1);
	struct sse_item item;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, p, len);
	sse_feed(s, copy, len);
	while (sse_next(s, &item)) {
		ck_assert(item.len > 0 || item.what == SSE_LINE || item.what == SSE_EVENT);
		if (item.what == SSE_LINE && !item.first)
			buf_add_str(&h->data, "\n");
		if (item.what == SSE_DATA)
			buf_add(&h->data, item.p, item.len);
		if (item.what == SSE_DATA || item.what == SSE_FRAME)
			buf_add(&h->bytes, item.p, item.len);
		if (item.what == SSE_EVENT) {
			buf_printf(&h->text, "'%.*s'%s", SPAN_FMT(buf_span(&h->data)), item.message ? "" : "!");
			buf_clear(&h->data);
		}
	}
	free(copy);
}

static void check_cut(const char *stream, const char *want, bool open, size_t cut, size_t step)
{
	struct sse s = { 0 };
	struct heard h;

	buf_init(&h.text, 4096);
	buf_init(&h.data, 4096);
	buf_init(&h.bytes, 4096);
	hear(&h, &s, stream, cut);
	for (size_t at = cut; at < strlen(stream); at += step)
		hear(&h, &s, stream + at, MIN(step, strlen(stream) - at));
	ck_assert_msg(span_is(buf_span(&h.text), want), "cut at %zu: %.*s, not %s", cut, SPAN_FMT(buf_span(&h.text)), want);
	ck_assert_msg(span_is(buf_span(&h.bytes), stream), "cut at %zu: %.*s", cut, SPAN_FMT(buf_span(&h.bytes)));
	ck_assert(sse_is_open(&s) == open);
	buf_done(&h.text);
	buf_done(&h.data);
	buf_done(&h.bytes);
}

START_TEST(every_cut)
{
	static const struct {
		const char *stream, *want;
		bool open;
	} rows[] = {
		{ "", "" },
		{ "data: a\n\n", "'a'" },
		{ "data:a\r\n\r\n", "'a'" },
		{ "data:  a\r\r", "' a'" },
		{ "data: a\r\n\ndata: b\n\r\ndata: c\n\r", "'a''b''c'" },
		{ "data: a\ndata:b\ndata\ndata:\n\n", "'a\nb\n\n'" },
		{ "data\n\n", "''" },
		{ "data\r\rdata: \r\r", "''''" },
		{ "data: a", "", true },
		{ "data: a\n", "", true },
		{ "data", "" },
		{ "data\n", "", true },
		{ ":data: a\n\nid: 1\n\nDATA: a\n\n data: a\n\ndata : a\n\n", "" },
		{ "event: x\ndata: a\n\ndata: b\n\n", "'a'!'b'" },
		{ "event: x\n\ndata: b\n\n", "'b'" },
		{ "data: a\nevent: message\n\nevent\ndata: b\n\nevent: messages\ndata: c\n\n", "'a''b''c'!" },
		{ "datadata: a\neven: x\nevents: x\ndata: a:b\n\n", "'a:b'" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t cut = 0; cut <= strlen(rows[i].stream); cut++)
			check_cut(rows[i].stream, rows[i].want, rows[i].open, cut, SIZE_MAX / 2);
		for (size_t step = 1; step <= 3; step++)
			check_cut(rows[i].stream, rows[i].want, rows[i].open, 0, step);
	}
}
END_TEST

UNIT_MAIN("sse", ADD(every_cut))
