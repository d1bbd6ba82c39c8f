#include "proto/json_find.h"

#include <errno.h>
#include <string.h>

#include "proto/json.h"

/* Where the scanner is on its way along the path. */
struct walk {
	const char *const *path;
	size_t n;
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
		w->next = w->depth == w->matched + 1 && t->text_len == t->text.len && span_is(t->text, w->path[w->matched]);
	}
	return next && last && is_scalar(t->type);
}

int json_find(struct span doc, const char *const *path, size_t n, char *out, size_t size)
{
	struct walk w = { .path = path, .n = n };
	struct json_token t;
	struct json j;
	enum json_type type;

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
