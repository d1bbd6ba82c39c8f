#include "daemon/audit_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct audit_writer {
	struct journal *journal; /* NULL: a file */
	char *path;
	int fd;
	bool torn; /* the file does not end with a newline */
	size_t n;
	size_t ends[AUDIT_BATCH_MAX]; /* of each record, in bytes */
	char bytes[1 + AUDIT_BATCH_BYTES]; /* the first is for the newline after a torn line */
};

/* What another process left behind when it died in the middle of a line. */
static bool ends_torn(const char *path, int fd)
{
	struct stat st, again;
	bool torn = true;
	char last;
	int in;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
		return false;
	in = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (in < 0)
		return true;
	if (fstat(in, &again) == 0 && again.st_dev == st.st_dev && again.st_ino == st.st_ino &&
	    pread(in, &last, 1, st.st_size - 1) == 1)
		torn = last != '\n';
	close(in);
	return torn;
}

static int open_file(struct audit_writer *w)
{
	int fd = open(w->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0)
		return -errno;
	if (w->fd >= 0)
		close(w->fd);
	w->fd = fd;
	w->torn = ends_torn(w->path, fd);
	return 0;
}

static int open_sink(struct audit_writer *w, enum audit_sink sink, const char *path, char *err, size_t err_size)
{
	int r;

	if (sink == AUDIT_JOURNALD) {
		r = journal_new(path, &w->journal);
		if (r == 0)
			r = journal_connect(w->journal);
		if (r < 0)
			snprintf(err, err_size, "audit: cannot reach journald at %s: %s", path ? path : JOURNAL_SOCKET,
				 strerror(-r));
		return r;
	}
	w->path = path ? strdup(path) : NULL;
	r = w->path ? open_file(w) : -ENOMEM;
	if (r < 0)
		snprintf(err, err_size, "audit: cannot open the file %s: %s", path ? path : "", strerror(-r));
	return r;
}

int audit_writer_new(enum audit_sink sink, const char *path, char *err, size_t err_size, struct audit_writer **ret)
{
	_cleanup_(audit_writer_freep) struct audit_writer *w = calloc(1, sizeof(*w));
	int r;

	if (!w) {
		snprintf(err, err_size, "audit: out of memory");
		return -ENOMEM;
	}
	w->fd = -1;
	r = open_sink(w, sink, path, err, err_size);
	if (r < 0)
		return r;
	*ret = steal_ptr(&w);
	return 0;
}

struct audit_writer *audit_writer_free(struct audit_writer *w)
{
	if (!w)
		return NULL;
	journal_free(w->journal);
	if (w->fd >= 0)
		close(w->fd);
	free(w->path);
	free(w);
	return NULL;
}

int audit_writer_reopen(struct audit_writer *w)
{
	return w->journal ? 0 : open_file(w);
}

int audit_writer_fd(const struct audit_writer *w)
{
	return w->journal ? journal_fd(w->journal) : w->fd;
}

bool audit_writer_is_file(const struct audit_writer *w)
{
	return !w->journal;
}

/* ---- The batch ---- */

static const char *find(const char *p, const char *end, int c)
{
	const char *at = p < end ? memchr(p, c, (size_t)(end - p)) : NULL;

	return at ? at : end;
}

/* Values have no control characters and are UTF-8 (see audit_record.h). */
static char *put_value(char *at, struct span s)
{
	const char *p = s.p, *end = p + s.len, *quote = find(p, end, '"'), *slash = find(p, end, '\\');

	while (quote < end || slash < end) {
		const char *stop = MIN(quote, slash);

		at = mempcpy(at, p, (size_t)(stop - p));
		*at++ = '\\';
		*at++ = *stop;
		p = stop + 1;
		if (stop == quote)
			quote = find(p, end, '"');
		else
			slash = find(p, end, '\\');
	}
	return p < end ? mempcpy(at, p, (size_t)(end - p)) : at;
}

static char *put_field(char *at, struct span name, struct span value)
{
	*at++ = '"';
	for (size_t i = 0; i < name.len; i++)
		*at++ = name.p[i] >= 'A' && name.p[i] <= 'Z' ? (char)(name.p[i] | 0x20) : name.p[i];
	at = mempcpy(at, "\":\"", 3);
	at = put_value(at, value);
	*at++ = '"';
	return at;
}

