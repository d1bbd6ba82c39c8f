/* Logs from whoever could write to them. A first byte below 0x80: the rest is a log as it is, on both sides. Else: a script
 * that makes records, most of them with good hashes, deletes, doubles, swaps and changes them, so that what is behind the hash
 * is reached. Nothing may crash or grow; what a script did not touch is whole, and what it changed is not. */
#include <stdio.h>
#include <stdlib.h>

#include "gateway/audit/trail.h"

enum { RECORDS_MAX = 200, LINE_MAX_BYTES = 2048, CHAINS = 3, NEWEST = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct log_parser *parser;
static FILE *nowhere;

struct script {
	const uint8_t *p, *end;
	struct {
		uint64_t seq;
		char prev[AUDIT_CHAIN_HEX + 1];
		unsigned calls; /* asked and not answered */
	} chains[CHAINS];
	char lines[RECORDS_MAX][LINE_MAX_BYTES];
	size_t n;
	bool touched; /* a record was changed, but for the end cut off */
};

static uint8_t take(struct script *s)
{
	return s->p < s->end ? *s->p++ : 0;
}

static void add_lines(struct trail *t, struct span text, enum side side)
{
	uint64_t line = 0;

	while (text.p && line < 100000) {
		struct span one = span_split(&text, '\n');
		struct log_record r;
		const char *why = "";

		line++;
		if (log_parse(parser, one, side, &r, &why) == LOG_RECORD) {
			r.at = (struct place){ .file = 0, .line = line };
			if (trail_add(t, &r) < 0)
				abort();
		}
	}
}

static void fuzz_text(struct span text, enum findings_form form, bool both)
{
	static const char *const names[] = { "log\n" };
	struct findings f = { .out = nowhere, .form = form, .files = names, .n_files = 1 };
	struct trail_sums sums;
	struct trail *t;

	if (trail_new(&f, NEWEST, &t) < 0)
		abort();
	if (both)
		trail_expect_both(t);
	add_lines(t, text, SIDE_GATEWAY);
	add_lines(t, text, SIDE_RELAY);
	if (trail_finish(t, &sums) < 0)
		abort();
	trail_free(t);
}

/* ---- Scripts ---- */

#define F(field, text) { field, { text, sizeof(text) - 1 } }

static void make_record(struct script *s, unsigned k, const char *event, unsigned call, const char *side)
{
	static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
	char seq[24], id[40], chain_id[33], hex[AUDIT_CHAIN_HEX + 1];
	struct journal_field f[] = {
		F("MESSAGE", "MCPAUDIT v=1"),
		F("PRIORITY", "6"),
		F("MCP_TIME", "2026-11-20T20:00:00.000000Z"),
		{ "MCP_EVENT", span_of(event) },
		{ "MCP_SIDE", span_of(side) },
		{ "MCP_SEQ", { seq, 0 } },
		{ "MCP_CHAIN_ID", { chain_id, 32 } },
		{ "MCP_CHAIN_PREV", { s->chains[k].prev, AUDIT_CHAIN_HEX } },
		{ "MCP_CALL_ID", { id, 36 } },
		F("MCP_GAP_CAUSE", "state-missing"),
	};
	char *at = s->lines[s->n], *end = at + LINE_MAX_BYTES;

	if (s->chains[k].seq == 0)
		memcpy(s->chains[k].prev, zeros, sizeof(zeros));
	f[5].value.len = (size_t)snprintf(seq, sizeof(seq), "%llu", (unsigned long long)s->chains[k].seq);
	snprintf(chain_id, sizeof(chain_id), "%032x", k);
	snprintf(id, sizeof(id), "%08x-0000-7000-8000-%012x", call + 1, k);
	if (audit_chain(f, ARRAY_LEN(f), hex) < 0)
		abort();
	at += snprintf(at, (size_t)(end - at), "{\"MCP_CHAIN\":\"%s\"", hex);
	for (size_t i = 0; i < ARRAY_LEN(f); i++)
		at += snprintf(at, (size_t)(end - at), ",\"%s\":\"%.*s%s%s\"", f[i].name, SPAN_FMT(f[i].value),
			       i ? "" : " chain=", i ? "" : hex);
	memcpy(s->chains[k].prev, hex, sizeof(hex));
	s->chains[k].seq++;
	s->n++;
}

static void step_record(struct script *s, uint8_t op)
{
	unsigned k = op % CHAINS;
	const char *side = k == 2 ? "relay" : "gateway";

	if (s->n + 2 > RECORDS_MAX)
		return;
	if (s->chains[k].seq == 0) {
		make_record(s, k, "gateway.start", 0, side);
		make_record(s, k, "audit.gap", 0, side);
	} else if (op & 16 && s->chains[k].calls > 0) {
		make_record(s, k, "call.response", --s->chains[k].calls, side);
	} else {
		make_record(s, k, op & 32 ? "session.open" : "call.request", op & 32 ? 0 : s->chains[k].calls++, side);
	}
}

static void step_damage(struct script *s, uint8_t op)
{
	size_t i, k;
	char swap[LINE_MAX_BYTES];

	if (s->n < 2)
		return;
	i = take(s) % s->n;
	k = take(s) % s->n;
	s->touched = true;
	switch (op & 3) {
	case 0:
		memmove(s->lines[i], s->lines[i + 1], (s->n - i - 1) * LINE_MAX_BYTES);
		s->n--;
		break;
	case 1:
		memcpy(swap, s->lines[i], sizeof(swap));
		memcpy(s->lines[i], s->lines[k], sizeof(swap));
		memcpy(s->lines[k], swap, sizeof(swap));
		break;
	case 2:
		if (s->n < RECORDS_MAX)
			memcpy(s->lines[s->n++], s->lines[i], LINE_MAX_BYTES);
		break;
	default:
		k = strlen(s->lines[i]);
		s->lines[i][take(s) * 256u % k + take(s) % k] ^= 1 << (op >> 2 & 3);
	}
}

static uint64_t check(const struct script *s, size_t n)
{
	static const char *const names[] = { "log" };
	struct findings f = { .out = nowhere, .form = FINDINGS_JSON, .files = names, .n_files = 1 };
	struct trail_sums sums;
	struct trail *t;

	if (trail_new(&f, NEWEST, &t) < 0)
		abort();
	for (size_t i = 0; i < n; i++) {
		struct log_record r;
		const char *why = "";
		char line[LINE_MAX_BYTES + 2];

		snprintf(line, sizeof(line), "%s}", s->lines[i]);
		if (log_parse(parser, span_of(line), SIDE_GATEWAY, &r, &why) != LOG_RECORD)
			continue;
		r.at = (struct place){ .file = 0, .line = i + 1 };
		if (trail_add(t, &r) < 0)
			abort();
	}
	if (trail_finish(t, &sums) < 0)
		abort();
	trail_free(t);
	return f.n[FINDING_FAULT];
}

static void fuzz_script(const uint8_t *p, size_t size)
{
	static struct script s;

	s.n = 0;
	s.touched = false;
	memset(s.chains, 0, sizeof(s.chains));
	s.p = p;
	s.end = p + size;
	while (s.p < s.end) {
		uint8_t op = take(&s);

		if (op < 0xc0)
			step_record(&s, op);
		else
			step_damage(&s, op);
		/* One side, since calls of the two do not match here. */
		if (op % CHAINS == 2 && op < 0xc0)
			s.touched = true;
	}
	if (check(&s, s.n) > 0 && !s.touched) {
		fprintf(stderr, "a log that nobody touched is not whole\n");
		abort();
	}
	if (s.n)
		(void)check(&s, take(&s) % s.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!parser && (log_parser_new(&parser) < 0 || !(nowhere = fopen("/dev/null", "w"))))
		abort();
	if (size == 0)
		return 0;
	if (data[0] < 0x80)
		fuzz_text(span_make(data + 1, size - 1), data[0] & 1 ? FINDINGS_JSON : FINDINGS_TEXT, data[0] & 2);
	else
		fuzz_script(data + 1, size - 1);
	return 0;
}
