/* However a body is cut, it says the same; a document says what jansson finds in it; an event stream says what its events say,
 * taken apart by a second, plain parser. First byte: how to cut, and the form; then the body. */
#include "proto/mcp_answer.h"

#include "base/check.h"
#include "tests/lib/answer_oracle.h"
#include "tests/fuzz/pieces.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const ids[] = { "1", "\"a\"", "2.5", "0" };
enum { N_IDS = ARRAY_LEN(ids) };

struct said {
	bool answered[N_IDS];
	struct mcp_outcome outcome[N_IDS];
	uint64_t events;
};

/* Each piece in memory of its own, so that the sanitizer sees a look beyond it. */
static void feed(struct mcp_answer *a, const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);

	if (n)
		memcpy(copy, p, n);
	mcp_answer_feed(a, copy, n);
	free(copy);
}

static struct said answer(enum mcp_answer_form form, size_t n_ids, const uint8_t *p, size_t left, bool cut, uint32_t seed)
{
	struct said said = { 0 };
	struct mcp_answer *a;
	size_t n;

	if (mcp_answer_new(&a) < 0)
		abort();
	for (size_t i = 0; i < n_ids; i++)
		if (mcp_answer_expect(a, span_of(ids[i])) < 0)
			abort();
	mcp_answer_begin(a, form);
	if (!cut)
		feed(a, p, left);
	while (cut && left) {
		n = next_piece(&seed, left);
		feed(a, p, n);
		p += n;
		left -= n;
	}
	mcp_answer_finish(a);
	for (size_t i = 0; i < n_ids; i++)
		said.answered[i] = mcp_answer_outcome(a, i, &said.outcome[i]);
	said.events = mcp_answer_events(a);
	mcp_answer_free(a);
	return said;
}

static bool same_outcome(const struct mcp_outcome *a, const struct mcp_outcome *b)
{
	return a->is_error == b->is_error && a->has_rpc_error == b->has_rpc_error && a->rpc_error_code == b->rpc_error_code;
}

static void must_equal(const struct said *a, const struct said *b, const char *what)
{
	bool same = a->events == b->events;

	for (size_t i = 0; i < N_IDS; i++)
		same = same && a->answered[i] == b->answered[i] && same_outcome(&a->outcome[i], &b->outcome[i]);
	if (same)
		return;
	fprintf(stderr, "%s: it says something else\n", what);
	abort();
}

static void compare_with_oracle(const uint8_t *body, size_t len)
{
	struct said said = answer(MCP_ANSWER_JSON, 1, body, len, false, 0);
	struct oracle_said want = oracle_document((const char *)body, len, ids[0]);

	if (!want.known)
		return;
	if (want.answered != said.answered[0] ||
	    (want.answered && (want.has_error != said.outcome[0].has_rpc_error || want.code != said.outcome[0].rpc_error_code ||
			       want.is_error != said.outcome[0].is_error))) {
		fprintf(stderr, "jansson: answered %d error %d\n", want.answered, want.has_error);
		abort();
	}
}

/* ---- the plain parser of event streams ---- */

struct events {
	struct said said;
	uint8_t *data;
	size_t len;
	bool has_data, other_type;
};

static void dispatch(struct events *e)
{
	struct said one;

	if (e->has_data) {
		e->said.events++;
		/* A byte order mark is passed over at the begin of a document, not at that of an event's data. */
		one = answer(MCP_ANSWER_JSON, N_IDS, e->data, e->len && e->data[0] == 0xef ? 0 : e->len, false, 0);
		for (size_t i = 0; i < N_IDS && !e->other_type; i++) {
			if (!one.answered[i] || e->said.answered[i])
				continue;
			e->said.answered[i] = true;
			e->said.outcome[i] = one.outcome[i];
		}
	}
	e->has_data = e->other_type = false;
	e->len = 0;
}

static bool is(const uint8_t *p, size_t len, const char *text)
{
	return len == strlen(text) && memcmp(p, text, len) == 0;
}

static void on_line(struct events *e, const uint8_t *p, size_t len)
{
	size_t name = 0, value;

	if (len == 0)
		dispatch(e);
	while (name < len && p[name] != ':')
		name++;
	value = name < len ? name + 1 : len;
	if (value < len && p[value] == ' ')
		value++;
	if (is(p, name, "event"))
		e->other_type = value < len && !is(p + value, len - value, "message");
	if (!is(p, name, "data"))
		return;
	if (e->has_data)
		e->data[e->len++] = '\n';
	e->has_data = true;
	memcpy(e->data + e->len, p + value, len - value);
	e->len += len - value;
}

static struct said plain_events(const uint8_t *p, size_t len)
{
	struct events e = { .data = malloc(len + 1) };
	size_t from = len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

	for (size_t at = from; at < len; at++) {
		if (p[at] != '\r' && p[at] != '\n')
			continue;
		on_line(&e, p + from, at - from);
		at += p[at] == '\r' && at + 1 < len && p[at + 1] == '\n';
		from = at + 1;
	}
	free(e.data);
	return e.said;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum mcp_answer_form form;
	struct said whole, cut, plain;

	if (size < 1)
		return 0;
	form = data[0] & 1 ? MCP_ANSWER_SSE : MCP_ANSWER_JSON;
	whole = answer(form, N_IDS, data + 1, size - 1, false, 0);
	cut = answer(form, N_IDS, data + 1, size - 1, true, data[0] >> 1);
	must_equal(&whole, &cut, "in pieces");
	if (form == MCP_ANSWER_JSON) {
		compare_with_oracle(data + 1, size - 1);
	} else {
		plain = plain_events(data + 1, size - 1);
		must_equal(&whole, &plain, "taken apart");
	}
	(void)mcp_answer_form(span_make(data + 1, size - 1));
	return 0;
}
