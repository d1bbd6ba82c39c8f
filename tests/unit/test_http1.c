#include "tests/lib/http1_trace.h"
#include "tests/lib/unit.h"
#include "tests/unit/http1_rows.h"

#include <errno.h>

/* Each row is read in one piece, cut in two at every byte, and byte by byte. */

static void expect_text(struct span input, bool response, bool to_head, size_t first, size_t step, struct span want)
{
	struct http1_trace t;

	http1_trace_init(&t, response ? HTTP1_RESPONSE : HTTP1_REQUEST, to_head);
	t.release = first & 1;
	http1_trace_run(&t, input, first, step);
	ck_assert_msg(span_eq(buf_span(&t.text), want),
		      "\ninput: %.*s\ncut at %zu, then by %zu\nwant: %.*s\ngot:  %.*s",
		      SPAN_FMT(input), first, step, SPAN_FMT(want), SPAN_FMT(buf_span(&t.text)));
	http1_trace_done(&t);
}

static void expect_row(const struct row *row)
{
	struct span want = span_of(row->want);

	for (size_t cut = 0; cut <= row->input.len; cut++)
		expect_text(row->input, row->response, row->to_head, cut, 0, want);
	expect_text(row->input, row->response, row->to_head, 0, 1, want);
	expect_text(row->input, row->response, row->to_head, 1, 3, want);
}

START_TEST(good_messages)
{
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		expect_row(&good[i]);
}
END_TEST

START_TEST(bad_messages)
{
	ck_assert_uint_ge(ARRAY_LEN(bad), 60);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		expect_row(&bad[i]);
}
END_TEST

/* Limits: exactly at the limit is taken, one more is refused, however the bytes are cut. */

static void add_many(struct buf *b, const char *s, size_t times)
{
	for (size_t i = 0; i < times; i++)
		ck_assert_int_eq(buf_add_str(b, s), 0);
}

/* The last event is `want`: compared by its end, since the trace of a long head is long. */
static void expect_last(struct buf *b, const char *want)
{
	static const size_t steps[] = { 0, 1, 7, 1000, 8191, 8192 };

	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		struct http1_trace t;
		struct span text;

		http1_trace_init(&t, HTTP1_REQUEST, false);
		http1_trace_run(&t, buf_span(b), 0, steps[i]);
		text = buf_span(&t.text);
		ck_assert_uint_ge(text.len, strlen(want));
		text = span_make(text.p + text.len - strlen(want), strlen(want));
		ck_assert_msg(span_is(text, want), "step %zu: want %s, got %.*s", steps[i], want, SPAN_FMT(text));
		http1_trace_done(&t);
	}
	buf_done(b);
}

static struct buf request_line_of(size_t len)
{
	struct buf b;

	buf_init(&b, 100000);
	add_many(&b, "GET /", 1);
	add_many(&b, "x", len - strlen("GET / HTTP/1.1"));
	add_many(&b, " HTTP/1.1\r\n" H "\r\n", 1);
	return b;
}

START_TEST(long_request_lines)
{
	struct buf b = request_line_of(HTTP1_START_LINE_MAX);

	expect_last(&b, "{Host=a} END");
	b = request_line_of(HTTP1_START_LINE_MAX + 1);
	expect_last(&b, "BAD 414 start line too long");
	buf_init(&b, 100000);
	add_many(&b, "x", 50000);
	expect_last(&b, "BAD 414 start line too long");
	buf_init(&b, 100000);
	add_many(&b, "x", 20000);
	add_many(&b, "\n", 1);
	expect_last(&b, "BAD 414 start line too long");
}
END_TEST

static struct buf head_of(size_t len)
{
	struct buf b;

	buf_init(&b, 100000);
	add_many(&b, GET "A: ", 1);
	add_many(&b, "x", len - strlen(GET "A: \r\n\r\n"));
	add_many(&b, "\r\n\r\n", 1);
	ck_assert_uint_eq(buf_len(&b), len);
	return b;
}

START_TEST(long_heads)
{
	struct buf b = head_of(HTTP1_HEAD_BYTES_MAX);

	expect_last(&b, "x} END");
	b = head_of(HTTP1_HEAD_BYTES_MAX + 1);
	expect_last(&b, "BAD 431 head too long");
	buf_init(&b, 100000);
	add_many(&b, GET, 1);
	add_many(&b, "x", 50000);
	expect_last(&b, "BAD 431 head too long");
}
END_TEST

