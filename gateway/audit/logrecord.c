#include "gateway/audit/logrecord.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/encode.h"
#include "proto/json.h"

enum {
	FIELDS_MAX = AUDIT_CHAIN_FIELDS_MAX + 16,
	TEXT_BYTES = 256 * 1024, /* of the fields that are kept */
	VALUE_MAX = 64 * 1024,
};

static const struct span word_names[LOG_WORD_N] = {
	[LOG_EVENT] = SPAN_INIT("MCP_EVENT"),
	[LOG_MESSAGE] = SPAN_INIT("MESSAGE"),
	[LOG_SIDE] = SPAN_INIT("MCP_SIDE"),
	[LOG_SCHEMA] = SPAN_INIT("MCP_SCHEMA"),
	[LOG_SEQ] = SPAN_INIT("MCP_SEQ"),
	[LOG_CHAIN_ID] = SPAN_INIT("MCP_CHAIN_ID"),
	[LOG_CHAIN_PREV] = SPAN_INIT("MCP_CHAIN_PREV"),
	[LOG_CHAIN] = SPAN_INIT("MCP_CHAIN"),
	[LOG_TIME] = SPAN_INIT("MCP_TIME"),
	[LOG_TUNNEL_ID] = SPAN_INIT("MCP_TUNNEL_ID"),
	[LOG_CALL_ID] = SPAN_INIT("MCP_CALL_ID"),
	[LOG_ARGS_HASH] = SPAN_INIT("MCP_ARGS_HASH"),
	[LOG_REASON] = SPAN_INIT("MCP_REASON"),
	[LOG_GAP_FROM] = SPAN_INIT("MCP_GAP_FROM"),
	[LOG_GAP_TO] = SPAN_INIT("MCP_GAP_TO"),
	[LOG_GAP_COUNT] = SPAN_INIT("MCP_GAP_COUNT"),
	[LOG_GAP_CAUSE] = SPAN_INIT("MCP_GAP_CAUSE"),
	[LOG_PEER_CHAIN_ID] = SPAN_INIT("MCP_PEER_CHAIN_ID"),
	[LOG_PEER_SEQ] = SPAN_INIT("MCP_PEER_SEQ"),
	[LOG_PEER_CHAIN] = SPAN_INIT("MCP_PEER_CHAIN"),
};

struct log_parser {
	struct json json;
	struct span line;
	struct journal_field fields[FIELDS_MAX];
	size_t n_fields, n_text;
	const char *unfit; /* what no audit record has */
	char name[JSON_KEY_KEEP + 1];
	bool wanted;       /* name is one that is kept */
	char text[TEXT_BYTES];
};

