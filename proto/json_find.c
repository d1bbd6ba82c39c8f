#include "proto/json_find.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/json.h"

enum { JSON_FIND_PATH_MAX = 8 };

/* Where the scanner is on its way along the path. */
struct walk {
	const char *const *path;
	size_t n;       /* of path; one more where the last is to be entered, too */
	size_t depth;   /* containers that are open */
	size_t matched; /* of them, those that the path leads through, less the outermost */
	bool next;      /* the value that comes is the path's next step */
};

static bool is_scalar(enum json_type t)
{
	return t == JSON_STRING || t == JSON_NUMBER || t == JSON_TRUE || t == JSON_FALSE || t == JSON_NULL;
}

/* True when that is the value. */
static bool step(struct walk *w, const struct json_token *t)
{
	bool next = w->next, last = w->matched + 1 == w->n;

	w->next = false;
	if (t->type == JSON_OBJECT_BEGIN || t->type == JSON_ARRAY_BEGIN) {
		w->depth++;
		if (next && t->type == JSON_OBJECT_BEGIN && !last)
			w->matched++;
	} else if (t->type == JSON_OBJECT_END || t->type == JSON_ARRAY_END) {
		w->depth--;
		if (w->matched && w->depth < w->matched + 1)
			w->matched--;
	} else if (t->type == JSON_KEY) {
		w->next = w->depth == w->matched + 1 && w->path[w->matched] && t->text_len == t->text.len && span_is(t->text, w->path[w->matched]);
	}
	return next && last && is_scalar(t->type);
}

int json_find(struct span doc, const char *const *path, size_t n, char *out, size_t size)
{
	const char *copy[JSON_FIND_PATH_MAX + 1] = { NULL };
	struct walk w = { .path = copy, .n = n };
	struct json_token t;
	struct json j;
	enum json_type type;

	assert(n > 0 && n <= JSON_FIND_PATH_MAX);
	memcpy(copy, path, n * sizeof(*path));
	json_init(&j, 0);
	json_feed(&j, doc.p, doc.len);
	for (;;) {
		type = json_next(&j, &t);
		if (type == JSON_MORE) {
			json_finish(&j);
			continue;
		}
		if (type == JSON_BAD || type == JSON_END)
			return type == JSON_END ? -ENOENT : -EINVAL;
		if (step(&w, &t)) {
			out[MIN(t.text.len, size - 1)] = '\0';
			return 0;
		}
		if (w.next && w.matched + 1 == n)
			json_capture(&j, JSON_CAPTURE_EACH, out, size - 1);
	}
}

int json_names(struct span doc, const char *const *path, size_t n, void (*fn)(void *user, const char *name), void *user)
{
	const char *open_ended[JSON_FIND_PATH_MAX + 1] = { NULL };
	struct walk w = { .path = open_ended, .n = n + 1 };
	char name[JSON_FIND_NAME_MAX + 1];
	struct json_token t;
	struct json j;
	enum json_type type;

	assert(n <= JSON_FIND_PATH_MAX);
	memcpy(open_ended, path, n * sizeof(*path));
	json_init(&j, 0);
	json_feed(&j, doc.p, doc.len);
	while ((type = json_next(&j, &t)) != JSON_END && type != JSON_BAD) {
		if (type == JSON_MORE) {
			json_finish(&j);
			continue;
		}
		(void)step(&w, &t);
		if (t.type != JSON_KEY || w.matched != n || w.depth != n + 1 || t.text_len > JSON_FIND_NAME_MAX)
			continue;
		snprintf(name, sizeof(name), "%.*s", SPAN_FMT(t.text));
		fn(user, name);
	}
	return type == JSON_END ? 0 : -EINVAL;
}