START_TEST(many_fields)
{
	struct buf b;

	buf_init(&b, 100000);
	add_many(&b, GET, 1);
	add_many(&b, "a:\r\n", HTTP1_FIELDS_MAX - 1);
	add_many(&b, "\r\n", 1);
	expect_last(&b, "a=;a=} END");
	buf_init(&b, 100000);
	add_many(&b, GET, 1);
	add_many(&b, "a:\r\n", HTTP1_FIELDS_MAX);
	add_many(&b, "\r\n", 1);
	expect_last(&b, "BAD 431 too many fields");
	buf_init(&b, 100000);
	add_many(&b, GET "Connection: ", 1);
	add_many(&b, "a,", HTTP1_CONNECTION_MAX / 2);
	add_many(&b, "\r\n\r\n", 1);
	expect_last(&b, "a,} END");
	buf_init(&b, 100000);
	add_many(&b, GET "Connection: a\r\nConnection: ", 1);
	add_many(&b, "a,", HTTP1_CONNECTION_MAX / 2);
	add_many(&b, "\r\n\r\n", 1);
	expect_last(&b, "BAD 431 Connection too long");
}
END_TEST

static struct buf chunk_line_of(size_t len)
{
	struct buf b;

	buf_init(&b, 100000);
	add_many(&b, CHUNKED "0;", 1);
	add_many(&b, "x", len - strlen("0;\r\n"));
	add_many(&b, "\r\n\r\n", 1);
	return b;
}

START_TEST(long_chunk_lines)
{
	struct buf b = chunk_line_of(HTTP1_CHUNK_LINE_MAX);

	expect_last(&b, "chunked} END");
	b = chunk_line_of(HTTP1_CHUNK_LINE_MAX + 1);
	expect_last(&b, "BAD 400 chunk-size line too long");
	buf_init(&b, 100000);
	add_many(&b, CHUNKED, 1);
	add_many(&b, "0", 1000);
	expect_last(&b, "BAD 400 chunk-size line too long");
	buf_init(&b, 100000);
	add_many(&b, CHUNKED "FfffFFFFFFFFFFFf\r\nx", 1);
	expect_last(&b, "\"x\" BAD 400 " CLOSED);
}
END_TEST

static struct buf trailer_of(size_t len)
{
	struct buf b;

	buf_init(&b, 100000);
	add_many(&b, CHUNKED "0\r\nA:", 1);
	add_many(&b, "x", len - strlen("A:\r\n\r\n"));
	add_many(&b, "\r\n\r\n", 1);
	return b;
}

START_TEST(long_trailers)
{
	struct buf b = trailer_of(HTTP1_TRAILER_BYTES_MAX);

	expect_last(&b, "chunked} END");
	b = trailer_of(HTTP1_TRAILER_BYTES_MAX + 1);
	expect_last(&b, "BAD 431 trailer too long");
	buf_init(&b, 100000);
	add_many(&b, CHUNKED "0\r\n", 1);
	add_many(&b, "a:\r\n", HTTP1_FIELDS_MAX);
	add_many(&b, "\r\n", 1);
	expect_last(&b, "chunked} END");
	buf_init(&b, 100000);
	add_many(&b, CHUNKED "0\r\n", 1);
	add_many(&b, "a:\r\n", HTTP1_FIELDS_MAX + 1);
	expect_last(&b, "BAD 431 too many trailer fields");
}
END_TEST

/* The life of a reader. */

static enum http1_event_type read_one(struct http1_reader *r, const char *s, size_t *used)
{
	struct http1_event ev;

	ck_assert_int_eq(http1_read(r, (const uint8_t *)s, strlen(s), used, &ev), 0);
	return ev.type;
}

static bool holds_memory(const struct http1_reader *r)
{
	return r->head_bytes.data || r->fields;
}

START_TEST(idle_holds_no_memory)
{
	struct http1_reader r;
	size_t used;

	http1_reader_init(&r, HTTP1_RESPONSE);
	ck_assert(!holds_memory(&r));
	ck_assert_int_eq(read_one(&r, "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", &used), HTTP1_HEAD);
	ck_assert_uint_eq(used, 25);
	ck_assert(holds_memory(&r));
	http1_head_release(&r);
	ck_assert(!holds_memory(&r));
	ck_assert_uint_eq(r.head.n_fields, 0);
	ck_assert_uint_eq(r.head.status, 200);
	ck_assert_int_eq(r.head.body, HTTP1_BODY_UNTIL_CLOSE);
	ck_assert_int_eq(read_one(&r, "some data", &used), HTTP1_DATA);
	ck_assert(!holds_memory(&r));
	http1_reader_done(&r);
	http1_reader_done(&r);
}
END_TEST

