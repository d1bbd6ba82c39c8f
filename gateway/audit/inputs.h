/* The files that verify reads, as one stream of records: the files of one side in the order of time, whatever order they
 * were named in (audit.jsonl, audit.jsonl.1), and both sides side by side.
 */
#pragma once

#include "gateway/audit/logrecord.h"

struct inputs;

struct input_file {
	const char *path; /* "-": standard input */
	bool is_relay;    /* named with --relay */
};

/* files: outlives it; its indexes are the place.file of records. What cannot be opened is a finding (unsure), not an error.
 * -ENOMEM. */
int inputs_new(const struct input_file *files, size_t n, struct findings *f, struct inputs **ret);
struct inputs *inputs_free(struct inputs *in);
DEFINE_CLEANUP(struct inputs *, inputs_free)

/* Whether there are records of both sides, as far as the beginning of the files tells. */
bool inputs_have_both(const struct inputs *in);

/* 1 with the next record, valid until the next call; 0 at the end; -errno: out of memory, or no digest. Lines that are no
 * record are counted or said. */
int inputs_next(struct inputs *in, const struct log_record **ret);
uint64_t inputs_others(const struct inputs *in);
