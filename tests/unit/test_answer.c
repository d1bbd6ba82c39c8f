#include "relay/answer.h"

#include "proto/http1.h"
#include "proto/reasons.h"
#include "tests/lib/unit.h"

#include <errno.h>
#include <string.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

static struct buf out;
static struct http1_reader reader;
static char body[8192];

static void setup(void)
{
	buf_init(&out, 64 * 1024);
	http1_reader_init(&reader, HTTP1_RESPONSE);
}

static void teardown(void)
{
	http1_reader_done(&reader);
	buf_done(&out);
}

/* Writes it, and reads it back with our own strict reader: one whole message, nothing behind it. */
static const struct http1_head *write_and_read(const struct answer *a)
{
	struct http1_event ev;
	size_t used, at = 0, len = 0;

	ck_assert_int_eq(answer_write(&out, a), 0);
	reader.response_to_head = a->head_only;
	do {
		ck_assert_int_eq(http1_read(&reader, buf_bytes(&out) + at, buf_len(&out) - at, &used, &ev), 0);
		at += used;
		if (ev.type == HTTP1_DATA) {
			ck_assert_uint_lt(len + ev.data.len, sizeof(body));
			memcpy(body + len, ev.data.p, ev.data.len);
			len += ev.data.len;
		}
		ck_assert_msg(ev.type != HTTP1_BAD && ev.type != HTTP1_MORE, "%s", ev.error);
	} while (ev.type != HTTP1_END);
	ck_assert_uint_eq(at, buf_len(&out));
	body[len] = '\0';
	return &reader.head;
}

START_TEST(the_whole_of_it)
{
	const struct answer a = {
		.status = 503,
		.extra = "Retry-After: 2\r\n",
		.reason = TP_REASON_NOT_ATTACHED,
		.id = SPAN("7"),
		.call_id = "0190-x",
	};
	const struct http1_head *h = write_and_read(&a);

	ck_assert_uint_eq(h->status, 503);
	ck_assert(h->keep_alive);
	ck_assert(span_is(http1_field_get(h, "Content-Type", NULL), "application/json"));
	ck_assert(span_is(http1_field_get(h, "Cache-Control", NULL), "no-store"));
	ck_assert(span_is(http1_field_get(h, "Retry-After", NULL), "2"));
	ck_assert_str_eq(body, "{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32012,\"message\":\"no gateway is attached to this "
			       "tunnel; the call was not executed\",\"data\":{\"reason\":\"not-attached\",\"executed\":\"no\","
			       "\"call\":\"0190-x\"}}}\n");
}
END_TEST

START_TEST(closes_when_told)
{
	const struct answer a = { .status = 400, .reason = TP_REASON_BAD_REQUEST, .close = true };
	const struct http1_head *h = write_and_read(&a);

	ck_assert(!h->keep_alive);
	ck_assert(span_is(http1_field_get(h, "Connection", NULL), "close"));
	ck_assert(strstr(body, "\"id\":null,"));
}
END_TEST

START_TEST(to_head_without_the_body)
{
	const struct answer a = { .status = 405, .reason = TP_REASON_BAD_REQUEST, .head_only = true };
	const struct http1_head *h = write_and_read(&a);

	ck_assert_uint_eq(h->status, 405);
	ck_assert_uint_gt(h->content_length, 0);
	ck_assert_str_eq(body, "");
}
END_TEST

START_TEST(ids_of_all_shapes)
{
	static const char *const ids[] = { "1", "-1", "0", "1e3", "12345678901234567890", "\"a\"", "\"\"", "\"\\u0000\\\"\"", "null",
					   "\"\xc3\xa4\"", "0.5" };

	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		const struct answer a = { .status = 502, .reason = TP_REASON_UPSTREAM_CLOSED, .id = span_of(ids[i]) };
		char expected[64];

		setup();
		write_and_read(&a);
		snprintf(expected, sizeof(expected), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":", ids[i]);
		ck_assert_int_eq(strncmp(body, expected, strlen(expected)), 0);
		teardown();
	}
}
END_TEST

START_TEST(says_whether_it_was_executed)
{
	for (uint32_t code = 0; code < 64; code++) {
		const struct tp_reason_info *info = tp_reason_info(code);
		struct answer a = { .status = 500, .reason = code };
		char data[128];

		if (!tp_reason_known(code))
			continue;
		setup();
		write_and_read(&a);
		ck_assert(strstr(body, info->maybe_executed ? "; the call may have been executed\"" :
							      "; the call was not executed\""));
		snprintf(data, sizeof(data), "\"data\":{\"reason\":\"%s\",\"executed\":\"%s\"}", info->name,
			 info->maybe_executed ? "maybe" : "no");
		ck_assert(strstr(body, data));
		ck_assert(strstr(body, info->text));
		teardown();
	}
}
END_TEST

START_TEST(text_and_detail)
{
	struct answer a = { .status = 413, .reason = TP_REASON_TOO_LARGE, .text = "our own words", .detail = "--max" };

	write_and_read(&a);
	ck_assert(strstr(body, "\"message\":\"our own words: --max; the call was not executed\""));
	teardown();
	setup();
	a.detail = "";
	write_and_read(&a);
	ck_assert(strstr(body, "\"message\":\"our own words; the call was not executed\""));
}
END_TEST

START_TEST(others_texts_are_escaped)
{
	for (unsigned c = 1; c < 256; c++) {
		char detail[] = { 'a', (char)c, '"', '\\', '\0' };
		const struct answer a = { .status = 502, .reason = TP_REASON_UPSTREAM_CLOSED, .detail = detail };

		setup();
		write_and_read(&a);
		for (const char *p = body; p[1]; p++)
			ck_assert_msg(*p >= ' ' && *p < 0x7f, "byte %u", c);
#ifdef HAVE_ORACLE
		json_t *root = json_loads(body, JSON_REJECT_DUPLICATES, NULL);

		ck_assert_msg(root, "%s", body);
		ck_assert(strstr(json_string_value(json_object_get(json_object_get(root, "error"), "message")), "\"\\; the call"));
		json_decref(root);
#endif
		teardown();
	}
	setup();
}
END_TEST

START_TEST(the_longest_fit)
{
	char detail[513], id[256 + 1];
	struct answer a = { .status = 502, .reason = TP_REASON_UPSTREAM_CLOSED, .detail = detail, .call_id = "0190" };

	memset(detail, 1, sizeof(detail) - 1);
	detail[sizeof(detail) - 1] = '\0';
	memset(id, '1', sizeof(id) - 1);
	id[sizeof(id) - 1] = '\0';
	a.id = span_of(id);
	write_and_read(&a);
}
END_TEST

START_TEST(no_room)
{
	const struct answer a = { .status = 502, .reason = TP_REASON_UPSTREAM_CLOSED };
	size_t whole;

	ck_assert_int_eq(answer_write(&out, &a), 0);
	whole = buf_len(&out);
	for (size_t max = 0; max < whole; max++) {
		struct buf small;

		buf_init(&small, max);
		ck_assert_int_eq(answer_write(&small, &a), -ENOBUFS);
		buf_done(&small);
	}
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);

UNIT_MAIN("answer", FIXTURE ADD(the_whole_of_it) ADD(closes_when_told) ADD(to_head_without_the_body) ADD(ids_of_all_shapes)
	  ADD(says_whether_it_was_executed) ADD(text_and_detail) ADD(others_texts_are_escaped) ADD(the_longest_fit) ADD(no_room))
