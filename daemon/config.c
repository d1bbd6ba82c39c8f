#include "daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <string.h>

#include "base/span.h"
#include "daemon/config_value.h"
#include "daemon/url.h"

struct source {
	enum { FROM_DEFAULT, FROM_FILE, FROM_FLAG } from;
	unsigned line;
};

struct config {
	const struct config_spec *spec;
	void *target;
	const char *file; /* NULL: none */
	const struct config_section *in; /* NULL: the main section */
	struct source sources[1 + CONFIG_SECTIONS_MAX][CONFIG_OPTIONS_MAX]; /* the main section first */
	char *err;
	size_t err_size;
};

static struct config_sections *sections_of(const struct config_spec *spec, void *target)
{
	return spec->kind ? (struct config_sections *)(void *)((char *)target + spec->sections_offset) : NULL;
}

void *config_field(const struct config_spec *spec, const struct config_option *o, void *target, const struct config_section *in)
{
	return in ? (char *)in->target + (o->offset - spec->each_offset) : (char *)target + o->offset;
}

/* In the section that is looked at. */
static void *field_of(const struct config *c, const struct config_option *o)
{
	return config_field(c->spec, o, c->target, c->in);
}

static const struct config_option *find_option(const struct config_spec *spec, struct span name)
{
	for (size_t i = 0; i < spec->n_options; i++)
		if (spec->options[i].name && span_is(name, spec->options[i].name))
			return &spec->options[i];
	return NULL;
}

static struct source *source_of(const struct config *c, const struct config_option *o)
{
	size_t at = c->in ? 1 + (size_t)(c->in - sections_of(c->spec, c->target)->items) : 0;

	return (struct source *)&c->sources[at][o - c->spec->options];
}

/* --- errors --- */

/* Where the query of a URL begins; the end of the text where there is none. */
static const char *query_of(const char *value)
{
	bool is_url = strstr(value, "://") || strstr(value, "unix:/");

	return value + (is_url ? strcspn(value, "?") : strlen(value));
}

/* A value in a message: bounded, one line, and without what may be a secret in the wrong place. */
static void quote_value(const char *value, char *out, size_t size)
{
	const char *authority = strstr(value, "://"), *at = authority ? strrchr(authority, '@') : NULL;
	const char *query = query_of(value);
	size_t n = 0;

	if (strncmp(value, "mtt_", 4) == 0 || strncmp(value, "mtk_", 4) == 0) {
		snprintf(out, size, "%.4s...", value);
		return;
	}
	for (const char *p = value; p < query && n + 8 < size; p++) {
		if (at && p == authority + 3) {
			memcpy(out + n, "...", 3);
			n += 3;
			p = at;
			at = NULL;
			if (p >= query)
				break;
		}
		out[n++] = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
	}
	snprintf(out + n, size - n, "%s", *query ? "?..." : "");
}

static int fail_at(struct config *c, const struct source *src, const char *name, const char *value, const char *why)
{
	char where[300], quoted[120] = "";

	if (src->from == FROM_FILE)
		snprintf(where, sizeof(where), "%.200s:%u: %s", c->file, src->line, name);
	else if (c->in)
		snprintf(where, sizeof(where), "[%s %s] %s", c->spec->kind, c->in->name, name);
	else
		snprintf(where, sizeof(where), "--%s", name);
	if (value)
		quote_value(value, quoted, sizeof(quoted));
	snprintf(c->err, c->err_size, value ? "%s: \"%s\" %s" : "%s: %s%s", where, quoted, why);
	return -EINVAL;
}

/* The line of a list's item, found by its pointer. */
static struct source item_source(const struct config *c, const struct config_option *o, const char *value)
{
	struct source src = *source_of(c, o);
	const struct config_list *list = field_of(c, o);

	for (size_t i = 0; o->type == CONFIG_LIST && i < list->n; i++)
		if (list->items[i].text == value)
			src.line = list->items[i].line;
	return src;
}

