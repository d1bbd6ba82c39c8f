#include "proto/mcp.h"

#include "base/encode.h"
#include "proto/json.h"

#include <errno.h>

enum {
	KEYS_INLINE = 64, /* powers of two */
	KEYS_MAX = 4096,  /* at the levels looked at, per message */
	URI_MAX = 4096,
	TEXT_FIRST_BYTES = 4096,
	REF_TYPE_MAX = 32,
	SCHEMES_MAX = 32, /* in one message */
	TEXT_MAX_BYTES = 2 << 20,
};

enum level { BODY, BATCH, MESSAGE, PARAMS, META, CLIENT, META_CLIENT, REF, LISTEN, URIS };

/* Captured strings of a message. */
enum text { METHOD, ID, NAME, URI, VERSION, META_VERSION, CLIENT_NAME, META_CLIENT_NAME, REF_TYPE, REF_NAME, REF_URI, SCHEMES, TEXT_N };

struct piece {
	uint32_t at, len; /* in scan->text */
	bool present;
};

struct message {
	struct piece text[TEXT_N];
	uint64_t arguments_at, arguments_len;
	bool has_arguments, name_bad, schemes_bad;
	unsigned n_schemes;
	bool is_object, is_jsonrpc, has_result, has_error, method_bad;
};

/* What a key means where it stands. Every string is captured decoded; the id is captured as spelled. */
enum use { USE_TEXT, USE_ID, USE_JSONRPC, USE_RESULT, USE_ERROR, USE_ARGUMENTS, USE_URIS, USE_LEVEL };

#define KEY(literal)                                                                                                   \
	{                                                                                                              \
		literal, sizeof(literal) - 1                                                                           \
	}

static const struct field {
	enum level level;
	struct span key;
	enum use use;
	enum text text;
	enum level opens;
	uint16_t max;
	const char *too_long; /* NULL: the first max bytes say enough */
} fields[] = {
	{ MESSAGE, KEY("jsonrpc"), USE_JSONRPC },
	{ MESSAGE, KEY("id"), USE_ID, ID, .max = MCP_ID_MAX, .too_long = "id longer than 256" },
	{ MESSAGE, KEY("method"), USE_TEXT, METHOD, .max = MCP_METHOD_MAX, .too_long = "method longer than 256" },
	{ MESSAGE, KEY("params"), USE_LEVEL, .opens = PARAMS },
	{ MESSAGE, KEY("result"), USE_RESULT },
	{ MESSAGE, KEY("error"), USE_ERROR },
	{ PARAMS, KEY("name"), USE_TEXT, NAME, .max = MCP_NAME_MAX, .too_long = "params.name longer than 1024" },
	{ PARAMS, KEY("uri"), USE_TEXT, URI, .max = URI_MAX, .too_long = "params.uri longer than 4096" },
	{ PARAMS, KEY("arguments"), USE_ARGUMENTS },
	{ PARAMS, KEY("protocolVersion"), USE_TEXT, VERSION, .max = MCP_NAME_MAX,
	  .too_long = "params.protocolVersion longer than 1024" },
	{ PARAMS, KEY("clientInfo"), USE_LEVEL, .opens = CLIENT },
	{ PARAMS, KEY("_meta"), USE_LEVEL, .opens = META },
	{ PARAMS, KEY("ref"), USE_LEVEL, .opens = REF },
	{ PARAMS, KEY("notifications"), USE_LEVEL, .opens = LISTEN },
	{ REF, KEY("type"), USE_TEXT, REF_TYPE, .max = REF_TYPE_MAX },
	{ REF, KEY("name"), USE_TEXT, REF_NAME, .max = MCP_NAME_MAX, .too_long = "params.ref.name longer than 1024" },
	{ REF, KEY("uri"), USE_TEXT, REF_URI, .max = MCP_SCHEME_MAX },
	{ LISTEN, KEY("resourceSubscriptions"), USE_URIS },
	{ META, KEY("io.modelcontextprotocol/protocolVersion"), USE_TEXT, META_VERSION, .max = MCP_NAME_MAX,
	  .too_long = "protocolVersion in _meta longer than 1024" },
	{ META, KEY("io.modelcontextprotocol/clientInfo"), USE_LEVEL, .opens = META_CLIENT },
	{ CLIENT, KEY("name"), USE_TEXT, CLIENT_NAME, .max = MCP_NAME_MAX,
	  .too_long = "clientInfo.name longer than 1024" },
	{ META_CLIENT, KEY("name"), USE_TEXT, META_CLIENT_NAME, .max = MCP_NAME_MAX,
	  .too_long = "clientInfo.name longer than 1024" },
};

