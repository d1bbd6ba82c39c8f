/* Why something ended. One table, proto/reasons.def, feeds RESET, GOAWAY, logs, metrics, audit and HTTP answers. */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum tp_reason {
#define REASON(id, code, name, executed, http_status, rpc_code, text) TP_REASON_##id = (code),
#include "proto/reasons.def"
#undef REASON
};

struct tp_reason_info {
	const char *name;
	bool maybe_executed;
	unsigned http_status;
	int rpc_code;
	const char *text;
};

/* Never NULL: an unknown code reads as INTERNAL. */
const struct tp_reason_info *tp_reason_info(uint32_t code);
const char *tp_reason_name(uint32_t code);
bool tp_reason_known(uint32_t code);
/* The code of that name; INTERNAL when there is none. */
uint32_t tp_reason_find(struct span name);
