/* What mcp-tunnel-audit is made of; what it says about whole logs is tests/e2e/test_audit_tool.py's. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/audit/keymap.h"
#include "gateway/audit/lines.h"
#include "gateway/audit/logrecord.h"
#include "tests/lib/unit.h"

/* ---- keymap ---- */

struct entry {
	uint8_t key[KEYMAP_KEY_LEN];
	uint64_t value;
};

enum { KEYS = 700 };

static void make_key(uint32_t n, uint8_t key[KEYMAP_KEY_LEN])
{
	memset(key, 0, KEYMAP_KEY_LEN);
	n++;
	memcpy(key + n % 12, &n, sizeof(n));
}

static void check_all(const struct keymap *m, const bool *here)
{
	size_t n = 0, it = 0;
	uint8_t key[KEYMAP_KEY_LEN];

	for (uint32_t i = 0; i < KEYS; i++) {
		const struct entry *e;

		make_key(i, key);
		e = keymap_get(m, key);
		ck_assert_int_eq(e != NULL, here[i]);
		if (e)
			ck_assert_uint_eq(e->value, i);
		n += here[i];
	}
	ck_assert_uint_eq(m->used, n);
	for (; keymap_next(m, &it); n--)
		ck_assert_uint_gt(n, 0);
	ck_assert_uint_eq(n, 0);
}

START_TEST(keymap_random)
{
	bool here[KEYS] = { false };
	uint8_t key[KEYMAP_KEY_LEN];
	struct keymap m;
	void *e;

	ck_assert_int_eq(keymap_init(&m, sizeof(struct entry), KEYS), 0);
	srand(1);
	for (int step = 0; step < 20000; step++) {
		uint32_t i = (uint32_t)rand() % KEYS;

		make_key(i, key);
		if (here[i] && rand() % 2) {
			keymap_remove(&m, keymap_get(&m, key));
			here[i] = false;
		} else {
			ck_assert_int_eq(keymap_make(&m, key, &e), 0);
			ck_assert_uint_eq(((struct entry *)e)->value, here[i] ? i : 0);
			((struct entry *)e)->value = i;
			here[i] = true;
		}
		if (step % 500 == 0)
			check_all(&m, here);
	}
	keymap_done(&m);
}
END_TEST

START_TEST(keymap_is_bounded)
{
	uint8_t key[KEYMAP_KEY_LEN];
	struct keymap m;
	void *e;

	ck_assert_int_eq(keymap_init(&m, sizeof(struct entry), 100), 0);
	for (uint32_t i = 0; i < 100; i++) {
		make_key(i, key);
		ck_assert_int_eq(keymap_make(&m, key, &e), 0);
	}
	ck_assert_int_eq(keymap_make(&m, key, &e), 0);
	make_key(100, key);
	ck_assert_int_lt(keymap_make(&m, key, &e), 0);
	keymap_done(&m);
}
END_TEST

/* ---- lines ---- */

static struct lines *lines_of(const char *p, size_t len)
{
	char path[] = "/tmp/test_audit_tool.XXXXXX";
	int fd = mkstemp(path);
	struct lines *l = NULL;

	ck_assert_int_eq(write(fd, p, len), (ssize_t)len);
	close(fd);
	ck_assert_int_eq(lines_open(path, &l), 0);
	unlink(path);
	return l;
}

START_TEST(lines_plain)
{
	static const char text[] = "one\n\nthree\nlast";
	struct lines *l = lines_of(text, sizeof(text) - 1);
	struct span s;

	ck_assert_int_eq(lines_next(l, &s), LINES_LINE);
	ck_assert(span_is(s, "one") && lines_number(l) == 1);
	ck_assert_int_eq(lines_next(l, &s), LINES_LINE);
	ck_assert_uint_eq(s.len, 0);
	ck_assert_int_eq(lines_next(l, &s), LINES_LINE);
	ck_assert(span_is(s, "three") && !lines_is_torn(l));
	ck_assert_int_eq(lines_next(l, &s), LINES_LINE);
	ck_assert(span_is(s, "last") && lines_is_torn(l) && lines_number(l) == 4);
	ck_assert_int_eq(lines_next(l, &s), LINES_END);
	ck_assert_int_eq(lines_next(l, &s), LINES_END);
	lines_close(l);
}
END_TEST

