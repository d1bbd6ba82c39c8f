#include "proto/websocket.h"

#include "tests/lib/unit.h"
#include "tests/lib/ws_items.h"

#include <string.h>

#define BYTES(lit) (const uint8_t *)(lit), sizeof(lit) - 1
#define KEY "\x37\xfa\x21\x3d"
#define HELLO_MASKED "\x7f\x9f\x4d\x51\x58"

enum { MAX_MESSAGE = 1 << 20 };

/* Feeds the bytes in pieces that end at the given places (0 for none) and returns the log; the caller frees it. */
static char *decode_cut(enum ws_role role, size_t max, const uint8_t *b, size_t n, size_t cut1, size_t cut2)
{
	struct ws_decoder d;
	struct ws_log log;

	ws_decoder_init(&d, role, max);
	ws_log_open(&log);
	ws_log_piece(&log, &d, b, cut1);
	ws_log_piece(&log, &d, b + cut1, cut2 - cut1);
	ws_log_piece(&log, &d, b + cut2, n - cut2);
	ws_log_close(&log);
	return log.text;
}

static char *decode_bytewise(enum ws_role role, size_t max, const uint8_t *b, size_t n)
{
	struct ws_decoder d;
	struct ws_log log;

	ws_decoder_init(&d, role, max);
	ws_log_open(&log);
	for (size_t i = 0; i < n; i++)
		ws_log_piece(&log, &d, b + i, 1);
	ws_log_close(&log);
	return log.text;
}

/* In one piece, byte by byte, and cut at every one and every two places: always the same. */
static void assert_items(enum ws_role role, size_t max, const uint8_t *b, size_t n, const char *want)
{
	_cleanup_(freep) char *bytewise = decode_bytewise(role, max, b, n);

	ck_assert_str_eq(bytewise, want);
	for (size_t i = 0; i <= n; i++)
		for (size_t j = i; j <= n; j++) {
			_cleanup_(freep) char *got = decode_cut(role, max, b, n, i, j);

			ck_assert_str_eq(got, want);
		}
}

