/* The answer of one exchange, without the entries of lists that the rules deny. It reads no more than proto/mcp_list.h does; where an
 * agent might read what was not read here, the answer is refused. Pure.
 *
 *	filter_wanted()           at the request: is there anything to filter for? Then some fields of it are withheld
 *	filter_new()              at the answer's head
 *	filter_feed()             each piece of the body; then filter_ready() and filter_taken() until there is nothing left
 *	filter_finish()           the body is complete
 */
#pragma once

#include "gateway/policy.h"
#include "proto/http1.h"

struct filter;

enum { FILTER_TOTAL_MAX = 64 * 1024 * 1024 }; /* bytes that all filters together keep */

/* What all of them share. */
struct filter_totals {
	uint64_t removed;    /* entries */
	uint64_t held_bytes; /* now */
};

/* Whether there are rules that leave entries out. */
bool filter_wanted(const struct policy_config *cfg);

/* Fields of the request and of the answer's head that do not go with a filtered body: codings and ranges; lengths, digests and tags of
 * other bytes. */
bool filter_request_field_passes(struct span name);
bool filter_answer_field_passes(struct span name);

/* Positive results, of all that follow: the answer may not pass; *ret_why is static text for people. */
enum { FILTER_REFUSED = 1 };

/* *ret stays NULL where the answer has no body. cfg and totals are borrowed. -ENOMEM. */
int filter_new(const struct policy_config *cfg, const struct http1_head *h, struct filter_totals *totals, const char **ret_why,
	       struct filter **ret);
struct filter *filter_free(struct filter *f);

/* -ENOMEM. */
int filter_feed(struct filter *f, const uint8_t *p, size_t len, const char **ret_why);
int filter_finish(struct filter *f, const char **ret_why);

/* What may pass now, a piece of it at a time: at most FILTER_PIECE_MAX bytes. */
enum { FILTER_PIECE_MAX = 64 * 1024 };
struct span filter_ready(const struct filter *f);
void filter_taken(struct filter *f, size_t len);