struct mcp_scan {
	struct json json;
	struct buf text;
	const char *bad;
	const struct field *field; /* of the key before the value that comes */
	enum level level;
	bool quiet; /* inside of a value that is not looked at */
	bool batch, finished;
	char version[4];
	char uri[MCP_SCHEME_MAX]; /* the first bytes of one in a list */
	struct message message;
	struct message *messages; /* of a batch */
	size_t count, cap;
	uint32_t exact, similar; /* of `fields`, in this message: seen as it is spelled, or but for case */
	uint64_t *keys; /* hashes seen at the levels of this message; 0 is a free place */
	size_t keys_n, keys_cap;
	uint64_t keys_inline[KEYS_INLINE];
};

int mcp_scan_new(struct mcp_scan **ret)
{
	struct mcp_scan *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	json_init(&s->json, 0);
	buf_init(&s->text, TEXT_MAX_BYTES);
	s->keys = s->keys_inline;
	s->keys_cap = KEYS_INLINE;
	*ret = s;
	return 0;
}

struct mcp_scan *mcp_scan_free(struct mcp_scan *s)
{
	if (!s)
		return NULL;
	if (s->keys != s->keys_inline)
		free(s->keys);
	buf_done(&s->text);
	free(s->messages);
	free(s);
	return NULL;
}

const char *mcp_scan_bad(const struct mcp_scan *s)
{
	return s->bad;
}

static void bad(struct mcp_scan *s, const char *why)
{
	if (!s->bad)
		s->bad = why;
}

static bool keys_insert(uint64_t *keys, size_t cap, uint64_t hash)
{
	size_t i = hash & (cap - 1);

	while (keys[i] && keys[i] != hash)
		i = (i + 1) & (cap - 1);
	if (keys[i])
		return false;
	keys[i] = hash;
	return true;
}

static int keys_grow(struct mcp_scan *s)
{
	size_t cap = s->keys_cap * 2;
	uint64_t *keys = calloc(cap, sizeof(*keys));

	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < s->keys_cap; i++)
		if (s->keys[i])
			keys_insert(keys, cap, s->keys[i]);
	if (s->keys != s->keys_inline)
		free(s->keys);
	s->keys = keys;
	s->keys_cap = cap;
	return 0;
}

/* A collision of two different keys only refuses a body that somebody made for it. */
static int check_key(struct mcp_scan *s, const struct json_token *key)
{
	uint64_t hash = (key->hash + s->level * UINT64_C(0xd6e8feb86659fd93)) * UINT64_C(0x9e3779b97f4a7c15);
	int r;

	hash ^= hash >> 32;
	if (key->nul)
		bad(s, "NUL in a key");
	else if (s->keys_n == KEYS_MAX)
		bad(s, "too many keys");
	if (s->bad)
		return 0;
	if (s->keys_n >= s->keys_cap / 4 * 3) {
		r = keys_grow(s);
		if (r < 0)
			return r;
	}
	if (!keys_insert(s->keys, s->keys_cap, hash ? hash : 1))
		bad(s, "duplicate key");
	s->keys_n++;
	return 0;
}

static const struct field *find_field(enum level level, const struct json_token *key)
{
	if (key->text_len != key->text.len)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (fields[i].level == level && span_eq(fields[i].key, key->text))
			return &fields[i];
	return NULL;
}

static bool is_method(const struct field *f)
{
	return f->use == USE_TEXT && f->text == METHOD;
}

/* Some servers take "Name" for "name": with both in a message, nobody could say which of them they go by. To them, a message with a
 * "Method" is a call, whatever it looks like otherwise, and what is not there may be there all the same. */
static void check_case(struct mcp_scan *s, const struct json_token *key)
{
	_Static_assert(ARRAY_LEN(fields) <= 32, "a bit each");
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		if (fields[i].level != s->level)
			continue;
		if (&fields[i] == s->field) {
			s->exact |= UINT32_C(1) << i;
		} else if (json_key_is_similar(fields[i].key, key->text)) {
			s->similar |= UINT32_C(1) << i;
			s->message.schemes_bad = true;
			if (is_method(&fields[i]))
				s->message.method_bad = true;
		}
	}
	if (s->exact & s->similar)
		bad(s, "duplicate key but for case");
}

