/* However a body is cut, the scan says the same; and it takes what jansson takes. First byte: where to cut; then the
 * body. */
#include "proto/mcp.h"
#include "tests/fuzz/pieces.h"

#include <stdio.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was said, with everything that depends on the input copied out. */
struct said {
	struct mcp_view whole, each[MCP_BATCH_MAX];
	struct span id;
	const char *bad;
	size_t count;
};

/* Each piece in memory of its own, so that the sanitizer sees a look beyond it. */
static void feed(struct mcp_scan *s, const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);

	memcpy(copy, p, n);
	if (mcp_scan_feed(s, copy, n) < 0)
		abort();
	free(copy);
}

static struct mcp_scan *scan(const uint8_t *p, size_t left, bool cut, uint32_t seed, struct said *ret)
{
	struct mcp_scan *s;
	size_t n;

	if (mcp_scan_new(&s) < 0)
		abort();
	if (!cut)
		feed(s, p, left);
	while (cut && left) {
		n = next_piece(&seed, left);
		feed(s, p, n);
		p += n;
		left -= n;
	}
	mcp_scan_finish(s, &ret->whole);
	ret->id = mcp_scan_id(s);
	ret->bad = mcp_scan_bad(s);
	ret->count = mcp_scan_count(s);
	for (size_t i = 0; i < ret->count; i++)
		mcp_scan_message(s, i, &ret->each[i]);
	return s;
}

static bool same_span(struct span a, struct span b)
{
	return !a.p == !b.p && span_eq(a, b);
}

static bool same_view(const struct mcp_view *a, const struct mcp_view *b)
{
	return a->kind == b->kind && same_span(a->method, b->method) && same_span(a->id, b->id) &&
	       same_span(a->name, b->name) && same_span(a->uri, b->uri) &&
	       same_span(a->protocol_version, b->protocol_version) && same_span(a->client_name, b->client_name) &&
	       a->has_arguments == b->has_arguments && a->arguments_at == b->arguments_at &&
	       a->arguments_len == b->arguments_len && a->name_bad == b->name_bad && same_span(a->ref.type, b->ref.type) &&
	       same_span(a->ref.name, b->ref.name) && same_span(a->ref.uri, b->ref.uri) && same_span(a->schemes, b->schemes) &&
	       a->schemes_bad == b->schemes_bad;
}

static bool same(const struct said *a, const struct said *b)
{
	if (!same_view(&a->whole, &b->whole) || !same_span(a->id, b->id) || a->bad != b->bad || a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!same_view(&a->each[i], &b->each[i]))
			return false;
	return true;
}

#ifdef HAVE_ORACLE
static void fault(const char *what, const struct said *said, const json_error_t *e)
{
	fprintf(stderr, "%s; the scan: %s; jansson: %s\n", what, said->bad ? said->bad : "good", e->text);
	abort();
}

/* Refused by the scan though it is JSON. */
static bool refused_on_purpose(const char *bad)
{
	static const char *const texts[] = { "duplicate key", "too many keys", "NUL in ",    "id is neither",
					     "nested deeper", "more than 100", "longer than" };

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (strstr(bad, texts[i]))
			return true;
	return false;
}

/* Refused by jansson though it is JSON: numbers no double holds, lone surrogates, U+0000 in keys, depth over 2048. */
static bool refused_by_oracle(const json_error_t *e)
{
	return json_error_code(e) == json_error_numeric_overflow || json_error_code(e) == json_error_null_byte_in_key ||
	       json_error_code(e) == json_error_stack_overflow || strncmp(e->text, "invalid Unicode", 15) == 0;
}

static void same_text(const json_t *value, struct span got, const struct said *said, const json_error_t *e)
{
	if (json_is_string(value) != !!got.p)
		fault("a string is there and is not", said, e);
	if (got.p && !span_eq(got, span_make(json_string_value(value), json_string_length(value))))
		fault("another string", said, e);
}

static void check_arguments(const json_t *want, const char *body, const struct said *said, json_error_t *e)
{
	const struct mcp_view *v = &said->whole;
	json_t *got;

	if (!want != !v->has_arguments)
		fault("arguments are there and are not", said, e);
	if (!want)
		return;
	got = json_loadb(body + v->arguments_at, v->arguments_len,
			 JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, e);
	if (!got || !json_equal(got, want))
		fault("other arguments", said, e);
	json_decref(got);
}

