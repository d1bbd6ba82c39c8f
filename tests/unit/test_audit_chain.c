#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/audit_chain.h"
#include "tests/lib/unit.h"

#define MESSAGE "MCPAUDIT v=1 ev=call.request seq=42 tool=\"a=b\""
#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Computed with Python's hashlib: sorted names, NAME=LENGTH:VALUE and a newline. */
#define EXPECT "2aa305aa7526589c566b211e05052e5be87434f05006c5fd99653a33da6acf22"

static const struct journal_field record[] = {
	{ "MESSAGE", SPAN_INIT(MESSAGE) },
	{ "MESSAGE_ID", SPAN_INIT("b841c1811f564dbba297bc18d8dee8aa") },
	{ "PRIORITY", SPAN_INIT("6") },
	{ "SYSLOG_IDENTIFIER", SPAN_INIT("mcp-tunnel-gateway") },
	{ "MCP_SEQ", SPAN_INIT("42") },
	{ "MCP_TOOL", SPAN_INIT("a\nPRIORITY=0") },
	{ "MCP_AGENT_ID", { NULL, 0 } },
	{ "MCP_CHAIN_ID", SPAN_INIT("00112233445566778899aabbccddeeff") },
	{ "MCP_CHAIN_PREV", SPAN_INIT(HEX) },
};
enum { N = ARRAY_LEN(record) };

static const char *chain_of(const struct journal_field *f, size_t n)
{
	static char out[AUDIT_CHAIN_HEX + 1];

	ck_assert_int_eq(audit_chain(f, n, out), 0);
	return out;
}

