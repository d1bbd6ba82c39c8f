#include "gateway/headers.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/file_watch.h"
#include "daemon/token.h"
#include "gateway/policy.h"
#include "proto/http1.h"

struct header {
	char name[HEADERS_NAME_MAX + 1];
	char *path;
	struct secret *value;
	struct file_watch watch;
};

struct headers {
	size_t n;
	struct header list[HEADERS_MAX];
};

static const char *check_name(const struct headers_config *cfg, struct span name)
{
	if (!name.len || name.len > HEADERS_NAME_MAX || !http1_token_ok(name))
		return "the name is not that of a header, of at most 64 characters";
	if (!policy_field_passes(name) || policy_name_begins(name, SPAN("Content-")) || policy_name_begins(name, SPAN("Mcp-")) ||
	    policy_name_begins(name, SPAN("Accept")))
		return "this header says how or where a message goes, or what it is";
	for (size_t i = 0; i < cfg->n; i++)
		if (policy_field_is(name, span_of(cfg->items[i].name)))
			return "this header is given before";
	return NULL;
}

int headers_add(struct headers_config *cfg, const char *text, const char **ret_why)
{
	struct span rest = span_of(text), name = span_split(&rest, '=');
	const char *why = !rest.len ? "it names no file" : cfg->n == HEADERS_MAX ? "it is one too many" : check_name(cfg, name);

	if (why) {
		*ret_why = why;
		return -EINVAL;
	}
	snprintf(cfg->items[cfg->n].name, sizeof(cfg->items[0].name), "%.*s", SPAN_FMT(name));
	cfg->items[cfg->n++].path = rest.p;
	return 0;
}

/* Marked first, so that a change while it is read is found. */
static int load(struct header *h, char *err, size_t err_size, struct secret **ret)
{
	struct secret *s;
	int r;

	file_watch_mark(&h->watch);
	r = secret_load("header file", h->path, err, err_size, &s);
	if (r < 0) {
		file_watch_failed(&h->watch, r);
		return r;
	}
	if (!http1_value_ok(span_make(s->text, s->len))) {
		snprintf(err, err_size, "header file %s: its line is not the value of a header; it must not begin or end with a blank", h->path);
		secret_free(s);
		return -EINVAL;
	}
	*ret = s;
	return 0;
}

int headers_new(const struct headers_config *cfg, char *err, size_t err_size, struct headers **ret)
{
	struct headers *h = calloc(1, sizeof(*h));
	int r = h ? 0 : -ENOMEM;

	snprintf(err, err_size, "out of memory");
	for (size_t i = 0; r == 0 && i < cfg->n; i++) {
		struct header *one = &h->list[h->n++];

		snprintf(one->name, sizeof(one->name), "%s", cfg->items[i].name);
		one->path = strdup(cfg->items[i].path);
		file_watch_add(&one->watch, one->path);
		r = one->path ? load(one, err, err_size, &one->value) : -ENOMEM;
	}
	if (r < 0) {
		headers_free(h);
		return r;
	}
	*ret = h;
	return 0;
}

struct headers *headers_free(struct headers *h)
{
	for (size_t i = 0; h && i < h->n; i++) {
		free(h->list[i].path);
		secret_free(h->list[i].value);
	}
	free(h);
	return NULL;
}

static bool is_same(const struct secret *a, const struct secret *b)
{
	return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

static void swap(struct secret **a, struct secret **b)
{
	struct secret *kept = *a;

	*a = *b;
	*b = kept;
}

enum headers_result headers_poll(struct headers *h, bool now, char *err, size_t err_size)
{
	struct secret *fresh[HEADERS_MAX] = { NULL };
	enum headers_result result = HEADERS_SAME;

	for (size_t i = 0; i < h->n; i++)
		now = file_watch_changed(&h->list[i].watch) || now;
	/* All or none: what belongs together is not half new. */
	for (size_t i = 0; now && i < h->n; i++) {
		if (result == HEADERS_BAD)
			file_watch_mark(&h->list[i].watch);
		else if (load(&h->list[i], err, err_size, &fresh[i]) < 0)
			result = HEADERS_BAD;
		else if (!is_same(fresh[i], h->list[i].value))
			result = HEADERS_NEW;
	}
	for (size_t i = 0; i < h->n; i++) {
		if (result == HEADERS_NEW)
			swap(&h->list[i].value, &fresh[i]);
		secret_free(fresh[i]);
	}
	return result;
}

bool headers_replace(const struct headers *h, struct span name)
{
	for (size_t i = 0; i < h->n; i++)
		if (policy_field_is(name, span_of(h->list[i].name)))
			return true;
	return false;
}

int headers_write(const struct headers *h, struct buf *out)
{
	int r = 0;

	for (size_t i = 0; i < h->n && r == 0; i++)
		r = http1_write_field(out, span_of(h->list[i].name), span_make(h->list[i].value->text, h->list[i].value->len));
	return r;
}
