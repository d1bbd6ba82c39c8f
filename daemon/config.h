/* Configuration from a table: each program's config.def drives its command line, its file, --help, the sample file and
 * the option list of its man page. A flag wins over the file; the file wins over the default. Errors are one line that
 * names the option (or FILE:LINE: key), the value and what is allowed.
 *
 * config.def holds, in the order of --help:
 *
 *	SECTION("Heading")
 *	OPTION("name", TYPE, field, "ARG", default, min, max, flags, "help", "man")
 *	ACTION("name", "help")
 *
 * default, min and max are texts as a user would write them, or NULL. TYPE and its field:
 *
 *	STRING, FILE	char *		not empty; NULL when unset
 *	URL		struct url	url_flags go into `flags`; scheme 0 when unset
 *	DURATION	uint64_t	milliseconds
 *	SIZE		uint64_t	bytes
 *	COUNT		unsigned
 *	BOOL		bool		a flag without a value, or =yes, =no
 *	CHOICE		int		index of the value in ARG, which lists them: "1.3|1.2"
 *	LIST		struct config_list	may be given again; max says how often
 */
#pragma once

#include <stdio.h>

#include "base/check.h"
#include "base/span.h"

enum config_type {
	CONFIG_HEADING,
	CONFIG_STRING,
	CONFIG_FILE,
	CONFIG_URL,
	CONFIG_DURATION,
	CONFIG_SIZE,
	CONFIG_COUNT,
	CONFIG_BOOL,
	CONFIG_CHOICE,
	CONFIG_LIST,
	CONFIG_ACTION,
};

/* The low 16 bits are url_flags. */
enum config_flags {
	CONFIG_REQUIRED = 1 << 16,
	CONFIG_OR_ZERO = 1 << 17, /* 0 is allowed below min, and means "none" */
	CONFIG_NO_FILE = 1 << 18, /* only on the command line */
	CONFIG_LIVE = 1 << 19, /* the program applies a change of it while running: see config_compare() */
	CONFIG_EACH = 1 << 20, /* sections [KIND NAME] may have it, too: see struct config_spec */
};

enum { CONFIG_OPTIONS_MAX = 80, CONFIG_SECTIONS_MAX = 32, CONFIG_ERROR_MAX = 512, CONFIG_NAMES_MAX = 1024 };

/* config_load() printed what was asked for (--help and the like): exit 0. */
enum { CONFIG_EXIT = 1 };

struct config_item {
	char *text;
	unsigned line; /* of the file; 0 from the command line */
};

struct config_list {
	struct config_item *items;
	size_t n;
};

/* A section [KIND NAME] of the file. */
struct config_section {
	char *name;
	void *target;
};

struct config_sections {
	struct config_section items[CONFIG_SECTIONS_MAX];
	size_t n;
};

struct config_option {
	const char *name; /* NULL for a heading */
	enum config_type type;
	size_t offset;
	const char *arg;
	const char *value; /* the default */
	const char *min, *max;
	unsigned flags;
	const char *help;
	const char *man;
};

struct config;

struct config_spec {
	const char *program;
	const char *section;  /* of the file: [gateway]; keys before any section count too */
	const char *usage;    /* what follows the program's name; one form a line */
	const char *about;    /* one sentence */
	const char *file;     /* read when it exists and no --config is given */
	size_t file_offset;   /* field of --config, a char *; names the file that was read, too, when none was given */
	const struct config_option *options;
	size_t n_options;
	/* Sections [KIND NAME], each with a target of its own for the options that are CONFIG_EACH: their fields lie in a struct of
	 * each_size bytes, which the program's target has at each_offset and a section has for itself, without defaults. */
	const char *kind; /* "route"; NULL: there are none */
	bool (*name_ok)(struct span name);
	const char *name_rule; /* for people: "lower-case letters, ..." */
	size_t each_offset, each_size;
	size_t sections_offset; /* field of struct config_sections */
	/* What a single option cannot know: derived fields, options that need each other. Fails by config_fail(). */
	int (*finish)(struct config *c, void *target);
};

/* Fills target (zeroed by the caller). A BOOL named print-config prints the values that hold, and CONFIG_EXIT. 0; CONFIG_EXIT; -EINVAL with one line in err; -ENOMEM likewise.
 * On anything but 0 target is empty again. */
int config_load(const struct config_spec *spec, int argc, char **argv, void *target, char *err, size_t err_size);
void config_done(const struct config_spec *spec, void *target);

/* What differs between two that were loaded, such as the one that holds and what a reload of the same command line and file gave.
 * A program that reloads compares twice: with the configuration it has started with for `restart`, with the one that it applied last
 * for `live`. So what needs a restart is told at each reload until there was one. */
struct config_changes {
	size_t n_live, n_restart;
	/* Names for people, ", " between them: "allow-tool, [route x] upstream-allow, [route y]"; "..." for those that find no room. */
	char live[CONFIG_NAMES_MAX], restart[CONFIG_NAMES_MAX];
};
void config_compare(const struct config_spec *spec, const void *a, const void *b, struct config_changes *ret);
bool config_list_equal(const struct config_list *a, const struct config_list *b);

/* For finish(): writes "--name: "value" WHY" (or "FILE:LINE: name: ...") and returns -EINVAL. value is the text as
 * given, or NULL to leave it out; for a LIST the item's own pointer finds its line. */
int config_fail(struct config *c, const char *name, const char *value, const char *fmt, ...) _printf_(4, 5);
/* The same for an option that is not there and has to be. */
int config_missing(struct config *c, const char *name);
/* -ENOMEM. */
int config_fail_memory(struct config *c);
/* What is said from now on is of this section; NULL: of the main one. */
void config_enter(struct config *c, const struct config_section *section);
/* The section of that name, made where it is not there yet. Fails by config_fail() of `option`, whose value is text. */
int config_section_get(struct config *c, struct span name, const char *option, const char *text, struct config_section **ret);
/* A listener of plain HTTP: ADDR:PORT, unix:/PATH, or none, which gives NULL. *ret_addr: text itself. -EINVAL by config_fail(). */
int config_listen_addr(struct config *c, const char *name, const char *text, const char **ret_addr);
/* Whether a flag or the file set it. */
bool config_is_set(const struct config *c, const char *name);
/* It is set by something else after all, which is printed instead. */
void config_unset(struct config *c, const char *name);

/* What may be given, as a phrase: "a time from 1s to 10m". */
void config_allowed(const struct config_option *o, char *out, size_t size);

/* --help, within 100 columns; a commented INI file with every option; the OPTIONS list of the man page, in roff. The
 * last two are reached by the hidden --print-sample-config and --print-man-options. */
void config_help(const struct config_spec *spec, FILE *f);
void config_sample(const struct config_spec *spec, FILE *f);
void config_man(const struct config_spec *spec, FILE *f);

/* For the table of a program: #define CONFIG_STRUCT struct gateway_config, then
 * static const struct config_option options[] = {
 * #include "daemon/config_rows.h"
 * #include "gateway/config.def"
 * }; */
