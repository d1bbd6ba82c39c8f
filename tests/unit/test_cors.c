/* relay/cors: what browsers are told. */
#include "relay/cors.h"

#include "tests/lib/unit.h"

static struct buf out;

static void begin(void)
{
	buf_init(&out, 16384);
}

static bool wrote(const char *text)
{
	return memmem(buf_bytes(&out), buf_len(&out), text, strlen(text)) != NULL;
}

START_TEST(answers)
{
	begin();
	ck_assert_int_eq(cors_write(&out, false, NULL), 0);
	ck_assert_uint_eq(buf_len(&out), 0);
	ck_assert_int_eq(cors_write(&out, true, NULL), 0);
	ck_assert(span_is(buf_span(&out), "Vary: Origin\r\n"));
	ck_assert_int_eq(cors_write(&out, true, "https://app.example"), 0);
	ck_assert(wrote("Access-Control-Allow-Origin: https://app.example\r\n"));
	ck_assert(wrote("Access-Control-Expose-Headers: Mcp-Session-Id, "));
	buf_done(&out);
}
END_TEST

START_TEST(what_is_replaced)
{
	ck_assert(cors_replaces(SPAN("access-control-allow-origin")));
	ck_assert(cors_replaces(SPAN("Access-Control-Anything")));
	ck_assert(!cors_replaces(SPAN("Access-Controls")));
	ck_assert(!cors_replaces(SPAN("Vary")));
}
END_TEST

/* Names that a page asks for. */
static void preflight(const char *asked)
{
	const struct http1_field fields[] = { { SPAN("Access-Control-Request-Headers"), span_of(asked) }, { SPAN("Connection"), SPAN("x-hop") } };
	const struct http1_head h = { .fields = fields, .n_fields = ARRAY_LEN(fields) };

	begin();
	ck_assert_int_eq(cors_write_preflight(&out, &h, "https://app.example", false), 0);
	ck_assert(wrote("HTTP/1.1 204 "));
	ck_assert(wrote(", Last-Event-ID"));
}

START_TEST(fields_asked_for)
{
	static const struct {
		const char *asked, *there, *not_there;
	} rows[] = {
		{ "x-api-key", ", Last-Event-ID, x-api-key\r\n", "\r\n\r\n\r\n" },
		{ "x-a, mcp-param-b,traceparent", ", x-a, mcp-param-b, traceparent\r\n", NULL },
		{ "x-hop, x-a", ", Last-Event-ID, x-a\r\n", "x-hop" },
		{ "mcp-tunnel-agent, x-a", ", Last-Event-ID, x-a\r\n", "mcp-tunnel-agent" },
		{ "host,connection,upgrade,content-length,x-a", ", Last-Event-ID, x-a\r\n", "upgrade" },
		{ "a b, (c), *, x-a", ", Last-Event-ID, x-a\r\n", "a b" },
		{ "authorization, content-type, x-a", ", Last-Event-ID, x-a\r\n", NULL },
		{ "", ", Last-Event-ID\r\n", NULL },
		{ ",, ,", ", Last-Event-ID\r\n", NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		preflight(rows[i].asked);
		ck_assert_msg(wrote(rows[i].there), "%s", rows[i].asked);
		ck_assert_msg(!rows[i].not_there || !wrote(rows[i].not_there), "%s", rows[i].asked);
		buf_done(&out);
	}
}
END_TEST

START_TEST(fields_asked_for_are_bounded)
{
	char asked[20000];

	for (size_t i = 0; i + 2 < sizeof(asked); i += 2)
		memcpy(asked + i, "x,", 3);
	asked[sizeof(asked) - 2] = '\0';
	preflight(asked);
	ck_assert_uint_lt(buf_len(&out), 2000);
	buf_done(&out);
	memset(asked, 'x', sizeof(asked) - 1);
	asked[sizeof(asked) - 1] = '\0';
	preflight(asked);
	ck_assert_uint_lt(buf_len(&out), 1000);
	buf_done(&out);
}
END_TEST

UNIT_MAIN("cors", ADD(answers) ADD(what_is_replaced) ADD(fields_asked_for) ADD(fields_asked_for_are_bounded))
