#include "proto/reasons.h"

#define NO false
#define MAYBE true
#define REASON(id, code, name, executed, http_status, rpc_code, text)                                                  \
	[code] = { name, executed, http_status, rpc_code, text },
static const struct tp_reason_info table[] = {
#include "proto/reasons.def"
};
#undef REASON
#undef NO
#undef MAYBE

bool tp_reason_known(uint32_t code)
{
	return code < ARRAY_LEN(table) && table[code].name;
}

const struct tp_reason_info *tp_reason_info(uint32_t code)
{
	return &table[tp_reason_known(code) ? code : TP_REASON_INTERNAL];
}

const char *tp_reason_name(uint32_t code)
{
	return tp_reason_info(code)->name;
}

uint32_t tp_reason_find(struct span name)
{
	for (uint32_t code = 0; code < ARRAY_LEN(table); code++)
		if (tp_reason_known(code) && span_is(name, table[code].name))
			return code;
	return TP_REASON_INTERNAL;
}
