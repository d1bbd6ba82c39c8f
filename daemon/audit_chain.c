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

static bool is_ours(const char *name)
{
	return name[0] == 'M' && name[1] == 'C' && name[2] == 'P' && name[3] == '_';
}

static bool counts(const char *name)
{
	if (is_ours(name))
		return name[4] != 'C' || strcmp(name, "MCP_CHAIN") != 0;
	return strcmp(name, "MESSAGE") == 0 || strcmp(name, "MESSAGE_ID") == 0 || strcmp(name, "PRIORITY") == 0;
}

/* A number in the order of the names, where it differs: comparing those costs more than hashing what they name. Those that
 * begin with MCP_ are before the others. */
static uint64_t rank(const char *name)
{
	const char *p = is_ours(name) ? name + 4 : name;
	uint64_t v = 0;

	for (size_t i = 0; i < sizeof(v); i++)
		v = v << 8 | (uint8_t)(*p ? *p++ : 0);
	return v >> 1 | (uint64_t)!is_ours(name) << 63;
}

static int compare(const struct journal_field *a, const struct journal_field *b)
{
	int r = strcmp(a->name, b->name);

	if (r == 0 && MIN(a->value.len, b->value.len) > 0)
		r = memcmp(a->value.p, b->value.p, MIN(a->value.len, b->value.len));
	return r ? r : (a->value.len > b->value.len) - (a->value.len < b->value.len);
}

struct ranked {
	uint64_t rank;
	struct journal_field *field;
};

/* Few, and mostly in order already. */
static void insert(struct ranked *sorted, size_t n, struct journal_field *f)
{
	const uint64_t at = rank(f->name);

	while (n > 0 && (sorted[n - 1].rank > at || (sorted[n - 1].rank == at && compare(sorted[n - 1].field, f) > 0))) {
		sorted[n] = sorted[n - 1];
		n--;
	}
	sorted[n] = (struct ranked){ at, f };
}

/* Digest calls cost more than short values do, so these are collected: nearly always all of a record. */
struct gather {
	struct digest *digest;
	size_t n;
	int error;
	char bytes[4096];
};

static void gather_flush(struct gather *g)
{
	if (!g->digest)
		g->digest = digest_new();
	if (!g->digest)
		g->error = -ENOMEM;
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

/* What is between name and value. */
static void gather_size(struct gather *g, size_t value)
{
	char text[22];
	size_t at = sizeof(text);

	text[--at] = ':';
	do {
		text[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	text[--at] = '=';
	gather_put(g, text + at, sizeof(text) - at);
}

static int gather_finish(struct gather *g, uint8_t out[SHA256_LEN])
{
	int r;

	if (!g->digest && g->error == 0)
		return digest_sha256(g->bytes, g->n, out);
	gather_flush(g);
	r = g->error < 0 ? g->error : digest_final(g->digest, out);
	digest_free(g->digest);
	return r;
}

static int hash_fields(const struct ranked *sorted, size_t n, uint8_t out[SHA256_LEN])
{
	struct gather g;

	g.digest = NULL;
	g.n = 0;
	g.error = 0;
	for (size_t i = 0; i < n; i++) {
		const struct journal_field *f = sorted[i].field;

		gather_put(&g, f->name, strlen(f->name));
		gather_size(&g, f->value.len);
		gather_put(&g, f->value.p, f->value.len);
		gather_put(&g, "\n", 1);
	}
	return gather_finish(&g, out);
}

int audit_chain(const struct journal_field *fields, size_t n, char out[AUDIT_CHAIN_HEX + 1])
{
	struct journal_field kept[AUDIT_CHAIN_FIELDS_MAX];
	struct ranked sorted[AUDIT_CHAIN_FIELDS_MAX];
	uint8_t digest[SHA256_LEN];
	size_t n_kept = 0;
	int r;

	for (size_t i = 0; i < n; i++) {
		struct journal_field *f = &kept[n_kept];

		if (!counts(fields[i].name))
			continue;
		if (n_kept == AUDIT_CHAIN_FIELDS_MAX)
			return -E2BIG;
		*f = fields[i];
		if (f->name[1] == 'E' && strcmp(f->name, "MESSAGE") == 0)
			f->value = audit_chain_message(f->value);
		insert(sorted, n_kept++, f);
	}
	r = hash_fields(sorted, n_kept, digest);
	if (r < 0)
		return r;
	hex_encode(digest, sizeof(digest), out);
	return 0;
}