START_TEST(release_spares_an_unfinished_head)
{
	struct http1_reader r;
	size_t used;

	http1_reader_init(&r, HTTP1_REQUEST);
	ck_assert_int_eq(read_one(&r, "GET / HTTP/1.1\r\nHo", &used), HTTP1_MORE);
	ck_assert(r.any_byte);
	http1_head_release(&r);
	ck_assert_int_eq(read_one(&r, "st: a\r\n\r\nrest", &used), HTTP1_HEAD);
	ck_assert_uint_eq(used, 9);
	ck_assert_int_eq(read_one(&r, "", &used), HTTP1_END);
	ck_assert_int_eq(read_one(&r, "rest", &used), HTTP1_END);
	ck_assert_uint_eq(used, 0);
	http1_reader_next(&r);
	ck_assert(!r.any_byte && !holds_memory(&r));
	http1_reader_done(&r);
}
END_TEST

START_TEST(data_points_into_the_input)
{
	static const char input[] = CHUNKED "3\r\nabc\r\n";
	struct http1_reader r;
	struct http1_event ev;
	size_t used, at;

	http1_reader_init(&r, HTTP1_REQUEST);
	ck_assert_int_eq(read_one(&r, input, &at), HTTP1_HEAD);
	ck_assert_int_eq(http1_read(&r, (const uint8_t *)input + at, strlen(input) - at, &used, &ev), 0);
	ck_assert_int_eq(ev.type, HTTP1_DATA);
	ck_assert_ptr_eq(ev.data.p, input + at + 3);
	ck_assert_uint_eq(ev.data.len, 3);
	http1_reader_done(&r);
}
END_TEST

START_TEST(bad_stays_bad)
{
	struct http1_reader r;
	struct http1_event ev;
	size_t used;

	http1_reader_init(&r, HTTP1_REQUEST);
	ck_assert_int_eq(read_one(&r, "GET\r\n\r\n", &used), HTTP1_BAD);
	ck_assert(!holds_memory(&r));
	ck_assert_int_eq(read_one(&r, GET "\r\n", &used), HTTP1_BAD);
	ck_assert_uint_eq(used, 0);
	http1_read_eof(&r, &ev);
	ck_assert_int_eq(ev.type, HTTP1_BAD);
	ck_assert_str_eq(ev.error, "bad method");
	http1_reader_done(&r);
}
END_TEST

START_TEST(next_forgets_the_head_request)
{
	struct http1_reader r;
	size_t used;

	http1_reader_init(&r, HTTP1_RESPONSE);
	r.response_to_head = true;
	ck_assert_int_eq(read_one(&r, OK "Content-Length: 3\r\n\r\n", &used), HTTP1_HEAD);
	ck_assert_uint_eq(r.head.content_length, 3);
	ck_assert_int_eq(read_one(&r, "", &used), HTTP1_END);
	http1_reader_next(&r);
	ck_assert(!r.response_to_head);
	http1_reader_done(&r);
}
END_TEST

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifndef __SANITIZE_ADDRESS__
/* Every allocation fails once; reading goes on as if nothing had been. */
void *__libc_malloc(size_t n);
static size_t fail_at;

void *malloc(size_t n)
{
	if (fail_at && --fail_at == 0) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_malloc(n);
}

static void read_with_failures(size_t first_len, size_t fail)
{
	static const char input[] = "\r\n" GET "A: b\r\n\r\n";
	struct http1_reader r;
	struct http1_event ev = { .type = HTTP1_MORE };
	size_t at = 0, used, failures = 0;

	http1_reader_init(&r, HTTP1_REQUEST);
	while (ev.type != HTTP1_HEAD) {
		size_t len = at < first_len ? first_len - at : strlen(input) - at;
		int e;

		fail_at = fail;
		e = http1_read(&r, (const uint8_t *)input + at, len, &used, &ev);
		fail = fail_at;
		fail_at = 0;
		ck_assert(e == 0 || (e == -ENOMEM && failures++ == 0));
		at += e == 0 ? used : 0;
	}
	ck_assert_uint_eq(at, strlen(input));
	ck_assert_uint_eq(r.head.n_fields, 2);
	ck_assert(span_is(http1_field_get(&r.head, "a", NULL), "b"));
	http1_reader_done(&r);
}

START_TEST(out_of_memory)
{
	for (size_t first = 0; first < 20; first++)
		for (size_t fail = 1; fail < 5; fail++)
			read_with_failures(first, fail);
}
END_TEST
#define ADD_OUT_OF_MEMORY ADD(out_of_memory)
#else
#define ADD_OUT_OF_MEMORY
#endif

/* Fields. */