int config_fail(struct config *c, const char *name, const char *value, const char *fmt, ...)
{
	const struct config_option *o = find_option(c->spec, span_of(name));
	struct source src = item_source(c, o, value);
	char why[CONFIG_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return fail_at(c, &src, name, value, why);
}

int config_listen_addr(struct config *c, const char *name, const char *text, const char **ret_addr)
{
	const char *why;
	struct url u;

	*ret_addr = NULL;
	if (strcmp(text, "none") == 0)
		return 0;
	if (url_parse_listen_addr(text, &u, &why) < 0)
		return config_fail(c, name, text, "is not an address to listen on: %s; give ADDR:PORT, unix:/PATH or none", why);
	*ret_addr = text;
	return 0;
}

bool config_is_set(const struct config *c, const char *name)
{
	return source_of(c, find_option(c->spec, span_of(name)))->from != FROM_DEFAULT;
}

void config_unset(struct config *c, const char *name)
{
	*source_of(c, find_option(c->spec, span_of(name))) = (struct source){ .from = FROM_DEFAULT };
}

int config_missing(struct config *c, const char *name)
{
	const struct config_option *o = find_option(c->spec, span_of(name));

	snprintf(c->err, c->err_size, "--%s %s is missing; it must be given as an option or as %s = %s in %s", o->name, o->arg,
		 o->name, o->arg, c->file ? c->file : "a file named by --config");
	return -EINVAL;
}

static int fail_value(struct config *c, const struct config_option *o, const struct source *src, const char *value,
		      const char *detail)
{
	char allowed[200], why[400];

	config_allowed(o, allowed, sizeof(allowed));
	if (detail)
		snprintf(why, sizeof(why), "is not a URL to use here: %s; give %s", detail, allowed);
	else
		snprintf(why, sizeof(why), "is not allowed; give %s", allowed);
	return fail_at(c, src, o->name, value, why);
}

int config_fail_memory(struct config *c)
{
	snprintf(c->err, c->err_size, "out of memory while reading the configuration");
	return -ENOMEM;
}

/* --- sections --- */

void config_enter(struct config *c, const struct config_section *section)
{
	c->in = section;
}

/* -EINVAL: why says what is wrong with it. */
static int section_get(struct config *c, struct span name, char *why, size_t size, struct config_section **ret)
{
	struct config_sections *all = sections_of(c->spec, c->target);
	struct config_section made = { NULL };

	for (size_t i = 0; i < all->n; i++)
		if (span_is(name, all->items[i].name)) {
			*ret = &all->items[i];
			return 0;
		}
	if (!c->spec->name_ok(name))
		snprintf(why, size, "the name is not allowed; give %s", c->spec->name_rule);
	else if (all->n == CONFIG_SECTIONS_MAX)
		snprintf(why, size, "it is one %s too many; at most %d are allowed", c->spec->kind, CONFIG_SECTIONS_MAX);
	if (!c->spec->name_ok(name) || all->n == CONFIG_SECTIONS_MAX)
		return -EINVAL;
	made.name = span_dup(name);
	made.target = calloc(1, c->spec->each_size);
	if (!made.name || !made.target) {
		free(made.name);
		free(made.target);
		return config_fail_memory(c);
	}
	all->items[all->n] = made;
	*ret = &all->items[all->n++];
	return 0;
}

int config_section_get(struct config *c, struct span name, const char *option, const char *text, struct config_section **ret)
{
	char why[300];
	int r = section_get(c, name, why, sizeof(why), ret);

	return r == -EINVAL ? config_fail(c, option, text, "cannot be used: %s", why) : r;
}

/* --- options --- */

static int set_option(struct config *c, const struct config_option *o, struct source src, const char *value)
{
	struct source *old = source_of(c, o);
	const char *why = NULL;
	char text[80];
	int r;

	if (old->from > src.from)
		return 0;
	if (old->from == src.from && src.from != FROM_DEFAULT && o->type != CONFIG_LIST)
		return fail_at(c, &src, o->name, value, "is given a second time; it can be given only once");
	r = config_value_set(o, src.line, value, field_of(c, o), &why);
	if (r == -ENOMEM)
		return config_fail_memory(c);
	if (r == -E2BIG) {
		snprintf(text, sizeof(text), "is one too many; at most %s can be given", o->max);
		return fail_at(c, &src, o->name, value, text);
	}
	if (r < 0)
		return fail_value(c, o, &src, value, why);
	*old = src;
	return 0;
}

/* --- command line --- */

static int run_action(const struct config_spec *spec, const char *name)
{
	if (strcmp(name, "version") == 0)
		printf("%s %s\n", spec->program, MCP_TUNNEL_VERSION);
	else if (strcmp(name, "print-sample-config") == 0)
		config_sample(spec, stdout);
	else if (strcmp(name, "print-man-options") == 0)
		config_man(spec, stdout);
	else
		config_help(spec, stdout);
	return CONFIG_EXIT;
}

static bool is_hidden_action(struct span name)
{
	return span_is(name, "print-sample-config") || span_is(name, "print-man-options");
}

static int fail_unknown(struct config *c, const char *arg)
{
	char quoted[80];
	int len = (int)strcspn(arg, "=");

	quote_value(arg, quoted, sizeof(quoted));
	if (strncmp(arg, "--", 2) == 0 && arg[2])
		snprintf(c->err, c->err_size, "%.*s: unknown option; %s --help lists those that exist", MIN(len, 79),
			 quoted, c->spec->program);
	else
		snprintf(c->err, c->err_size, "\"%s\": unexpected argument; options are --name VALUE or --name=VALUE",
			 quoted);
	return -EINVAL;
}

/* One option from argv[*i]; *i moves to the last word used. */
static int take_flag(struct config *c, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *eq = strchr(arg, '=');
	struct span name = span_make(arg + 2, eq ? (size_t)(eq - arg) - 2 : strlen(arg) - 2);
	const struct config_option *o = find_option(c->spec, name);
	const struct source src = { .from = FROM_FLAG };

	if (!eq && ((o && o->type == CONFIG_ACTION) || is_hidden_action(name)))
		return run_action(c->spec, arg + 2);
	if (!o || o->type == CONFIG_ACTION)
		return fail_unknown(c, arg);
	if (eq)
		return set_option(c, o, src, eq + 1);
	if (o->type == CONFIG_BOOL)
		return set_option(c, o, src, "yes");
	if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
		return fail_at(c, &src, o->name, NULL, "it needs a value; write --name VALUE or --name=VALUE");
	return set_option(c, o, src, argv[++*i]);
}

static int take_flags(struct config *c, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int r;

		if (strcmp(argv[i], "-h") == 0)
			return run_action(c->spec, "help");
		if (strncmp(argv[i], "--", 2) != 0 || !argv[i][2])
			return fail_unknown(c, argv[i]);
		r = take_flag(c, argc, argv, &i);
		if (r != 0)
			return r;
	}
	return 0;
}

