#include "proto/mcp_list.h"

#include "proto/json.h"
#include "proto/mcp.h"
#include "proto/sse.h"

#include <errno.h>

/* Of the body, or of an event's data. */
enum form { UNDECIDED, JSON, TEXT /* nothing to look at, or an event stream */ };

/* IN_LIST: between the entries of one. */
enum level { BODY, BATCH, MESSAGE, RESULT, IN_LIST, ENTRY };

/* What becomes of the bytes that come. */
enum mode { PASS, HOLD, DROP };

static const struct {
	struct span key, name;
} lists[MCP_LIST_KIND_N] = {
	[MCP_LIST_TOOLS] = { SPAN_INIT("tools"), SPAN_INIT("name") },
	[MCP_LIST_PROMPTS] = { SPAN_INIT("prompts"), SPAN_INIT("name") },
	[MCP_LIST_RESOURCES] = { SPAN_INIT("resources"), SPAN_INIT("uri") },
	[MCP_LIST_TEMPLATES] = { SPAN_INIT("resourceTemplates"), SPAN_INIT("uriTemplate") },
};

enum { WANTED_NONE = -1, WANTED_RESULT = MCP_LIST_KIND_N, WANTED_NAME };

struct mcp_list {
	struct mcp_list_policy policy;
	const char *bad;
	struct buf *out; /* of this call */
	enum form form;  /* of the body */
	struct sse sse;
	/* one JSON text */
	enum form data;
	struct json json;
	enum level level;
	enum mode mode;
	bool batch, quiet;
	bool odd; /* the first line of the event stream, or its first event, begins with what not all clients pass over */
	bool first, named; /* the entry to come is the list's first one; the entry's name has been read */
	unsigned seen;   /* keys of this message that may be there once: 1 << kind, 1 << WANTED_RESULT */
	int wanted;      /* what the value to come is: a kind, WANTED_..., or none */
	enum mcp_list_kind kind;
	size_t kept; /* entries of this list */
	char *name;  /* MCP_NAME_MAX; NULL: there was no list yet */
	/* the bytes at hand: [from, end) is neither added nor held nor dropped; NULL for a line feed between two lines of data */
	const uint8_t *p;
	uint64_t from, end, p_at; /* offsets in the JSON text */
	struct buf held;
	struct buf frame; /* what of `held` stays in any case */
	uint64_t removed;
};

int mcp_list_new(const struct mcp_list_policy *policy, struct mcp_list **ret)
{
	struct mcp_list *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->policy = *policy;
	buf_init(&l->held, MCP_LIST_HELD_MAX);
	buf_init(&l->frame, MCP_LIST_HELD_MAX);
	*ret = l;
	return 0;
}

struct mcp_list *mcp_list_free(struct mcp_list *l)
{
	if (!l)
		return NULL;
	free(l->name);
	buf_done(&l->held);
	buf_done(&l->frame);
	free(l);
	return NULL;
}

const char *mcp_list_bad(const struct mcp_list *l)
{
	return l->bad;
}

size_t mcp_list_held(const struct mcp_list *l)
{
	return buf_len(&l->held);
}

uint64_t mcp_list_removed(const struct mcp_list *l)
{
	return l->removed;
}

static int bad(struct mcp_list *l, const char *why)
{
	if (!l->bad)
		l->bad = why;
	return MCP_LIST_BAD;
}

/* ---- bytes ---- */

static int hold(struct mcp_list *l, struct buf *b, const uint8_t *p, size_t len)
{
	int r = buf_add(b, p, len);

	return r == -ENOBUFS ? bad(l, "more than 1 MiB of an entry before its name") : r;
}

/* Bytes of the JSON text up to that offset. */
static int dispose(struct mcp_list *l, uint64_t upto)
{
	const uint8_t *p = l->p ? l->p + (l->from - l->p_at) : NULL;
	size_t len = (size_t)(upto - l->from);

	l->from = upto;
	if (!p || len == 0 || l->mode == DROP)
		return 0;
	return l->mode == HOLD ? hold(l, &l->held, p, len) : buf_add(l->out, p, len);
}

