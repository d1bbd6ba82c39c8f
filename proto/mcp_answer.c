#include "proto/mcp_answer.h"

#include "proto/jcs.h"
#include "proto/json.h"
#include "proto/mcp.h"
#include "proto/sse.h"

#include <errno.h>

enum {
	CODE_MAX = 32,
	NUMBER_MAX = 32, /* canonical numbers are shorter */
};

enum level { BODY, BATCH, MESSAGE, RESULT, ERROR };

/* What the value to come is. */
enum field { FIELD_OTHER, FIELD_ID, FIELD_METHOD, FIELD_RESULT, FIELD_ERROR, FIELD_IS_ERROR, FIELD_CODE };

enum id_type { ID_NONE, ID_STRING, ID_NUMBER, ID_OTHER };

struct message {
	bool has_method, has_result, has_error, is_error;
	enum id_type id_type;
	size_t id_len;
	int64_t code;
};

enum slot_state { SLOT_FREE, SLOT_SAID /* in a body that is not complete yet */, SLOT_SETTLED };

struct slot {
	enum id_type type;
	char *id; /* decoded string, or number in canonical form */
	size_t len;
	enum slot_state state;
	struct mcp_outcome outcome;
};

struct mcp_answer {
	enum mcp_answer_form form;
	struct json json;
	enum level level;
	enum field field;
	bool batch, quiet, over; /* over: the body is bad, or nobody wants to know */
	uint8_t bom;             /* bytes of a byte order mark so far; BOM_DONE */
	struct message message;
	char id[MCP_ID_MAX];
	char code[CODE_MAX];
	struct slot *slots;
	size_t n_slots, n_said, n_settled;
	struct slot nameless; /* an error without an id */
	struct sse sse;
	uint64_t events;
};

static const uint8_t bom[] = { 0xef, 0xbb, 0xbf };
enum { BOM_DONE = sizeof(bom) };

enum mcp_answer_form mcp_answer_form(struct span content_type)
{
	struct span type = span_trim(span_split(&content_type, ';'));

	if (span_iis(type, "application/json"))
		return MCP_ANSWER_JSON;
	return span_iis(type, "text/event-stream") ? MCP_ANSWER_SSE : MCP_ANSWER_OTHER;
}

static void begin_body(struct mcp_answer *a)
{
	json_init(&a->json, 0);
	a->level = BODY;
	a->field = FIELD_OTHER;
	a->batch = a->quiet = false;
	a->over = a->n_settled == a->n_slots;
}

int mcp_answer_new(struct mcp_answer **ret)
{
	struct mcp_answer *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	*ret = a;
	return 0;
}

void mcp_answer_begin(struct mcp_answer *a, enum mcp_answer_form form)
{
	a->form = form;
	begin_body(a);
}

struct mcp_answer *mcp_answer_free(struct mcp_answer *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; i < a->n_slots; i++)
		free(a->slots[i].id);
	free(a->slots);
	free(a);
	return NULL;
}

/* ---- ids ---- */

static bool is_plain_integer(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if ((s.p[i] < '0' || s.p[i] > '9') && (s.p[i] != '-' || i))
			return false;
	return !span_is(s, "-0");
}

/* A number that RFC 8785 does not cover is told by its spelling. */
static struct span canonical_number(struct span s, char dst[NUMBER_MAX])
{
	struct buf canon;

	if (is_plain_integer(s))
		return s;
	buf_init(&canon, NUMBER_MAX);
	if (jcs_canonicalize(s, &canon) == 0) {
		s = span_make(dst, buf_len(&canon));
		memcpy(dst, buf_bytes(&canon), s.len);
	}
	buf_done(&canon);
	return s;
}

static struct span canonical_id(enum id_type type, struct span text, char dst[NUMBER_MAX])
{
	return type == ID_NUMBER ? canonical_number(text, dst) : text;
}

static enum id_type id_type(const struct json_token *tok)
{
	if (tok->type == JSON_NULL)
		return ID_NONE;
	if (tok->text_len != tok->text.len)
		return ID_OTHER;
	return tok->type == JSON_STRING ? ID_STRING : tok->type == JSON_NUMBER ? ID_NUMBER : ID_OTHER;
}

/* The slot of one id; its text is copied. */
static int slot_init(struct slot *slot, enum id_type type, struct span text)
{
	char canon[NUMBER_MAX];

	if (type != ID_STRING && type != ID_NUMBER)
		return -EINVAL;
	text = canonical_id(type, text, canon);
	*slot = (struct slot){ .type = type, .len = text.len, .id = malloc(text.len + 1) };
	if (!slot->id)
		return -ENOMEM;
	if (text.len)
		memcpy(slot->id, text.p, text.len);
	return 0;
}

