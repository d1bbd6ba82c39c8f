#include "daemon/config_value.h"

#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "daemon/url.h"

enum { VALUE_MAX = 4095 };

static int parse_number(enum config_type type, const char *text, uint64_t *ret)
{
	if (type == CONFIG_DURATION)
		return parse_duration_ms(span_of(text), ret);
	if (type == CONFIG_SIZE)
		return parse_size_bytes(span_of(text), ret);
	return span_u64(span_of(text), ret);
}

static bool number_allowed(const struct config_option *o, uint64_t v)
{
	uint64_t min = 0, max = o->type == CONFIG_COUNT ? UINT32_MAX : INT64_MAX;

	if (o->min)
		parse_number(o->type, o->min, &min);
	if (o->max)
		parse_number(o->type, o->max, &max);
	return (v >= min && v <= max) || (v == 0 && o->flags & CONFIG_OR_ZERO);
}

static int set_number(const struct config_option *o, const char *value, void *field)
{
	uint64_t v;

	if (parse_number(o->type, value, &v) < 0 || !number_allowed(o, v))
		return -EINVAL;
	if (o->type == CONFIG_COUNT)
		*(unsigned *)field = (unsigned)v;
	else
		*(uint64_t *)field = v;
	return 0;
}

static int set_bool(const char *value, bool *ret)
{
	static const char *const words[] = { "no", "yes", "false", "true", "off", "on", "0", "1" };

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(value, words[i]) == 0) {
			*ret = i % 2 == 1;
			return 0;
		}
	return -EINVAL;
}