/* Bytes of an event that are not its data keep their place among what is. */
static int frame_bytes(struct mcp_list *l, const uint8_t *p, size_t len)
{
	int r;

	if (!buf_len(&l->held))
		return buf_add(l->out, p, len);
	r = hold(l, &l->frame, p, len);
	return r ? r : hold(l, &l->held, p, len);
}

/* What was held passes, or all of it goes but the frame. */
static int release(struct mcp_list *l, bool pass)
{
	struct buf *b = pass ? &l->held : &l->frame;
	int r = buf_add(l->out, buf_bytes(b), buf_len(b));

	buf_clear(&l->held);
	buf_clear(&l->frame);
	return r;
}

/* ---- tokens ---- */

static bool may_be(const struct mcp_list *l, int what)
{
	if (what == WANTED_RESULT)
		return l->level == MESSAGE;
	if (what == WANTED_NAME)
		return l->level == ENTRY;
	return l->level == RESULT && (l->policy.kinds >> what & 1);
}

static struct span spelling(const struct mcp_list *l, int what)
{
	if (what == WANTED_RESULT)
		return SPAN("result");
	return what == WANTED_NAME ? lists[l->kind].name : lists[what].key;
}

static int on_wanted_key(struct mcp_list *l, int what, const struct json_token *key)
{
	if (key->escaped)
		return bad(l, "a key is spelled with escapes");
	if (!span_eq(key->text, spelling(l, what)))
		return bad(l, "a key is spelled in another case");
	if (l->seen >> what & 1)
		return bad(l, "a key is there twice");
	l->seen |= 1U << what;
	l->wanted = what;
	if (what == WANTED_NAME)
		json_capture(&l->json, JSON_CAPTURE_TEXT, l->name, MCP_NAME_MAX);
	return 0;
}

static int on_key(struct mcp_list *l, const struct json_token *key)
{
	l->wanted = WANTED_NONE;
	if (key->nul)
		return bad(l, "NUL in a key");
	for (int what = 0; what <= WANTED_NAME; what++)
		if (may_be(l, what) && json_key_is_similar(spelling(l, what), key->text))
			return on_wanted_key(l, what, key);
	return 0;
}

static int on_name(struct mcp_list *l, const struct json_token *tok)
{
	bool cut = tok->text_len > tok->text.len, by_scheme = l->kind == MCP_LIST_RESOURCES || l->kind == MCP_LIST_TEMPLATES;
	bool allowed;
	int r;

	if (tok->type != JSON_STRING)
		return bad(l, "the name of an entry is no string");
	if (tok->nul)
		return bad(l, "NUL in the name of an entry");
	allowed = l->policy.allows(l->policy.user, l->kind, cut && !by_scheme ? (struct span){ NULL, 0 } : tok->text);
	r = dispose(l, tok->end);
	if (r == 0)
		r = release(l, allowed);
	l->named = true;
	l->mode = allowed ? PASS : DROP;
	l->kept += allowed;
	l->removed += !allowed;
	return r;
}

static int on_scalar(struct mcp_list *l, const struct json_token *tok)
{
	int wanted = l->wanted;

	l->wanted = WANTED_NONE;
	if (l->level == IN_LIST)
		return bad(l, "an entry of a list is no object");
	return wanted == WANTED_NAME ? on_name(l, tok) : 0;
}

static int begin_list(struct mcp_list *l, enum mcp_list_kind kind, const struct json_token *tok)
{
	int r;

	if (!l->name)
		l->name = malloc(MCP_NAME_MAX);
	if (!l->name)
		return -ENOMEM;
	l->kind = kind;
	l->kept = 0;
	l->first = true;
	l->level = IN_LIST;
	r = dispose(l, tok->end);
	/* What is no entry must not pass before it is known to be none. */
	l->mode = HOLD;
	return r;
}