static int make_line(const struct journal_field *fields, size_t n, char *dst, size_t size, size_t *ret_len)
{
	char *at = dst, *end = dst + size;

	for (size_t i = 0; i < n; i++) {
		struct span name = span_of(fields[i].name);

		/* The most that it can take: every byte of the value escaped, and the marks around it. */
		if (name.len + 2 * fields[i].value.len + 8 > (size_t)(end - at))
			return -ENOBUFS;
		*at++ = i ? ',' : '{';
		at = put_field(at, name, fields[i].value);
	}
	*at++ = '}';
	*at++ = '\n';
	*ret_len = (size_t)(at - dst);
	return 0;
}

int audit_writer_add(struct audit_writer *w, const struct journal_field *fields, size_t n)
{
	size_t at = w->n ? w->ends[w->n - 1] : 0, len = 0;
	char *dst = w->bytes + 1 + at;
	int r;

	if (w->n == AUDIT_BATCH_MAX)
		return -ENOBUFS;
	if (w->journal)
		r = journal_encode(fields, n, dst, AUDIT_BATCH_BYTES - at, &len);
	else
		r = make_line(fields, n, dst, AUDIT_BATCH_BYTES - at, &len);
	if (r < 0)
		return r;
	w->ends[w->n++] = at + len;
	return 0;
}

/* ---- Sending ---- */

static size_t send_journal(struct audit_writer *w, int *error)
{
	struct span records[AUDIT_BATCH_MAX];
	size_t start = 0, taken = 0;
	int r;

	for (size_t i = 0; i < w->n; i++) {
		records[i] = span_make(w->bytes + 1 + start, w->ends[i] - start);
		start = w->ends[i];
	}
	while (taken < w->n) {
		r = journal_send_many(w->journal, records + taken, w->n - taken);
		if (r < 0) {
			*error = r;
			break;
		}
		taken += (size_t)r;
	}
	return taken;
}

/* All of it, or as much as the file takes. */
static size_t write_all(int fd, const char *p, size_t len, int *error)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = write(fd, p + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			*error = n < 0 ? -errno : -ENOSPC;
			break;
		}
		done += (size_t)n;
	}
	return done;
}

/* The last n bytes of the file are the beginning of a line; nobody has written behind them. */
static bool cut_off(int fd, size_t n)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	struct stat st;

	return at >= (off_t)n && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == at &&
	       ftruncate(fd, at - (off_t)n) == 0;
}

static size_t send_file(struct audit_writer *w, int *error)
{
	size_t before = w->torn ? 1 : 0, taken = 0, done, rest;

	w->bytes[0] = '\n';
	done = write_all(w->fd, w->bytes + 1 - before, w->ends[w->n - 1] + before, error);
	if (done == 0)
		return 0;
	done -= before;
	w->torn = false;
	while (taken < w->n && w->ends[taken] <= done)
		taken++;
	rest = done - (taken ? w->ends[taken - 1] : 0);
	if (rest == 0 || cut_off(w->fd, rest))
		return taken;
	w->torn = true;
	/* All but the newline: the record is there, and the next one brings the newline. */
	return done + 1 == w->ends[taken] ? taken + 1 : taken;
}

size_t audit_writer_send(struct audit_writer *w, int *error)
{
	size_t taken;

	*error = 0;
	if (w->n == 0)
		return 0;
	taken = w->journal ? send_journal(w, error) : send_file(w, error);
	if (taken == w->n)
		*error = 0;
	w->n = 0;
	return taken;
}

bool audit_writer_is_gone(const struct audit_writer *w, int error)
{
	return w->journal && (error == -ENOENT || error == -ECONNREFUSED || error == -ENOTCONN ||
			      error == -ECONNRESET || error == -EPIPE);
}

void audit_writer_explain(const struct audit_writer *w, int error, char *dst, size_t size)
{
	if (!w->journal)
		snprintf(dst, size, "cannot write %s: %s", w->path, strerror(-error));
	else if (error == -EAGAIN)
		snprintf(dst, size, "the queue of journald is full");
	else if (audit_writer_is_gone(w, error))
		snprintf(dst, size, "journald is not running: %s", strerror(-error));
	else
		snprintf(dst, size, "journald does not take records: %s", strerror(-error));
}