static bool is_all(struct span s, char c)
{
	while (s.len && s.p[s.len - 1] == c)
		s.len--;
	return s.len == 0;
}

START_TEST(lines_of_every_length)
{
	static const size_t lengths[] = { 0,	      1,	    128 * 1024 - 1,	 128 * 1024,	      128 * 1024 + 1,
					  LINES_MAX_BYTES - 1, LINES_MAX_BYTES, LINES_MAX_BYTES + 1, 3 * LINES_MAX_BYTES + 5, 7 };
	size_t total = 0, at = 0;
	struct lines *l;
	struct span s;
	char *text;

	for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
		total += lengths[i] + 1;
	text = malloc(total);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		memset(text + at, 'a' + (int)i, lengths[i]);
		at += lengths[i];
		text[at++] = '\n';
	}
	l = lines_of(text, total);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		int r = lines_next(l, &s);

		ck_assert_uint_eq(lines_number(l), i + 1);
		ck_assert_int_eq(r, lengths[i] >= LINES_MAX_BYTES ? LINES_TOO_LONG : LINES_LINE);
		if (r == LINES_LINE)
			ck_assert_uint_eq(s.len, lengths[i]);
		ck_assert(r != LINES_LINE || is_all(s, (char)('a' + (int)i)));
	}
	ck_assert_int_eq(lines_next(l, &s), LINES_END);
	lines_close(l);
	free(text);
}
END_TEST

/* ---- records ---- */

#define ID "\"MCP_CHAIN_ID\":\"00112233445566778899aabbccddeeff\""
#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define PLACE ID ",\"MCP_SEQ\":\"7\",\"MCP_CHAIN\":\"" HASH "\",\"MCP_CHAIN_PREV\":\"" HASH "\""

static struct log_parser *parser;
static struct log_record record;

static int parse(const char *line)
{
	const char *why = NULL;
	int r = log_parse(parser, span_of(line), SIDE_RELAY, &record, &why);

	if (r == LOG_BAD || r == LOG_UNCHAINED)
		ck_assert_ptr_nonnull(why);
	return r;
}

static void expect_word(const char *line, enum log_word word, const char *value)
{
	int r = parse(line);

	ck_assert_msg(r == LOG_RECORD, "%d: %s", r, line);
	ck_assert_msg(span_is(record.words[word], value), "%.*s", SPAN_FMT(record.words[word]));
}

START_TEST(forms_of_a_value)
{
	ck_assert_int_eq(log_parser_new(&parser), 0);
	expect_word("{" PLACE ",\"MCP_EVENT\":\"a\\u0062\"}", LOG_EVENT, "ab");
	expect_word("{" PLACE ",\"MCP_EVENT\":[97,98]}", LOG_EVENT, "ab");
	expect_word("{" PLACE ",\"MCP_EVENT\":[\"ab\",\"c\"]}", LOG_EVENT, "ab");
	expect_word("{" PLACE ",\"MCP_EVENT\":[[97,98],\"c\"]}", LOG_EVENT, "ab");
	expect_word("{" PLACE ",\"MCP_EVENT\":[[],\"c\"]}", LOG_EVENT, "");
	expect_word("{" PLACE ",\"mcp_event\":\"ab\"}", LOG_EVENT, "ab");
	expect_word("{" PLACE ",\"MCP_GAP_COUNT\":12}", LOG_GAP_COUNT, "12");
	expect_word("{\"_X\":[1,2,[3]],\"_Y\":{\"a\":{}},\"_Z\":null," PLACE ",\"MCP_EVENT\":\"ab\"}", LOG_EVENT, "ab");
	ck_assert_uint_eq(record.own.seq, 7);
	ck_assert_int_eq(record.side, SIDE_RELAY);
	ck_assert(!record.intact && !record.has_peer);
	expect_word("{" PLACE ",\"MCP_SIDE\":\"gateway\",\"MCP_PEER_SEQ\":\"5\",\"MCP_PEER_CHAIN\":\"" HASH
		    "\",\"MCP_PEER_CHAIN_ID\":\"x\"}",
		    LOG_SIDE, "gateway");
	ck_assert_int_eq(record.side, SIDE_GATEWAY);
	ck_assert(record.has_peer && record.peer.seq == 5 && strcmp(record.peer.chain_id, "x") == 0);
	parser = log_parser_free(parser);
}
END_TEST

