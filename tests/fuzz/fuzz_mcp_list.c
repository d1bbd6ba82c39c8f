/* However an answer is cut, the same passes; what passes is what jansson makes of the answer with the entries taken out; of an event
 * stream, each event by itself, and all that is no data as it was. First byte: how to cut, and the lists to look at; then the body. */
#include "proto/mcp_list.h"

#include "base/check.h"
#include "base/span.h"
#include "tests/fuzz/pieces.h"
#include "tests/lib/answer_oracle.h"

#include <stdio.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 64 * 1024 };

static const char *const keys[] = { "tools", "prompts", "resources", "resourceTemplates" };
static const char *const names[] = { "name", "name", "uri", "uriTemplate" };

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static bool name_passes(const char *p, size_t len)
{
	return p && !memchr(p, 'o', MIN(len, (size_t)1024));
}

static bool allows(void *user, enum mcp_list_kind kind, struct span name)
{
	must(*(unsigned *)user >> kind & 1, "asked about a list that has no rules");
	return name_passes(name.p, name.len);
}

/* Each piece in memory of its own, so that the sanitizer sees a look beyond it. */
static int feed(struct mcp_list *l, const uint8_t *p, size_t n, struct buf *out)
{
	uint8_t *copy = malloc(n ? n : 1);
	struct buf piece;
	int r;

	if (n)
		memcpy(copy, p, n);
	buf_init(&piece, n + mcp_list_held(l));
	r = mcp_list_feed(l, copy, n, &piece);
	must(r == 0 || r == MCP_LIST_BAD, "no room");
	if (r == 0)
		must(buf_add(out, buf_bytes(&piece), buf_len(&piece)) == 0, "more came out than went in");
	buf_done(&piece);
	free(copy);
	return r;
}

/* 0, or MCP_LIST_BAD. */
static int filter(unsigned kinds, const uint8_t *p, size_t left, bool cut, uint32_t seed, struct buf *out)
{
	const struct mcp_list_policy policy = { .kinds = kinds, .allows = allows, .user = &kinds };
	struct mcp_list *l;
	int r = 0;
	size_t n;

	buf_init(out, left);
	if (mcp_list_new(&policy, &l) < 0)
		abort();
	if (!cut)
		r = feed(l, p, left, out);
	while (cut && left && r == 0) {
		n = next_piece(&seed, left);
		r = feed(l, p, n, out);
		p += n;
		left -= n;
	}
	if (r == 0)
		r = mcp_list_finish(l);
	must((r == 0) == !mcp_list_bad(l), "bad without a word, or the other way round");
	mcp_list_free(l);
	return r;
}

static size_t before_text(const uint8_t *p, size_t len)
{
	size_t n = 0;

	while (n < len && (strchr(" \t\r\n", p[n]) ? p[n] != 0 : p[n] >= 0x80))
		n++;
	return n;
}

static bool is_container(const uint8_t *p, size_t len)
{
	size_t n = before_text(p, len);

	return n < len && (p[n] == '{' || p[n] == '[');
}

#ifdef HAVE_ORACLE

/* ---- trees ---- */

/* False: something that must not be. */
static bool take_out(json_t *list, const char *name)
{
	size_t i = 0;

	while (i < json_array_size(list)) {
		json_t *entry = json_array_get(list, i), *value = json_object_get(entry, name);
		const char *key;
		json_t *other;

		json_object_foreach(entry, key, other)
			if (strcasecmp(key, name) == 0 && strcmp(key, name) != 0)
				return false;
		if (!json_is_string(value) || memchr(json_string_value(value), 0, json_string_length(value)))
			return false;
		/* Of a longer uri the first bytes count, of a longer name none. */
		if (name_passes(json_string_value(value), json_string_length(value)) &&
		    (json_string_length(value) <= 1024 || strcmp(name, "name") != 0))
			i++;
		else
			json_array_remove(list, i);
	}
	return true;
}

static bool filter_message(json_t *m, unsigned kinds)
{
	json_t *result = json_object_get(m, "result"), *value;
	const char *key;

	json_object_foreach(m, key, value)
		if (strcasecmp(key, "result") == 0 && strcmp(key, "result") != 0)
			return false;
	json_object_foreach(result, key, value)
		for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
			if (!(kinds >> k & 1) || strcasecmp(key, keys[k]) != 0)
				continue;
			if (strcmp(key, keys[k]) != 0 || (json_is_array(value) && !take_out(value, names[k])))
				return false;
		}
	return true;
}

static bool filter_tree(json_t *tree, unsigned kinds)
{
	json_t *m;
	size_t i;

	if (!json_is_array(tree))
		return filter_message(tree, kinds);
	json_array_foreach(tree, i, m)
		if (json_is_object(m) && !filter_message(m, kinds))
			return false;
	return true;
}

static json_t *load(const uint8_t *p, size_t len, size_t flags, json_error_t *e)
{
	size_t n = before_text(p, len);

	return json_loadb((const char *)p + n, len - n, ORACLE_FLAGS | flags, e);
}