static void head_from(struct http1_reader *r, const char *s)
{
	size_t used;

	http1_reader_init(r, HTTP1_REQUEST);
	ck_assert_int_eq(read_one(r, s, &used), HTTP1_HEAD);
}

START_TEST(field_get)
{
	struct http1_reader r;
	size_t n = 9;

	head_from(&r, GET "Abc: first\r\nB:\r\naBC: second\r\n\r\n");
	ck_assert(span_is(http1_field_get(&r.head, "abc", &n), "first"));
	ck_assert_uint_eq(n, 2);
	ck_assert(span_is(http1_field_get(&r.head, "ABC", NULL), "first"));
	ck_assert_ptr_nonnull(http1_field_get(&r.head, "b", &n).p);
	ck_assert_uint_eq(n, 1);
	ck_assert_ptr_null(http1_field_get(&r.head, "ab", &n).p);
	ck_assert_uint_eq(n, 0);
	http1_reader_done(&r);
}
END_TEST

START_TEST(list_has)
{
	ck_assert(http1_list_has(SPAN("close"), "close"));
	ck_assert(http1_list_has(SPAN("a, CLOSE\t,b"), "close"));
	ck_assert(http1_list_has(SPAN(",,close"), "close"));
	ck_assert(!http1_list_has(SPAN("closed, clos, c lose"), "close"));
	ck_assert(!http1_list_has(SPAN(""), "close"));
	ck_assert(!http1_list_has((struct span){ NULL, 0 }, "close"));
}
END_TEST

START_TEST(hop_by_hop)
{
	static const char *const hop[] = { "Connection", "KEEP-ALIVE", "Proxy-Connection", "proxy-authorization",
					   "Proxy-Authenticate", "TE", "Trailer", "Transfer-Encoding",
					   "Upgrade", "Content-Length", "x-one", "X-TWO", "x-three" };
	static const char *const end_to_end[] = { "Host", "Accept", "MCP-Session-Id", "Authorization", "Proxy-",
						  "Proxy", "X-Four", "Content-Type", "TE2", "" };
	struct http1_reader r;

	head_from(&r, GET "Connection: X-One ,x-two\r\nA: b\r\nconnection: X-Three\r\nX-One: a\r\n\r\n");
	for (size_t i = 0; i < ARRAY_LEN(hop); i++)
		ck_assert_msg(http1_is_hop_by_hop(&r.head, span_of(hop[i])), "%s", hop[i]);
	for (size_t i = 0; i < ARRAY_LEN(end_to_end); i++)
		ck_assert_msg(!http1_is_hop_by_hop(&r.head, span_of(end_to_end[i])), "%s", end_to_end[i]);
	http1_reader_done(&r);
}
END_TEST

START_TEST(every_byte)
{
	for (int i = 0; i < 256; i++) {
		char one[1] = { (char)i }, mid[3] = { 'a', (char)i, 'a' };
		bool alnum = (i >= '0' && i <= '9') || (i >= 'A' && i <= 'Z') || (i >= 'a' && i <= 'z');
		bool token = alnum || (i && strchr("!#$%&'*+-.^_`|~", i));
		bool value = i == '\t' || (i >= ' ' && i != 0x7f);
		bool blank = i == ' ' || i == '\t';

		ck_assert_int_eq(http1_token_ok(span_make(one, 1)), token);
		ck_assert_int_eq(http1_token_ok(span_make(mid, 3)), token);
		ck_assert_int_eq(http1_value_ok(span_make(one, 1)), value && !blank);
		ck_assert_int_eq(http1_value_ok(span_make(mid, 3)), value);
	}
	ck_assert(!http1_token_ok(SPAN("")));
	ck_assert(http1_value_ok(SPAN("")));
	ck_assert(!http1_value_ok(SPAN(" a")) && !http1_value_ok(SPAN("a\t")));
}
END_TEST

/* Writer. */

START_TEST(writes)
{
	struct buf b;

	buf_init(&b, 1000);
	ck_assert_int_eq(http1_write_request(&b, SPAN("POST"), SPAN("/mcp")), 0);
	ck_assert_int_eq(http1_write_field(&b, SPAN("Host"), SPAN("a:1")), 0);
	ck_assert_int_eq(http1_write_field(&b, SPAN("Empty"), SPAN("")), 0);
	ck_assert_int_eq(http1_write_end(&b), 0);
	ck_assert(span_is(buf_span(&b), "POST /mcp HTTP/1.1\r\nHost: a:1\r\nEmpty: \r\n\r\n"));
	buf_clear(&b);
	ck_assert_int_eq(http1_write_status(&b, 202, (struct span){ NULL, 0 }), 0);
	ck_assert_int_eq(http1_write_status(&b, 299, (struct span){ NULL, 0 }), 0);
	ck_assert_int_eq(http1_write_status(&b, 200, SPAN("")), 0);
	ck_assert_int_eq(http1_write_status(&b, 404, SPAN("No such\ttunnel")), 0);
	ck_assert(span_is(buf_span(&b), "HTTP/1.1 202 Accepted\r\nHTTP/1.1 299 Unknown\r\nHTTP/1.1 200 \r\n"
					"HTTP/1.1 404 No such\ttunnel\r\n"));
	buf_done(&b);
}
END_TEST

