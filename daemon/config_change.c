#include <stdio.h>
#include <string.h>

#include "daemon/config_value.h"

static void add_name(char names[CONFIG_NAMES_MAX], const char *kind, const char *section, const char *name)
{
	static const char more[] = ", ...";
	char text[200];
	size_t at = strlen(names), len;

	if (section)
		snprintf(text, sizeof(text), "[%s %s]%s%s", kind, section, name ? " " : "", name ? name : "");
	else
		snprintf(text, sizeof(text), "%s", name);
	len = strlen(text) + (at ? 2 : 0);
	if (at + len + sizeof(more) <= CONFIG_NAMES_MAX)
		snprintf(names + at, CONFIG_NAMES_MAX - at, "%s%s", at ? ", " : "", text);
	else if (at < sizeof(more) || strcmp(names + at - (sizeof(more) - 1), more) != 0)
		snprintf(names + at, CONFIG_NAMES_MAX - at, "%s", more);
}

static void add_change(struct config_changes *c, bool live, const char *kind, const char *section, const char *name)
{
	if (live)
		c->n_live++;
	else
		c->n_restart++;
	add_name(live ? c->live : c->restart, kind, section, name);
}

static const struct config_section *section_find(const struct config_sections *all, const char *name)
{
	for (size_t i = 0; i < all->n; i++)
		if (strcmp(all->items[i].name, name) == 0)
			return &all->items[i];
	return NULL;
}

/* Of two sections, or of the main ones. */
static void compare_options(const struct config_spec *spec, const void *a, const struct config_section *in_a, const void *b,
			    const struct config_section *in_b, struct config_changes *ret)
{
	for (size_t i = 0; i < spec->n_options; i++) {
		const struct config_option *o = &spec->options[i];

		if (!o->name || o->flags & CONFIG_NO_FILE || (in_a && !(o->flags & CONFIG_EACH)))
			continue;
		if (!config_value_equal(o, config_field(spec, o, (void *)a, in_a), config_field(spec, o, (void *)b, in_b)))
			add_change(ret, o->flags & CONFIG_LIVE, spec->kind, in_a ? in_a->name : NULL, o->name);
	}
}

static void compare_sections(const struct config_spec *spec, const struct config_sections *a, const struct config_sections *b,
			     struct config_changes *ret)
{
	bool live = true;

	for (size_t i = 0; i < spec->n_options; i++)
		live = live && (!(spec->options[i].flags & CONFIG_EACH) || spec->options[i].flags & CONFIG_LIVE);
	for (size_t i = 0; i < a->n; i++) {
		const struct config_section *other = section_find(b, a->items[i].name);

		if (other)
			compare_options(spec, NULL, &a->items[i], NULL, other, ret);
		else
			add_change(ret, live, spec->kind, a->items[i].name, NULL);
	}
	for (size_t i = 0; i < b->n; i++)
		if (!section_find(a, b->items[i].name))
			add_change(ret, live, spec->kind, b->items[i].name, NULL);
}

void config_compare(const struct config_spec *spec, const void *a, const void *b, struct config_changes *ret)
{
	*ret = (struct config_changes){ 0 };
	compare_options(spec, a, NULL, b, NULL, ret);
	if (spec->kind)
		compare_sections(spec, (const void *)((const char *)a + spec->sections_offset),
				 (const void *)((const char *)b + spec->sections_offset), ret);
}
