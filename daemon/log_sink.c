#include "daemon/log_sink.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log_limit.h"
#include "daemon/journal.h"

enum { LINE_MAX_BYTES = 4096, FIELDS_MAX = 24 };

static struct {
	const char *program;
	struct journal *journal;
} sink;

struct line {
	char *out;
	size_t size, n;
};

static void put(struct line *l, char c)
{
	if (l->n + 1 < l->size)
		l->out[l->n++] = c;
}

/* One line stays one line, whatever a peer sent: control bytes become \xNN. Other bytes pass (UTF-8). */
static void put_text(struct line *l, const char *text, bool quoted)
{
	for (const char *p = text; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (c >= ' ' && c != 0x7f) {
			if (quoted && (c == '"' || c == '\\'))
				put(l, '\\');
			put(l, (char)c);
			continue;
		}
		put(l, '\\');
		put(l, 'x');
		put(l, "0123456789abcdef"[c >> 4]);
		put(l, "0123456789abcdef"[c & 15]);
	}
}

static void put_field(struct line *l, const struct log_field *f)
{
	const char *value = f->value ? f->value : "";
	bool quoted = !*value || strpbrk(value, " \"\\=");

	put(l, ' ');
	put_text(l, f->name, false);
	put(l, '=');
	if (quoted)
		put(l, '"');
	put_text(l, value, quoted);
	if (quoted)
		put(l, '"');
}

void log_sink_format(uint64_t unix_ms, enum log_level level, const struct log_field *fields, size_t n_fields,
		     const char *message, char *out, size_t size)
{
	/* The last byte but the NUL is kept for the newline. */
	struct line l = { .out = out, .size = size - 1 };
	time_t seconds = (time_t)(unix_ms / 1000);
	char stamp[64];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	put_text(&l, stamp, false);
	snprintf(stamp, sizeof(stamp), ".%03uZ %s: ", (unsigned)(unix_ms % 1000), log_level_name(level));
	put_text(&l, stamp, false);
	put_text(&l, message, false);
	for (size_t i = 0; i < n_fields; i++)
		put_field(&l, &fields[i]);
	out[l.n] = '\n';
	out[l.n + 1] = '\0';
}

static void write_stderr(enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	char text[LINE_MAX_BYTES];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	log_sink_format((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000, level, fields, n, message, text,
			sizeof(text));
	/* One write a line, so that lines of several writers do not mix. A lost log line has nowhere to be reported. */
	while (write(STDERR_FILENO, text, strlen(text)) < 0 && errno == EINTR)
		;
}

static int write_journal(enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	struct journal_field record[FIELDS_MAX];
	char priority[2] = { (char)('0' + (int)level), '\0' };
	size_t k = 0;

	record[k++] = (struct journal_field){ "MESSAGE", span_of(message) };
	record[k++] = (struct journal_field){ "PRIORITY", span_of(priority) };
	record[k++] = (struct journal_field){ "SYSLOG_IDENTIFIER", span_of(sink.program) };
	for (size_t i = 0; i < n && k < ARRAY_LEN(record); i++)
		record[k++] = (struct journal_field){ fields[i].name, span_of(fields[i].value) };
	return journal_send(sink.journal, record, k);
}

/* What the journal does not take (its queue is full, it is gone) goes to stderr, which is its stream: late beats lost.
 */
static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	if (!sink.journal || write_journal(level, fields, n, message) < 0)
		write_stderr(level, fields, n, message);
}

bool log_sink_is_stream(const char *journal_stream, int fd)
{
	uint64_t dev, ino;
	struct stat st;
	char end;

	/* NOLINTNEXTLINE(cert-err34-c): systemd wrote it, and fstat() below compares. */
	if (!journal_stream || sscanf(journal_stream, "%" SCNu64 ":%" SCNu64 "%c", &dev, &ino, &end) != 2)
		return false;
	return fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

int log_sink_init(const char *program, enum log_level level)
{
	int r = 0;

	sink.program = program;
	if (log_sink_is_stream(getenv("JOURNAL_STREAM"), STDERR_FILENO)) {
		r = journal_new(NULL, &sink.journal);
		if (r == 0)
			r = journal_connect(sink.journal);
		if (r < 0)
			sink.journal = journal_free(sink.journal);
	}
	log_set_level(level);
	log_set_sink(on_log, NULL);
	return r;
}

void log_sink_done(void)
{
	log_limits_done();
	log_set_sink(NULL, NULL);
	sink.journal = journal_free(sink.journal);
}