int log_parser_new(struct log_parser **ret)
{
	*ret = malloc(sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

struct log_parser *log_parser_free(struct log_parser *p)
{
	free(p);
	return NULL;
}

/* ---- JSON to fields ---- */

/* What the chain covers, and nothing of journald's own. */
static bool is_wanted(const char *name)
{
	return strncmp(name, "MCP_", 4) == 0 || strcmp(name, "MESSAGE") == 0 || strcmp(name, "MESSAGE_ID") == 0 ||
	       strcmp(name, "PRIORITY") == 0;
}

static void unfit(struct log_parser *p, const char *why)
{
	if (!p->unfit)
		p->unfit = why;
}

static void take_name(struct log_parser *p, const struct json_token *t)
{
	size_t n = MIN(t->text.len, (size_t)JSON_KEY_KEEP);

	for (size_t i = 0; i < n; i++)
		p->name[i] = t->text.p[i] >= 'a' && t->text.p[i] <= 'z' ? (char)(t->text.p[i] & ~0x20) : t->text.p[i];
	p->name[n] = '\0';
	p->wanted = is_wanted(p->name);
	if (p->wanted && (t->text_len > n || t->nul))
		unfit(p, "the name of a field is too long");
}

/* Where the next n bytes of text go; NULL once the record is unfit. */
static char *text_room(struct log_parser *p, size_t n)
{
	if (n > sizeof(p->text) - p->n_text)
		unfit(p, "it is larger than any audit record");
	return p->unfit ? NULL : p->text + p->n_text;
}

/* value: at the end of the text already. */
static void add_field(struct log_parser *p, size_t value_len)
{
	size_t name_len = strlen(p->name) + 1;
	char *value = p->text + p->n_text;

	if (p->n_fields == FIELDS_MAX)
		unfit(p, "it has more fields than any audit record");
	if (!text_room(p, value_len + name_len))
		return;
	memcpy(value + value_len, p->name, name_len);
	p->n_text += value_len + name_len;
	p->fields[p->n_fields++] = (struct journal_field){ value + value_len, span_make(value, value_len) };
}

static enum json_type next(struct log_parser *p, struct json_token *t)
{
	char *at = p->wanted ? text_room(p, VALUE_MAX) : NULL;

	if (at)
		json_capture(&p->json, JSON_CAPTURE_TEXT, at, VALUE_MAX);
	return json_next(&p->json, t);
}

static struct span spelling(const struct log_parser *p, const struct json_token *t)
{
	return span_make(p->line.p + t->at, (size_t)(t->end - t->at));
}

static enum json_type skip_container(struct log_parser *p, struct json_token *t)
{
	json_quiet(&p->json);
	return json_next(&p->json, t);
}

/* Journald's form never has numbers; shippers make them of what looks like one. */
static void take_number(struct log_parser *p, struct span text)
{
	char *at = text_room(p, text.len);

	if (!at)
		return;
	memcpy(at, text.p, text.len);
	add_field(p, text.len);
}

static enum json_type take_scalar(struct log_parser *p, enum json_type type, struct json_token *t)
{
	if (type == JSON_STRING && t->text_len > t->text.len)
		unfit(p, "a value is larger than any in an audit record");
	else if (type == JSON_STRING)
		add_field(p, t->text.len);
	else if (type == JSON_NUMBER)
		take_number(p, spelling(p, t));
	else if (type == JSON_NULL)
		unfit(p, "a value was left out; export with journalctl -a -o json");
	else
		unfit(p, "a value is neither text nor bytes");
	return type == JSON_OBJECT_BEGIN || type == JSON_ARRAY_BEGIN ? skip_container(p, t) : type;
}

/* One value in an array of numbers, the first of which is t. What stands behind them is returned. */
static enum json_type take_bytes(struct log_parser *p, struct json_token *t)
{
	enum json_type type = JSON_NUMBER;
	uint64_t byte;
	size_t n;

	for (n = 0; type == JSON_NUMBER; n++) {
		char *at = text_room(p, n + 1);

		if (span_u64(spelling(p, t), &byte) < 0 || byte > 255)
			unfit(p, "a value is an array of what are no bytes");
		else if (at)
			at[n] = (char)byte;
		type = json_next(&p->json, t);
	}
	if (type == JSON_ARRAY_END)
		add_field(p, n);
	else
		unfit(p, "an array mixes numbers with other values");
	return type;
}

/* ["a", "b"], [104, 105] or [[104, 105], "b"]; this is what follows the first bracket. */
static enum json_type take_array(struct log_parser *p, struct json_token *t, bool inner)
{
	enum json_type type = next(p, t);

	if (inner && type == JSON_ARRAY_END)
		add_field(p, 0);
	if (type == JSON_NUMBER)
		type = take_bytes(p, t);
	while (type > JSON_MORE && type != JSON_ARRAY_END) {
		if (type == JSON_ARRAY_BEGIN && !inner)
			type = take_array(p, t, true);
		else
			type = take_scalar(p, type, t);
		if (type > JSON_MORE)
			type = next(p, t);
	}
	return type;
}

static enum json_type take_value(struct log_parser *p, struct json_token *t)
{
	enum json_type type = next(p, t);

	if (type <= JSON_MORE)
		return type;
	if (p->wanted)
		return type == JSON_ARRAY_BEGIN ? take_array(p, t, false) : take_scalar(p, type, t);
	return type == JSON_OBJECT_BEGIN || type == JSON_ARRAY_BEGIN ? skip_container(p, t) : type;
}

/* 0 when it is one object; LOG_CUT, LOG_BAD. */
static int read_fields(struct log_parser *p, struct span line, const char **ret_why)
{
	struct json_token t;
	enum json_type type;

	p->line = line;
	p->n_fields = p->n_text = 0;
	p->unfit = NULL;
	json_init(&p->json, 0);
	json_feed(&p->json, line.p, line.len);
	*ret_why = "it is no JSON object";
	if (json_next(&p->json, &t) != JSON_OBJECT_BEGIN)
		return LOG_BAD;
	while ((type = json_next(&p->json, &t)) == JSON_KEY) {
		take_name(p, &t);
		type = take_value(p, &t);
		if (type <= JSON_MORE)
			break;
	}
	if (type == JSON_OBJECT_END && json_next(&p->json, &t) == JSON_MORE)
		return 0;
	*ret_why = type == JSON_MORE ? "it ends in the middle" : json_bad(&p->json);
	return type == JSON_MORE ? LOG_CUT : LOG_BAD;
}

/* ---- Fields to a record ---- */

static uint64_t number(struct span s, size_t at, size_t n)
{
	uint64_t v = 0;

	return span_u64(span_make(s.p + at, n), &v) < 0 ? UINT64_MAX : v;
}

bool log_time(struct span s, uint64_t *ret_us)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd";
	struct tm tm = { 0 };
	uint64_t us = 0, unit = 100000;
	time_t sec;
	size_t i;

	if (s.len < sizeof(form) || s.len > sizeof(form) + 10 || s.p[s.len - 1] != 'Z')
		return false;
	for (i = 0; i < sizeof(form) - 1; i++)
		if (form[i] == 'd' ? s.p[i] < '0' || s.p[i] > '9' : s.p[i] != form[i])
			return false;
	if (s.p[i] == '.')
		for (i++; i < s.len - 1 && s.p[i] >= '0' && s.p[i] <= '9'; i++, unit /= 10)
			us += unit * (uint64_t)(s.p[i] - '0');
	if (i != s.len - 1)
		return false;
	tm.tm_year = (int)number(s, 0, 4) - 1900;
	tm.tm_mon = (int)number(s, 5, 2) - 1;
	tm.tm_mday = (int)number(s, 8, 2);
	tm.tm_hour = (int)number(s, 11, 2);
	tm.tm_min = (int)number(s, 14, 2);
	tm.tm_sec = (int)number(s, 17, 2);
	sec = timegm(&tm);
	if (sec < 0)
		return false;
	*ret_us = (uint64_t)sec * 1000000 + us;
	return true;
}

static bool take_hex(struct span s, uint8_t out[SHA256_LEN])
{
	return s.len == AUDIT_CHAIN_HEX && hex_decode(s, out, SHA256_LEN) == 0;
}

bool log_head_make(struct span chain_id, uint64_t seq, struct span hash, struct log_head *ret)
{
	if (chain_id.len == 0 || chain_id.len > LOG_CHAIN_ID_MAX || memchr(chain_id.p, '\0', chain_id.len))
		return false;
	memcpy(ret->chain_id, chain_id.p, chain_id.len);
	ret->chain_id[chain_id.len] = '\0';
	ret->seq = seq;
	return seq < UINT64_MAX && take_hex(hash, ret->hash);
}

static bool take_head(struct span id, struct span seq, struct span hash, struct log_head *ret)
{
	uint64_t n;

	return span_u64(seq, &n) == 0 && log_head_make(id, n, hash, ret);
}

static void find_words(const struct log_parser *p, struct log_record *r)
{
	for (size_t i = 0; i < p->n_fields; i++) {
		struct span name = span_of(p->fields[i].name);

		for (size_t w = 0; w < LOG_WORD_N; w++)
			if (span_eq(name, word_names[w]) && !r->words[w].p)
				r->words[w] = p->fields[i].value;
	}
}

/* Whether MESSAGE ends in the very hash: shippers may keep nothing else, and the chain does not cover that word. */
static bool message_agrees(const struct log_record *r)
{
	struct span whole = r->words[LOG_MESSAGE], kept = audit_chain_message(whole);

	return whole.len > kept.len &&
	       span_eq(span_make(whole.p + whole.len - AUDIT_CHAIN_HEX, AUDIT_CHAIN_HEX), r->words[LOG_CHAIN]);
}

static int check_record(const struct log_parser *p, struct log_record *r)
{
	char hex[AUDIT_CHAIN_HEX + 1];
	int e = audit_chain(p->fields, p->n_fields, hex);

	if (e == -E2BIG) {
		memset(r->computed, 0, sizeof(r->computed));
		r->intact = false;
		return 0;
	}
	if (e < 0)
		return e;
	(void)hex_decode(span_of(hex), r->computed, sizeof(r->computed));
	r->intact = span_is(r->words[LOG_CHAIN], hex) && message_agrees(r);
	return 0;
}

static bool looks_like_record(const struct log_record *r)
{
	return r->words[LOG_EVENT].p || r->words[LOG_CHAIN].p || r->words[LOG_CHAIN_ID].p || r->words[LOG_SEQ].p ||
	       (r->words[LOG_MESSAGE].p && span_starts(r->words[LOG_MESSAGE], "MCPAUDIT "));
}

static int make_record(struct log_parser *p, enum side side, struct log_record *r, const char **ret_why)
{
	const struct span *w = r->words;
	int e;

	if (!looks_like_record(r))
		return LOG_OTHER;
	if (p->unfit) {
		*ret_why = p->unfit;
		return LOG_BAD;
	}
	if (!take_head(w[LOG_CHAIN_ID], w[LOG_SEQ], w[LOG_CHAIN], &r->own) || !take_hex(w[LOG_CHAIN_PREV], r->prev)) {
		*ret_why = "MCP_CHAIN_ID, MCP_SEQ, MCP_CHAIN or MCP_CHAIN_PREV is missing, or not what it must be";
		return LOG_UNCHAINED;
	}
	e = check_record(p, r);
	if (e < 0)
		return e;
	r->side = w[LOG_SIDE].p ? (span_is(w[LOG_SIDE], "relay") ? SIDE_RELAY : SIDE_GATEWAY) : side;
	r->has_peer = take_head(w[LOG_PEER_CHAIN_ID], w[LOG_PEER_SEQ], w[LOG_PEER_CHAIN], &r->peer);
	if (!w[LOG_TIME].p || !log_time(w[LOG_TIME], &r->time_us))
		r->time_us = 0;
	return LOG_RECORD;
}

/* What a write that failed half-way left of a line of ours. */
static bool is_cut_record(struct span line)
{
	static const char start[] = "{\"message\":\"MCPAUDIT ";

	return memcmp(line.p, start, MIN(line.len, sizeof(start) - 1)) == 0;
}

int log_parse(struct log_parser *p, struct span line, enum side side, struct log_record *ret, const char **ret_why)
{
	int r = read_fields(p, line, ret_why);

	memset(ret->words, 0, sizeof(ret->words));
	if (r == LOG_CUT && !is_cut_record(line))
		return LOG_BAD;
	if (r != 0)
		return r;
	find_words(p, ret);
	return make_record(p, side, ret, ret_why);
}