static int set_choice(const struct config_option *o, const char *value, int *ret)
{
	struct span rest = span_of(o->arg);

	for (int i = 0; rest.p; i++)
		if (span_is(span_split(&rest, '|'), value)) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

static int set_string(const char *value, char **field)
{
	char *copy;

	if (!*value || strlen(value) > VALUE_MAX)
		return -EINVAL;
	copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int add_item(const struct config_option *o, unsigned line, const char *value, struct config_list *list)
{
	struct config_item *grown;
	uint64_t max = 0;
	int r;

	if (span_u64(span_of(o->max), &max) < 0 || list->n >= max)
		return -E2BIG;
	grown = reallocarray(list->items, list->n + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	list->items = grown;
	grown[list->n] = (struct config_item){ .line = line };
	r = set_string(value, &grown[list->n].text);
	if (r == 0)
		list->n++;
	return r;
}

int config_value_set(const struct config_option *o, unsigned line, const char *value, void *field, const char **ret_why)
{
	switch (o->type) {
	case CONFIG_STRING:
	case CONFIG_FILE:
		return set_string(value, field);
	case CONFIG_URL:
		return url_parse(span_of(value), o->flags & 0xffff, field, ret_why);
	case CONFIG_DURATION:
	case CONFIG_SIZE:
	case CONFIG_COUNT:
		return set_number(o, value, field);
	case CONFIG_BOOL:
		return set_bool(value, field);
	case CONFIG_CHOICE:
		return set_choice(o, value, field);
	case CONFIG_LIST:
		return add_item(o, line, value, field);
	case CONFIG_HEADING:
	case CONFIG_ACTION:
		break;
	}
	return -EINVAL;
}

static void allowed_number(const struct config_option *o, const char *thing, char *out, size_t size)
{
	snprintf(out, size, "%s%s%s%s%s%s", o->flags & CONFIG_OR_ZERO ? "0 (none) or " : "", thing,
		 o->min ? " from " : "", o->min ? o->min : "", o->max ? (o->min ? " to " : " up to ") : "",
		 o->max ? o->max : "");
}

/* "a|b|c" as "a, b or c". */
static void allowed_choice(const struct config_option *o, char *out, size_t size)
{
	struct span rest = span_of(o->arg);
	size_t n = 0;

	*out = '\0';
	for (bool first = true; rest.p && n < size; first = false) {
		struct span word = span_split(&rest, '|');
		const char *joint = first ? "" : rest.p ? ", " : " or ";

		n += (size_t)snprintf(out + n, size - n, "%s%.*s", joint, SPAN_FMT(word));
	}
}

void config_allowed(const struct config_option *o, char *out, size_t size)
{
	char schemes[100];

	if (o->type == CONFIG_DURATION)
		allowed_number(o, "a time (ms, s, m, h)", out, size);
	else if (o->type == CONFIG_SIZE)
		allowed_number(o, "a size in bytes (k, M, G)", out, size);
	else if (o->type == CONFIG_COUNT)
		allowed_number(o, "a number", out, size);
	else if (o->type == CONFIG_BOOL)
		snprintf(out, size, "yes or no");
	else if (o->type == CONFIG_CHOICE)
		allowed_choice(o, out, size);
	else if (o->type == CONFIG_URL) {
		url_schemes_text(o->flags, schemes, sizeof(schemes));
		snprintf(out, size, "a URL that begins with %s", schemes);
	} else
		snprintf(out, size, "%s, not empty and at most %d bytes", o->type == CONFIG_FILE ? "a path" : "a text",
			 VALUE_MAX);
}

struct unit {
	uint64_t size;
	const char *name;
};

/* In the largest unit that leaves a whole number. */
static void number_text(uint64_t v, const struct unit *units, size_t n, char *out, size_t size)
{
	while (n > 1 && (v == 0 || v % units[n - 1].size))
		n--;
	snprintf(out, size, "%llu%s", (unsigned long long)(v / units[n - 1].size), v ? units[n - 1].name : "");
}

static void choice_text(const struct config_option *o, int index, char *out, size_t size)
{
	struct span rest = span_of(o->arg), word = { NULL, 0 };

	for (int i = 0; i <= index && rest.p; i++)
		word = span_split(&rest, '|');
	snprintf(out, size, "%.*s", SPAN_FMT(word));
}

static bool url_text(const struct url *u, char *out, size_t size)
{
	if (!u->scheme)
		return false;
	url_print(u, out, size);
	return true;
}

static bool string_text(const char *s, char *out, size_t size)
{
	if (!s)
		return false;
	snprintf(out, size, "%s", s);
	return true;
}

bool config_value_text(const struct config_option *o, const void *field, size_t index, char *out, size_t size)
{
	static const struct unit times[] = { { 1, "ms" }, { 1000, "s" }, { 60000, "m" }, { 3600000, "h" } };
	static const struct unit sizes[] = { { 1, "" }, { 1024, "k" }, { 1024 * 1024, "M" }, { 1024 * 1024 * 1024, "G" } };
	const struct config_list *list = field;

	if (index && o->type != CONFIG_LIST)
		return false;
	switch (o->type) {
	case CONFIG_STRING:
	case CONFIG_FILE:
		return string_text(*(char *const *)field, out, size);
	case CONFIG_URL:
		return url_text(field, out, size);
	case CONFIG_DURATION:
		number_text(*(const uint64_t *)field, times, ARRAY_LEN(times), out, size);
		return true;
	case CONFIG_SIZE:
		number_text(*(const uint64_t *)field, sizes, ARRAY_LEN(sizes), out, size);
		return true;
	case CONFIG_COUNT:
		snprintf(out, size, "%u", *(const unsigned *)field);
		return true;
	case CONFIG_BOOL:
		snprintf(out, size, "%s", *(const bool *)field ? "yes" : "no");
		return true;
	case CONFIG_CHOICE:
		choice_text(o, *(const int *)field, out, size);
		return true;
	case CONFIG_LIST:
		return index < list->n && string_text(list->items[index].text, out, size);
	case CONFIG_HEADING:
	case CONFIG_ACTION:
		break;
	}
	return false;
}

static bool text_equal(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool url_equal(const struct url *a, const struct url *b)
{
	return a->scheme == b->scheme && a->port == b->port && strcmp(a->authority, b->authority) == 0 &&
	       strcmp(a->socket, b->socket) == 0 && strcmp(a->target, b->target) == 0;
}

bool config_list_equal(const struct config_list *a, const struct config_list *b)
{
	bool equal = a->n == b->n;

	for (size_t i = 0; equal && i < a->n; i++)
		equal = text_equal(a->items[i].text, b->items[i].text);
	return equal;
}

bool config_value_equal(const struct config_option *o, const void *a, const void *b)
{
	switch (o->type) {
	case CONFIG_STRING:
	case CONFIG_FILE:
		return text_equal(*(char *const *)a, *(char *const *)b);
	case CONFIG_URL:
		return url_equal(a, b);
	case CONFIG_DURATION:
	case CONFIG_SIZE:
		return *(const uint64_t *)a == *(const uint64_t *)b;
	case CONFIG_COUNT:
		return *(const unsigned *)a == *(const unsigned *)b;
	case CONFIG_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case CONFIG_CHOICE:
		return *(const int *)a == *(const int *)b;
	case CONFIG_LIST:
		return config_list_equal(a, b);
	case CONFIG_HEADING:
	case CONFIG_ACTION:
		break;
	}
	return true;
}
