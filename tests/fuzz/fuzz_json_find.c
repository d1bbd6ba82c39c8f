/* proto/json_find: a path with dots up to the first newline, then a document. What is found is within its bounds, the same for any
 * room but for its length, and every name that json_names() tells can be asked for. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "proto/json_find.h"

enum { PATH_MAX_PARTS = 4, ROOM = 64 };

struct visit {
	struct span doc;
	const char *path[PATH_MAX_PARTS + 1];
	size_t n;
};

static void on_name(void *user, const char *name)
{
	struct visit *v = user;
	char out[ROOM];

	assert(strlen(name) <= JSON_FIND_NAME_MAX);
	v->path[v->n] = name;
	if (json_find(v->doc, v->path, v->n + 1, out, sizeof(out)) == 0)
		assert(strlen(out) < sizeof(out));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char head[128] = "", wide[ROOM] = "", narrow[8] = "";
	const uint8_t *end = memchr(data, '\n', size);
	size_t len = end ? (size_t)(end - data) : 0;
	struct visit v = { .n = 0 };
	int r;

	if (!end || len >= sizeof(head))
		return 0;
	memcpy(head, data, len);
	for (char *rest = head, *part; v.n < PATH_MAX_PARTS && (part = strsep(&rest, "."));)
		v.path[v.n++] = part;
	v.doc = span_make((const char *)end + 1, size - len - 1);
	r = json_find(v.doc, v.path, v.n, wide, sizeof(wide));
	assert(r == json_find(v.doc, v.path, v.n, narrow, sizeof(narrow)));
	if (r == 0)
		assert(strncmp(wide, narrow, strlen(narrow)) == 0);
	(void)json_names(v.doc, v.path, v.n, on_name, &v);
	return 0;
}
