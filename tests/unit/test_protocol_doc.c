/* proto/PROTOCOL.md says what the sources do: its tables of frames, limits and reasons, and every byte example. */
#include "base/buf.h"
#include "base/encode.h"
#include "proto/conn_impl.h"
#include "proto/fields.h"
#include "tests/lib/unit.h"

#include <ctype.h>
#include <string.h>

enum { CELLS = 8 };

static char *text;

static void load(void)
{
	FILE *f = fopen(PROTOCOL_MD, "r");
	size_t size = 0;
	ssize_t n;

	ck_assert_msg(f != NULL, "cannot open %s", PROTOCOL_MD);
	n = getdelim(&text, &size, '\0', f);
	ck_assert_int_gt(n, 0);
	fclose(f);
}

static struct span trim_cell(struct span s)
{
	s = span_trim(s);
	if (s.len >= 2 && s.p[0] == '`' && s.p[s.len - 1] == '`')
		s = span_make(s.p + 1, s.len - 2);
	return s;
}

/* The row of a table whose cell number `column` is `key`: its cells, or false. */
static bool find_row(size_t column, const char *key, struct span cells[CELLS])
{
	struct span rest = span_of(text), line, cell;

	while (rest.p) {
		size_t n = 0;

		line = span_split(&rest, '\n');
		if (!line.len || line.p[0] != '|')
			continue;
		line = span_make(line.p + 1, line.len - 1);
		while (line.p && n < CELLS) {
			cell = span_split(&line, '|');
			cells[n++] = trim_cell(cell);
		}
		if (n > column && span_is(cells[column], key))
			return true;
	}
	return false;
}

/* "16384 bytes": the number; "0 to 8": both. */
static size_t numbers(struct span cell, size_t ret[2])
{
	char copy[128];
	char *at = copy;
	size_t n = 0;

	snprintf(copy, sizeof(copy), "%.*s", SPAN_FMT(cell));
	for (; *at && n < 2; at++) {
		if (!isdigit((unsigned char)*at))
			continue;
		ret[n++] = strtoul(at, &at, 10);
		if (!*at)
			break;
	}
	return n;
}

enum scope { SESSION, STREAM };
#define MAX_DATA SIZE_MAX
#define MAX_FIELDS TP_FIELDS_BYTES_MAX
#define MAX_DETAIL TP_DETAIL_MAX
#define MAX_NOTE TP_NOTE_MAX

static const struct {
	const char *name;
	uint8_t type;
	enum scope scope;
	bool counted;
	uint8_t flags;
	size_t min, max;
} frames[] = {
#define FRAME(id, type, scope, counted, flags, min, max) { #id, type, scope, counted, flags, min, max },
#include "proto/frames.def"
#undef FRAME
};

START_TEST(frame_table)
{
	struct span cells[CELLS];
	char type[8];
	size_t range[2], n;

	load();
	for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
		ck_assert_msg(find_row(0, frames[i].name, cells), "no row for %s", frames[i].name);
		snprintf(type, sizeof(type), "0x%02x", frames[i].type);
		ck_assert_msg(span_is(cells[1], type), "type of %s", frames[i].name);
		ck_assert_msg(span_is(cells[2], frames[i].scope == SESSION ? "session" : "stream"), "scope of %s",
			      frames[i].name);
		ck_assert_msg(span_is(cells[3], frames[i].counted ? "yes" : "no"), "counted: %s", frames[i].name);
		ck_assert_msg(span_is(cells[4], frames[i].flags ? "END" : ""), "flags of %s", frames[i].name);
		n = numbers(cells[5], range);
		ck_assert_uint_eq(range[0], frames[i].min);
		if (frames[i].max == MAX_DATA)
			ck_assert(n == 1 && span_is(cells[5], "0 to agreed"));
		else
			ck_assert_msg(n == 2 && range[1] == frames[i].max, "payload of %s", frames[i].name);
	}
	free(text);
}
END_TEST

