#include "gateway/filter.h"

#include <errno.h>

#include "proto/mcp_list.h"

#define FILTER_MAGIC 0x66696c74

struct filter {
	unsigned magic;
	const struct policy_config *cfg;
	struct filter_totals *totals;
	struct mcp_list *list;
	struct buf out;
	uint64_t counted; /* of this one in totals->held_bytes */
	uint64_t removed; /* in totals->removed */
};

static const struct span request_fields[] = {
	SPAN_INIT("Accept-Encoding"),
	SPAN_INIT("Range"),
	SPAN_INIT("If-Range"),
};

static const struct span answer_fields[] = {
	SPAN_INIT("Content-Length"), SPAN_INIT("Content-MD5"), SPAN_INIT("Digest"),
	SPAN_INIT("Content-Digest"), SPAN_INIT("Repr-Digest"), SPAN_INIT("ETag"),
};

bool filter_wanted(const struct policy_config *cfg)
{
	return policy_lists(cfg) != 0;
}

bool filter_request_field_passes(struct span name)
{
	return !policy_field_among(name, request_fields, ARRAY_LEN(request_fields));
}

bool filter_answer_field_passes(struct span name)
{
	return !policy_field_among(name, answer_fields, ARRAY_LEN(answer_fields));
}

static int refuse(const char **ret_why, const char *why)
{
	*ret_why = why;
	return FILTER_REFUSED;
}

static int check_head(const struct http1_head *h, const char **ret_why)
{
	for (size_t i = 0; i < h->n_fields; i++)
		if (span_iis(h->fields[i].name, "Content-Encoding") && !span_iis(h->fields[i].value, "identity"))
			return refuse(ret_why, "it has a Content-Encoding, although identity was asked for");
	for (size_t i = 0; i < h->n_fields; i++)
		if (span_iis(h->fields[i].name, "Content-Type") && !policy_charset_ok(h->fields[i].value))
			return refuse(ret_why, "its charset is another than UTF-8");
	if (h->status == 206)
		return refuse(ret_why, "it is a part of an answer (206), although no range was asked for");
	return 0;
}

static bool allows(void *user, enum mcp_list_kind kind, struct span name)
{
	const struct filter *f = user;

	CHECK_OBJ(f, FILTER_MAGIC);
	return policy_lists_entry(f->cfg, kind, name);
}

int filter_new(const struct policy_config *cfg, const struct http1_head *h, struct filter_totals *totals, const char **ret_why,
	       struct filter **ret)
{
	struct mcp_list_policy policy = { .kinds = policy_lists(cfg), .allows = allows };
	struct filter *f;
	int r;

	if (h->body == HTTP1_BODY_NONE || (h->body == HTTP1_BODY_LENGTH && h->content_length == 0))
		return 0;
	r = check_head(h, ret_why);
	if (r)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->magic = FILTER_MAGIC;
	f->cfg = cfg;
	f->totals = totals;
	buf_init(&f->out, FILTER_TOTAL_MAX);
	policy.user = f;
	r = mcp_list_new(&policy, &f->list);
	if (r < 0) {
		filter_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

struct filter *filter_free(struct filter *f)
{
	if (!f)
		return NULL;
	f->totals->held_bytes -= f->counted;
	mcp_list_free(f->list);
	buf_done(&f->out);
	f->magic = 0;
	free(f);
	return NULL;
}

static void count(struct filter *f)
{
	uint64_t held = buf_len(&f->out) + mcp_list_held(f->list), removed = mcp_list_removed(f->list);

	f->totals->held_bytes += held - f->counted;
	f->counted = held;
	f->totals->removed += removed - f->removed;
	f->removed = removed;
}

int filter_feed(struct filter *f, const uint8_t *p, size_t len, const char **ret_why)
{
	int r = mcp_list_feed(f->list, p, len, &f->out);

	count(f);
	if (r == MCP_LIST_BAD)
		return refuse(ret_why, mcp_list_bad(f->list));
	if (r == -ENOBUFS || f->totals->held_bytes > FILTER_TOTAL_MAX)
		return refuse(ret_why, "too many bytes of answers wait at the gateway for the names of their entries");
	return r;
}

int filter_finish(struct filter *f, const char **ret_why)
{
	int r = mcp_list_finish(f->list);

	return r == MCP_LIST_BAD ? refuse(ret_why, mcp_list_bad(f->list)) : r;
}

struct span filter_ready(const struct filter *f)
{
	return span_make(buf_bytes(&f->out), MIN(buf_len(&f->out), (size_t)FILTER_PIECE_MAX));
}

void filter_taken(struct filter *f, size_t len)
{
	buf_drop(&f->out, len);
	count(f);
}
