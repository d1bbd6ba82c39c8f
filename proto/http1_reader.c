#include "proto/http1_head.h"

#include <errno.h>

enum state {
	S_START, /* before the first byte of a message */
	S_START_LF,
	S_HEAD,
	S_INTERIM, /* after a 1xx: another head follows */
	S_LENGTH,
	S_UNTIL_CLOSE,
	S_CHUNK_SIZE,
	S_CHUNK_EXTENSION,
	S_CHUNK_LINE_LF,
	S_CHUNK_DATA,
	S_CHUNK_CR,
	S_CHUNK_LF,
	S_TRAILER_LINE,
	S_TRAILER_NAME,
	S_TRAILER_VALUE,
	S_TRAILER_LF,
	S_TRAILER_LAST_LF,
	S_END,
	S_BAD,
};

void http1_reader_init(struct http1_reader *r, enum http1_kind kind)
{
	*r = (struct http1_reader){ .kind = kind, .state = S_START };
	buf_init(&r->head_bytes, HTTP1_HEAD_BYTES_MAX);
}

static void head_free(struct http1_reader *r)
{
	buf_clear(&r->head_bytes);
	free(r->fields);
	r->fields = NULL;
	r->head.fields = NULL;
	r->head.n_fields = 0;
	r->head.method = r->head.target = r->head.reason_phrase = (struct span){ NULL, 0 };
}

void http1_reader_done(struct http1_reader *r)
{
	head_free(r);
	buf_done(&r->head_bytes);
}

void http1_reader_next(struct http1_reader *r)
{
	assert(r->state == S_END || r->state == S_START);
	http1_reader_done(r);
	http1_reader_init(r, r->kind);
}

void http1_head_release(struct http1_reader *r)
{
	if (r->state != S_HEAD)
		head_free(r);
}

bool http1_refuse(struct http1_reader *r, unsigned status, const char *error)
{
	r->state = S_BAD;
	r->error = error;
	r->error_status = r->kind == HTTP1_REQUEST ? status : 502;
	return false;
}

/* RFC 9112 2.2: one empty line before a request is forgiven. */
static size_t start(struct http1_reader *r, uint8_t c)
{
	if (r->state == S_START_LF) {
		if (c != '\n') {
			http1_refuse(r, 400, "bare CR before the request line");
			return 0;
		}
		r->state = S_HEAD;
		return 1;
	}
	if (r->kind == HTTP1_REQUEST && c == '\r') {
		r->state = S_START_LF;
		return 1;
	}
	r->state = S_HEAD;
	return 0;
}

/* The line that ends with the LF at p[i]: checks what can be known without its text. */
static bool line_ok(struct http1_reader *r, const uint8_t *p, size_t i, size_t line_len)
{
	struct span had = buf_span(&r->head_bytes);
	uint8_t before = i > 0 ? p[i - 1] : had.len ? (uint8_t)had.p[had.len - 1] : 0;

	if (r->n_lines == 0 && line_len > HTTP1_START_LINE_MAX + 1)
		return http1_refuse(r, 414, "start line too long");
	if (before != '\r')
		return http1_refuse(r, 400, "bare LF in the head");
	if (r->n_lines == 0 && line_len == 1)
		return http1_refuse(r, 400, "empty line instead of a start line");
	if (r->n_lines > HTTP1_FIELDS_MAX && line_len > 1)
		return http1_refuse(r, 431, "too many fields");
	return true;
}

/* Looks for the end of the head in p; *ret_end is one past it, 0 while it has not come. False when refused. */
static bool head_scan(struct http1_reader *r, const uint8_t *p, size_t len, size_t *ret_end)
{
	size_t room = HTTP1_HEAD_BYTES_MAX - buf_len(&r->head_bytes);
	size_t n = MIN(len, room);
	size_t at = 0;

	for (const uint8_t *lf; at < n && (lf = memchr(p + at, '\n', n - at));) {
		size_t i = (size_t)(lf - p);
		size_t line_len = r->line_used + i - at;

		if (!line_ok(r, p, i, line_len))
			return false;
		at = i + 1;
		r->line_used = 0;
		if (line_len == 1) {
			*ret_end = at;
			return true;
		}
		r->n_lines++;
	}
	r->line_used += n - at;
	if (r->n_lines == 0 && r->line_used > HTTP1_START_LINE_MAX + 1)
		return http1_refuse(r, 414, "start line too long");
	if (n == room)
		return http1_refuse(r, 431, "head too long");
	*ret_end = 0;
	return true;
}

