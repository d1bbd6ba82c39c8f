/* What --doctor of both programs says: checks in their order, each with what was found and, where it is not well, what to do. As text
 * for people and as JSON; and the exit status. Pure. */
#pragma once

#include "base/buf.h"

enum doctor_status { DOCTOR_OK, DOCTOR_SKIPPED, DOCTOR_WARNING, DOCTOR_FAILED };
enum { DOCTOR_STATUSES = DOCTOR_FAILED + 1 };

enum { DOCTOR_CHECKS_MAX = 512, DOCTOR_DETAIL_MAX = 640, DOCTOR_SUBJECT_MAX = 280, DOCTOR_REPORT_MAX = 2 * 1024 * 1024 };

struct doctor_check {
	enum doctor_status status;
	const char *name;                 /* static */
	char subject[DOCTOR_SUBJECT_MAX]; /* which one of several it is about: a relay, a route; "": there is one */
	char detail[DOCTOR_DETAIL_MAX];
	char remedy[DOCTOR_DETAIL_MAX];   /* "" unless warning or failed */
	uint64_t took_us;
};

struct doctor_report {
	struct doctor_check *checks;
	size_t n;
};

/* Zeroed by the caller. -ENOSPC, -ENOMEM: the list is as it was. */
int doctor_report_add(struct doctor_report *r, const struct doctor_check *c);
void doctor_report_done(struct doctor_report *r);

/* "ok", "skipped", "warning", "failed". */
const char *doctor_status_name(enum doctor_status status);
enum doctor_status doctor_report_worst(const struct doctor_report *r);
/* 0: nothing worse than ok; 1: warnings; 2: something failed. */
int doctor_report_exit(const struct doctor_report *r);

/* Each appends; -ENOBUFS, -ENOMEM. Text is at most 96 columns wide, unless a word is longer; what a peer sent cannot make a line or a
 * control sequence of its own. */
int doctor_print_check(const struct doctor_check *c, struct buf *out);
int doctor_print_sum(const struct doctor_report *r, struct buf *out);
int doctor_print_json(const struct doctor_report *r, const char *program, struct buf *out);
