/* However the bytes are cut, the reader says the same; and a head that it took is taken again, with the same
 * meaning, after the writer has written it. First byte: bit 0 response, bit 1 to a HEAD request, the
 * rest the size of a piece. */
#include "tests/lib/http1_trace.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const struct buf *a, const struct buf *b)
{
	if (span_eq(buf_span(a), buf_span(b)))
		return;
	fprintf(stderr, "%.*s\nand: %.*s\n", SPAN_FMT(buf_span(a)), SPAN_FMT(buf_span(b)));
	abort();
}

static bool read_one_head(struct http1_trace *t, struct span input)
{
	struct http1_event ev;
	size_t used;

	http1_trace_must(http1_read(&t->reader, (const uint8_t *)input.p, input.len, &used, &ev));
	if (ev.type == HTTP1_HEAD)
		http1_trace_head(t);
	return ev.type == HTTP1_HEAD;
}

static void write_head(struct buf *out, enum http1_kind kind, const struct http1_head *h)
{
	if (kind == HTTP1_REQUEST)
		http1_trace_must(http1_write_request(out, h->method, h->target));
	else
		http1_trace_must(http1_write_status(out, h->status, h->reason_phrase));
	for (size_t i = 0; i < h->n_fields; i++)
		http1_trace_must(http1_write_field(out, h->fields[i].name, h->fields[i].value));
	http1_trace_must(http1_write_end(out));
}

static void check_written_again(enum http1_kind kind, struct span input)
{
	struct http1_trace first, again;
	struct buf out;

	http1_trace_init(&first, kind, false);
	http1_trace_init(&again, kind, false);
	buf_init(&out, (size_t)2 * HTTP1_HEAD_BYTES_MAX);
	/* What is written says HTTP/1.1, and white space may be longer than it was. */
	if (read_one_head(&first, input) && first.reader.head.minor == 1) {
		for (size_t i = 0; i < first.reader.head.n_fields; i++)
			(void)http1_is_hop_by_hop(&first.reader.head, first.reader.head.fields[i].name);
		write_head(&out, kind, &first.reader.head);
		if (buf_len(&out) <= HTTP1_HEAD_BYTES_MAX) {
			if (!read_one_head(&again, buf_span(&out)))
				abort();
			same(&first.text, &again.text);
		}
	}
	http1_trace_done(&first);
	http1_trace_done(&again);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http1_trace whole, pieces;
	enum http1_kind kind;
	struct span input;

	if (size == 0)
		return 0;
	kind = data[0] & 1 ? HTTP1_RESPONSE : HTTP1_REQUEST;
	input = span_make(data + 1, size - 1);
	http1_trace_init(&whole, kind, data[0] & 2);
	http1_trace_init(&pieces, kind, data[0] & 2);
	pieces.release = true;
	http1_trace_run(&whole, input, input.len, 0);
	http1_trace_run(&pieces, input, 0, (data[0] >> 2) + 1);
	same(&whole.text, &pieces.text);
	http1_trace_done(&whole);
	http1_trace_done(&pieces);
	check_written_again(kind, input);
	return 0;
}
