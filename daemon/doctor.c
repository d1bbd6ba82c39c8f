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

/* A file system that does not answer holds the process where no timer of a loop helps. */
static void on_over(int sig)
{
	static const char text[] = "the check after the last one above did not end within a minute; the run was given up\n";
	ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)n;
	_exit(EXIT_OVER);
}

static void sink_nowhere(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
}

int doctor_init(struct doctor *d, const char *program, bool json)
{
	const struct sigaction over = { .sa_handler = on_over };

	*d = (struct doctor){ .program = program, .json = json, .last_ms = clock_now_us() / 1000 + SECTIONS_MS };
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

	buf_init(&b, DOCTOR_REPORT_MAX);
	r = d->json ? doctor_print_json(&d->report, d->program, &b) : doctor_print_sum(&d->report, &b);
	if (show(&b) < 0 || r < 0)
		status = EXIT_OVER;
	doctor_report_done(&d->report);
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
}

static void end(struct doctor *d, enum doctor_status status, const char *remedy, const char *fmt, va_list ap)
{
	struct buf b;

	d->now.status = status;
	d->now.took_us = clock_now_us() - d->began_us;
	snprintf(d->now.remedy, sizeof(d->now.remedy), "%s", remedy);
	vsnprintf(d->now.detail, sizeof(d->now.detail), fmt, ap);
	(void)doctor_report_add(&d->report, &d->now);
	if (d->json)
		return;
	buf_init(&b, DOCTOR_REPORT_MAX);
	(void)doctor_print_check(&d->now, &b);
	(void)show(&b);
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
