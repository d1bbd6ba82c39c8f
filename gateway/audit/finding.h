/* What verify has to say: one line a finding, as it comes, and what all of them amount to. */
#pragma once

#include <stdio.h>

#include "base/check.h"
#include "base/span.h"

enum finding_weight {
	FINDING_NOTE,   /* good to know; changes nothing */
	FINDING_UNSURE, /* the log alone does not tell */
	FINDING_FAULT,  /* not whole */
	FINDING_N,
};

enum findings_form { FINDINGS_TEXT, FINDINGS_JSON, FINDINGS_QUIET };

enum side { SIDE_GATEWAY, SIDE_RELAY, SIDE_N };

/* Where a record was read. line 0: nowhere in particular. */
struct place {
	uint32_t file;
	uint64_t line;
};

struct finding {
	enum finding_weight weight;
	const char *kind; /* deleted, swapped, edited, doubled, forged, unpaired, unmatched, gap, truncated, open, unlinked, unreadable */
	struct place at;
	enum side side;
	const char *chain_id;  /* NULL: no chain in particular */
	uint64_t seq, seq_to;  /* with has_seq */
	bool has_seq;
};

/* More are counted and not printed. */
enum { FINDINGS_PRINTED_MAX = 10000 };

struct findings {
	FILE *out;
	enum findings_form form;
	const char *const *files; /* names of place.file */
	size_t n_files;
	uint64_t n[FINDING_N];
};

const char *side_name(enum side s);

/* The text is for people; what comes from a log goes through finding_text() before. */
void finding_add(struct findings *f, const struct finding *what, const char *fmt, ...) _printf_(3, 4);

/* Text of others, fit for a terminal and for one line: at most FINDING_TEXT_MAX bytes with NUL. */
enum { FINDING_TEXT_MAX = 200 };
const char *finding_text(struct span s, char dst[FINDING_TEXT_MAX]);