/* --- file --- */

/* What libinih keeps of a section's name. */
enum { SECTION_TEXT_MAX = 48 };

struct reading {
	struct config *c;
	FILE *f;
	unsigned line;
	int result; /* of the first error */
};

static void fail_line(struct reading *rd, const char *why)
{
	if (rd->result < 0)
		return;
	snprintf(rd->c->err, rd->c->err_size, "%.200s:%u: %s", rd->c->file, rd->line, why);
	rd->result = -EINVAL;
}

/* Enters it. False: fail_line() has said why not. */
static bool take_section(struct reading *rd, const char *section, const char *key)
{
	struct config *c = rd->c;
	const char *kind = c->spec->kind;
	struct config_section *in = NULL;
	char why[300], unfit[200];
	int r;

	c->in = NULL;
	if (!*section || strcmp(section, c->spec->section) == 0)
		return true;
	if (!kind || strncmp(section, kind, strlen(kind)) != 0 || section[strlen(kind)] != ' ') {
		snprintf(why, sizeof(why), "%.60s%sit is in the unknown section [%.60s]; only [%s]%s%s%s read", key, *key ? ": " : "",
			 section, c->spec->section, kind ? " and [" : " is", kind ? kind : "", kind ? " NAME] are" : "");
		fail_line(rd, why);
		return false;
	}
	r = section_get(c, span_of(section + strlen(kind) + 1), unfit, sizeof(unfit), &in);
	if (r == -EINVAL) {
		snprintf(why, sizeof(why), "[%.60s]: %s", section, unfit);
		fail_line(rd, why);
	}
	rd->result = r;
	c->in = in;
	return r == 0;
}

/* A section that is there without a key: libinih does not tell of it. */
static void take_header(struct reading *rd, const char *line)
{
	const char *kind = rd->c->spec->kind, *end = strchr(line, ']');
	char section[SECTION_TEXT_MAX + 1];

	if (!kind || !end || end - line - 1 > SECTION_TEXT_MAX || strncmp(line + 1, kind, strlen(kind)) != 0)
		return;
	snprintf(section, sizeof(section), "%.*s", (int)(end - line - 1), line + 1);
	(void)take_section(rd, section, "");
	rd->c->in = NULL;
}

