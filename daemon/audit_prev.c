#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/audit_private.h"

enum { TAIL_BYTES = 64 * 1024, JOURNAL_WAIT_MS = 3000 };

/* ---- A file ---- */

/* The value of a name in a line of JSON strings. Quotes in a value have a backslash: nothing else looks like it. */
static struct span find_value(struct span line, const char *name)
{
	char pattern[64];
	int n = snprintf(pattern, sizeof(pattern), "\"%s\":\"", name);
	const char *at = memmem(line.p, line.len, pattern, (size_t)n), *end;

	if (!at)
		return (struct span){ NULL, 0 };
	at += n;
	end = memchr(at, '"', line.len - (size_t)(at - line.p));
	return end ? span_make(at, (size_t)(end - at)) : (struct span){ NULL, 0 };
}

static bool copy_hex(struct span s, char *dst, size_t len)
{
	if (s.len != len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
			return false;
	memcpy(dst, s.p, len);
	dst[len] = '\0';
	return true;
}

static bool parse_line(struct span line, struct audit_last *ret)
{
	struct audit_last last;

	if (!copy_hex(find_value(line, "mcp_chain_id"), last.chain_id, AUDIT_CHAIN_ID_LEN) ||
	    !copy_hex(find_value(line, "mcp_chain"), last.head, AUDIT_CHAIN_HEX) ||
	    span_u64(find_value(line, "mcp_seq"), &last.seq) < 0)
		return false;
	*ret = last;
	return true;
}

static ssize_t read_tail(const char *path, char *dst, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ssize_t n = -ENOENT;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		n = pread(fd, dst, size, MAX(st.st_size - (off_t)size, (off_t)0));
		n = n < 0 ? -errno : n;
	}
	close(fd);
	return n;
}

/* A line that does not end, or that is no record, was cut off: the one before it counts. */
static int last_of(struct span text, struct audit_last *ret)
{
	size_t end = text.len, start;

	while (end && text.p[end - 1] != '\n')
		end--;
	while (end) {
		for (start = --end; start && text.p[start - 1] != '\n';)
			start--;
		if (parse_line(span_make(text.p + start, end - start), ret))
			return 0;
		end = start;
	}
	return -ENOENT;
}

int audit_last_in_file(const char *path, struct audit_last *ret)
{
	_cleanup_(freep) char *tail = malloc(TAIL_BYTES);
	ssize_t n;

	if (!tail)
		return -ENOMEM;
	n = read_tail(path, tail, TAIL_BYTES);
	if (n < 0)
		return (int)n;
	return last_of(span_make(tail, (size_t)n), ret);
}

/* ---- Which one it is ---- */

static void set_prev(struct audit *a, const char *head)
{
	snprintf(a->prev, sizeof(a->prev), "%s", head);
}

static bool same_chain(const struct audit *a, const char *chain_id)
{
	return a->old.found && strcmp(a->old.chain_id, chain_id) == 0;
}

/* What is in the file is the end of the chain, even where the state has seen more: then that is gone. */
static bool prev_in_file(struct audit *a, uint64_t *ret_missing)
{
	struct audit_last last;
	int r = audit_last_in_file(a->path, &last);

	if (r < 0)
		return false;
	set_prev(a, last.head);
	if (same_chain(a, last.chain_id) && a->old.seq > last.seq)
		*ret_missing = a->old.seq - last.seq;
	return true;
}

/* journald may not have stored the newest yet, so the newer of both counts; what is lost shows when it is read. */
static bool prev_in_journal(struct audit *a)
{
	struct audit_watch_head h;
	int r = audit_watch_last(a->origin.identifier, NULL, JOURNAL_WAIT_MS, &h);

	if (r == -ENOENT)
		return false;
	if (r < 0) {
		log_warning("audit: cannot read the last record in the journal: %s", strerror(-r));
		return false;
	}
	if (a->old.found && (same_chain(a, h.chain_id) ? a->old.seq >= h.seq : a->old.time_us > h.time_us))
		return false;
	set_prev(a, h.head);
	return true;
}

bool audit_find_prev(struct audit *a, uint64_t *ret_missing)
{
	bool found;

	if (audit_writer_is_file(a->writer))
		found = prev_in_file(a, ret_missing);
	else
		found = !a->path && prev_in_journal(a);
	if (!found && a->old.found)
		set_prev(a, a->old.head);
	return found || a->old.found;
}
