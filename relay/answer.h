/* Answers that the relay makes itself: an HTTP error whose body is a JSON-RPC error, so that an agent can tell "could not
 * reach the tool" from "the tool said no", and "was not executed" from "may have been". Pure. */
#pragma once

#include "base/buf.h"

struct answer {
	unsigned status;
	const char *extra;    /* field lines with their CRLF, or NULL */
	uint32_t reason;      /* of reasons.def: JSON-RPC code, name, executed */
	const char *text;     /* for people; NULL: the reason's own */
	const char *detail;   /* more for people, or NULL */
	struct span id;       /* raw JSON, absent: null */
	const char *call_id;  /* or NULL */
	bool close;           /* Connection: close */
	bool cors;               /* see cors_write() */
	const char *cors_origin; /* or NULL */
	bool head_only;       /* to HEAD: the body is described, not sent */
	uint64_t now_s;       /* for Date; 0: none */
};

/* Appends head and body. -ENOBUFS, -ENOMEM. */
int answer_write(struct buf *out, const struct answer *a);
