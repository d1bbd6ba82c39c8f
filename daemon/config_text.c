#include <ctype.h>
#include <stdarg.h>
#include <string.h>

#include "base/span.h"
#include "daemon/config.h"

enum { WIDTH = 100, INDENT = 30, TEXT_MAX = 1024, ROFF_WIDTH = 78 };

/* Words of text from column `indent` to WIDTH; the first line starts at column `at`. */
static void wrap(FILE *f, const char *prefix, size_t at, size_t indent, const char *text)
{
	struct span rest = span_of(text);
	bool first = true;

	while (rest.p) {
		struct span word = span_split(&rest, ' ');

		if (!first && at + 1 + word.len > WIDTH) {
			fprintf(f, "\n%s%*s", prefix, (int)(indent - strlen(prefix)), "");
			at = indent;
		} else if (!first) {
			fputc(' ', f);
			at++;
		}
		fprintf(f, "%.*s", SPAN_FMT(word));
		at += word.len;
		first = false;
	}
	fputc('\n', f);
}

static bool is_number(const struct config_option *o)
{
	return o->type == CONFIG_DURATION || o->type == CONFIG_SIZE || o->type == CONFIG_COUNT;
}

static void append(char *out, size_t size, const char *fmt, ...) _printf_(3, 4);
static void append(char *out, size_t size, const char *fmt, ...)
{
	size_t n = strlen(out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out + n, size - n, fmt, ap);
	va_end(ap);
}

/* "required", "default 20s; 1s to 10m": what the table knows beyond the help text. Empty when nothing. */
static void describe(const struct config_option *o, char *out, size_t size)
{
	*out = '\0';
	if (o->flags & CONFIG_REQUIRED)
		append(out, size, "required");
	if (o->type == CONFIG_LIST)
		append(out, size, "%smay be given %s times", *out ? "; " : "", o->max);
	if (o->value)
		append(out, size, "default %s", o->value);
	if (is_number(o) && o->min && o->max)
		append(out, size, "%s%s%s to %s", *out ? "; " : "", o->flags & CONFIG_OR_ZERO ? "0 for none, " : "",
		       o->min, o->max);
}

static void help_option(FILE *f, const struct config_option *o)
{
	char text[TEXT_MAX], facts[200];
	int n = fprintf(f, "  --%s%s%s", o->name, o->arg && o->type != CONFIG_BOOL ? " " : "",
			o->arg && o->type != CONFIG_BOOL ? o->arg : "");

	describe(o, facts, sizeof(facts));
	snprintf(text, sizeof(text), "%s%s%s%s", o->help, *facts ? " (" : "", facts, *facts ? ")" : "");
	if (n < 0 || n + 2 > INDENT) {
		fputc('\n', f);
		n = 0;
	}
	fprintf(f, "%*s", INDENT - n, "");
	wrap(f, "", INDENT, INDENT, text);
}

void config_help(const struct config_spec *spec, FILE *f)
{
	struct span forms = span_of(spec->usage);

	for (const char *lead = "Usage:"; forms.p; lead = "      ") {
		_cleanup_(freep) char *form = span_dup(span_split(&forms, '\n'));
		int at = fprintf(f, "%s %s ", lead, spec->program);

		wrap(f, "", (size_t)at, (size_t)at, form ? form : "");
	}
	fputc('\n', f);
	wrap(f, "", 0, 0, spec->about);
	for (size_t i = 0; i < spec->n_options; i++) {
		const struct config_option *o = &spec->options[i];

		if (!o->name)
			fprintf(f, "\n%s:\n", o->help);
		else
			help_option(f, o);
	}
	fputc('\n', f);
	wrap(
	    f, "", 0, 0,
	    "Times take ms, s, m, h; sizes take k, M, G. Every option but those of the last group is also a key of the "
	    "configuration file; options on the command line win.");
}

static void sample_sections(const struct config_spec *spec, FILE *f)
{
	char keys[TEXT_MAX] = "";

	for (size_t i = 0; i < spec->n_options; i++)
		if (spec->options[i].flags & CONFIG_EACH)
			append(keys, sizeof(keys), "%s%s", *keys ? ", " : "", spec->options[i].name);
	fprintf(f, "\n# Sections of their own, each with these keys as its own: ");
	wrap(f, "# ", 59, 2, keys);
	fprintf(f, "#[%s NAME]\n", spec->kind);
}

void config_sample(const struct config_spec *spec, FILE *f)
{
	char text[TEXT_MAX], facts[200];

	fprintf(f,
		"# Configuration of %s. Lines that begin with # are comments; what is commented out shows the default\n"
		"# or the form. Options on the command line win over this file.\n\n[%s]\n",
		spec->program, spec->section);
	for (size_t i = 0; i < spec->n_options; i++) {
		const struct config_option *o = &spec->options[i];
		const char *value = o->value ? o->value : o->type == CONFIG_BOOL ? "no" : o->arg;

		if (o->flags & CONFIG_NO_FILE || !o->name)
			continue;
		describe(o, facts, sizeof(facts));
		snprintf(text, sizeof(text), "%s%s%s%s", o->help, *facts ? " (" : "", facts, *facts ? ")" : "");
		fputs("\n# ", f);
		wrap(f, "# ", 2, 2, text);
		fprintf(f, "#%s = %s\n", o->name, value);
	}
	if (spec->kind)
		sample_sections(spec, f);
}

/* Columns of the next word once it is escaped. */
static size_t roff_word(const char *word)
{
	size_t len = strcspn(word, " "), n = len;

	for (size_t i = 0; i < len; i++)
		n += word[i] == '-' || word[i] == '\\';
	return n;
}

/* A hyphen that people may copy, a backslash and a leading dot mean something to roff. Source lines stay short. */
static void roff_text(FILE *f, const char *text)
{
	size_t at = 0;

	for (const char *p = text; *p; p++) {
		bool first = at++ == 0;

		if (*p == ' ' && at + roff_word(p + 1) > ROFF_WIDTH) {
			fputc('\n', f);
			at = 0;
		} else if (*p == '\\' || *p == '-') {
			fputs(*p == '-' ? "\\-" : "\\e", f);
			at++;
		} else if (first && (*p == '.' || *p == '\'')) {
			fprintf(f, "\\&%c", *p);
		} else {
			fputc(*p, f);
		}
	}
}

static void man_option(FILE *f, const struct config_option *o)
{
	char facts[200];

	fputs(".TP\n.BR ", f);
	roff_text(f, "--");
	roff_text(f, o->name);
	if (o->arg && o->type != CONFIG_BOOL) {
		fputs(" \" \" \\fI", f);
		roff_text(f, o->arg);
		fputs("\\fR", f);
	}
	fputc('\n', f);
	roff_text(f, o->help);
	fputs(".\n", f);
	if (o->man) {
		roff_text(f, o->man);
		fputc('\n', f);
	}
	describe(o, facts, sizeof(facts));
	if (*facts) {
		facts[0] = (char)toupper((unsigned char)facts[0]);
		roff_text(f, facts);
		fputs(".\n", f);
	}
	if (o->flags & CONFIG_LIVE)
		fputs("A reload applies it.\n", f);
}

void config_man(const struct config_spec *spec, FILE *f)
{
	for (size_t i = 0; i < spec->n_options; i++) {
		const struct config_option *o = &spec->options[i];

		if (o->name) {
			man_option(f, o);
		} else {
			fputs(".SS ", f);
			roff_text(f, o->help);
			fputc('\n', f);
		}
	}
}