/* The value is decoded straight into the place where it stays. */
static int capture(struct mcp_scan *s, const struct field *f)
{
	uint8_t *at;
	int r;

	if (!s->text.data) {
		r = buf_reserve(&s->text, TEXT_FIRST_BYTES, &at);
		if (r < 0)
			return r;
	}
	r = buf_reserve(&s->text, f->max, &at);
	if (r < 0)
		return r;
	json_capture(&s->json, f->use == USE_ID ? JSON_CAPTURE_RAW : JSON_CAPTURE_TEXT, (char *)at, f->max);
	return 0;
}

static int on_key(struct mcp_scan *s, const struct json_token *key)
{
	struct message *m = &s->message;
	int r = check_key(s, key);

	s->field = find_field(s->level, key);
	check_case(s, key);
	if (r < 0 || s->bad || !s->field)
		return r;
	switch (s->field->use) {
	case USE_TEXT:
	case USE_ID:
		return capture(s, s->field);
	case USE_JSONRPC:
		json_capture(&s->json, JSON_CAPTURE_TEXT, s->version, sizeof(s->version));
		return 0;
	case USE_RESULT:
		m->has_result = true;
		return 0;
	case USE_ERROR:
		m->has_error = true;
		return 0;
	default:
		return 0;
	}
}

static void begin_message(struct mcp_scan *s)
{
	s->message = (struct message){ .is_object = true };
	s->level = MESSAGE;
	if (s->keys_n)
		memset(s->keys, 0, s->keys_cap * sizeof(*s->keys));
	s->keys_n = 0;
	s->exact = s->similar = 0;
}

/* The message is complete; m is the element of a batch. */
static int batch_add(struct mcp_scan *s, const struct message *m)
{
	struct message *messages;
	size_t cap;

	_Static_assert(MCP_BATCH_MAX == 100, "the text below");
	if (s->count == MCP_BATCH_MAX) {
		bad(s, "more than 100 messages in a batch");
		return 0;
	}
	if (s->count == s->cap) {
		cap = s->cap ? s->cap * 2 : 4;
		messages = realloc(s->messages, cap * sizeof(*messages));
		if (!messages)
			return -ENOMEM;
		s->messages = messages;
		s->cap = cap;
	}
	s->messages[s->count++] = *m;
	return 0;
}

static struct span text_of(const struct mcp_scan *s, const struct message *m, enum text t)
{
	const struct piece *piece = &m->text[t];

	if (!piece->present)
		return (struct span){ 0 };
	return span_make(buf_bytes(&s->text) + piece->at, piece->len);
}

static void keep_text(struct mcp_scan *s, const struct json_token *tok)
{
	const struct field *f = s->field;
	size_t at = buf_len(&s->text);

	if (tok->text_len > f->max && f->too_long)
		bad(s, f->too_long);
	else if (tok->nul && f->use == USE_TEXT)
		bad(s, "NUL in a name");
	if (s->bad)
		return;
	assert(at + tok->text.len <= TEXT_MAX_BYTES);
	buf_commit(&s->text, tok->text.len);
	s->message.text[f->text] = (struct piece){ (uint32_t)at, (uint32_t)tok->text.len, true };
}

/* What is before the colon, and that, or as much as there is of it; and a NUL. */
static int add_scheme(struct mcp_scan *s, const struct json_token *tok)
{
	struct piece *all = &s->message.text[SCHEMES];
	struct span uri = tok->text, one;
	const char *colon = memchr(uri.p, ':', uri.len);
	int r;

	if (colon)
		uri.len = (size_t)(colon - uri.p) + 1;
	for (struct span rest = text_of(s, &s->message, SCHEMES); rest.len;) {
		one = span_split(&rest, '\0');
		if (span_eq(one, uri))
			return 0;
	}
	if (s->message.n_schemes == SCHEMES_MAX) {
		s->message.schemes_bad = true;
		return 0;
	}
	s->message.n_schemes++;
	/* Nothing else is kept before the list is over: they stand one behind the other. */
	if (!all->present)
		*all = (struct piece){ (uint32_t)buf_len(&s->text), 0, true };
	r = buf_add_span(&s->text, uri);
	if (r == 0)
		r = buf_add(&s->text, "", 1);
	all->len += (uint32_t)uri.len + 1;
	return r;
}

static int on_uri(struct mcp_scan *s, const struct json_token *tok)
{
	json_capture(&s->json, JSON_CAPTURE_TEXT, s->uri, sizeof(s->uri));
	if (tok->type == JSON_STRING && !tok->nul)
		return add_scheme(s, tok);
	s->message.schemes_bad = true;
	return 0;
}

