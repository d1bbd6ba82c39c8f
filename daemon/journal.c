#include "daemon/journal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/io.h"

enum {
	NAME_MAX_LEN = 64,
	FIELD_EXTRA = 1 + sizeof(uint64_t) + 1, /* what a field takes besides name and value */
	SEND_QUEUE_BYTES = 8 * 1024 * 1024,
	MANY_MAX = 64, /* datagrams for one system call */
};

struct journal {
	struct sockaddr_un addr;
	struct buf record; /* reused: a record is built in place */
	int fd;
};

int journal_new(const char *path, struct journal **ret)
{
	struct journal *j;

	if (!path)
		path = JOURNAL_SOCKET;
	if (strlen(path) >= sizeof(j->addr.sun_path))
		return -ENAMETOOLONG;
	j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->addr.sun_family = AF_UNIX;
	snprintf(j->addr.sun_path, sizeof(j->addr.sun_path), "%s", path);
	buf_init(&j->record, JOURNAL_RECORD_MAX);
	j->fd = -1;
	*ret = j;
	return 0;
}

static void disconnect(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
}

struct journal *journal_free(struct journal *j)
{
	if (!j)
		return NULL;
	disconnect(j);
	buf_done(&j->record);
	free(j);
	return NULL;
}

int journal_fd(const struct journal *j)
{
	return j->fd;
}

int journal_connect(struct journal *j)
{
	const int size = SEND_QUEUE_BYTES;
	int fd, r;

	if (j->fd >= 0)
		return 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Room for a burst, as far as the system allows; the default holds a few dozen records. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (connect(fd, (struct sockaddr *)&j->addr, sizeof(j->addr)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	j->fd = fd;
	return 0;
}

static bool name_valid(const char *name, size_t n)
{
	if (n == 0 || n > NAME_MAX_LEN || name[0] < 'A' || name[0] > 'Z')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!((name[i] >= 'A' && name[i] <= 'Z') || (name[i] >= '0' && name[i] <= '9') || name[i] == '_'))
			return false;
	return true;
}

/* NAME \n, length (64 bits, little endian), value, \n. */
int journal_encode(const struct journal_field *fields, size_t n, char *dst, size_t size, size_t *ret_len)
{
	char *at = dst, *end = dst + size;

	for (size_t i = 0; i < n; i++) {
		size_t name_len = strlen(fields[i].name), len = fields[i].value.len;
		uint64_t le = htole64(len);

		if (!name_valid(fields[i].name, name_len))
			return -EINVAL;
		if (len > (size_t)(end - at) || (size_t)(end - at) - len < name_len + FIELD_EXTRA)
			return -ENOBUFS;
		memcpy(at, fields[i].name, name_len);
		at += name_len;
		*at++ = '\n';
		memcpy(at, &le, sizeof(le));
		at += sizeof(le);
		if (len)
			memcpy(at, fields[i].value.p, len);
		at += len;
		*at++ = '\n';
	}
	*ret_len = (size_t)(at - dst);
	return 0;
}

static int encode_one(struct journal *j, const struct journal_field *fields, size_t n)
{
	size_t len = 0;
	uint8_t *at;
	int r;

	buf_drop(&j->record, buf_len(&j->record));
	for (size_t i = 0; i < n; i++) {
		if (fields[i].value.len > JOURNAL_RECORD_MAX)
			return -ENOBUFS;
		len += strlen(fields[i].name) + fields[i].value.len + FIELD_EXTRA;
	}
	r = buf_reserve(&j->record, len, &at);
	if (r == 0)
		r = journal_encode(fields, n, (char *)at, len, &len);
	if (r == 0)
		buf_commit(&j->record, len);
	return r;
}

static int send_bytes(int fd, struct span record)
{
	return send(fd, record.p, record.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int fill_memfd(int mem, struct span record)
{
	int r = io_write_all(mem, record.p, record.len);

	if (r < 0)
		return r;
	if (fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	return 0;
}

static int send_fd(int fd, int mem)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr msg = { .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &mem, sizeof(int));
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* A record too large for a datagram travels as a sealed memory file. */
static int send_memfd(int fd, struct span record)
{
	int mem = memfd_create("journal-record", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (mem < 0)
		return -errno;
	r = fill_memfd(mem, record);
	if (r == 0)
		r = send_fd(fd, mem);
	close(mem);
	return r;
}

static int send_once(struct journal *j, struct span record)
{
	int r = journal_connect(j);

	if (r == 0)
		r = send_bytes(j->fd, record);
	if (r == -EMSGSIZE || (r == -ENOBUFS && record.len > 4096))
		r = send_memfd(j->fd, record);
	return r;
}

static bool is_gone(int r)
{
	return r == -ECONNREFUSED || r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE || r == -ENOENT;
}

int journal_send(struct journal *j, const struct journal_field *fields, size_t n)
{
	bool fresh = j->fd < 0;
	int r = encode_one(j, fields, n);

	if (r < 0)
		return r;
	r = send_once(j, buf_span(&j->record));
	if (is_gone(r) && !fresh) {
		disconnect(j);
		r = send_once(j, buf_span(&j->record));
	}
	if (is_gone(r))
		disconnect(j);
	return r;
}

static int send_many_once(struct journal *j, const struct span *records, size_t n)
{
	struct mmsghdr msgs[MANY_MAX];
	struct iovec iov[MANY_MAX];
	int r = journal_connect(j);

	if (r < 0)
		return r;
	n = MIN(n, (size_t)MANY_MAX);
	memset(msgs, 0, n * sizeof(msgs[0]));
	for (size_t i = 0; i < n; i++) {
		iov[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)records[i].p, .iov_len = records[i].len };
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	r = sendmmsg(j->fd, msgs, (unsigned)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r >= 0)
		return r;
	if (errno != EMSGSIZE && errno != ENOBUFS)
		return -errno;
	r = send_once(j, records[0]);
	return r < 0 ? r : 1;
}

int journal_send_many(struct journal *j, const struct span *records, size_t n)
{
	bool fresh = j->fd < 0;
	int r = send_many_once(j, records, n);

	if (is_gone(r) && !fresh) {
		disconnect(j);
		r = send_many_once(j, records, n);
	}
	if (is_gone(r))
		disconnect(j);
	return r;
}