static struct span scheme_in(const json_t *uri)
{
	struct span s = span_make(json_string_value(uri), MIN(json_string_length(uri), (size_t)MCP_SCHEME_MAX));
	const char *colon = s.len ? memchr(s.p, ':', s.len) : NULL;

	return colon ? span_make(s.p, (size_t)(colon - s.p) + 1) : s;
}

static bool has_scheme(struct span schemes, struct span one)
{
	while (schemes.len)
		if (span_eq(span_split(&schemes, '\0'), one))
			return true;
	return false;
}

/* What may be subscribed to is in the view, or the view tells that it is not. */
static void check_schemes(const json_t *uris, const struct said *said, const json_error_t *e)
{
	const struct mcp_view *v = &said->whole;
	const json_t *uri;
	size_t i, n = 0;

	json_array_foreach((json_t *)uris, i, uri)
		if (!v->schemes_bad && (!json_is_string(uri) || !has_scheme(v->schemes, scheme_in(uri))))
			fault("a URI is not told", said, e);
	for (struct span rest = v->schemes; rest.len; n++)
		(void)span_split(&rest, '\0');
	if (n > json_array_size(uris))
		fault("more URIs than there are", said, e);
}

static void check_ref(const json_t *ref, const struct said *said, const json_error_t *e)
{
	const json_t *uri = json_object_get(ref, "uri");
	struct span got = said->whole.ref.uri;

	same_text(json_object_get(ref, "name"), said->whole.ref.name, said, e);
	if (json_is_string(uri) != !!got.p || (got.p && memcmp(got.p, json_string_value(uri), got.len) != 0))
		fault("another uri", said, e);
}

static void compare_with_oracle(const char *body, size_t len, const struct said *said)
{
	json_error_t e;
	json_t *tree = json_loadb(body, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &e);
	const json_t *params = json_object_get(tree, "params");

	/* Jansson takes a NUL byte for the end of the text. */
	if (len && memchr(body, 0, len)) {
		if (!said->bad)
			fault("NUL taken", said, &e);
		json_decref(tree);
		return;
	}
	if (said->bad && tree && !refused_on_purpose(said->bad))
		fault("refused", said, &e);
	if (!said->bad && !tree && !refused_by_oracle(&e))
		fault("taken", said, &e);
	if (!said->bad && json_is_object(tree)) {
		same_text(json_object_get(tree, "method"), said->whole.method, said, &e);
		same_text(json_object_get(params, "name"), said->whole.name, said, &e);
		same_text(json_object_get(params, "uri"), said->whole.uri, said, &e);
		check_arguments(json_object_get(params, "arguments"), body, said, &e);
		check_ref(json_object_get(params, "ref"), said, &e);
		check_schemes(json_object_get(json_object_get(params, "notifications"), "resourceSubscriptions"), said, &e);
	}
	if (!said->bad && json_is_array(tree) && json_array_size(tree) != said->count)
		fault("another number of messages", said, &e);
	json_decref(tree);
}
#else
static void compare_with_oracle(const char *body, size_t len, const struct said *said)
{
}
#endif

/* The decoder of header values takes any bytes. */
static void decode_header(const uint8_t *p, size_t n)
{
	struct buf out;

	buf_init(&out, 64);
	(void)mcp_header_decode(span_make(p, n), &out);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct said whole, cut;
	struct mcp_scan *a, *b;

	if (size < 1)
		return 0;
	a = scan(data + 1, size - 1, false, 0, &whole);
	b = scan(data + 1, size - 1, true, data[0], &cut);
	if (!same(&whole, &cut)) {
		fprintf(stderr, "in one piece: %d %s\nin pieces:    %d %s\n", whole.whole.kind,
			whole.bad ? whole.bad : "good", cut.whole.kind, cut.bad ? cut.bad : "good");
		abort();
	}
	compare_with_oracle((const char *)data + 1, size - 1, &whole);
	mcp_scan_free(a);
	mcp_scan_free(b);
	decode_header(data + 1, size - 1);
	return 0;
}