/* The value of a captured field is not of the type that was wanted. */
static void wrong_type(struct mcp_scan *s, const struct field *f)
{
	if (f->use == USE_ID)
		bad(s, "id is neither a string nor a number nor null");
	else if (is_method(f))
		s->message.method_bad = true;
	else if (f->use == USE_TEXT && f->text == NAME)
		s->message.name_bad = true;
	else if (f->use == USE_URIS || f->opens == LISTEN)
		s->message.schemes_bad = true;
}

static int on_scalar(struct mcp_scan *s, const struct json_token *tok)
{
	static const struct message no_message;
	const struct field *f = s->field;
	bool string = tok->type == JSON_STRING;

	if (s->level == BATCH)
		return batch_add(s, &no_message);
	if (s->level == URIS)
		return on_uri(s, tok);
	if (!f)
		return 0;
	switch (f->use) {
	case USE_JSONRPC:
		s->message.is_jsonrpc = string && tok->text_len == 3 && span_is(tok->text, "2.0");
		break;
	case USE_ARGUMENTS:
		s->message.has_arguments = true;
		s->message.arguments_at = tok->at;
		s->message.arguments_len = tok->end - tok->at;
		break;
	case USE_TEXT:
	case USE_ID:
		if (string || (f->use == USE_ID && (tok->type == JSON_NUMBER || tok->type == JSON_NULL)))
			keep_text(s, tok);
		else
			wrong_type(s, f);
		if (s->bad && f->text == NAME)
			s->message.name_bad = true;
		break;
	case USE_URIS:
	case USE_LEVEL:
		if (tok->type != JSON_NULL)
			wrong_type(s, f);
		break;
	default:
		break;
	}
	return 0;
}

static int on_begin(struct mcp_scan *s, const struct json_token *tok)
{
	static const struct message no_message;
	const struct field *f = s->field;
	bool object = tok->type == JSON_OBJECT_BEGIN;

	if (object && s->level <= BATCH) {
		begin_message(s);
		return 0;
	}
	if (s->level == BODY) {
		s->level = BATCH;
		s->batch = true;
		return 0;
	}
	if (object && f && f->use == USE_LEVEL) {
		s->level = f->opens;
		s->field = NULL;
		return 0;
	}
	if (!object && f && f->use == USE_URIS) {
		s->level = URIS;
		s->field = NULL;
		json_capture(&s->json, JSON_CAPTURE_TEXT, s->uri, sizeof(s->uri));
		return 0;
	}
	s->quiet = true;
	json_quiet(&s->json);
	if (s->level == URIS)
		s->message.schemes_bad = true;
	if (s->level == BATCH)
		return batch_add(s, &no_message);
	if (f && f->use == USE_ARGUMENTS) {
		s->message.has_arguments = true;
		s->message.arguments_at = tok->at;
	} else if (f) {
		wrong_type(s, f);
	}
	return 0;
}

static int on_end(struct mcp_scan *s, const struct json_token *tok)
{
	static const enum level above[] = {
		[PARAMS] = MESSAGE,
		[META] = PARAMS,
		[CLIENT] = PARAMS,
		[META_CLIENT] = META,
		[REF] = PARAMS,
		[LISTEN] = PARAMS,
		[URIS] = LISTEN,
	};
	const struct field *f = s->field;

	s->field = NULL;
	if (s->quiet) {
		s->quiet = false;
		if (f && f->use == USE_ARGUMENTS)
			s->message.arguments_len = tok->end - s->message.arguments_at;
		if (s->level == URIS)
			json_capture(&s->json, JSON_CAPTURE_TEXT, s->uri, sizeof(s->uri));
		return 0;
	}
	if (s->level == MESSAGE) {
		s->level = s->batch ? BATCH : BODY;
		return s->batch ? batch_add(s, &s->message) : 0;
	}
	s->level = s->level == BATCH ? BODY : above[s->level];
	return 0;
}

static int on_token(struct mcp_scan *s, const struct json_token *tok)
{
	int r;

	switch (tok->type) {
	case JSON_KEY:
		return on_key(s, tok);
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		return on_begin(s, tok);
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		return on_end(s, tok);
	default:
		r = on_scalar(s, tok);
		s->field = NULL;
		return r;
	}
}

static int run(struct mcp_scan *s)
{
	struct json_token tok;
	enum json_type t;
	int r;

	while (!s->bad && (t = json_next(&s->json, &tok)) != JSON_MORE) {
		if (t == JSON_END)
			return 0;
		if (t == JSON_BAD) {
			bad(s, json_bad(&s->json));
			return 0;
		}
		r = on_token(s, &tok);
		if (r < 0) {
			bad(s, "out of memory");
			return r;
		}
	}
	return 0;
}

