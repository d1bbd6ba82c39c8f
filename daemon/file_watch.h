/* Whether files have changed, found out by looking at them now and then: written to, replaced, or reached through another
 * symbolic link. */
#pragma once

#include <sys/types.h>
#include <time.h>

#include "base/check.h"

enum { FILE_WATCH_MAX = 4 };

struct file_mark {
	bool there;
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec changed; /* a change of owner or mode counts, too */
};

/* All zeros: no file. Files that belong together (a certificate and its key) share one. */
struct file_watch {
	size_t n;
	const char *paths[FILE_WATCH_MAX]; /* borrowed */
	struct file_mark marked[FILE_WATCH_MAX], seen[FILE_WATCH_MAX];
	bool differs; /* seen, from marked */
	unsigned again; /* looks until they count as changed, and one; 0: they do not */
};

/* path: NULL does nothing. */
void file_watch_add(struct file_watch *w, const char *path);
/* What is there now is known. To be called before the files are read. */
void file_watch_mark(struct file_watch *w);
/* Looks. True: they are not as marked, and are as they were at the last look, so that whoever wrote them has finished; and
 * again at each look until file_watch_mark(). That a file is not there is a state as any other. */
bool file_watch_changed(struct file_watch *w);
/* What was marked could not be read. Where that says nothing about the files (there was no memory, or no descriptor; error is a negative
 * errno), they count as changed some looks later, so that the change is not lost: until file_watch_mark(). */
enum { FILE_WATCH_AGAIN = 15 };
void file_watch_failed(struct file_watch *w, int error);
/* Looks. They are not as marked, finished or not. */
bool file_watch_differs(const struct file_watch *w);
