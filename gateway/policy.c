#include "gateway/policy.h"

#include <errno.h>
#include <stdio.h>

#include "proto/http1.h"

/* Never taken from the far side: how messages are framed, where they go, and names that a server behind the tunnel trusts. */
static const struct span withheld[] = {
	SPAN_INIT("Host"),
	SPAN_INIT("Origin"),
	SPAN_INIT("Content-Length"),
	SPAN_INIT("Connection"),
	SPAN_INIT("Keep-Alive"),
	SPAN_INIT("Proxy-Connection"),
	SPAN_INIT("TE"),
	SPAN_INIT("Trailer"),
	SPAN_INIT("Transfer-Encoding"),
	SPAN_INIT("Upgrade"),
	SPAN_INIT("Proxy-Authenticate"),
	SPAN_INIT("Proxy-Authorization"),
	SPAN_INIT("Expect"),
};

/* '_' and '-' are the same. */
static bool is_char(char c, char of_text)
{
	return ((c == '_' || c == '-') && (of_text == '-' || of_text == '_')) || span_ieq(span_make(&c, 1), span_make(&of_text, 1));
}

bool policy_name_begins(struct span name, struct span text)
{
	if (name.len < text.len)
		return false;
	for (size_t i = 0; i < text.len; i++)
		if (!is_char(name.p[i], text.p[i]))
			return false;
	return true;
}

bool policy_field_is(struct span name, struct span wanted)
{
	return name.len == wanted.len && policy_name_begins(name, wanted);
}

bool policy_field_among(struct span name, const struct span *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (policy_field_is(name, names[i]))
			return true;
	return false;
}

bool policy_field_passes(struct span name)
{
	return !policy_name_begins(name, SPAN("Mcp-Tunnel-")) && !policy_field_among(name, withheld, ARRAY_LEN(withheld));
}

static uint32_t refuse(char detail[POLICY_DETAIL_MAX], uint32_t reason, const char *what, struct span value)
{
	snprintf(detail, POLICY_DETAIL_MAX, "%s%s%.*s%s", what, value.p ? ": \"" : "", (int)MIN(value.len, (size_t)64),
		 value.p ? value.p : "", value.p ? "\"" : "");
	return reason;
}

/* The gateway tells the MCP server what the relay says in them. */
static bool is_told(struct span pseudo)
{
	return span_is(pseudo, ":agent") || span_is(pseudo, ":call");
}

/* What follows the word in a Content-Type. */
static bool is_utf8(struct span rest)
{
	static const struct span forms[] = { SPAN_INIT("=utf-8"), SPAN_INIT("=\"utf-8\""), SPAN_INIT("=utf8"), SPAN_INIT("=\"utf8\"") };

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		size_t len = forms[i].len;

		if (span_ieq(span_make(rest.p, MIN(rest.len, len)), forms[i]))
			return rest.len == len || rest.p[len] == ';' || rest.p[len] == ' ' || rest.p[len] == '\t';
	}
	return false;
}

bool policy_charset_ok(struct span content_type)
{
	static const struct span word = SPAN_INIT("charset");

	for (; content_type.len >= word.len; content_type = span_make(content_type.p + 1, content_type.len - 1))
		if (span_ieq(span_make(content_type.p, word.len), word) &&
		    !is_utf8(span_make(content_type.p + word.len, content_type.len - word.len)))
			return false;
	return true;
}

/* Of a request whose body is judged: a server that decodes it in some way reads another message than the one that was judged. */
static bool is_read_as_it_is(const struct tp_field *f)
{
	if (policy_field_is(f->name, SPAN("Content-Type")))
		return policy_charset_ok(f->value);
	return !policy_field_is(f->name, SPAN("Content-Encoding")) || span_ieq(f->value, SPAN("identity"));
}

uint32_t policy_check_head(const struct policy_config *cfg, const struct tp_field *fields, size_t n,
			   char detail[POLICY_DETAIL_MAX])
{
	const struct span none = { NULL, 0 };
	struct span kind = tp_field_get(fields, n, ":kind"), route = tp_field_get(fields, n, ":route");
	struct span method = tp_field_get(fields, n, ":method"), query = tp_field_get(fields, n, ":query");

	if (!span_is(kind, "exchange"))
		return refuse(detail, TP_REASON_REFUSED, "this gateway carries exchanges only", none);
	if (!cfg)
		return refuse(detail, TP_REASON_NO_ROUTE, "no such route", route);
	if (!span_is(method, "POST") && !span_is(method, "GET") && !span_is(method, "DELETE"))
		return refuse(detail, TP_REASON_BAD_REQUEST, "method not carried", method);
	if (query.p && !cfg->allow_query)
		return refuse(detail, TP_REASON_BAD_REQUEST, "a query string is not allowed here (--allow-query)", none);
	if (query.len > POLICY_QUERY_MAX)
		return refuse(detail, TP_REASON_BAD_REQUEST, "query string too long", none);
	for (size_t i = 0; i < query.len; i++)
		if ((uint8_t)query.p[i] <= ' ' || (uint8_t)query.p[i] >= 0x7f || query.p[i] == '#')
			return refuse(detail, TP_REASON_BAD_REQUEST, "invalid byte in the query string", none);
	for (size_t i = 0; i < n; i++) {
		if (fields[i].name.p[0] == ':' && !is_told(fields[i].name))
			continue;
		if (fields[i].name.p[0] != ':' && !http1_token_ok(fields[i].name))
			return refuse(detail, TP_REASON_BAD_REQUEST, "invalid header name", none);
		if (!http1_value_ok(fields[i].value))
			return refuse(detail, TP_REASON_BAD_REQUEST, "invalid header value", fields[i].name);
		if (span_is(method, "POST") && !is_read_as_it_is(&fields[i]))
			return refuse(detail, TP_REASON_BAD_REQUEST, "a body must be plain UTF-8, and this header says otherwise", fields[i].name);
	}
	return TP_REASON_NONE;
}

