/* The canonical form says the same as the text it was made from, and is its own canonical form. */
#include "proto/jcs.h"

#include <stdio.h>

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

enum { OUT_MAX = 1 << 24 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fault(const char *what, struct span in, struct span out)
{
	fprintf(stderr, "%s\nin:  %.*s\nout: %.*s\n", what, SPAN_FMT(in), SPAN_FMT(out));
	abort();
}

/* 1e20 becomes an integer beyond 2^53, which is then refused; anything else is to come out unchanged. */
static void check_again(struct span in, struct span once)
{
	struct buf twice;
	int r;

	buf_init(&twice, OUT_MAX);
	r = jcs_canonicalize(once, &twice);
	if (r < 0 || (r == 0 && !span_eq(once, buf_span(&twice))))
		fault("not canonical", in, once);
	buf_done(&twice);
}

#ifdef HAVE_ORACLE
enum { FLAGS = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES };

static void check_covered(struct span in, struct span out)
{
	json_error_t e;
	json_t *a = json_loadb(in.p, in.len, FLAGS, &e), *b;

	/* Jansson takes no key with U+0000 in it. */
	if (!a && json_error_code(&e) == json_error_null_byte_in_key)
		return;
	b = json_loadb(out.p, out.len, FLAGS, &e);
	if (!a || !b || !json_equal(a, b))
		fault(e.text, in, out);
	json_decref(a);
	json_decref(b);
}

static void check_uncovered(struct span in)
{
	json_error_t e;
	json_t *tree = json_loadb(in.p, in.len, FLAGS, &e);
	size_t digits = 0, depth = 0;
	bool allowed = in.len && memchr(in.p, 0, in.len);

	/* Integers beyond 2^53 - 1, depth, and a NUL byte, which jansson takes for the end of the text. */
	for (size_t i = 0; i < in.len; i++) {
		digits = in.p[i] >= '0' && in.p[i] <= '9' ? digits + 1 : 0;
		depth += in.p[i] == '[' || in.p[i] == '{';
		allowed = allowed || digits >= 16 || depth > JCS_DEPTH_MAX;
	}
	if (tree && !allowed)
		fault("refused", in, SPAN(""));
	json_decref(tree);
}
#else
static void check_covered(struct span in, struct span out)
{
}

static void check_uncovered(struct span in)
{
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size ? size : 1);
	struct span in = span_make(copy, size);
	struct buf out;
	int r;

	if (size)
		memcpy(copy, data, size);
	buf_init(&out, OUT_MAX);
	r = jcs_canonicalize(in, &out);
	if (r < 0)
		fault("out of room", in, SPAN(""));
	if (r == 0) {
		check_again(in, buf_span(&out));
		check_covered(in, buf_span(&out));
	} else {
		check_uncovered(in);
	}
	buf_done(&out);
	free(copy);
	return 0;
}
