#include "gateway/audit/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { CAP_FIRST = 128 * 1024 };

struct lines {
	int fd;
	char *data;
	size_t start, looked, end, cap; /* data[start..looked) has no newline */
	uint64_t number;
	bool at_end, skipping, torn;
};

int lines_open(const char *path, struct lines **ret)
{
	struct lines *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->cap = CAP_FIRST;
	l->data = malloc(l->cap);
	l->fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (!l->data || l->fd < 0) {
		int r = l->data ? -errno : -ENOMEM;

		lines_close(l);
		return r;
	}
	*ret = l;
	return 0;
}

struct lines *lines_close(struct lines *l)
{
	if (!l)
		return NULL;
	if (l->fd > STDERR_FILENO)
		close(l->fd);
	free(l->data);
	free(l);
	return NULL;
}

uint64_t lines_number(const struct lines *l)
{
	return l->number;
}

bool lines_is_torn(const struct lines *l)
{
	return l->torn;
}

/* Room for more behind end: what was used goes, then the buffer grows, then the line is too long. */
static int make_room(struct lines *l)
{
	char *grown;

	if (l->start > 0) {
		memmove(l->data, l->data + l->start, l->end - l->start);
		l->end -= l->start;
		l->looked -= l->start;
		l->start = 0;
	}
	if (l->end < l->cap)
		return 0;
	if (l->cap >= LINES_MAX_BYTES) {
		l->skipping = true;
		l->end = l->looked = 0;
		return 0;
	}
	grown = realloc(l->data, 2 * l->cap);
	if (!grown)
		return -ENOMEM;
	l->data = grown;
	l->cap *= 2;
	return 0;
}

static int fill(struct lines *l)
{
	ssize_t n;
	int r = make_room(l);

	if (r < 0)
		return r;
	do
		n = read(l->fd, l->data + l->end, l->cap - l->end);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	l->end += (size_t)n;
	l->at_end = n == 0;
	return 0;
}

static int take(struct lines *l, size_t line_end, struct span *ret)
{
	bool skipped = l->skipping;

	*ret = span_make(l->data + l->start, line_end - l->start);
	l->start = l->looked = MIN(line_end + 1, l->end);
	l->skipping = false;
	l->number++;
	return skipped ? LINES_TOO_LONG : LINES_LINE;
}

int lines_next(struct lines *l, struct span *ret)
{
	for (;;) {
		char *newline = l->looked < l->end ? memchr(l->data + l->looked, '\n', l->end - l->looked) : NULL;
		int r;

		if (newline)
			return take(l, (size_t)(newline - l->data), ret);
		l->looked = l->end;
		if (l->at_end && l->start == l->end && !l->skipping)
			return LINES_END;
		if (l->at_end) {
			l->torn = true;
			return take(l, l->end, ret);
		}
		r = fill(l);
		if (r < 0)
			return r;
	}
}
