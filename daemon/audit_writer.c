#include "daemon/audit_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Escaping at most doubles a value. */
enum { LINE_BYTES = 2 * (AUDIT_TEXT_BYTES + AUDIT_MESSAGE_MAX + 1024) + AUDIT_FIELDS_MAX * 72 };

struct audit_writer {
	struct journal *journal; /* NULL: a file */
	char *path;
	int fd;
	bool torn; /* the file does not end with a newline */
	size_t n;
	char line[LINE_BYTES]; /* the first byte is kept for the newline after a torn line */
};

/* What another process left behind when it died in the middle of a line, or when the disk was full. */
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
			snprintf(err, err_size, "audit: cannot reach journald at %s: %s", path ? path : JOURNAL_SOCKET, strerror(-r));
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

/* Values have no control characters and are UTF-8 (see audit_record.h). */
static char *put_value(char *at, struct span s)
{
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] == '"' || s.p[i] == '\\')
			*at++ = '\\';
		*at++ = s.p[i];
	}
	return at;
}

static char *put_field(char *at, const struct journal_field *f)
{
	*at++ = '"';
	for (const char *p = f->name; *p; p++)
		*at++ = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;
	memcpy(at, "\":\"", 3);
	at = put_value(at + 3, f->value);
	*at++ = '"';
	return at;
}

/* The most that a field can take: every byte of the value escaped, and the marks around it. */
static size_t field_bytes(const struct journal_field *f)
{
	return strlen(f->name) + 2 * f->value.len + 8;
}

static int make_line(struct audit_writer *w, const struct audit_record *r)
{
	char *at = w->line, *end = w->line + sizeof(w->line) - 4;

	*at++ = '\n';
	for (size_t i = 0; i < r->n_fields; i++) {
		if (field_bytes(&r->fields[i]) > (size_t)(end - at))
			return -EMSGSIZE;
		*at++ = i ? ',' : '{';
		at = put_field(at, &r->fields[i]);
	}
	*at++ = '}';
	*at++ = '\n';
	w->n = (size_t)(at - w->line);
	return 0;
}

static ssize_t write_once(int fd, const char *p, size_t len)
{
	ssize_t n;

	do
		n = write(fd, p, len);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int write_line(struct audit_writer *w)
{
	size_t before = w->torn ? 1 : 0, len = w->n - 1, done;
	ssize_t n = write_once(w->fd, w->line + 1 - before, len + before);

	if (n <= 0)
		return n < 0 ? (int)n : -ENOSPC;
	done = (size_t)n - before;
	w->torn = done > 0 && done < len;
	/* All but the newline: the record is there, and the next one brings the newline. */
	return done + 1 >= len ? 0 : -ENOSPC;
}

int audit_writer_put(struct audit_writer *w, const struct audit_record *r)
{
	int e;

	if (w->journal)
		return journal_send(w->journal, r->fields, r->n_fields);
	e = make_line(w, r);
	return e < 0 ? e : write_line(w);
}

void audit_writer_explain(const struct audit_writer *w, int r, char *dst, size_t size)
{
	if (!w->journal)
		snprintf(dst, size, "cannot write %s: %s", w->path, strerror(-r));
	else if (r == -EAGAIN)
		snprintf(dst, size, "the queue of journald is full");
	else if (r == -ENOENT || r == -ECONNREFUSED)
		snprintf(dst, size, "journald is not running: %s", strerror(-r));
	else
		snprintf(dst, size, "journald does not take records: %s", strerror(-r));
}