static int head_store(struct http1_reader *r, const uint8_t *p, size_t len, size_t n_fields)
{
	struct http1_field *fields = NULL;
	int e;

	if (n_fields) {
		fields = malloc(n_fields * sizeof(*fields));
		if (!fields)
			return -ENOMEM;
	}
	e = buf_add(&r->head_bytes, p, len);
	if (e < 0) {
		free(fields);
		return e;
	}
	r->fields = fields;
	return 0;
}

static void body_begin(struct http1_reader *r)
{
	const struct http1_head *h = &r->head;

	r->line_used = r->n_lines = 0;
	if (r->kind == HTTP1_RESPONSE && h->status < 200 && h->status != 101) {
		r->state = S_INTERIM;
		return;
	}
	switch (h->body) {
	case HTTP1_BODY_NONE:
		r->state = S_END;
		break;
	case HTTP1_BODY_LENGTH:
		r->body_left = h->content_length;
		r->state = r->body_left ? S_LENGTH : S_END;
		break;
	case HTTP1_BODY_CHUNKED:
		r->body_left = 0;
		r->state = S_CHUNK_SIZE;
		break;
	case HTTP1_BODY_UNTIL_CLOSE:
		r->state = S_UNTIL_CLOSE;
		break;
	}
}

/* What does not begin like a response never becomes one; its end may never come. */
static bool begins_like_response(const struct http1_reader *r, const uint8_t *p, size_t len)
{
	static const char version[] = "HTTP/";
	struct span had = buf_span(&r->head_bytes);
	size_t at = MIN(sizeof(version) - 1, had.len), left = sizeof(version) - 1 - at;

	/* An empty line has an error of its own. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a span with a length has bytes. */
	return (had.len ? (uint8_t)had.p[0] : p[0]) == '\r' || memcmp(p, version + at, MIN(len, left)) == 0;
}

/* After -ENOMEM the reader is as before, so that the caller may try again. */
static int read_head(struct http1_reader *r, const uint8_t *p, size_t len, size_t *used, struct http1_event *ev)
{
	size_t line_used = r->line_used, n_lines = r->n_lines, end = 0;
	int e;

	if (r->kind == HTTP1_RESPONSE && !begins_like_response(r, p, len))
		http1_refuse(r, 502, "bad HTTP version");
	else
		(void)head_scan(r, p, len, &end);
	if (r->state == S_BAD) {
		head_free(r);
		return 0;
	}
	e = head_store(r, p, end ? end : len, end ? r->n_lines - 1 : 0);
	if (e < 0) {
		r->line_used = line_used;
		r->n_lines = n_lines;
		return e;
	}
	*used += end ? end : len;
	if (!end)
		return 0;
	if (!http1_head_parse(r, r->n_lines - 1)) {
		head_free(r);
		return 0;
	}
	body_begin(r);
	ev->type = HTTP1_HEAD;
	return 0;
}

static size_t body_data(struct http1_reader *r, const uint8_t *p, size_t len, struct http1_event *ev)
{
	if (r->state != S_UNTIL_CLOSE) {
		len = (size_t)MIN((uint64_t)len, r->body_left);
		r->body_left -= len;
		if (r->body_left == 0)
			r->state = r->state == S_LENGTH ? S_END : S_CHUNK_CR;
	}
	ev->type = HTTP1_DATA;
	ev->data = span_make(p, len);
	return len;
}

