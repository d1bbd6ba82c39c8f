/* Checks that both programs have. */
#pragma once

#include "daemon/audit_options.h"
#include "daemon/doctor.h"
#include "daemon/url.h"
#include "proto/http1.h"

enum { DOCTOR_WARN_DAYS = 14, DOCTOR_SKEW_WARN_S = 30, DOCTOR_SKEW_FAIL_S = 300 };

/* A program that runs, as its health listener tells. */
struct doctor_running {
	struct url addr;
	char where[URL_TEXT_MAX]; /* "": none is configured */
	bool any_port;  /* the configured port is 0: nobody knows where it is */
	bool answers;   /* as one of ours */
	bool ready;
	int error;      /* -errno: nothing answers */
	char sentence[DOCTOR_DETAIL_MAX / 2]; /* what it says of itself */
};
/* listen: as configured; NULL: none. Takes up to ten seconds where something hangs. */
void doctor_find_running(const char *listen, struct doctor_running *ret);
/* The check "running". service: for the remedy. */
void doctor_check_running(struct doctor *d, const struct doctor_running *r, const char *service);

/* All of a run. */
struct doctor_walk {
	const char *program;
	bool json;
	void (*make)(struct doctor *d, const void *cfg); /* the checks behind "configuration" */
	const char *const *checks;                       /* their names */
	size_t n_checks;
};
/* With the configuration that has been read; err: or what is wrong with it, NULL: nothing. file: NULL: none was there. The exit status. */
int doctor_run(const struct doctor_walk *w, const void *cfg, const char *file, const char *err);

/* The check "audit". Of a program that runs it has a record written and looks for it; else it is looked whether there could be one:
 * nothing is added to a file whose chain is somebody else's. */
void doctor_check_audit(struct doctor *d, const struct audit_options *o, const struct doctor_running *r);

/* What an answer says of the time, and when it came by the wall clock here. Zeroed: none came. */
struct doctor_clock {
	bool answered;
	char date[HTTP1_DATE_LEN + 1];
	uint64_t local_s;
};
void doctor_clock_take(struct doctor_clock *c, const struct http1_head *h);
/* The check "clock" against the relay's answer. */
void doctor_check_clock(struct doctor *d, const char *subject, const struct doctor_clock *c);

/* "20 days left (until 2026-12-19)". */
void doctor_days_text(uint64_t until_s, char *dst, size_t size);
/* Less than DOCTOR_WARN_DAYS, by the wall clock. */
bool doctor_ends_soon(uint64_t until_s);
bool doctor_has_ended(uint64_t until_s);
