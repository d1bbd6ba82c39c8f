#include "daemon/audit_chain.h"

#include <errno.h>

#include "base/encode.h"
#include "daemon/digest.h"

static const char chain_word[] = " chain=";

struct span audit_chain_message(struct span message)
{
	const size_t word = sizeof(chain_word) - 1, tail = word + AUDIT_CHAIN_HEX;
	const char *at = message.p + message.len - MIN(tail, message.len);
	uint8_t digest[AUDIT_CHAIN_HEX / 2];

	if (message.len < tail || memcmp(at, chain_word, word) != 0 ||
	    hex_decode(span_make(at + word, AUDIT_CHAIN_HEX), digest, sizeof(digest)) < 0)
		return message;
	return span_make(message.p, message.len - tail);
}

static bool counts(const char *name)
{
	if (strncmp(name, "MCP_", 4) == 0)
		return strcmp(name, "MCP_CHAIN") != 0;
	return strcmp(name, "MESSAGE") == 0 || strcmp(name, "MESSAGE_ID") == 0 || strcmp(name, "PRIORITY") == 0;
}

static int compare(const struct journal_field *a, const struct journal_field *b)
{
	int r = strcmp(a->name, b->name);

	if (r == 0 && MIN(a->value.len, b->value.len) > 0)
		r = memcmp(a->value.p, b->value.p, MIN(a->value.len, b->value.len));
	return r ? r : (a->value.len > b->value.len) - (a->value.len < b->value.len);
}

/* Few, and mostly in order already. */
static void insert(struct journal_field *sorted, size_t n, struct journal_field f)
{
	while (n > 0 && compare(&sorted[n - 1], &f) > 0) {
		sorted[n] = sorted[n - 1];
		n--;
	}
	sorted[n] = f;
}

/* Digest calls cost more than short values do, so these are collected. */
struct gather {
	struct digest *digest;
	size_t n;
	int error;
	char bytes[2048];
};

static void gather_flush(struct gather *g)
{
	if (g->error == 0)
		g->error = digest_update(g->digest, g->bytes, g->n);
	g->n = 0;
}

static void gather_put(struct gather *g, const char *p, size_t len)
{
	if (len > sizeof(g->bytes) - g->n)
		gather_flush(g);
	if (len > sizeof(g->bytes)) {
		g->error = g->error ? g->error : digest_update(g->digest, p, len);
	} else if (len) {
		memcpy(g->bytes + g->n, p, len);
		g->n += len;
	}
}

static void gather_size(struct gather *g, size_t value)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	gather_put(g, digits + at, sizeof(digits) - at);
}

static int hash_fields(const struct journal_field *sorted, size_t n, uint8_t out[SHA256_LEN])
{
	_cleanup_(digest_freep) struct digest *d = digest_new();
	struct gather g;

	g.digest = d;
	g.n = 0;
	g.error = d ? 0 : -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		gather_put(&g, sorted[i].name, strlen(sorted[i].name));
		gather_put(&g, "=", 1);
		gather_size(&g, sorted[i].value.len);
		gather_put(&g, ":", 1);
		gather_put(&g, sorted[i].value.p, sorted[i].value.len);
		gather_put(&g, "\n", 1);
	}
	gather_flush(&g);
	return g.error < 0 ? g.error : digest_final(d, out);
}

int audit_chain(const struct journal_field *fields, size_t n, char out[AUDIT_CHAIN_HEX + 1])
{
	struct journal_field sorted[AUDIT_CHAIN_FIELDS_MAX];
	uint8_t digest[SHA256_LEN];
	size_t n_sorted = 0;
	int r;

	for (size_t i = 0; i < n; i++) {
		struct journal_field f = fields[i];

		if (!counts(f.name))
			continue;
		if (n_sorted == AUDIT_CHAIN_FIELDS_MAX)
			return -E2BIG;
		if (strcmp(f.name, "MESSAGE") == 0)
			f.value = audit_chain_message(f.value);
		insert(sorted, n_sorted++, f);
	}
	r = hash_fields(sorted, n_sorted, digest);
	if (r < 0)
		return r;
	hex_encode(digest, sizeof(digest), out);
	return 0;
}