START_TEST(rfc_section_5_7)
{
	static const struct {
		enum ws_role role;
		const uint8_t *bytes;
		size_t n;
		const char *want;
	} t[] = {
		/* The examples are text; this protocol is binary, so each is here as it is and with opcode 2. */
		{ WS_CLIENT, BYTES("\x81\x05Hello"), "<bad 1003 0 text message>" },
		{ WS_CLIENT, BYTES("\x82\x05Hello"), "Hello<end>" },
		{ WS_SERVER, BYTES("\x81\x85" KEY HELLO_MASKED), "<bad 1003 0 text message>" },
		{ WS_SERVER, BYTES("\x82\x85" KEY HELLO_MASKED), "Hello<end>" },
		{ WS_CLIENT, BYTES("\x01\x03Hel\x80\x02lo"), "<bad 1003 0 text message>" },
		{ WS_CLIENT, BYTES("\x02\x03Hel\x80\x02lo"), "Hello<end>" },
		{ WS_CLIENT, BYTES("\x89\x05Hello"), "<ping 0 5 >Hello" },
		{ WS_SERVER, BYTES("\x8a\x85" KEY HELLO_MASKED), "<pong 0 5 >Hello" },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_items(t[i].role, MAX_MESSAGE, t[i].bytes, t[i].n, t[i].want);
}
END_TEST

/* The last two examples of section 5.7, and the lengths around each form of the header. */
START_TEST(lengths)
{
	static const struct {
		size_t payload, header;
		const char *start;
	} t[] = {
		{ 0, 2, "\x82\x00" },
		{ 125, 2, "\x82\x7d" },
		{ 126, 4, "\x82\x7e\x00\x7e" },
		{ 256, 4, "\x82\x7e\x01\x00" },
		{ 65535, 4, "\x82\x7e\xff\xff" },
		{ 65536, 10, "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		size_t n = t[i].header + t[i].payload;
		_cleanup_(freep) uint8_t *frame = malloc(n);
		_cleanup_(freep) char *want = malloc(t[i].payload + 6);
		_cleanup_(freep) char *got = NULL;
		uint8_t head[WS_HEADER_MAX];

		ck_assert_uint_eq(ws_header(head, WS_BINARY, t[i].payload, NULL), t[i].header);
		ck_assert_mem_eq(head, t[i].start, t[i].header);
		memcpy(frame, head, t[i].header);
		memset(frame + t[i].header, 'x', t[i].payload);
		memset(want, 'x', t[i].payload);
		memcpy(want + t[i].payload, "<end>", 6);
		for (size_t cut = 0; cut <= MIN(n, 20U); cut++) {
			free(got);
			got = decode_cut(WS_CLIENT, MAX_MESSAGE, frame, n, cut, MAX(cut, n - cut));
			ck_assert_str_eq(got, want);
		}
	}
}
END_TEST

START_TEST(masked_header)
{
	uint8_t head[WS_HEADER_MAX];

	ck_assert_uint_eq(ws_header(head, WS_BINARY, 65536, (const uint8_t *)KEY), 14);
	ck_assert_mem_eq(head, "\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00" KEY, 14);
	ck_assert_uint_eq(ws_header(head, WS_PONG, 5, (const uint8_t *)KEY), 6);
	ck_assert_mem_eq(head, "\x8a\x85" KEY, 6);
	ck_assert_uint_eq(ws_header(head, WS_CLOSE, 0, NULL), 2);
	ck_assert_mem_eq(head, "\x88\x00", 2);
}
END_TEST

START_TEST(refused)
{
	static const struct {
		enum ws_role role;
		const uint8_t *bytes;
		size_t n;
		const char *want;
	} t[] = {
		{ WS_CLIENT, BYTES("\xc2\x00"), "<bad 1002 0 reserved bit set>" },
		{ WS_CLIENT, BYTES("\xa2\x00"), "<bad 1002 0 reserved bit set>" },
		{ WS_CLIENT, BYTES("\x92\x00"), "<bad 1002 0 reserved bit set>" },
		{ WS_CLIENT, BYTES("\x83\x00"), "<bad 1002 0 unknown opcode>" },
		{ WS_CLIENT, BYTES("\x87\x00"), "<bad 1002 0 unknown opcode>" },
		{ WS_CLIENT, BYTES("\x8b\x00"), "<bad 1002 0 unknown opcode>" },
		{ WS_CLIENT, BYTES("\x8f\x00"), "<bad 1002 0 unknown opcode>" },
		{ WS_CLIENT, BYTES("\x82\x81" KEY "x"), "<bad 1002 0 masked frame from a server>" },
		{ WS_SERVER, BYTES("\x82\x01x"), "<bad 1002 0 unmasked frame from a client>" },
		{ WS_SERVER, BYTES("\x89\x00"), "<bad 1002 0 unmasked frame from a client>" },
		{ WS_CLIENT, BYTES("\x82\x7e\x00\x7d"), "<bad 1002 0 length is not minimal>" },
		{ WS_CLIENT, BYTES("\x82\x7e\x00\x00"), "<bad 1002 0 length is not minimal>" },
		{ WS_CLIENT, BYTES("\x82\x7f\0\0\0\0\0\0\xff\xff"), "<bad 1002 0 length is not minimal>" },
		{ WS_CLIENT, BYTES("\x82\x7f\x80\0\0\0\0\0\0\0"), "<bad 1002 0 length has its highest bit set>" },
		{ WS_CLIENT, BYTES("\x82\x7f\x7f\0\0\0\0\0\0\0"), "<bad 1009 0 message is too large>" },
		{ WS_CLIENT, BYTES("\x82\x7e\x00\x7e"), "<bad 1009 0 message is too large>" },
		{ WS_CLIENT, BYTES("\x82\x65"), "<bad 1009 0 message is too large>" },
		{ WS_CLIENT, BYTES("\x02\x03" "abc\x80\x62"), "abc<bad 1009 0 message is too large>" },
		{ WS_CLIENT, BYTES("\x09\x00"), "<bad 1002 0 fragmented control frame>" },
		{ WS_CLIENT, BYTES("\x0a\x00"), "<bad 1002 0 fragmented control frame>" },
		{ WS_CLIENT, BYTES("\x08\x00"), "<bad 1002 0 fragmented control frame>" },
		{ WS_CLIENT, BYTES("\x89\x7e\x00\x7e"), "<bad 1002 0 control frame of more than 125 bytes>" },
		{ WS_CLIENT, BYTES("\x88\x7f"), "<bad 1002 0 control frame of more than 125 bytes>" },
		{ WS_CLIENT, BYTES("\x80\x01x"), "<bad 1002 0 continuation without a message>" },
		{ WS_CLIENT, BYTES("\x00\x01x"), "<bad 1002 0 continuation without a message>" },
		{ WS_CLIENT, BYTES("\x82\x01x\x80\x01x"), "x<end><bad 1002 0 continuation without a message>" },
		{ WS_CLIENT, BYTES("\x02\x01x\x82\x01x"), "x<bad 1002 0 new message inside a fragmented one>" },
		{ WS_CLIENT, BYTES("\x02\x01x\x81\x01x"), "x<bad 1002 0 new message inside a fragmented one>" },
		{ WS_CLIENT, BYTES("\x81\x00"), "<bad 1003 0 text message>" },
		{ WS_CLIENT, BYTES("\x88\x01\x03"), "<bad 1002 0 close frame of one byte>" },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_items(t[i].role, 100, t[i].bytes, t[i].n, t[i].want);
}
END_TEST

START_TEST(close_codes)
{
	static const uint16_t good[] = { 1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999 };
	char want[80];

	for (unsigned code = 0; code <= UINT16_MAX; code++) {
		uint8_t frame[] = { 0x88, 2, (uint8_t)(code >> 8), (uint8_t)code };
		_cleanup_(freep) char *got = decode_cut(WS_CLIENT, 0, frame, sizeof(frame), 0, 0);
		bool valid = (code >= 1000 && code < 1015 && (code < 1004 || code > 1006)) ||
			     (code >= 3000 && code < 5000);

		snprintf(want, sizeof(want), "<close %u 0 >", code);
		ck_assert_str_eq(got, valid ? want : "<bad 1002 0 close code that must not be sent>");
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		uint8_t frame[] = { 0x88, 5, (uint8_t)(good[i] >> 8), (uint8_t)good[i], 'b', 'y', 'e' };

		snprintf(want, sizeof(want), "<close %u 3 >bye", good[i]);
		assert_items(WS_CLIENT, 0, frame, sizeof(frame), want);
	}
	assert_items(WS_CLIENT, 0, BYTES("\x88\x00"), "<close 1005 0 >");
	assert_items(WS_SERVER, 0, BYTES("\x88\x80" KEY), "<close 1005 0 >");
}
END_TEST

START_TEST(close_reason_is_utf8)
{
	static const struct {
		const char *reason;
		bool good;
	} t[] = {
		{ "\xc3\xa9", true },          { "\xe2\x82\xac", true },     { "\xf0\x9f\x98\x80", true },
		{ "\xf4\x8f\xbf\xbf", true },  { "\xee\x80\x80", true },     { "\xed\x9f\xbf", true },
		{ "\xc3", false },             { "\x80", false },            { "\xc0\x80", false },
		{ "\xc1\xbf", false },         { "\xe0\x9f\xbf", false },    { "\xf0\x8f\xbf\xbf", false },
		{ "\xed\xa0\x80", false },     { "\xed\xbf\xbf", false },    { "\xf4\x90\x80\x80", false },
		{ "\xf8\x88\x80\x80", false }, { "\xff", false },            { "\xe2\x82", false },
		{ "\xe2\x28\xac", false },     { "a\xf0\x9f\x98", false },   { "\xfe", false },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		size_t n = strlen(t[i].reason);
		uint8_t frame[32] = { 0x88, (uint8_t)(n + 2), 0x03, 0xe8 };
		char want[80];

		memcpy(frame + 4, t[i].reason, n);
		if (t[i].good)
			snprintf(want, sizeof(want), "<close 1000 %zu >%s", n, t[i].reason);
		else
			snprintf(want, sizeof(want), "<bad 1007 0 close reason is not UTF-8>");
		assert_items(WS_CLIENT, 0, frame, n + 4, want);
	}
}
END_TEST

START_TEST(nothing_after_the_end)
{
	assert_items(WS_CLIENT, 100, BYTES("\x88\x00\x89\x01x\x82\x01y"), "<close 1005 0 >");
	assert_items(WS_CLIENT, 100, BYTES("\x83\x00\x89\x01x\x82\x01y"), "<bad 1002 0 unknown opcode>");
}
END_TEST

START_TEST(fragments_and_control_frames)
{
	/* Fragments of 3, 0, 2 and 0 bytes with control frames between them, then a message of its own. */
	assert_items(WS_CLIENT, 5,
		     BYTES("\x02\x03Hel\x89\x02hi\x00\x00\x8a\x00\x00\x02lo\x89\x00\x80\x00\x82\x01!"),
		     "Hel<ping 0 2 >hi<pong 0 0 >lo<ping 0 0 ><end>!<end>");
	assert_items(WS_CLIENT, 5, BYTES("\x02\x00\x00\x00\x80\x00\x82\x00"), "<end><end>");
	assert_items(WS_CLIENT, 5, BYTES("\x02\x02hi\x88\x02\x03\xe8"), "hi<close 1000 0 >");
	/* Every frame has a mask of its own and starts at its first byte. */
	assert_items(WS_SERVER, 5,
		     BYTES("\x02\x83" KEY "\x7f\x9f\x4d\x89\x82\1\2\3\4\x69\x6b\x80\x82\0\0\0\0lo"),
		     "Hel<ping 0 2 >hilo<end>");
}
END_TEST

START_TEST(limit_is_per_message)
{
	assert_items(WS_CLIENT, 3, BYTES("\x82\x03" "abc\x82\x03" "def\x02\x03ghi\x80\x00"),
		     "abc<end>def<end>ghi<end>");
	assert_items(WS_CLIENT, 3, BYTES("\x82\x00\x89\x05hello"), "<end><ping 0 5 >hello");
	assert_items(WS_CLIENT, 0, BYTES("\x82\x00\x82\x01"), "<end><bad 1009 0 message is too large>");
}
END_TEST

START_TEST(data_points_into_the_input)
{
	uint8_t frame[] = "\x82\x85" KEY HELLO_MASKED;
	uint8_t *p = frame, *end = frame + sizeof(frame) - 1;
	struct ws_decoder d;
	struct ws_item item;

	ws_decoder_init(&d, WS_SERVER, 100);
	ws_decode(&d, &p, end, &item);
	ck_assert_int_eq(item.type, WS_ITEM_DATA);
	ck_assert_ptr_eq(item.data, frame + 6);
	ck_assert_ptr_eq(p, end);
	ck_assert_mem_eq(frame + 6, "Hello", 5);
	ws_decode(&d, &p, end, &item);
	ck_assert_int_eq(item.type, WS_ITEM_MORE);
}
END_TEST

START_TEST(longest_control_frame)
{
	uint8_t frame[6 + WS_CONTROL_MAX];
	uint8_t payload[WS_CONTROL_MAX], *p = frame;
	struct ws_decoder d;
	struct ws_item item;
	size_t n;

	memset(payload, 0xa5, sizeof(payload));
	ws_decoder_init(&d, WS_SERVER, 0);
	n = ws_header(frame, WS_PING, sizeof(payload), (const uint8_t *)KEY);
	ws_mask_copy(frame + n, payload, sizeof(payload), (const uint8_t *)KEY, 0);
	ws_decode(&d, &p, frame + sizeof(frame), &item);
	ck_assert_int_eq(item.type, WS_ITEM_PING);
	ck_assert_uint_eq(item.len, sizeof(payload));
	ck_assert_mem_eq(item.data, payload, sizeof(payload));
}
END_TEST

static void check_mask(size_t dst_off, size_t src_off, size_t len, size_t at, bool in_place)
{
	static const uint8_t mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
	uint8_t a[160], b[160], want[160];
	uint8_t *src = a + src_off, *dst = in_place ? src : b + dst_off;

	for (size_t i = 0; i < sizeof(a); i++)
		a[i] = (uint8_t)(i * 7 + 3);
	memset(b, 0xee, sizeof(b));
	memcpy(want, in_place ? a : b, sizeof(want));
	for (size_t i = 0; i < len; i++)
		want[(in_place ? src_off : dst_off) + i] = src[i] ^ mask[(at + i) % 4];
	ws_mask_copy(dst, src, len, mask, at);
	ck_assert_mem_eq(in_place ? a : b, want, sizeof(want));
}

START_TEST(mask_against_bytewise)
{
	for (size_t len = 0; len <= 70; len++)
		for (size_t at = 0; at < 5; at++)
			for (size_t src_off = 0; src_off < 17; src_off++) {
				check_mask(0, src_off, len, at, true);
				for (size_t dst_off = 0; dst_off < 17; dst_off += len < 40 ? 1 : 5)
					check_mask(dst_off, src_off, len, at, false);
			}
}
END_TEST

START_TEST(no_mask_copies)
{
	char dst[4] = "....";

	ws_mask_copy((uint8_t *)dst, (const uint8_t *)"abc", 3, NULL, 2);
	ck_assert_mem_eq(dst, "abc.", 4);
	ws_mask_copy((uint8_t *)dst, (uint8_t *)dst, 4, NULL, 0);
	ck_assert_mem_eq(dst, "abc.", 4);
	ws_mask_copy(NULL, NULL, 0, NULL, 0);
}
END_TEST

UNIT_MAIN("websocket",
	  ADD(rfc_section_5_7) ADD(lengths) ADD(masked_header) ADD(refused) ADD(close_codes) ADD(close_reason_is_utf8)
	  ADD(nothing_after_the_end) ADD(fragments_and_control_frames) ADD(limit_is_per_message)
	  ADD(data_points_into_the_input) ADD(longest_control_frame) ADD(mask_against_bytewise) ADD(no_mask_copies))