static int begin_entry(struct mcp_list *l, const struct json_token *tok)
{
	int r = dispose(l, tok->at);

	/* White space in front of the first entry is the list's. */
	if (r == 0 && l->first)
		r = release(l, true);
	l->first = false;
	l->level = ENTRY;
	l->mode = HOLD;
	l->named = false;
	l->seen &= ~(1U << WANTED_NAME);
	return r;
}

static int on_begin(struct mcp_list *l, const struct json_token *tok)
{
	bool object = tok->type == JSON_OBJECT_BEGIN;
	int wanted = l->wanted;

	l->wanted = WANTED_NONE;
	if (wanted == WANTED_NAME)
		return bad(l, "the name of an entry is no string");
	if (l->level == IN_LIST)
		return object ? begin_entry(l, tok) : bad(l, "an entry of a list is no object");
	if (object && l->level <= BATCH) {
		l->seen = 0;
		l->level = MESSAGE;
	} else if (l->level == BODY) {
		l->batch = true;
		l->level = BATCH;
	} else if (object && wanted == WANTED_RESULT) {
		l->level = RESULT;
	} else if (!object && wanted >= 0 && wanted < MCP_LIST_KIND_N) {
		return begin_list(l, (enum mcp_list_kind)wanted, tok);
	} else {
		l->quiet = true;
		json_quiet(&l->json);
	}
	return 0;
}

static int end_entry(struct mcp_list *l, const struct json_token *tok)
{
	int r;

	if (!l->named)
		return bad(l, "an entry of a list has no name");
	r = dispose(l, tok->end);
	l->level = IN_LIST;
	/* The comma that comes belongs to the entry behind it; before the first one that stays there is none. */
	l->mode = l->kept ? HOLD : DROP;
	return r;
}

static int end_list(struct mcp_list *l, const struct json_token *tok)
{
	int r = dispose(l, tok->at);

	if (r == 0)
		r = release(l, true);
	l->mode = PASS;
	l->level = RESULT;
	return r;
}

static int on_end(struct mcp_list *l, const struct json_token *tok)
{
	if (l->quiet) {
		l->quiet = false;
		return 0;
	}
	if (l->level == ENTRY)
		return end_entry(l, tok);
	if (l->level == IN_LIST)
		return end_list(l, tok);
	if (l->level == MESSAGE)
		l->level = l->batch ? BATCH : BODY;
	else
		l->level = l->level == BATCH ? BODY : MESSAGE;
	return 0;
}

static int on_token(struct mcp_list *l, const struct json_token *tok)
{
	switch (tok->type) {
	case JSON_KEY:
		return on_key(l, tok);
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		return on_begin(l, tok);
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		return on_end(l, tok);
	default:
		return on_scalar(l, tok);
	}
}

/* ---- one JSON text: the body, or the data of an event ---- */

static void begin_data(struct mcp_list *l)
{
	json_init(&l->json, 0);
	l->data = UNDECIDED;
	l->level = BODY;
	l->mode = PASS;
	l->batch = l->quiet = false;
	l->wanted = WANTED_NONE;
	l->from = l->end = 0;
}

static int tokens(struct mcp_list *l)
{
	struct json_token tok;
	enum json_type t;
	int r = 0;

	while (r == 0 && (t = json_next(&l->json, &tok)) > JSON_MORE)
		r = on_token(l, &tok);
	if (r == 0 && t == JSON_BAD)
		return bad(l, json_bad(&l->json));
	return r;
}

/* p: NULL for a line feed that is in no piece. */
static int json_bytes(struct mcp_list *l, const uint8_t *p, size_t len)
{
	int r;

	l->p = p;
	l->p_at = l->from = l->end;
	l->end += p ? len : 1;
	json_feed(&l->json, p ? p : (const void *)"\n", p ? len : 1);
	r = tokens(l);
	return r ? r : dispose(l, l->end);
}