static int hex_value(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool chunk_size_byte(struct http1_reader *r, uint8_t c)
{
	int digit = hex_value(c);

	if (digit >= 0) {
		if (r->body_left >> 60)
			return http1_refuse(r, 400, "chunk size too large");
		r->body_left = r->body_left << 4 | (unsigned)digit;
		return true;
	}
	if (r->line_used == 1 || (c != '\r' && c != ';'))
		return http1_refuse(r, 400, "bad chunk size");
	r->state = c == '\r' ? S_CHUNK_LINE_LF : S_CHUNK_EXTENSION;
	return true;
}

static bool chunk_line_byte(struct http1_reader *r, uint8_t c)
{
	if (++r->line_used > HTTP1_CHUNK_LINE_MAX)
		return http1_refuse(r, 400, "chunk-size line too long");
	if (r->state == S_CHUNK_SIZE)
		return chunk_size_byte(r, c);
	if (r->state == S_CHUNK_EXTENSION) {
		if (c == '\r')
			r->state = S_CHUNK_LINE_LF;
		else if (!http1_char_is((char)c, HTTP1_CHAR_VALUE))
			return http1_refuse(r, 400, "bad byte in a chunk extension");
		return true;
	}
	if (c != '\n')
		return http1_refuse(r, 400, "bare CR in a chunk-size line");
	r->line_used = 0;
	r->state = r->body_left ? S_CHUNK_DATA : S_TRAILER_LINE;
	return true;
}

static bool chunk_end_byte(struct http1_reader *r, uint8_t c)
{
	if (c != (r->state == S_CHUNK_CR ? '\r' : '\n'))
		return http1_refuse(r, 400, "chunk longer than its size");
	r->state = r->state == S_CHUNK_CR ? S_CHUNK_LF : S_CHUNK_SIZE;
	return true;
}

static bool trailer_text_byte(struct http1_reader *r, uint8_t c)
{
	if (r->state == S_TRAILER_VALUE) {
		if (c == '\r')
			r->state = S_TRAILER_LF;
		else if (!http1_char_is((char)c, HTTP1_CHAR_VALUE))
			return http1_refuse(r, 400, "bad byte in a trailer value");
		return true;
	}
	if (c == ':' && r->state == S_TRAILER_NAME)
		r->state = S_TRAILER_VALUE;
	else if (c == '\r' && r->state == S_TRAILER_LINE)
		r->state = S_TRAILER_LAST_LF;
	else if (http1_char_is((char)c, HTTP1_CHAR_TOKEN))
		r->state = S_TRAILER_NAME;
	else
		return http1_refuse(r, 400, "bad trailer field");
	return true;
}

static bool trailer_byte(struct http1_reader *r, uint8_t c)
{
	if (++r->trailer_used > HTTP1_TRAILER_BYTES_MAX)
		return http1_refuse(r, 431, "trailer too long");
	if (r->state < S_TRAILER_LF)
		return trailer_text_byte(r, c);
	if (c != '\n')
		return http1_refuse(r, 400, "bare CR in a trailer");
	if (r->state == S_TRAILER_LAST_LF) {
		r->state = S_END;
		return true;
	}
	if (++r->n_lines > HTTP1_FIELDS_MAX)
		return http1_refuse(r, 431, "too many trailer fields");
	r->state = S_TRAILER_LINE;
	return true;
}

/* The bytes between the data of chunks: few, so one at a time. */
static size_t chunk_framing(struct http1_reader *r, const uint8_t *p, size_t len)
{
	size_t i = 0;
	bool ok = true;

	while (ok && i < len && r->state != S_CHUNK_DATA && r->state != S_END) {
		if (r->state < S_CHUNK_DATA)
			ok = chunk_line_byte(r, p[i++]);
		else if (r->state < S_TRAILER_LINE)
			ok = chunk_end_byte(r, p[i++]);
		else
			ok = trailer_byte(r, p[i++]);
	}
	return i;
}

/* One state's worth of work on at least one byte. */
static int step(struct http1_reader *r, const uint8_t *p, size_t len, size_t *used, struct http1_event *ev)
{
	switch ((enum state)r->state) {
	case S_START:
	case S_START_LF:
		*used += start(r, p[0]);
		break;
	case S_INTERIM:
		head_free(r);
		r->state = S_HEAD;
		return read_head(r, p, len, used, ev);
	case S_HEAD:
		r->any_byte = true;
		return read_head(r, p, len, used, ev);
	case S_LENGTH:
	case S_UNTIL_CLOSE:
	case S_CHUNK_DATA:
		*used += body_data(r, p, len, ev);
		break;
	default:
		*used += chunk_framing(r, p, len);
	}
	return 0;
}

static void event_bad(const struct http1_reader *r, struct http1_event *ev)
{
	*ev = (struct http1_event){ .type = HTTP1_BAD, .status = r->error_status, .error = r->error };
}

int http1_read(struct http1_reader *r, const uint8_t *p, size_t len, size_t *ret_used, struct http1_event *ret_ev)
{
	struct http1_event ev = { .type = HTTP1_MORE };
	unsigned state = r->state;
	size_t used = 0;
	int e;

	while (used < len && ev.type == HTTP1_MORE && r->state != S_END && r->state != S_BAD) {
		e = step(r, p + used, len - used, &used, &ev);
		if (e < 0) {
			r->state = state;
			return e;
		}
	}
	if (r->state == S_BAD)
		event_bad(r, &ev);
	else if (r->state == S_END && ev.type == HTTP1_MORE)
		ev.type = HTTP1_END;
	*ret_used = used;
	*ret_ev = ev;
	return 0;
}

void http1_read_eof(struct http1_reader *r, struct http1_event *ret_ev)
{
	*ret_ev = (struct http1_event){ .type = HTTP1_MORE };
	if (r->state == S_UNTIL_CLOSE)
		r->state = S_END;
	if (!r->any_byte && r->state != S_BAD)
		return;
	if (r->state == S_END) {
		ret_ev->type = HTTP1_END;
		return;
	}
	if (r->state != S_BAD)
		http1_refuse(r, 400, "closed in the middle of a message");
	event_bad(r, ret_ev);
}