static int no_random(void *dst, size_t len)
{
	return -1;
}

START_TEST(limits)
{
	struct tp_config cfg;

	tp_config_init(&cfg, TP_RELAY, no_random);

	const struct {
		const char *name;
		size_t first, second; /* second: SIZE_MAX, not there */
		const char *reason;
	} rows[] = {
		{ "payload of DATA, smallest that may be agreed", TP_PAYLOAD_MIN, SIZE_MAX, "protocol" },
		{ "payload of DATA, by default", TP_PAYLOAD_DEFAULT, SIZE_MAX, "protocol" },
		{ "payload of DATA, ceiling", TP_PAYLOAD_CEILING, SIZE_MAX, "protocol" },
		{ "all fields of a frame", TP_FIELDS_BYTES_MAX, SIZE_MAX, "protocol" },
		{ "fields of a frame", TP_FIELDS_COUNT_MAX, SIZE_MAX, "protocol" },
		{ "name of a field", TP_FIELD_NAME_MAX, SIZE_MAX, "protocol" },
		{ "detail", TP_DETAIL_MAX, SIZE_MAX, "protocol" },
		{ "initial window, by default", TP_WINDOW_INITIAL, SIZE_MAX, "flow-control" },
		{ "window, ceiling", TP_WINDOW_CEILING, SIZE_MAX, "flow-control" },
		{ "credit of a stream in all", INT32_MAX, SIZE_MAX, "flow-control" },
		{ "streams open at once, by default", cfg.max_streams, SIZE_MAX, "refused-not-executed" },
		{ "RESET frames, and OPENs that had to be refused", RESET_RATE, RESET_RATE, "abuse" },
		{ "empty DATA frames without END", EMPTY_DATA_RATE, EMPTY_DATA_RATE, "abuse" },
		{ "NOTE frames", NOTE_RATE, 10 * NOTE_RATE, "abuse" },
		{ "PING frames and WebSocket pings", PING_RATE, 10 * PING_RATE, "abuse" },
		{ "frames not acknowledged by the receiver", ACK_AFTER_FRAMES, SIZE_MAX, "abuse" },
		{ "bytes not acknowledged by the receiver", ACK_AFTER_BYTES, SIZE_MAX, "abuse" },
		{ "greeting", cfg.handshake_ms, SIZE_MAX, "protocol" },
		{ "silence, in keepalive times of 20000 ms", 2, SIZE_MAX, "keepalive" },
	};

	ck_assert_uint_eq(cfg.keepalive_ms, 20000);
	ck_assert_uint_eq(cfg.max_payload, TP_PAYLOAD_DEFAULT);
	load();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct span cells[CELLS];
		size_t n[2] = { SIZE_MAX, SIZE_MAX };

		ck_assert_msg(find_row(0, rows[i].name, cells), "no row for '%s'", rows[i].name);
		numbers(cells[1], n);
		ck_assert_msg(n[0] == rows[i].first && n[1] == rows[i].second, "number of '%s'", rows[i].name);
		ck_assert_msg(span_is(cells[2], rows[i].reason), "reason of '%s'", rows[i].name);
	}
	free(text);
}
END_TEST

START_TEST(reason_table)
{
	size_t n = 0;

	load();
	for (uint32_t code = 0; code < 256; code++) {
		const struct tp_reason_info *info = tp_reason_info(code);
		struct span cells[CELLS];
		char text_of[16];

		if (!tp_reason_known(code))
			continue;
		n++;
		snprintf(text_of, sizeof(text_of), "%u", code);
		ck_assert_msg(find_row(1, info->name, cells) && span_is(cells[0], text_of), "row of %s", info->name);
		ck_assert_msg(span_is(cells[2], info->maybe_executed ? "maybe" : "no"), "executed: %s", info->name);
		snprintf(text_of, sizeof(text_of), "%u", info->http_status);
		ck_assert_msg(span_is(cells[3], text_of), "HTTP status of %s", info->name);
		snprintf(text_of, sizeof(text_of), "%d", info->rpc_code);
		ck_assert_msg(span_is(cells[4], text_of), "JSON-RPC code of %s", info->name);
		ck_assert_msg(span_is(cells[5], info->text), "text of %s", info->name);
	}
	ck_assert_uint_ge(n, 20);
	free(text);
}
END_TEST

