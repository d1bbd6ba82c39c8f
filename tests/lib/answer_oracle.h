/* What a body says about a request with that id, by jansson; nothing is known where it was not there at build time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

struct oracle_said {
	bool known; /* false: the two may differ for good reason */
	bool answered, has_error, is_error;
	int64_t code;
};

#ifdef HAVE_ORACLE
enum { ORACLE_FLAGS = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL };

static inline int64_t oracle_code(const json_t *error)
{
	const json_t *code = json_object_get(error, "code");
	double v = json_is_real(code) ? json_real_value(code) : 0;

	return v > -9e15 && v < 9e15 && v == (double)(int64_t)v ? (int64_t)v : 0;
}

/* One message; false: it is no answer to that request. */
static inline bool oracle_message(const json_t *m, const json_t *id, struct oracle_said *ret)
{
	const json_t *error = json_object_get(m, "error"), *result = json_object_get(m, "result"), *got = json_object_get(m, "id");
	bool has_error = error && !json_is_null(error), named = got && !json_is_null(got);

	if (json_object_get(m, "method") || (!has_error && !result) || (id ? !named || !json_equal(got, id) : named || !has_error))
		return false;
	*ret = (struct oracle_said){
		.known = true,
		.answered = true,
		.has_error = has_error,
		.is_error = json_is_true(json_object_get(result, "isError")),
		.code = has_error ? oracle_code(error) : 0,
	};
	return true;
}

static inline bool oracle_find(const json_t *tree, const json_t *id, struct oracle_said *ret)
{
	const json_t *m;
	size_t i;

	if (!json_is_array(tree))
		return oracle_message(tree, id, ret);
	json_array_foreach(tree, i, m)
		if (oracle_message(m, id, ret))
			return true;
	return false;
}

/* What jansson refuses, or takes, and the scanner does not: numbers no double holds, U+0000 in keys, lone surrogates,
 * much depth, and integers that a double tells apart no more. */
static inline bool oracle_differs(const char *body, size_t len, const json_t *tree, const json_error_t *e)
{
	size_t open = 0, digits = 0;

	for (size_t i = 0; i < len; i++) {
		open += body[i] == '[' || body[i] == '{';
		digits = body[i] >= '0' && body[i] <= '9' ? digits + 1 : 0;
		if (open > 64 || digits > 15)
			return true;
	}
	return !tree && (json_error_code(e) == json_error_numeric_overflow || json_error_code(e) == json_error_null_byte_in_key ||
			 strncmp(e->text, "invalid Unicode", 15) == 0);
}

/* The only request's raw id. */
static inline struct oracle_said oracle_document(const char *body, size_t len, const char *raw_id)
{
	struct oracle_said said = { .known = true };
	json_error_t e = { 0 };
	json_t *id, *tree;
	size_t bom = len >= 3 && memcmp(body, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

	/* It takes a NUL for the end of the text. */
	if (len == bom || memchr(body, 0, len))
		return said;
	id = json_loads(raw_id, ORACLE_FLAGS, &e);
	tree = json_loadb(body + bom, len - bom, ORACLE_FLAGS, &e);
	said.known = id && !oracle_differs(body, len, tree, &e) && strlen(raw_id) < 16;
	if (said.known && !oracle_find(tree, id, &said))
		oracle_find(tree, NULL, &said);
	json_decref(tree);
	json_decref(id);
	return said;
}
#else
static inline struct oracle_said oracle_document(const char *body, size_t len, const char *raw_id)
{
	return (struct oracle_said){ 0 };
}
#endif
