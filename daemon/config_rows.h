/* Turns the rows of a config.def into struct config_option. The includer defines CONFIG_STRUCT. No include guard. */
#define SECTION(heading) { .type = CONFIG_HEADING, .help = (heading) },
#define OPTION(name_, type_, field_, arg_, value_, min_, max_, flags_, help_, man_)                                    \
	{                                                                                                              \
		.name = (name_), .type = CONFIG_##type_, .offset = offsetof(CONFIG_STRUCT, field_), .arg = (arg_),     \
		.value = (value_), .min = (min_), .max = (max_), .flags = (flags_), .help = (help_), .man = (man_),    \
	},
#define ACTION(name_, help_) { .name = (name_), .type = CONFIG_ACTION, .flags = CONFIG_NO_FILE, .help = (help_) },