/* Hex digits of a line up to its comment. */
static void add_hex(struct buf *out, struct span line)
{
	char digits[2];
	size_t have = 0;
	uint8_t byte;

	for (size_t i = 0; i < line.len && line.p[i] != '#'; i++) {
		if (line.p[i] == ' ')
			continue;
		digits[have++] = line.p[i];
		if (have < 2)
			continue;
		ck_assert_msg(hex_decode(span_make(digits, 2), &byte, 1) == 0, "no hex: %.*s", SPAN_FMT(line));
		ck_assert_int_eq(buf_add(out, &byte, 1), 0);
		have = 0;
	}
	ck_assert_msg(have == 0, "half a byte: %.*s", SPAN_FMT(line));
}

static bool comment_of(struct span line, char dst[256])
{
	const char *hash = memchr(line.p, '#', line.len);

	if (!hash)
		return false;
	snprintf(dst, 256, "%.*s", SPAN_FMT(span_trim(span_make(hash + 1, line.len - (size_t)(hash + 1 - line.p)))));
	return true;
}

/* Each line after the first is one field, and its comment says which. */
static void check_fields(const struct tp_frame *f, struct span lines)
{
	struct tp_field fields[TP_FIELDS_COUNT_MAX];
	char said[256], comment[256];
	const char *bad;
	size_t n;

	bad = fields_decode(f->payload, f->len, fields, &n);
	ck_assert_msg(bad == NULL, "%s", bad);
	span_split(&lines, '\n');
	for (size_t i = 0; i < n; i++) {
		ck_assert(comment_of(span_split(&lines, '\n'), comment));
		snprintf(said, sizeof(said), "%.*s:%s%.*s", SPAN_FMT(fields[i].name), fields[i].value.len ? " " : "",
			 SPAN_FMT(fields[i].value));
		ck_assert_str_eq(said, comment);
	}
}

static void check_example(struct span title, struct span lines)
{
	struct span rest = lines;
	struct tp_frame f;
	struct buf bytes;
	const char *bad;

	buf_init(&bytes, 4096);
	while (rest.p)
		add_hex(&bytes, span_split(&rest, '\n'));
	bad = frame_decode(buf_bytes(&bytes), buf_len(&bytes), TP_PAYLOAD_DEFAULT, &f);
	ck_assert_msg(bad == NULL, "%.*s: %s", SPAN_FMT(title), bad);
	ck_assert_msg(span_is(title, frame_name(f.type)), "%.*s is a %s", SPAN_FMT(title), frame_name(f.type));
	if (frame_has_fields(f.type))
		check_fields(&f, lines);
	buf_done(&bytes);
}

START_TEST(every_frame_has_an_example)
{
	char open[32];

	load();
	for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
		const char *at, *end;
		size_t count = 0;

		snprintf(open, sizeof(open), "```hex %s\n", frames[i].name);
		for (at = text; (at = strstr(at, open)); at = end) {
			at += strlen(open);
			end = strstr(at, "\n```");
			ck_assert_ptr_nonnull(end);
			check_example(span_of(frames[i].name), span_make(at, (size_t)(end - at)));
			count++;
		}
		ck_assert_msg(count > 0, "no example of %s", frames[i].name);
	}
	free(text);
}
END_TEST

UNIT_MAIN("protocol_doc", ADD(frame_table) ADD(limits) ADD(reason_table) ADD(every_frame_has_an_example))