START_TEST(known_answer)
{
	ck_assert_str_eq(chain_of(record, N), EXPECT);
	ck_assert_str_eq(chain_of(NULL, 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
END_TEST

START_TEST(order_does_not_count)
{
	struct journal_field f[N];

	srandom(1);
	memcpy(f, record, sizeof(f));
	for (int round = 0; round < 500; round++) {
		size_t a = (size_t)random() % N, b = (size_t)random() % N;
		struct journal_field t = f[a];

		f[a] = f[b];
		f[b] = t;
		ck_assert_str_eq(chain_of(f, N), EXPECT);
	}
}
END_TEST

START_TEST(what_counts)
{
	struct journal_field f[N + 1];
	char changed[AUDIT_CHAIN_HEX + 1];

	memcpy(f, record, sizeof(record));
	/* A field more that journald or the sender put beside the record. */
	for (size_t i = 0; i < 4; i++) {
		static const char *const beside[] = { "MCP_CHAIN", "_PID", "SYSLOG_PID", "CODE_FILE" };

		f[N] = (struct journal_field){ beside[i], SPAN("x") };
		ck_assert_str_eq(chain_of(f, N + 1), EXPECT);
	}
	f[N] = (struct journal_field){ "MCP_CHAIN_X", SPAN("x") };
	ck_assert_str_ne(chain_of(f, N + 1), EXPECT);
	f[N] = (struct journal_field){ "MCP_EMPTY", { NULL, 0 } };
	ck_assert_str_ne(chain_of(f, N + 1), EXPECT);
	/* Every field but SYSLOG_IDENTIFIER: another value, and none. */
	for (size_t i = 0; i < N; i++) {
		bool beside = strcmp(record[i].name, "SYSLOG_IDENTIFIER") == 0;

		memcpy(f, record, sizeof(record));
		f[i].value = SPAN("changed");
		ck_assert_int_eq(strcmp(chain_of(f, N), EXPECT) == 0, beside);
		memmove(&f[i], &record[i + 1], (N - i - 1) * sizeof(f[0]));
		ck_assert_int_eq(strcmp(chain_of(f, N - 1), EXPECT) == 0, beside);
	}
	/* Bytes that move from one field into the next. */
	f[0] = (struct journal_field){ "MCP_A", SPAN("1\nMCP_B=1:2") };
	f[1] = (struct journal_field){ "MCP_B", SPAN("2") };
	memcpy(changed, chain_of(f, 1), sizeof(changed));
	f[0].value = SPAN("1");
	ck_assert_str_ne(chain_of(f, 2), changed);
}
END_TEST

START_TEST(message_without_its_last_word)
{
	static const struct {
		const char *message;
		bool same;
	} rows[] = {
		{ MESSAGE " chain=" HEX, true },
		{ MESSAGE, true },
		{ MESSAGE " chain=" HEX " chain=" HEX, false }, /* only the last */
		{ MESSAGE " chain=" HEX "0", false },
		{ MESSAGE " chain=" HEX " ", false },
		{ MESSAGE "  chain=" HEX, false },
		{ MESSAGE " Chain=" HEX, false },
		{ MESSAGE " chain=g123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", false },
		{ MESSAGE " chain=", false },
	};
	struct journal_field f[N];

	memcpy(f, record, sizeof(f));
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		f[0].value = span_of(rows[i].message);
		ck_assert_msg((strcmp(chain_of(f, N), EXPECT) == 0) == rows[i].same, "%s", rows[i].message);
	}
	ck_assert_uint_eq(audit_chain_message(SPAN(" chain=" HEX)).len, 0);
	ck_assert_uint_eq(audit_chain_message(SPAN("")).len, 0);
	ck_assert_ptr_null(audit_chain_message((struct span){ NULL, 0 }).p);
}
END_TEST

START_TEST(names_twice)
{
	static const struct journal_field one[] = { { "MCP_A", SPAN_INIT("b") }, { "MCP_A", SPAN_INIT("a") },
						    { "MCP_A", SPAN_INIT("ab") } };
	static const struct journal_field other[] = { { "MCP_A", SPAN_INIT("ab") }, { "MCP_A", SPAN_INIT("a") },
						      { "MCP_A", SPAN_INIT("b") } };
	char first[AUDIT_CHAIN_HEX + 1];

	memcpy(first, chain_of(one, 3), sizeof(first));
	ck_assert_str_eq(chain_of(other, 3), first);
	ck_assert_str_ne(chain_of(other, 2), first);
}
END_TEST

/* Names that differ late, or are the beginning of others; in every rotation, and backwards. */
START_TEST(names_alike)
{
	static const char *const names[] = { "MCP_RESP_BYTES", "MCP_RESP_BYTE", "MCP_RESP_BYT", "MCP_RESP_BYTESX",
					     "MCP_RESP_BYS",   "MCP_RESP_BYTA", "MCP_",		"MCP_A",
					     "MESSAGE",	       "MESSAGE_ID",	"PRIORITY" };
	enum { COUNT = ARRAY_LEN(names) };
	struct journal_field f[COUNT];

	for (size_t turn = 0; turn < 2 * (size_t)COUNT; turn++) {
		for (size_t i = 0; i < COUNT; i++) {
			size_t from = turn < COUNT ? turn + i : turn + COUNT - i;

			f[i] = (struct journal_field){ names[from % COUNT], SPAN("v") };
		}
		ck_assert_str_eq(chain_of(f, COUNT), "59ec7c0a2fa2f021f7015068b4c2c14cb27fdb8b71e0d8a082e8f778385e0ffc");
	}
}
END_TEST

/* Around the size in which short values are collected; computed with Python's hashlib too. */
START_TEST(long_values)
{
	static const struct {
		size_t len[4];
		const char *expect;
	} rows[] = {
		{ { 1990, 100, 5000, 2048 }, "5fbb45a2e1d1690d236220ba6caf1451718dd84115f5937742f3b5b9bdb2beb1" },
		{ { 4000, 72, 4096, 4095 }, "6f8b1b0f83fcb2ed90f0cbe470bd3252b8cbf77568f2d5d5763a106ff67423f8" },
	};
	struct journal_field f[] = { { .name = "MCP_A" }, { .name = "MCP_B" }, { .name = "MCP_C" }, { .name = "MCP_D" } };
	static char text[4][5000];

	for (size_t row = 0; row < ARRAY_LEN(rows); row++) {
		for (size_t i = 0; i < ARRAY_LEN(f); i++) {
			memset(text[i], "xyzw"[i], sizeof(text[i]));
			f[i].value = span_make(text[i], rows[row].len[i]);
		}
		ck_assert_str_eq(chain_of(f, ARRAY_LEN(f)), rows[row].expect);
	}
}
END_TEST

START_TEST(bounds)
{
	static char names[AUDIT_CHAIN_FIELDS_MAX + 1][16];
	struct journal_field f[AUDIT_CHAIN_FIELDS_MAX + 2];
	char out[AUDIT_CHAIN_HEX + 1] = "untouched";
	const size_t big = 3 * 1024 * 1024;
	char *value = calloc(1, big);

	for (size_t i = 0; i <= AUDIT_CHAIN_FIELDS_MAX; i++) {
		snprintf(names[i], sizeof(names[i]), "MCP_F%zu", i);
		f[i] = (struct journal_field){ names[i], SPAN("v") };
	}
	ck_assert_int_eq(audit_chain(f, AUDIT_CHAIN_FIELDS_MAX + 1, out), -E2BIG);
	ck_assert_str_eq(out, "untouched");
	f[AUDIT_CHAIN_FIELDS_MAX].name = "_OTHER";
	ck_assert_int_eq(audit_chain(f, AUDIT_CHAIN_FIELDS_MAX + 1, out), 0);
	f[3].value = span_make(value, big);
	ck_assert_int_eq(audit_chain(f, AUDIT_CHAIN_FIELDS_MAX, out), 0);
	free(value);
}
END_TEST

START_TEST(speed)
{
	enum { ROUNDS = 20000 };
	static char text[900];
	struct journal_field f[30];
	static char names[30][16];
	struct timespec from, to;
	char out[AUDIT_CHAIN_HEX + 1];

	memset(text, 'x', sizeof(text));
	for (size_t i = 0; i < 30; i++) {
		snprintf(names[i], sizeof(names[i]), "MCP_F%zu", i * 7 % 30);
		f[i] = (struct journal_field){ names[i], span_make(text, i ? 30 : 600) };
	}
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < ROUNDS; i++)
		ck_assert_int_eq(audit_chain(f, 30, out), 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("# %.2f us a record\n",
	       ((double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3) / ROUNDS);
}
END_TEST

UNIT_MAIN("audit_chain", ADD(known_answer) ADD(order_does_not_count) ADD(what_counts) ADD(message_without_its_last_word)
	  ADD(names_twice) ADD(names_alike) ADD(long_values) ADD(bounds) ADD(speed))
