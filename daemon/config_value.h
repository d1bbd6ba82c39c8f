/* The values of config.h's types: reading one, and saying which are allowed. Used by config.c alone. */
#pragma once

#include "daemon/config.h"

/* Puts value into its field; a LIST gets one more item, from this line of the file. -EINVAL (not allowed; *ret_why is
 * set to a phrase where there is one to add), -E2BIG (a full LIST), -ENOMEM. */
int config_value_set(const struct config_option *o, unsigned line, const char *value, void *field,
		     const char **ret_why);
