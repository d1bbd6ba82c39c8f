#include <errno.h>

#include "daemon/audit_private.h"

static char *entry_text(const struct audit_entry *e)
{
	return (char *)(uintptr_t)&e->fields[e->n_fields];
}

struct audit_entry *audit_entry_new(const struct audit_record *r, const struct audit_kind *kind, enum audit_role role,
				    char priority)
{
	size_t len = r->n_line, bytes;
	struct audit_entry *e;
	char *text;

	for (size_t i = 0; i < r->n_fields; i++)
		len += r->fields[i].value.len;
	/* Constants that were added without a copy count as well. */
	if (len > UINT16_MAX)
		return NULL;
	bytes = sizeof(*e) + r->n_fields * sizeof(e->fields[0]) + len;
	e = malloc(bytes);
	if (!e)
		return NULL;
	*e = (struct audit_entry){ .kind = kind, .role = role, .priority = priority, .slot = AUDIT_STATE_NO_SLOT };
	e->bytes = bytes;
	e->n_line = (uint16_t)r->n_line;
	e->n_fields = (uint16_t)r->n_fields;
	text = entry_text(e);
	memcpy(text, r->line, r->n_line);
	len = r->n_line;
	for (size_t i = 0; i < r->n_fields; i++) {
		struct span v = r->fields[i].value;

		e->fields[i] = (struct audit_entry_field){ r->fields[i].name, (uint16_t)len, (uint16_t)v.len };
		if (v.len)
			memcpy(text + len, v.p, v.len);
		len += v.len;
	}
	return e;
}

void audit_entry_stamp(struct audit_entry *e, struct span time)
{
	for (size_t i = 0; i < e->n_fields; i++) {
		const struct audit_entry_field *f = &e->fields[i];

		if (strcmp(f->name, "MCP_TIME") == 0 && f->len == time.len)
			memcpy(entry_text(e) + f->at, time.p, time.len);
	}
}

static void put(struct audit_whole *w, const char *name, struct span value)
{
	assert(w->n < ARRAY_LEN(w->fields));
	w->fields[w->n++] = (struct journal_field){ name, value };
}

static char *line_put(char *at, struct span s)
{
	return s.len ? mempcpy(at, s.p, s.len) : at;
}

/* Without the chain, which is not known yet. */
static void make_line(const struct audit_entry *e, struct audit_whole *w, size_t n_seq)
{
	char *at = line_put(w->line, SPAN("MCPAUDIT v=1 ev="));

	at = line_put(at, span_of(e->kind->name));
	at = line_put(at, SPAN(" seq="));
	at = line_put(at, span_make(w->seq, n_seq));
	at = line_put(at, span_make(entry_text(e), e->n_line));
	w->n_line = (size_t)(at - w->line);
}

static void add_chain(struct audit_whole *w)
{
	char *at = line_put(w->line + w->n_line, SPAN(" chain="));

	at = line_put(at, span_make(w->chain, AUDIT_CHAIN_HEX));
	w->n_line = (size_t)(at - w->line);
	assert(w->n_line <= sizeof(w->line));
	w->fields[0].value = span_make(w->line, w->n_line);
	put(w, "MCP_CHAIN", span_make(w->chain, AUDIT_CHAIN_HEX));
}

int audit_entry_complete(const struct audit_entry *e, const struct audit_origin *o, uint64_t seq, const char *prev,
			 struct audit_whole *out)
{
	size_t n_seq = audit_put_u64(seq, out->seq);
	const char *text = entry_text(e);
	int r;

	out->n = 0;
	make_line(e, out, n_seq);
	put(out, "MESSAGE", span_make(out->line, out->n_line));
	put(out, "MESSAGE_ID", span_of(e->kind->message_id));
	put(out, "PRIORITY", span_make(&e->priority, 1));
	put(out, "SYSLOG_IDENTIFIER", span_of(o->identifier));
	put(out, "MCP_SCHEMA", SPAN("1"));
	put(out, "MCP_EVENT", span_of(e->kind->name));
	put(out, "MCP_SIDE", span_of(o->side));
	put(out, "MCP_GATEWAY_VERSION", SPAN(MCP_TUNNEL_VERSION));
	put(out, "MCP_CHAIN_ID", span_make(o->chain_id, AUDIT_CHAIN_ID_LEN));
	put(out, "MCP_SEQ", span_make(out->seq, n_seq));
	for (size_t i = 0; i < e->n_fields; i++)
		put(out, e->fields[i].name, span_make(text + e->fields[i].at, e->fields[i].len));
	put(out, "MCP_CHAIN_PREV", span_make(prev, AUDIT_CHAIN_HEX));
	r = audit_chain(out->fields, out->n, out->chain);
	if (r == 0)
		add_chain(out);
	return r;
}