/* The next line, with its end; what has no room in dst is dropped. False: there is none. */
static bool take_line(FILE *f, char *dst, size_t size, bool *ret_whole, bool *ret_text)
{
	size_t n = 0;
	int ch;

	*ret_whole = *ret_text = true;
	do {
		ch = getc(f);
		if (ch == EOF)
			break;
		if (ch == '\0')
			*ret_text = false;
		if (n + 1 < size)
			dst[n++] = (char)ch;
		else
			*ret_whole = false;
	} while (ch != '\n');
	dst[n] = '\0';
	return n > 0;
}

/* libinih takes the rest of an over-long line for a new one, an indented line for more of the one before, and a byte that is zero
 * for the end of the line. None of these gets there. */
static char *read_line(char *buf, int size, void *user)
{
	struct reading *rd = user;
	bool whole, text;
	size_t lead;

	if (rd->result < 0 || !take_line(rd->f, buf, (size_t)size, &whole, &text))
		return NULL;
	rd->line++;
	if (!text) {
		fail_line(rd, "a byte of the line is zero; the file must be text");
		return NULL;
	}
	lead = strspn(buf, " \t");
	memmove(buf, buf + lead, strlen(buf + lead) + 1);
	if (buf[0] == '[' && strcspn(buf + 1, "]") > SECTION_TEXT_MAX) {
		fail_line(rd, "the name of the section is too long");
		return NULL;
	}
	if (buf[0] == '[')
		take_header(rd, buf);
	if (rd->result < 0)
		return NULL;
	if (whole || buf[0] == '#' || buf[0] == ';')
		return buf;
	fail_line(rd, "the line is too long (about 200 bytes are allowed); give this option on the command line");
	return NULL;
}

static int take_key(void *user, const char *section, const char *key, const char *value)
{
	struct reading *rd = user;
	struct config *c = rd->c;
	const struct config_option *o = find_option(c->spec, span_of(key));
	struct source src = { .from = FROM_FILE, .line = rd->line };
	char why[300];

	if (rd->result < 0 || !take_section(rd, section, key))
		return 0;
	if (!o || o->flags & CONFIG_NO_FILE) {
		snprintf(why, sizeof(why), "%.60s: %s; keys are the names of the options that %s --help lists", key,
			 o ? "it is only for the command line" : "unknown key", c->spec->program);
		fail_line(rd, why);
	} else if (c->in && !(o->flags & CONFIG_EACH)) {
		snprintf(why, sizeof(why), "%.60s: no [%s NAME] has this key; it belongs into [%s]", key, c->spec->kind,
			 c->spec->section);
		fail_line(rd, why);
	} else {
		rd->result = set_option(c, o, src, value);
	}
	c->in = NULL;
	return rd->result == 0;
}

static int take_file(struct config *c)
{
	char **field = (char **)(void *)((char *)c->target + c->spec->file_offset), *given = *field;
	struct reading rd = { .c = c };
	char why[128];
	int bad_line;

	c->file = given ? given : c->spec->file;
	if (!c->file)
		return 0;
	rd.f = fopen(c->file, "re");
	if (!rd.f) {
		if (!given && errno == ENOENT)
			return 0;
		snprintf(c->err, c->err_size, "%s%.300s: cannot open the configuration file: %s",
			 given ? "--config: " : "", c->file, strerror(errno));
		return -EINVAL;
	}
	if (!given && !(*field = strdup(c->file))) {
		fclose(rd.f);
		return config_fail_memory(c);
	}
	bad_line = ini_parse_stream(read_line, &rd, take_key, &rd);
	if (ferror(rd.f)) {
		snprintf(why, sizeof(why), "cannot read on: %s", strerror(errno));
		fail_line(&rd, why);
	}
	fclose(rd.f);
	if (bad_line < 0 && rd.result == 0)
		rd.result = config_fail_memory(c);
	if (bad_line > 0 && rd.result == 0) {
		rd.line = (unsigned)bad_line;
		fail_line(&rd, "not understood; a line is \"key = value\", \"[section]\" or a comment");
	}
	return rd.result;
}

/* --- the whole --- */