START_TEST(what_is_no_record)
{
	ck_assert_int_eq(log_parser_new(&parser), 0);
	ck_assert_int_eq(parse("{}"), LOG_OTHER);
	ck_assert_int_eq(parse("{\"MESSAGE\":\"hello\",\"MCP_TUNNEL_ID\":\"x\"}"), LOG_OTHER);
	ck_assert_int_eq(parse("{\"MESSAGE\":null,\"PRIORITY\":{}}"), LOG_OTHER);
	ck_assert_int_eq(parse("{\"MESSAGE\":\"MCPAUDIT v=1\"}"), LOG_UNCHAINED);
	ck_assert_int_eq(parse("{\"MCP_EVENT\":\"call.request\"}"), LOG_UNCHAINED);
	ck_assert_int_eq(parse("{" ID "}"), LOG_UNCHAINED);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_SEQ\":\"8\"}"), LOG_RECORD);
	ck_assert_int_eq(parse("{" ID ",\"MCP_SEQ\":\"-1\",\"MCP_CHAIN\":\"" HASH "\",\"MCP_CHAIN_PREV\":\"" HASH "\"}"),
			 LOG_UNCHAINED);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":null}"), LOG_BAD);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":[256]}"), LOG_BAD);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":[1,\"a\"]}"), LOG_BAD);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":[[[1]]]}"), LOG_BAD);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":{\"a\":1}}"), LOG_BAD);
	ck_assert_int_eq(parse("{" PLACE ",\"MCP_TOOL\":true}"), LOG_BAD);
	ck_assert_int_eq(parse("[1]"), LOG_BAD);
	ck_assert_int_eq(parse("{\"a\":1} x"), LOG_BAD);
	ck_assert_int_eq(parse("{\"a\":1}{}"), LOG_BAD);
	ck_assert_int_eq(parse("{\"a\":01}"), LOG_BAD);
	ck_assert_int_eq(parse("{\"a\":"), LOG_BAD);
	ck_assert_int_eq(parse("{\"message\":\"MCPAUDIT v=1 ev=ca"), LOG_CUT);
	ck_assert_int_eq(parse("{\"mess"), LOG_CUT);
	parser = log_parser_free(parser);
}
END_TEST

START_TEST(times)
{
	static const char *const bad[] = { "",
					   "2026-11-20T20:00:00",
					   "2026-11-20 20:00:00Z",
					   "2026-11-20T20:00:00.Zx",
					   "2026-11-20T20:00:0xZ",
					   "1969-11-20T20:00:00Z",
					   "2026-11-20T20:00:00+01:00",
					   "2026-11-20T20:00:00.123456789012Z" };
	uint64_t us = 0;

	ck_assert(log_time(SPAN("1970-01-02T00:00:01Z"), &us) && us == 86401000000);
	ck_assert(log_time(SPAN("2026-11-20T20:00:00.000123Z"), &us) && us == 1795204800000123);
	ck_assert(log_time(SPAN("2026-11-20T20:00:00.5Z"), &us) && us == 1795204800500000);
	ck_assert(log_time(SPAN("2026-11-20T20:00:00.123456789Z"), &us) && us == 1795204800123456);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(!log_time(span_of(bad[i]), &us), "%s", bad[i]);
}
END_TEST

UNIT_MAIN("audit_tool", ADD(keymap_random) ADD(keymap_is_bounded) ADD(lines_plain) ADD(lines_of_every_length)
				ADD(forms_of_a_value) ADD(what_is_no_record) ADD(times))
