/* Feeds bytes to an HTTP/1.1 reader in pieces and writes what it says into a line of text, so that two ways of
 * cutting the same bytes can be compared. Every piece lives in memory of its own that is gone after the call: a span
 * that points into it, or a read beyond it, is seen by the sanitizers.
 *
 *	GET /mcp 1.1 length=5 keep{Host=a} "hello" END
 */
#pragma once

#include "proto/http1.h"

struct http1_trace {
	struct http1_reader reader;
	struct buf text;
	bool in_data;
	bool response_to_head;
	bool stopped; /* BAD came */
	bool release; /* free each head as soon as it is noted */
};

static inline void http1_trace_must(int e)
{
	if (e < 0)
		abort();
}

static inline void http1_trace_init(struct http1_trace *t, enum http1_kind kind, bool response_to_head)
{
	*t = (struct http1_trace){ .response_to_head = response_to_head };
	http1_reader_init(&t->reader, kind);
	t->reader.response_to_head = response_to_head;
	buf_init(&t->text, (size_t)1 << 24);
}

static inline void http1_trace_done(struct http1_trace *t)
{
	http1_reader_done(&t->reader);
	buf_done(&t->text);
}

static inline void http1_trace_word(struct http1_trace *t, const char *word)
{
	if (t->in_data)
		http1_trace_must(buf_add_str(&t->text, "\""));
	t->in_data = false;
	if (buf_len(&t->text))
		http1_trace_must(buf_add_str(&t->text, " "));
	http1_trace_must(buf_add_str(&t->text, word));
}

static inline void http1_trace_fields(struct http1_trace *t, const struct http1_head *h)
{
	http1_trace_must(buf_add_str(&t->text, "{"));
	for (size_t i = 0; i < h->n_fields; i++) {
		http1_trace_must(buf_add_str(&t->text, i ? ";" : ""));
		http1_trace_must(buf_add_span(&t->text, h->fields[i].name));
		http1_trace_must(buf_add_str(&t->text, "="));
		http1_trace_must(buf_add_span(&t->text, h->fields[i].value));
		if (!http1_token_ok(h->fields[i].name) || !http1_value_ok(h->fields[i].value))
			abort();
	}
	http1_trace_must(buf_add_str(&t->text, "}"));
}

static inline void http1_trace_head(struct http1_trace *t)
{
	static const char *const bodies[] = { "none", "length", "chunked", "close" };
	const struct http1_head *h = &t->reader.head;

	http1_trace_word(t, "");
	if (t->reader.kind == HTTP1_REQUEST) {
		http1_trace_must(buf_add_span(&t->text, h->method));
		http1_trace_must(buf_add_str(&t->text, " "));
		http1_trace_must(buf_add_span(&t->text, h->target));
	} else {
		http1_trace_must(buf_printf(&t->text, "%u (%.*s)", h->status, SPAN_FMT(h->reason_phrase)));
	}
	http1_trace_must(buf_printf(&t->text, " 1.%u %s", h->minor, bodies[h->body]));
	if (h->body == HTTP1_BODY_LENGTH || h->content_length)
		http1_trace_must(buf_printf(&t->text, "=%llu", (unsigned long long)h->content_length));
	http1_trace_must(buf_printf(&t->text, "%s%s%s", h->keep_alive ? " keep" : "",
				    h->expect_continue ? " expect" : "", h->upgrade ? " upgrade" : ""));
	http1_trace_fields(t, h);
}

static inline void http1_trace_event(struct http1_trace *t, const struct http1_event *ev)
{
	switch (ev->type) {
	case HTTP1_MORE:
		break;
	case HTTP1_HEAD:
		http1_trace_head(t);
		if (t->release)
			http1_head_release(&t->reader);
		break;
	case HTTP1_DATA:
		if (!t->in_data)
			http1_trace_word(t, "\"");
		t->in_data = true;
		http1_trace_must(buf_add_span(&t->text, ev->data));
		break;
	case HTTP1_END:
		http1_trace_word(t, "END");
		http1_reader_next(&t->reader);
		t->reader.response_to_head = t->response_to_head;
		break;
	case HTTP1_BAD:
		http1_trace_word(t, "");
		http1_trace_must(buf_printf(&t->text, "BAD %u %s", ev->status, ev->error));
		t->stopped = true;
		break;
	}
}

static inline void http1_trace_piece(struct http1_trace *t, const uint8_t *bytes, size_t len)
{
	uint8_t *piece = malloc(len ? len : 1);
	struct http1_event ev = { .type = HTTP1_MORE };
	size_t at = 0, used;

	if (!piece)
		abort();
	if (len)
		memcpy(piece, bytes, len);
	while (!t->stopped) {
		http1_trace_must(http1_read(&t->reader, piece + at, len - at, &used, &ev));
		if (used > len - at || (ev.type == HTTP1_DATA && ev.data.len == 0))
			abort();
		at += used;
		http1_trace_event(t, &ev);
		if (ev.type == HTTP1_MORE)
			break;
	}
	if (!t->stopped && at != len)
		abort();
	free(piece);
}

static inline void http1_trace_eof(struct http1_trace *t)
{
	struct http1_event ev;

	if (t->stopped)
		return;
	http1_read_eof(&t->reader, &ev);
	if (ev.type == HTTP1_HEAD || ev.type == HTTP1_DATA)
		abort();
	http1_trace_event(t, &ev);
}

/* `first` bytes, then pieces of `step` bytes (0: all the rest). The text is t->text. */
static inline void http1_trace_run(struct http1_trace *t, struct span input, size_t first, size_t step)
{
	const uint8_t *p = (const uint8_t *)input.p;
	size_t n;

	first = MIN(first, input.len);
	http1_trace_piece(t, p, first);
	for (size_t at = first; at < input.len && !t->stopped; at += n) {
		n = step ? MIN(step, input.len - at) : input.len - at;
		http1_trace_piece(t, p + at, n);
	}
	http1_trace_eof(t);
}
