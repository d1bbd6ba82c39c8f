#include "gateway/session_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/encode.h"

#define NAME "session"

enum { LINE = 2 * TP_SESSION_ID_BYTES + 1 };

bool session_file_read(struct state_dir *d, uint8_t ret[TP_SESSION_ID_BYTES])
{
	char text[LINE];
	size_t len;

	return d && state_dir_read(d, NAME, text, sizeof(text), &len) == 0 && len == LINE && text[LINE - 1] == '\n' &&
	       hex_decode(span_make(text, LINE - 1), ret, TP_SESSION_ID_BYTES) == 0;
}

int session_file_write(struct state_dir *d, const uint8_t id[TP_SESSION_ID_BYTES])
{
	char text[LINE + 1];
	int fd, r = 0;

	if (!d)
		return 0;
	hex_encode(id, TP_SESSION_ID_BYTES, text);
	text[LINE - 1] = '\n';
	/* In place: one small write is whole or not there, whenever the process is killed. */
	fd = openat(state_dir_fd(d), NAME, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
	if (fd < 0)
		return -errno;
	if (pwrite(fd, text, LINE, 0) != LINE || ftruncate(fd, LINE) < 0)
		r = errno ? -errno : -EIO;
	close(fd);
	return r;
}

void session_file_remove(struct state_dir *d)
{
	if (d)
		(void)state_dir_remove(d, NAME);
}
