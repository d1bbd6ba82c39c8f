#include "gateway/rules.h"

#include <errno.h>
#include <stdio.h>

enum { SCHEME_MAX = 64 };

static const char *const options[RULES_KIND_N][RULES_SIDE_N] = {
	[RULES_METHOD] = { "allow-method", "deny-method" },
	[RULES_TOOL] = { "allow-tool", "deny-tool" },
	[RULES_PROMPT] = { "allow-prompt", "deny-prompt" },
	[RULES_SCHEME] = { "allow-resource-scheme", "deny-resource-scheme" },
};

const char *rules_option(enum rules_kind kind, enum rules_side side)
{
	return options[kind][side];
}

/* ---- patterns ---- */

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_scheme_char(char c)
{
	c = lower(c);
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.';
}

static bool pattern_ok(enum rules_kind kind, struct span pattern)
{
	if (!pattern.len || pattern.len > RULES_PATTERN_MAX || !mcp_text_ok(pattern))
		return false;
	for (size_t i = 0; i < pattern.len; i++) {
		char c = pattern.p[i];

		if ((uint8_t)c < ' ' || c == 0x7f)
			return false;
		if (kind == RULES_SCHEME && !is_scheme_char(c) && c != '*' && c != '?')
			return false;
	}
	return true;
}

int rules_add(struct rules *r, enum rules_kind kind, enum rules_side side, const char *pattern)
{
	struct rules_list *list = &r->lists[kind][side];

	if (!pattern_ok(kind, span_of(pattern)))
		return -EINVAL;
	if (list->n == RULES_MAX)
		return -ENOSPC;
	list->patterns[list->n++] = pattern;
	return 0;
}

static void add_all(struct rules_list *list, const struct rules_list *more)
{
	for (size_t i = 0; i < more->n && list->n < RULES_MAX; i++)
		list->patterns[list->n++] = more->patterns[i];
}

void rules_merge(struct rules *r, const struct rules *common)
{
	for (enum rules_kind kind = 0; kind < RULES_KIND_N; kind++) {
		assert(r->lists[kind][RULES_DENY].n + common->lists[kind][RULES_DENY].n <= RULES_MAX);
		add_all(&r->lists[kind][RULES_DENY], &common->lists[kind][RULES_DENY]);
		if (!r->lists[kind][RULES_ALLOW].n)
			r->lists[kind][RULES_ALLOW] = common->lists[kind][RULES_ALLOW];
	}
}

/* Behind the UTF-8 character at i < s.len. */
static size_t next_char(struct span s, size_t i)
{
	do
		i++;
	while (i < s.len && ((uint8_t)s.p[i] & 0xc0) == 0x80);
	return i;
}

/* Goes back to the last `*` only: at most pattern times name steps. */
static bool matches(const char *pattern, struct span name, bool fold)
{
	const char *p = pattern, *star = NULL;
	size_t i = 0, star_at = 0;

	while (i < name.len) {
		if (*p == '*') {
			star = ++p;
			star_at = i;
		} else if (*p == '?') {
			p++;
			i = next_char(name, i);
		} else if ((fold ? lower(*p) : *p) == name.p[i]) {
			p++;
			i++;
		} else if (star) {
			p = star;
			i = star_at = next_char(name, star_at);
		} else {
			return false;
		}
	}
	while (*p == '*')
		p++;
	return *p == '\0';
}

static const char *find(const struct rules_list *list, struct span name, bool fold)
{
	for (size_t i = 0; i < list->n; i++)
		if (matches(list->patterns[i], name, fold))
			return list->patterns[i];
	return NULL;
}

/* ---- messages ---- */

/* name: absent where it could not be taken. */
static bool judge(const struct rules *r, enum rules_kind kind, struct span name, char text[RULES_TEXT_MAX])
{
	const struct rules_list *allow = &r->lists[kind][RULES_ALLOW], *deny = &r->lists[kind][RULES_DENY];
	bool fold = kind == RULES_SCHEME;
	const char *pattern;

	if (!allow->n && !deny->n)
		return true;
	if (!name.p) {
		snprintf(text, RULES_TEXT_MAX, "--%s: the message does not say which", options[kind][deny->n ? RULES_DENY : RULES_ALLOW]);
		return false;
	}
	pattern = find(deny, name, fold);
	if (pattern) {
		snprintf(text, RULES_TEXT_MAX, "--%s \"%s\"", options[kind][RULES_DENY], pattern);
		return false;
	}
	if (!allow->n || find(allow, name, fold))
		return true;
	snprintf(text, RULES_TEXT_MAX, "--%s: no pattern matches", options[kind][RULES_ALLOW]);
	return false;
}

/* Absent unless uri begins with a scheme as RFC 3986 has it: some servers skip white space in front of it, and inside. */
static struct span scheme_of(struct span uri, char scheme[SCHEME_MAX])
{
	const struct span none = { NULL, 0 };
	size_t n = 0;

	for (; n < uri.len && uri.p[n] != ':'; n++) {
		if (n == SCHEME_MAX || !is_scheme_char(uri.p[n]))
			return none;
		scheme[n] = lower(uri.p[n]);
	}
	if (n == 0 || n == uri.len || scheme[0] < 'a')
		return none;
	return span_make(scheme, n);
}

static bool names_a_resource(struct span method)
{
	return span_starts(method, "resources/") && !span_is(method, "resources/list") &&
	       !span_is(method, "resources/templates/list");
}

/* Whoever may not have a prompt or a resource is told nothing of it by completion either. A server may go by the type, or by what is
 * there. */
static bool judge_ref(const struct rules *r, const struct mcp_ref *ref, char text[RULES_TEXT_MAX])
{
	bool prompt = span_is(ref->type, "ref/prompt"), resource = span_is(ref->type, "ref/resource"), any = !prompt && !resource;
	char scheme[SCHEME_MAX];

	if ((prompt || any || ref->name.p) && !judge(r, RULES_PROMPT, ref->name, text))
		return false;
	return !(resource || any || ref->uri.p) || judge(r, RULES_SCHEME, scheme_of(ref->uri, scheme), text);
}

static bool judge_schemes(const struct rules *r, const struct mcp_view *view, char text[RULES_TEXT_MAX])
{
	const struct span none = { NULL, 0 };
	struct span rest = view->schemes;
	char scheme[SCHEME_MAX];

	while (rest.len)
		if (!judge(r, RULES_SCHEME, scheme_of(span_split(&rest, '\0'), scheme), text))
			return false;
	return !view->schemes_bad || judge(r, RULES_SCHEME, none, text);
}

bool rules_allow(const struct rules *r, const struct mcp_view *view, char text[RULES_TEXT_MAX])
{
	const struct span none = { NULL, 0 };
	struct span name = view->name_bad ? none : view->name;
	char scheme[SCHEME_MAX];

	if (view->kind != MCP_REQUEST && view->kind != MCP_NOTIFICATION)
		return true;
	if (!judge(r, RULES_METHOD, view->method, text))
		return false;
	if (span_is(view->method, "tools/call"))
		return judge(r, RULES_TOOL, name, text);
	if (span_is(view->method, "prompts/get"))
		return judge(r, RULES_PROMPT, name, text);
	if (span_is(view->method, "completion/complete"))
		return judge_ref(r, &view->ref, text);
	if (span_is(view->method, "subscriptions/listen"))
		return judge_schemes(r, view, text);
	if (names_a_resource(view->method))
		return judge(r, RULES_SCHEME, scheme_of(view->uri, scheme), text);
	return true;
}