static int take_defaults(struct config *c)
{
	for (size_t i = 0; i < c->spec->n_options; i++) {
		const struct config_option *o = &c->spec->options[i];
		int r;

		if (!o->name || !o->value || c->sources[0][i].from != FROM_DEFAULT)
			continue;
		r = set_option(c, o, (struct source){ .from = FROM_DEFAULT }, o->value);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_required(struct config *c)
{
	for (size_t i = 0; i < c->spec->n_options; i++) {
		const struct config_option *o = &c->spec->options[i];

		if (o->flags & CONFIG_REQUIRED && c->sources[0][i].from == FROM_DEFAULT)
			return config_missing(c, o->name);
	}
	return 0;
}

static void print_origin(const struct config *c, const struct config_option *o, size_t index, char *out, size_t size)
{
	const struct source *src = source_of(c, o);
	const struct config_list *list = field_of(c, o);
	unsigned line = o->type == CONFIG_LIST ? list->items[index].line : src->line;

	if (src->from == FROM_FILE)
		snprintf(out, size, "%.300s:%u", c->file, line);
	else
		snprintf(out, size, "%s", src->from == FROM_FLAG ? "command line" : "default");
}

/* Of the section that is looked at. */
static void print_section(const struct config *c)
{
	char text[4096], value[1024], origin[320];

	for (size_t i = 0; i < c->spec->n_options; i++) {
		const struct config_option *o = &c->spec->options[i];

		if (!o->name || o->flags & CONFIG_NO_FILE || (c->in && (!(o->flags & CONFIG_EACH) || !config_is_set(c, o->name))))
			continue;
		for (size_t k = 0; config_value_text(o, field_of(c, o), k, text, sizeof(text)); k++) {
			quote_value(text, value, sizeof(value));
			print_origin(c, o, k, origin, sizeof(origin));
			printf("%s = %s ; %s\n", o->name, value, origin);
		}
	}
}

/* As a file that could be read again: what holds, and where it comes from. */
static void print_values(struct config *c)
{
	const struct config_sections *all = sections_of(c->spec, c->target);

	config_enter(c, NULL);
	printf("[%s]\n", c->spec->section);
	print_section(c);
	for (size_t i = 0; all && i < all->n; i++) {
		config_enter(c, &all->items[i]);
		printf("\n[%s %s]\n", c->spec->kind, all->items[i].name);
		print_section(c);
	}
	config_enter(c, NULL);
}

static bool is_asked(const struct config *c, const char *name)
{
	const struct config_option *o = find_option(c->spec, span_of(name));

	return o && o->type == CONFIG_BOOL && *(bool *)field_of(c, o);
}

int config_load(const struct config_spec *spec, int argc, char **argv, void *target, char *err, size_t err_size)
{
	struct config c = { .spec = spec, .target = target, .err = err, .err_size = err_size };
	int r;

	assert(spec->n_options <= CONFIG_OPTIONS_MAX);
	r = take_flags(&c, argc, argv);
	if (r == 0)
		r = take_file(&c);
	if (r == 0)
		r = take_defaults(&c);
	if (r == 0)
		r = check_required(&c);
	if (r == 0 && spec->finish)
		r = spec->finish(&c, target);
	if (r == 0 && is_asked(&c, "print-config")) {
		print_values(&c);
		r = CONFIG_EXIT;
	}
	if (r != 0)
		config_done(spec, target);
	return r;
}

static void list_done(struct config_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i].text);
	free(list->items);
	*list = (struct config_list){ 0 };
}

static void option_done(const struct config_option *o, void *field)
{
	char **text = field;

	if (o->type == CONFIG_LIST) {
		list_done(field);
	} else if (o->type == CONFIG_STRING || o->type == CONFIG_FILE) {
		free(*text);
		*text = NULL;
	}
}

static void section_done(const struct config_spec *spec, struct config_section *s)
{
	for (size_t i = 0; i < spec->n_options; i++)
		if (spec->options[i].flags & CONFIG_EACH)
			option_done(&spec->options[i], config_field(spec, &spec->options[i], NULL, s));
	free(s->name);
	free(s->target);
	*s = (struct config_section){ NULL };
}

void config_done(const struct config_spec *spec, void *target)
{
	struct config_sections *all = sections_of(spec, target);

	for (size_t i = 0; i < spec->n_options; i++)
		option_done(&spec->options[i], config_field(spec, &spec->options[i], target, NULL));
	while (all && all->n)
		section_done(spec, &all->items[--all->n]);
}
