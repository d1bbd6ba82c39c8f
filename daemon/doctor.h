/* The run of --doctor: one check after the other, each printed when it is over (with --json all together at the end). A check that
 * others need tells by its result whether they can be made at all. */
#pragma once

#include "daemon/doctor_report.h"
#include "daemon/loop.h"

struct doctor {
	const char *program;
	bool json;
	struct doctor_report report;
	struct doctor_check now; /* the last that was begun */
	bool under_way;
	uint64_t began_us;
	struct loop *loop;       /* of its own; runs only inside of daemon/probe.h */
	uint64_t until_ms;       /* the present section's end, by clock_now_us() */
	uint64_t last_ms;        /* of all sections */
	struct buf last_words[2]; /* one is what will be printed should the minute be over now, the other being made */
};

/* Whether the command line has --NAME, for what has to be known before it is read. */
bool doctor_flag(int argc, char **argv, const char *name);

/* The whole run is over after a minute whatever happens: what was found until then is printed, with the check under way as failed, and
 * the process ends with status 2. -ENOMEM. d stays where it is. */
int doctor_init(struct doctor *d, const char *program, bool json);
/* Prints the sum; the exit status. */
int doctor_end(struct doctor *d);

/* What follows, up to the next one, may take that long together, or what is left of the time for all sections. False: nothing is. */
bool doctor_section(struct doctor *d, uint64_t ms);
/* The time for a step that takes at most ms by itself; 0: there is none left. */
uint64_t doctor_time(const struct doctor *d, uint64_t ms);

/* name: static. subject: copied; NULL: none. */
void doctor_begin(struct doctor *d, const char *name, const char *subject);
/* Each ends the check that was begun. */
void doctor_ok(struct doctor *d, const char *fmt, ...) _printf_(2, 3);
void doctor_skip(struct doctor *d, const char *fmt, ...) _printf_(2, 3);
void doctor_warn(struct doctor *d, const char *remedy, const char *fmt, ...) _printf_(3, 4);
void doctor_fail(struct doctor *d, const char *remedy, const char *fmt, ...) _printf_(3, 4);
/* Begins and skips. */
void doctor_skip_all(struct doctor *d, const char *const *names, size_t n, const char *subject, const char *why);
