#include "daemon/doctor.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

enum {
	RUN_MAX_S = 60,
	SECTIONS_MS = 42 * 1000, /* then what is done without the loop, which has limits of its own */
	EXIT_OVER = 2,
};

bool doctor_flag(int argc, char **argv, const char *name)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		size_t len = strlen(name);

		if (strncmp(arg, "--", 2) == 0 && strncmp(arg + 2, name, len) == 0 && (!arg[2 + len] || strcmp(arg + 2 + len, "=yes") == 0))
			return true;
	}
	return false;
}

/* For a run that is given up where it is: made beforehand, as a signal's handler can do no more than write it. NULL: nothing. */
static const struct buf *volatile last_words;

/* A file system that does not answer holds the process where no timer of a loop helps. */
static void on_over(int sig)
{
	const struct buf *b = last_words;
	ssize_t n = 1;

	/* Nor may a reader that does not read: the second signal kills. */
	alarm(1);
	for (size_t at = 0; b && n > 0 && at < buf_len(b); at += (size_t)n)
		n = write(STDOUT_FILENO, buf_bytes(b) + at, buf_len(b) - at);
	_exit(EXIT_OVER);
}

/* The report so far, and a check that has failed for want of an end: the one under way, or "run" between two of them. */
static int print_given_up(struct doctor *d, struct buf *out)
{
	const uint64_t over_us = (d->last_ms - SECTIONS_MS + RUN_MAX_S * UINT64_C(1000)) * 1000, now_us = clock_now_us();
	struct doctor_check c = { .status = DOCTOR_FAILED, .name = d->under_way ? d->now.name : "run", .took_us = over_us - MIN(now_us, over_us) };
	int r;

	snprintf(c.subject, sizeof(c.subject), "%s", d->under_way ? d->now.subject : "");
	snprintf(c.detail, sizeof(c.detail), "it did not come to an end; the run was given up after a minute");
	snprintf(c.remedy, sizeof(c.remedy), "find out what does not answer: a file system that is away, or what the check is about");
	r = doctor_report_add(&d->report, &c);
	if (r < 0)
		return r;
	r = d->json ? doctor_print_json(&d->report, d->program, out) : doctor_print_check(&c, out);
	if (r == 0 && !d->json)
		r = doctor_print_sum(&d->report, out);
	d->report.n--;
	return r;
}

static void prepare_last_words(struct doctor *d)
{
	struct buf *b = &d->last_words[last_words == &d->last_words[0]];

	buf_clear(b);
	last_words = print_given_up(d, b) == 0 ? b : NULL;
}

static void sink_nowhere(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
}

int doctor_init(struct doctor *d, const char *program, bool json)
{
	const struct sigaction over = { .sa_handler = on_over, .sa_flags = (int)SA_RESETHAND | SA_NODEFER };

	*d = (struct doctor){ .program = program, .json = json, .last_ms = clock_now_us() / 1000 + SECTIONS_MS };
	for (size_t i = 0; i < ARRAY_LEN(d->last_words); i++)
		buf_init(&d->last_words[i], DOCTOR_REPORT_MAX);
	prepare_last_words(d);
	sigaction(SIGALRM, &over, NULL);
	alarm(RUN_MAX_S);
	/* What the modules would log is what the checks say. */
	log_set_sink(sink_nowhere, NULL);
	return loop_new(&d->loop);
}

static int show(struct buf *b)
{
	int r = fwrite(buf_bytes(b), 1, buf_len(b), stdout) == buf_len(b) && fflush(stdout) == 0 ? 0 : -EIO;

	buf_done(b);
	return r;
}

int doctor_end(struct doctor *d)
{
	int status = doctor_report_exit(&d->report), r;
	struct buf b;

	last_words = NULL;
	buf_init(&b, DOCTOR_REPORT_MAX);
	r = d->json ? doctor_print_json(&d->report, d->program, &b) : doctor_print_sum(&d->report, &b);
	if (show(&b) < 0 || r < 0)
		status = EXIT_OVER;
	doctor_report_done(&d->report);
	for (size_t i = 0; i < ARRAY_LEN(d->last_words); i++)
		buf_done(&d->last_words[i]);
	loop_free(d->loop);
	alarm(0);
	return status;
}

bool doctor_section(struct doctor *d, uint64_t ms)
{
	uint64_t now_ms = clock_now_us() / 1000;

	d->until_ms = MIN(now_ms + ms, d->last_ms);
	return now_ms < d->last_ms;
}

uint64_t doctor_time(const struct doctor *d, uint64_t ms)
{
	uint64_t now_ms = clock_now_us() / 1000;

	return now_ms >= d->until_ms ? 0 : MIN(ms, d->until_ms - now_ms);
}

void doctor_begin(struct doctor *d, const char *name, const char *subject)
{
	d->now = (struct doctor_check){ .name = name };
	snprintf(d->now.subject, sizeof(d->now.subject), "%s", subject ? subject : "");
	d->began_us = clock_now_us();
	d->under_way = true;
	prepare_last_words(d);
}

static void end(struct doctor *d, enum doctor_status status, const char *remedy, const char *fmt, va_list ap)
{
	struct buf b;

	d->now.status = status;
	d->now.took_us = clock_now_us() - d->began_us;
	snprintf(d->now.remedy, sizeof(d->now.remedy), "%s", remedy);
	vsnprintf(d->now.detail, sizeof(d->now.detail), fmt, ap);
	d->under_way = false;
	(void)doctor_report_add(&d->report, &d->now);
	if (!d->json) {
		buf_init(&b, DOCTOR_REPORT_MAX);
		(void)doctor_print_check(&d->now, &b);
		(void)show(&b);
	}
	prepare_last_words(d);
}

void doctor_ok(struct doctor *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	end(d, DOCTOR_OK, "", fmt, ap);
	va_end(ap);
}

void doctor_skip(struct doctor *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	end(d, DOCTOR_SKIPPED, "", fmt, ap);
	va_end(ap);
}

void doctor_warn(struct doctor *d, const char *remedy, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	end(d, DOCTOR_WARNING, remedy, fmt, ap);
	va_end(ap);
}

void doctor_fail(struct doctor *d, const char *remedy, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	end(d, DOCTOR_FAILED, remedy, fmt, ap);
	va_end(ap);
}

void doctor_skip_all(struct doctor *d, const char *const *names, size_t n, const char *subject, const char *why)
{
	for (size_t i = 0; i < n; i++) {
		doctor_begin(d, names[i], subject);
		doctor_skip(d, "%s", why);
	}
}