int mcp_answer_expect(struct mcp_answer *a, struct span raw_id)
{
	struct json_token tok;
	struct slot *grown;
	struct json j;
	int r;

	json_init(&j, 0);
	json_capture(&j, JSON_CAPTURE_EACH, a->id, sizeof(a->id));
	json_feed(&j, raw_id.p, raw_id.len);
	json_finish(&j);
	if (json_next(&j, &tok) < JSON_STRING)
		return -EINVAL;
	grown = realloc(a->slots, (a->n_slots + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	a->slots = grown;
	r = slot_init(&grown[a->n_slots], id_type(&tok), tok.text);
	if (r < 0)
		return r;
	a->n_slots++;
	return 0;
}

/* ---- one message ---- */

static void say(struct mcp_answer *a, struct slot *slot)
{
	const struct message *m = &a->message;

	if (slot->state != SLOT_FREE)
		return;
	slot->state = SLOT_SAID;
	slot->outcome = (struct mcp_outcome){
		.is_error = m->has_result && m->is_error,
		.has_rpc_error = m->has_error,
		.rpc_error_code = m->has_error ? m->code : 0,
	};
	a->n_said++;
}

static void message_done(struct mcp_answer *a)
{
	const struct message *m = &a->message;
	char canon[NUMBER_MAX];
	struct span id;

	if (m->has_method || !(m->has_result || m->has_error) || m->id_type == ID_OTHER)
		return;
	if (m->id_type == ID_NONE) {
		if (m->has_error)
			say(a, &a->nameless);
		return;
	}
	id = canonical_id(m->id_type, span_make(a->id, m->id_len), canon);
	for (size_t i = 0; i < a->n_slots; i++)
		if (a->slots[i].type == m->id_type && span_eq(span_make(a->slots[i].id, a->slots[i].len), id))
			say(a, &a->slots[i]);
}

static enum field field_of(enum level level, const struct json_token *key)
{
	static const struct {
		enum level level;
		const char *key;
		enum field field;
	} fields[] = {
		{ MESSAGE, "id", FIELD_ID },	     { MESSAGE, "method", FIELD_METHOD },   { MESSAGE, "result", FIELD_RESULT },
		{ MESSAGE, "error", FIELD_ERROR },   { RESULT, "isError", FIELD_IS_ERROR }, { ERROR, "code", FIELD_CODE },
	};

	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (fields[i].level == level && key->text_len == key->text.len && span_is(key->text, fields[i].key))
			return fields[i].field;
	return FIELD_OTHER;
}

static void on_key(struct mcp_answer *a, const struct json_token *key)
{
	a->field = field_of(a->level, key);
	if (a->field == FIELD_ID)
		json_capture(&a->json, JSON_CAPTURE_EACH, a->id, sizeof(a->id));
	else if (a->field == FIELD_CODE)
		json_capture(&a->json, JSON_CAPTURE_RAW, a->code, sizeof(a->code));
}

static int64_t code_of(const struct json_token *tok)
{
	char canon[NUMBER_MAX], text[NUMBER_MAX + 1], *end;
	struct span s;
	long long v;

	if (tok->type != JSON_NUMBER || tok->text_len != tok->text.len)
		return 0;
	s = canonical_number(tok->text, canon);
	memcpy(text, s.p, s.len);
	text[s.len] = '\0';
	errno = 0;
	v = strtoll(text, &end, 10);
	return errno || *end ? 0 : v;
}

/* Whatever kind of value the key has; what was said under the same key before is forgotten. */
static void on_value(struct mcp_answer *a, const struct json_token *tok)
{
	struct message *m = &a->message;

	switch (a->field) {
	case FIELD_ID:
		m->id_type = tok->type >= JSON_STRING ? id_type(tok) : ID_OTHER;
		m->id_len = tok->text.len;
		break;
	case FIELD_METHOD:
		m->has_method = true;
		break;
	case FIELD_RESULT:
		m->has_result = true;
		m->is_error = false;
		break;
	case FIELD_ERROR:
		m->has_error = tok->type != JSON_NULL;
		m->code = 0;
		break;
	case FIELD_IS_ERROR:
		m->is_error = tok->type == JSON_TRUE;
		break;
	case FIELD_CODE:
		m->code = code_of(tok);
		break;
	default:
		break;
	}
}

static void on_begin(struct mcp_answer *a, const struct json_token *tok)
{
	enum field field = a->field;
	bool object = tok->type == JSON_OBJECT_BEGIN;

	on_value(a, tok);
	a->field = FIELD_OTHER;
	if (object && a->level <= BATCH) {
		a->message = (struct message){ 0 };
		a->level = MESSAGE;
	} else if (a->level == BODY) {
		a->batch = true;
		a->level = BATCH;
	} else if (object && (field == FIELD_RESULT || field == FIELD_ERROR)) {
		a->level = field == FIELD_RESULT ? RESULT : ERROR;
	} else {
		a->quiet = true;
		json_quiet(&a->json);
	}
}

static void on_end(struct mcp_answer *a)
{
	if (a->quiet) {
		a->quiet = false;
	} else if (a->level == MESSAGE) {
		message_done(a);
		a->level = a->batch ? BATCH : BODY;
	} else {
		a->level = a->level == BATCH ? BODY : MESSAGE;
	}
}

static void on_token(struct mcp_answer *a, const struct json_token *tok)
{
	switch (tok->type) {
	case JSON_KEY:
		on_key(a, tok);
		break;
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		on_begin(a, tok);
		break;
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		on_end(a);
		break;
	default:
		on_value(a, tok);
		a->field = FIELD_OTHER;
	}
}

/* ---- one body: a document, or the data of an event ---- */

static enum json_type body_run(struct mcp_answer *a)
{
	struct json_token tok;
	enum json_type t;

	while ((t = json_next(&a->json, &tok)) > JSON_MORE)
		on_token(a, &tok);
	a->over = t == JSON_BAD;
	return t;
}

static void body_bytes(struct mcp_answer *a, const void *p, size_t len)
{
	if (a->over || !len)
		return;
	json_feed(&a->json, p, len);
	(void)body_run(a);
}

static void settle(struct slot *slot, bool good)
{
	if (slot->state == SLOT_SAID)
		slot->state = good ? SLOT_SETTLED : SLOT_FREE;
}

/* What was said counts, or is forgotten. */
static void body_end(struct mcp_answer *a, bool counts)
{
	bool good = false;

	if (counts && !a->over) {
		json_finish(&a->json);
		good = body_run(a) == JSON_END;
	}
	a->over = true;
	if (!a->n_said)
		return;
	settle(&a->nameless, good);
	a->n_said = a->n_settled = 0;
	for (size_t i = 0; i < a->n_slots; i++) {
		settle(&a->slots[i], good);
		a->n_settled += a->slots[i].state == SLOT_SETTLED;
	}
}

/* ---- event streams ---- */

static void sse_bytes(struct mcp_answer *a, const uint8_t *p, size_t len)
{
	struct sse_item item;

	sse_feed(&a->sse, p, len);
	while (sse_next(&a->sse, &item)) {
		if (item.what == SSE_DATA) {
			body_bytes(a, item.p, item.len);
		} else if (item.what == SSE_LINE && item.first) {
			begin_body(a);
		} else if (item.what == SSE_LINE) {
			body_bytes(a, "\n", 1);
		} else if (item.what == SSE_EVENT) {
			a->events++;
			body_end(a, item.message);
		}
	}
}

/* ---- the whole ---- */

static void document_bytes(struct mcp_answer *a, const uint8_t *p, size_t len)
{
	if (a->form == MCP_ANSWER_SSE)
		sse_bytes(a, p, len);
	else
		body_bytes(a, p, len);
}

/* A byte order mark is passed over; what only began like one is not. */
static size_t bom_bytes(struct mcp_answer *a, const uint8_t *p, size_t len)
{
	uint8_t before = a->bom;
	size_t n = 0;

	while (n < len && a->bom < BOM_DONE && p[n] == bom[a->bom]) {
		a->bom++;
		n++;
	}
	if (n == len || a->bom == BOM_DONE)
		return n;
	a->bom = BOM_DONE;
	document_bytes(a, bom, before);
	return 0;
}

void mcp_answer_feed(struct mcp_answer *a, const void *p, size_t len)
{
	size_t n = 0;

	if (a->form == MCP_ANSWER_OTHER || len == 0)
		return;
	if (a->bom < BOM_DONE)
		n = bom_bytes(a, p, len);
	if (n < len)
		document_bytes(a, (const uint8_t *)p + n, len - n);
}

void mcp_answer_finish(struct mcp_answer *a)
{
	if (a->form == MCP_ANSWER_JSON)
		body_end(a, a->bom == BOM_DONE);
	else if (sse_is_open(&a->sse))
		body_end(a, false);
	a->form = MCP_ANSWER_OTHER;
}

bool mcp_answer_outcome(const struct mcp_answer *a, size_t index, struct mcp_outcome *ret)
{
	const struct slot *slot = &a->slots[index];

	assert(index < a->n_slots);
	if (slot->state != SLOT_SETTLED && a->n_slots == 1)
		slot = &a->nameless;
	if (slot->state != SLOT_SETTLED)
		return false;
	*ret = slot->outcome;
	return true;
}

uint64_t mcp_answer_events(const struct mcp_answer *a)
{
	return a->events;
}
