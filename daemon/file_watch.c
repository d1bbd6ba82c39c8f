#include "daemon/file_watch.h"

#include <errno.h>
#include <sys/stat.h>

static struct file_mark look(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct file_mark){ 0 };
	return (struct file_mark){ true, st.st_dev, st.st_ino, st.st_size, st.st_ctim };
}

static bool same(const struct file_mark *a, const struct file_mark *b)
{
	return a->there == b->there && a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

void file_watch_add(struct file_watch *w, const char *path)
{
	if (!path)
		return;
	assert(w->n < FILE_WATCH_MAX);
	w->paths[w->n++] = path;
}

void file_watch_mark(struct file_watch *w)
{
	for (size_t i = 0; i < w->n; i++)
		w->marked[i] = w->seen[i] = look(w->paths[i]);
	w->differs = false;
	w->again = 0;
}

void file_watch_failed(struct file_watch *w, int error)
{
	if (error == -ENOMEM || error == -EMFILE || error == -ENFILE)
		w->again = FILE_WATCH_AGAIN;
}

bool file_watch_changed(struct file_watch *w)
{
	bool settled = w->differs;

	w->differs = false;
	for (size_t i = 0; i < w->n; i++) {
		struct file_mark now = look(w->paths[i]);

		settled = settled && same(&now, &w->seen[i]);
		w->differs = w->differs || !same(&now, &w->marked[i]);
		w->seen[i] = now;
	}
	if (w->again > 1)
		w->again--;
	return w->differs ? settled : w->again == 1;
}

bool file_watch_differs(const struct file_watch *w)
{
	for (size_t i = 0; i < w->n; i++) {
		struct file_mark now = look(w->paths[i]);

		if (!same(&now, &w->marked[i]))
			return true;
	}
	return false;
}