/* The value decoded; no string of a message equals what is no UTF-8. */
static int mirror_value(struct span value, bool twice, char **ret)
{
	static const char nothing[] = "\xff";
	struct buf text;
	int r;

	buf_init(&text, 4 * MCP_NAME_MAX);
	r = mcp_header_decode(value, &text);
	if (r != -ENOMEM) {
		if (twice || r < 0 || (buf_len(&text) && memchr(buf_bytes(&text), 0, buf_len(&text))))
			*ret = span_dup(span_of(nothing));
		else
			*ret = span_dup(buf_span(&text));
		r = *ret ? 0 : -ENOMEM;
	}
	buf_done(&text);
	return r;
}

/* *ret stays NULL when it was not sent. */
static int mirror_field(const struct tp_field *fields, size_t n, const char *name, char **ret)
{
	struct span value = { NULL, 0 };
	size_t count = 0;

	for (size_t i = 0; i < n; i++)
		if (span_iis(fields[i].name, name) && count++ == 0)
			value = fields[i].value;
	return count ? mirror_value(value, count > 1, ret) : 0;
}

int policy_mirror_init(struct policy_mirror *m, const struct tp_field *fields, size_t n)
{
	int r;

	*m = (struct policy_mirror){ NULL };
	r = mirror_field(fields, n, "Mcp-Method", &m->method);
	if (r == 0)
		r = mirror_field(fields, n, "Mcp-Name", &m->name);
	if (r == 0)
		r = mirror_field(fields, n, "MCP-Protocol-Version", &m->protocol_version);
	if (r < 0) {
		policy_mirror_done(m);
		return r;
	}
	return m->method || m->name || m->protocol_version ? 0 : POLICY_MIRROR_NONE;
}

void policy_mirror_done(struct policy_mirror *m)
{
	free(m->method);
	free(m->name);
	free(m->protocol_version);
	*m = (struct policy_mirror){ NULL };
}

static bool differs(const char *header, struct span body)
{
	return header && !span_is(body, header);
}

uint32_t policy_check_message(const struct policy_mirror *m, const struct mcp_view *view, char detail[POLICY_DETAIL_MAX])
{
	const struct span none = { NULL, 0 };
	struct span name = span_starts(view->method, "resources/") ? view->uri : view->name;

	if (view->kind != MCP_REQUEST && view->kind != MCP_NOTIFICATION)
		return TP_REASON_NONE;
	if (differs(m->method, view->method))
		return refuse(detail, TP_REASON_HEADER_MISMATCH, "Mcp-Method is not the method in the body", none);
	if (differs(m->name, name))
		return refuse(detail, TP_REASON_HEADER_MISMATCH, "Mcp-Name is not the name in the body", none);
	/* initialize negotiates: what its params ask for is not what the header says. */
	if (view->protocol_version.p && !span_is(view->method, "initialize") &&
	    differs(m->protocol_version, view->protocol_version))
		return refuse(detail, TP_REASON_HEADER_MISMATCH, "MCP-Protocol-Version is not the version in the body", none);
	return TP_REASON_NONE;
}

uint32_t policy_check_rules(const struct policy_config *cfg, const struct mcp_view *view, char rule[POLICY_DETAIL_MAX])
{
	_Static_assert((int)RULES_TEXT_MAX <= (int)POLICY_DETAIL_MAX, "a rule is told whole");
	return !cfg->rules || rules_allow(cfg->rules, view, rule) ? TP_REASON_NONE : TP_REASON_POLICY;
}

bool policy_would_deny(const void *rules, const struct mcp_view *view, char text[POLICY_DETAIL_MAX])
{
	static const char would[] = "would deny: ";
	char rule[RULES_TEXT_MAX];

	_Static_assert(sizeof(would) - 1 + RULES_TEXT_MAX <= POLICY_DETAIL_MAX, "a rule is told whole");
	if (rules_allow(rules, view, rule))
		return false;
	snprintf(text, POLICY_DETAIL_MAX, "%s%s", would, rule);
	return true;
}

bool policy_lists_entry(const struct policy_config *cfg, enum mcp_list_kind kind, struct span name)
{
	static const struct span methods[MCP_LIST_KIND_N] = {
		[MCP_LIST_TOOLS] = SPAN_INIT("tools/call"),
		[MCP_LIST_PROMPTS] = SPAN_INIT("prompts/get"),
		[MCP_LIST_RESOURCES] = SPAN_INIT("resources/read"),
		[MCP_LIST_TEMPLATES] = SPAN_INIT("resources/read"),
	};
	const struct mcp_view view = { .kind = MCP_REQUEST, .method = methods[kind], .name = name, .uri = name };
	char rule[RULES_TEXT_MAX];

	return !cfg->rules || rules_allow(cfg->rules, &view, rule);
}

unsigned policy_lists(const struct policy_config *cfg)
{
	const struct span none = { NULL, 0 };
	unsigned lists = 0;

	/* What cannot be told passes only where there is no rule about it. */
	for (enum mcp_list_kind kind = 0; kind < MCP_LIST_KIND_N; kind++)
		if (!policy_lists_entry(cfg, kind, none))
			lists |= 1U << kind;
	return lists;
}