int mcp_scan_feed(struct mcp_scan *s, const void *p, size_t len)
{
	if (s->bad || s->finished)
		return 0;
	json_feed(&s->json, p, len);
	return run(s);
}

static enum mcp_kind kind_of(const struct message *m)
{
	bool id = m->text[ID].present;

	if (!m->is_object || !m->is_jsonrpc || m->method_bad)
		return MCP_NOT_JSONRPC;
	if (m->text[METHOD].present) {
		if (m->has_result || m->has_error)
			return MCP_NOT_JSONRPC;
		return id ? MCP_REQUEST : MCP_NOTIFICATION;
	}
	return id && m->has_result != m->has_error ? MCP_RESPONSE : MCP_NOT_JSONRPC;
}

static struct span either(struct span a, struct span b)
{
	return a.p ? a : b;
}

static void view(const struct mcp_scan *s, const struct message *m, struct mcp_view *ret)
{
	*ret = (struct mcp_view){
		.kind = s->bad ? MCP_NOT_JSONRPC : kind_of(m),
		.method = text_of(s, m, METHOD),
		.id = text_of(s, m, ID),
		.name = text_of(s, m, NAME),
		.uri = text_of(s, m, URI),
		.protocol_version = text_of(s, m, META_VERSION),
		.client_name = text_of(s, m, META_CLIENT_NAME),
		.has_arguments = m->has_arguments,
		.arguments_at = m->arguments_at,
		.arguments_len = m->arguments_len,
		.name_bad = m->name_bad,
		.ref = { text_of(s, m, REF_TYPE), text_of(s, m, REF_NAME), text_of(s, m, REF_URI) },
		.schemes = text_of(s, m, SCHEMES),
		.schemes_bad = m->schemes_bad,
	};
	/* Other methods may call a parameter so and mean something else. */
	if (span_is(ret->method, "initialize")) {
		ret->protocol_version = either(text_of(s, m, VERSION), ret->protocol_version);
		ret->client_name = either(text_of(s, m, CLIENT_NAME), ret->client_name);
	}
}

void mcp_scan_finish(struct mcp_scan *s, struct mcp_view *ret)
{
	if (!s->finished) {
		s->finished = true;
		json_finish(&s->json);
		/* What is left to come is the end, or a number before it: nothing that takes memory. */
		(void)run(s);
	}
	if (s->batch)
		*ret = (struct mcp_view){ .kind = s->bad || s->count == 0 ? MCP_NOT_JSONRPC : MCP_BATCH };
	else
		view(s, &s->message, ret);
}

size_t mcp_scan_count(const struct mcp_scan *s)
{
	if (s->bad)
		return 0;
	return s->batch ? s->count : s->message.is_object;
}

void mcp_scan_message(const struct mcp_scan *s, size_t index, struct mcp_view *ret)
{
	assert(index < mcp_scan_count(s));
	view(s, s->batch ? &s->messages[index] : &s->message, ret);
}

struct span mcp_scan_id(const struct mcp_scan *s)
{
	const struct span none = { NULL, 0 };

	return s->batch ? none : text_of(s, &s->message, ID);
}

bool mcp_text_ok(struct span s)
{
	return json_utf8_valid(s);
}

static bool is_plain_field(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if ((s.p[i] < 0x20 || s.p[i] > 0x7e) && s.p[i] != '\t')
			return false;
	return true;
}

int mcp_header_decode(struct span value, struct buf *out)
{
	static const struct span open = KEY("=?base64?"), close = KEY("?=");
	struct span inner;
	uint8_t *at;
	size_t len;
	int r;

	if (!is_plain_field(value))
		return -EINVAL;
	if (value.len < open.len + close.len || memcmp(value.p, open.p, open.len) != 0 ||
	    memcmp(value.p + value.len - close.len, close.p, close.len) != 0)
		return buf_add_span(out, value);
	inner = span_make(value.p + open.len, value.len - open.len - close.len);
	if (inner.len < 4)
		return inner.len ? -EINVAL : 0;
	r = buf_reserve(out, inner.len / 4 * 3, &at);
	if (r < 0)
		return r;
	r = base64_decode(inner, at, &len);
	if (r < 0 || !json_utf8_valid(span_make(at, len)))
		return -EINVAL;
	buf_commit(out, len);
	return 0;
}
