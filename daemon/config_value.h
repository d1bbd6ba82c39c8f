/* The values of config.h's types: reading one, and saying which are allowed. Used by config.c and config_change.c alone. */
#pragma once

#include "daemon/config.h"

/* Puts value into its field; a LIST gets one more item, from this line of the file. -EINVAL (not allowed; *ret_why is
 * set to a phrase where there is one to add), -E2BIG (a full LIST), -ENOMEM. */
int config_value_set(const struct config_option *o, unsigned line, const char *value, void *field,
		     const char **ret_why);
/* The value of a field as a user would write it, bounded; a LIST has a text of its own for each item (index), every
 * other type one. False: there is none (left). */
bool config_value_text(const struct config_option *o, const void *field, size_t index, char *out, size_t size);
/* Whether two fields hold the same value; what is derived from it does not count. */
bool config_value_equal(const struct config_option *o, const void *a, const void *b);
/* Where its value is: in target, or in that of a section. */
void *config_field(const struct config_spec *spec, const struct config_option *o, void *target, const struct config_section *in);