static bool is_before_text(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c >= 0x80;
}

/* How many bytes come before the first one that says what it is: white space, and all that is not ASCII, as some clients pass over
 * byte order marks and any white space of Unicode. */
static int decide(struct mcp_list *l, const uint8_t *p, size_t len, enum form *form, size_t *ret_n)
{
	size_t n = 0;

	while (n < len && is_before_text(p[n]))
		n++;
	*ret_n = n;
	if (n == len)
		return 0;
	if (p[n] < ' ')
		return bad(l, "it begins with a byte that no text begins with");
	*form = p[n] == '{' || p[n] == '[' ? JSON : TEXT;
	return 0;
}

static int data_bytes(struct mcp_list *l, const uint8_t *p, size_t len)
{
	size_t n = 0;
	int r = 0;

	if (l->data == UNDECIDED)
		r = decide(l, p, len, &l->data, &n);
	if (r == 0 && l->data != JSON)
		return buf_add(l->out, p, len);
	if (r == 0)
		r = buf_add(l->out, p, n);
	return r ? r : json_bytes(l, p + n, len - n);
}

static int end_data(struct mcp_list *l)
{
	if (l->data != JSON)
		return 0;
	l->data = TEXT;
	l->p = NULL;
	json_finish(&l->json);
	return tokens(l);
}

/* ---- event streams ---- */

static bool is_eol(uint8_t c)
{
	return c == '\n' || c == '\r';
}

static int on_item(struct mcp_list *l, const struct sse_item *item)
{
	switch (item->what) {
	case SSE_FRAME:
		/* At the end of a first line that is no data. */
		if (is_eol(*item->p) && !sse_is_open(&l->sse))
			l->odd = false;
		return frame_bytes(l, item->p, item->len);
	case SSE_DATA:
		return data_bytes(l, item->p, item->len);
	case SSE_LINE:
		if (item->first)
			begin_data(l);
		else if (l->odd)
			return bad(l, "its first line begins with a blank or the like, and its data goes on in another one");
		return !item->first && l->data == JSON ? json_bytes(l, NULL, 0) : 0;
	default:
		l->odd = false;
		return end_data(l);
	}
}

static int sse_bytes(struct mcp_list *l, const uint8_t *p, size_t len)
{
	struct sse_item item;
	int r = 0;

	sse_feed(&l->sse, p, len);
	while (r == 0 && sse_next(&l->sse, &item))
		r = on_item(l, &item);
	return r;
}

/* ---- the whole ---- */

static int body_bytes(struct mcp_list *l, const uint8_t *p, size_t len)
{
	size_t n = 0;
	int r = 0;

	if (l->form == UNDECIDED) {
		r = decide(l, p, len, &l->form, &n);
		for (size_t i = 0; i < n; i++)
			l->odd = !is_eol(p[i]);
		if (r == 0)
			r = buf_add(l->out, p, n);
		if (r || n == len)
			return r;
		begin_data(l);
	}
	return l->form == JSON ? data_bytes(l, p + n, len - n) : sse_bytes(l, p + n, len - n);
}

int mcp_list_feed(struct mcp_list *l, const void *p, size_t len, struct buf *out)
{
	if (l->bad)
		return MCP_LIST_BAD;
	if (len == 0)
		return 0;
	l->out = out;
	return body_bytes(l, p, len);
}

int mcp_list_finish(struct mcp_list *l)
{
	if (l->bad)
		return MCP_LIST_BAD;
	if (l->form == JSON)
		return end_data(l);
	/* Of an event that is not complete, nothing is lost but what clients pass over; an entry must not look as if it had been there. */
	if (l->form == TEXT && sse_is_open(&l->sse) && l->data == JSON && l->level >= IN_LIST)
		return bad(l, "it ends in the middle of a list");
	return 0;
}