/* A text that passed as out. */
static void compare(unsigned kinds, const uint8_t *p, size_t len, const uint8_t *out, size_t out_len)
{
	json_error_t e = { 0 }, e2 = { 0 };
	json_t *tree, *got;

	if (!is_container(p, len)) {
		must(len == out_len && (len == 0 || memcmp(p, out, len) == 0), "no message, and yet changed");
		return;
	}
	tree = load(p, len, 0, &e);
	got = load(out, out_len, 0, &e2);
	if (!oracle_differs((const char *)p, len, tree, &e)) {
		must(tree, "jansson says that it is no JSON");
		must(filter_tree(tree, kinds), "jansson finds what must not be");
		must(got && json_equal(tree, got), "jansson makes something else of it");
	}
	json_decref(tree);
	json_decref(got);
}

/* One that was found bad: not without reason, as far as a tree can tell. */
static void compare_bad(unsigned kinds, const uint8_t *p, size_t len)
{
	json_error_t e = { 0 };
	json_t *tree;

	if (!is_container(p, len) || memchr(p, 0, len) || memchr(p, '\\', len))
		return;
	for (size_t i = 0; i < len; i++)
		if (p[i] >= 0x80)
			return;
	tree = load(p, len, JSON_REJECT_DUPLICATES, &e);
	if (tree && !oracle_differs((const char *)p, len, tree, &e))
		must(!filter_tree(tree, kinds), "found bad, and jansson does not see why");
	json_decref(tree);
}
#else
static void compare(unsigned kinds, const uint8_t *p, size_t len, const uint8_t *out, size_t out_len)
{
}

static void compare_bad(unsigned kinds, const uint8_t *p, size_t len)
{
}
#endif

/* ---- a plain parser of event streams: the data of event number `wanted`, and all that is no data ---- */

struct event {
	uint8_t *data, *rest;
	size_t len, rest_len, n;
	bool complete; /* the one that was wanted */
};

static void on_line(struct event *e, size_t wanted, bool *has_data, const uint8_t *p, size_t len)
{
	size_t name = 0, value = len;

	while (name < len && p[name] != ':')
		name++;
	if (name == 4 && memcmp(p, "data", 4) == 0) {
		value = name < len ? name + 1 : len;
		value += value < len && p[value] == ' ';
		if (*has_data && e->n == wanted)
			e->data[e->len++] = '\n';
		*has_data = true;
		if (e->n == wanted) {
			memcpy(e->data + e->len, p + value, len - value);
			e->len += len - value;
		}
	}
	memcpy(e->rest + e->rest_len, p, value);
	e->rest_len += value;
	if (len == 0 && *has_data) {
		e->complete = e->complete || e->n == wanted;
		e->n++;
		*has_data = false;
	}
}

static struct event event_of(const uint8_t *p, size_t len, size_t wanted)
{
	struct event e = { .data = malloc(len + 1), .rest = malloc(2 * len + 1) };
	bool has_data = false;
	size_t from = 0;

	for (size_t at = 0; at < len; at++) {
		if (p[at] != '\r' && p[at] != '\n')
			continue;
		on_line(&e, wanted, &has_data, p + from, at - from);
		e.rest[e.rest_len++] = p[at];
		if (p[at] == '\r' && at + 1 < len && p[at + 1] == '\n')
			e.rest[e.rest_len++] = p[++at];
		from = at + 1;
	}
	return e;
}

static void compare_events(unsigned kinds, const uint8_t *p, size_t len, const struct buf *out)
{
	size_t skip = before_text(p, len);
	struct event a, b;
	bool more = true;

	must(buf_len(out) >= skip && (skip == 0 || memcmp(p, buf_bytes(out), skip) == 0), "its begin changed");
	if (skip == len)
		return;
	for (size_t i = 0; more && i < 64; i++) {
		a = event_of(p + skip, len - skip, i);
		b = event_of(buf_bytes(out) + skip, buf_len(out) - skip, i);
		must(a.n == b.n && a.complete == b.complete, "other events");
		must(a.rest_len == b.rest_len && memcmp(a.rest, b.rest, a.rest_len) == 0, "something between the data changed");
		more = a.complete;
		if (more)
			compare(kinds, a.data, a.len, b.data, b.len);
		free(a.data);
		free(a.rest);
		free(b.data);
		free(b.rest);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf whole, cut;
	unsigned kinds;
	int r;

	if (size < 1 || size > BODY_MAX)
		return 0;
	kinds = data[0] & 15 ? data[0] & 15 : 15;
	r = filter(kinds, data + 1, size - 1, false, 0, &whole);
	must(filter(kinds, data + 1, size - 1, true, data[0] >> 4, &cut) == r, "in pieces it is bad, or whole");
	if (r == 0) {
		must(span_eq(buf_span(&whole), buf_span(&cut)), "in pieces something else passes");
		if (is_container(data + 1, size - 1))
			compare(kinds, data + 1, size - 1, buf_bytes(&whole), buf_len(&whole));
		else
			compare_events(kinds, data + 1, size - 1, &whole);
	} else {
		compare_bad(kinds, data + 1, size - 1);
	}
	buf_done(&whole);
	buf_done(&cut);
	return 0;
}