START_TEST(writes_no_injection)
{
	static const struct span values[] = { { "a\r\nB: c", 7 }, { "a\rb", 3 }, { "a\nb", 3 }, { "a\0b", 3 },
					      { " a", 2 },        { "a ", 2 },   { "\x7f", 1 } };
	static const struct span names[] = { { "", 0 }, { "A B", 3 }, { "A:", 2 }, { "A\r\n", 3 }, { "\xe9", 1 } };
	struct buf b;

	buf_init(&b, 1000);
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		ck_assert_int_eq(http1_write_field(&b, SPAN("A"), values[i]), -EINVAL);
		ck_assert_int_eq(http1_write_status(&b, 200, values[i]), -EINVAL);
		ck_assert_int_eq(http1_write_request(&b, SPAN("GET"), values[i]), -EINVAL);
	}
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		ck_assert_int_eq(http1_write_field(&b, names[i], SPAN("v")), -EINVAL);
		ck_assert_int_eq(http1_write_request(&b, names[i], SPAN("/")), -EINVAL);
	}
	ck_assert_int_eq(http1_write_request(&b, SPAN("GET"), SPAN("")), -EINVAL);
	ck_assert_int_eq(http1_write_request(&b, SPAN("GET"), SPAN("/\xc3\xa9")), -EINVAL);
	ck_assert_int_eq(http1_write_status(&b, 99, SPAN("x")), -EINVAL);
	ck_assert_int_eq(http1_write_status(&b, 600, SPAN("x")), -EINVAL);
	ck_assert_uint_eq(buf_len(&b), 0);
	buf_done(&b);
}
END_TEST

START_TEST(writes_all_or_nothing)
{
	struct buf b;

	buf_init(&b, 8);
	ck_assert_int_eq(http1_write_field(&b, SPAN("Abcd"), SPAN("e")), -ENOBUFS);
	ck_assert_uint_eq(buf_len(&b), 0);
	ck_assert_int_eq(http1_write_field(&b, SPAN("Abc"), SPAN("e")), 0);
	ck_assert_int_eq(http1_write_end(&b), -ENOBUFS);
	ck_assert(span_is(buf_span(&b), "Abc: e\r\n"));
	buf_done(&b);
}
END_TEST

START_TEST(chunk_prefix)
{
	static const struct {
		size_t len;
		const char *want;
	} rows[] = { { 0, "0\r\n" },       { 1, "1\r\n" },         { 15, "f\r\n" },         { 16, "10\r\n" },
		     { 500, "1f4\r\n" },   { 65536, "10000\r\n" }, { SIZE_MAX >> 4, "fffffffffffffff\r\n" },
		     { SIZE_MAX, "ffffffffffffffff\r\n" } };
	char dst[HTTP1_CHUNK_PREFIX_MAX];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert(span_is(span_make(dst, http1_chunk_prefix(dst, rows[i].len)), rows[i].want));
}
END_TEST

START_TEST(status_text)
{
	ck_assert_str_eq(http1_status_text(200), "OK");
	ck_assert_str_eq(http1_status_text(421), "Misdirected Request");
	ck_assert_str_eq(http1_status_text(999), "Unknown");
	for (unsigned i = 100; i < 600; i++)
		ck_assert(http1_value_ok(span_of(http1_status_text(i))));
}
END_TEST

UNIT_MAIN("http1",
	  ADD(good_messages) ADD(bad_messages) ADD(long_request_lines) ADD(long_heads) ADD(many_fields)
	  ADD(long_chunk_lines) ADD(long_trailers) ADD(idle_holds_no_memory) ADD(release_spares_an_unfinished_head)
	  ADD(data_points_into_the_input) ADD(bad_stays_bad) ADD(next_forgets_the_head_request) ADD_OUT_OF_MEMORY
	  ADD(field_get) ADD(list_has) ADD(hop_by_hop) ADD(every_byte) ADD(writes) ADD(writes_no_injection)
	  ADD(writes_all_or_nothing) ADD(chunk_prefix) ADD(status_text))
