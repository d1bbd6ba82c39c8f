#include "daemon/token.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/encode.h"
#include "base/io.h"
#include "daemon/digest.h"

static const char token_prefix[] = "mtt_", key_prefix[] = "mtk_";

/* Whole pages: locking or unlocking them touches nobody else's memory. */
static void *secret_alloc(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Best effort: RLIMIT_MEMLOCK may be zero. */
	(void)mlock(p, size);
	(void)madvise(p, size, MADV_DONTDUMP);
	return p;
}

static void secret_unmap(void *p, size_t size)
{
	if (!p)
		return;
	secret_wipe(p, size);
	munmap(p, size);
}

struct secret *secret_free(struct secret *s)
{
	secret_unmap(s, sizeof(*s));
	return NULL;
}

struct token *token_free(struct token *t)
{
	secret_unmap(t, sizeof(*t));
	return NULL;
}

/* A line is short: size_max 0 is no limit. */
static int check_file(int fd, const char *what, const char *path, off_t size_max, char *err, size_t err_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		int r = -errno;

		snprintf(err, err_size, "%s %s: cannot look at it: %s", what, path, strerror(-r));
		return r;
	}
	if (!S_ISREG(st.st_mode)) {
		snprintf(err, err_size, "%s %s: it is not a regular file; name a file that holds one line", what, path);
		return -EINVAL;
	}
	if (st.st_mode & 0027) {
		snprintf(err, err_size, "%s %s: %s (mode %04o); run: chmod 600 %s", what, path,
			 st.st_mode & 0007 ? "everybody can use it" : "its group can write to it",
			 (unsigned)st.st_mode & 07777, path);
		return -EACCES;
	}
	if (size_max && st.st_size > size_max) {
		snprintf(err, err_size, "%s %s: it is larger than %d bytes; it must hold one line", what, path,
			 SECRET_FILE_MAX);
		return -EINVAL;
	}
	return 0;
}

static const char *check_line(const struct secret *s)
{
	if (s->len > SECRET_FILE_MAX)
		return "it is too large; it must hold one line";
	if (s->len == 0)
		return "it is empty; it must hold one line";
	if (memchr(s->text, '\n', s->len))
		return "it has more than one line; it must hold one";
	for (size_t i = 0; i < s->len; i++)
		if (s->text[i] < ' ' || s->text[i] > '~')
			return "it has characters that are not printable ASCII; write it again, as one plain line";
	return NULL;
}

static int read_file(int fd, const char *what, const char *path, char *err, size_t err_size, struct secret *s)
{
	/* One byte more than allowed fits, so that growth since fstat() shows. */
	int r = io_read_all(fd, s->text, sizeof(s->text), &s->len);

	if (r < 0) {
		snprintf(err, err_size, "%s %s: cannot read it: %s", what, path, strerror(-r));
		return r;
	}
	if (s->len && s->len <= SECRET_FILE_MAX && s->text[s->len - 1] == '\n')
		s->len--;
	return 0;
}

/* Open, and fit to hold a secret; or negative. */
static int open_secret(const char *what, const char *path, off_t size_max, char *err, size_t err_size)
{
	/* Non-blocking, so that a FIFO by mistake is an error and not a wait. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r;

	if (fd < 0) {
		r = -errno;
		snprintf(err, err_size, "%s %s: cannot open it: %s", what, path, strerror(-r));
		return r;
	}
	r = check_file(fd, what, path, size_max, err, err_size);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

int secret_file_check(const char *what, const char *path, char *err, size_t err_size)
{
	int fd = open_secret(what, path, 0, err, err_size);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

/* What is in the file, less one newline at its end; one byte more than SECRET_FILE_MAX when it is too large. */
static int load(const char *what, const char *path, char *err, size_t err_size, struct secret **ret)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	int fd = open_secret(what, path, SECRET_FILE_MAX, err, err_size), r;

	if (fd < 0)
		return fd;
	s = secret_alloc(sizeof(*s));
	if (!s) {
		snprintf(err, err_size, "%s %s: out of memory", what, path);
		r = -ENOMEM;
	} else {
		r = read_file(fd, what, path, err, err_size, s);
	}
	close(fd);
	if (r == 0)
		*ret = steal_ptr(&s);
	return r;
}

int secret_load(const char *what, const char *path, char *err, size_t err_size, struct secret **ret)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	int r = load(what, path, err, err_size, &s);
	const char *why;

	if (r < 0)
		return r;
	why = check_line(s);
	if (why) {
		snprintf(err, err_size, "%s %s: %s", what, path, why);
		return -EINVAL;
	}
	s->text[s->len] = '\0';
	*ret = steal_ptr(&s);
	return 0;
}

int secret_load_key(const char *what, const char *path, size_t min_len, char *err, size_t err_size, struct secret **ret)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	int r = load(what, path, err, err_size, &s);

	if (r < 0)
		return r;
	if (s->len < min_len || s->len > SECRET_FILE_MAX) {
		snprintf(err, err_size, "%s %s: the key must have %zu to %d bytes; make one with: openssl rand -hex 32",
			 what, path, min_len, SECRET_FILE_MAX);
		return -EINVAL;
	}
	s->text[s->len] = '\0';
	*ret = steal_ptr(&s);
	return 0;
}

bool tunnel_id_valid(struct span id)
{
	if (id.len == 0 || id.len > TUNNEL_ID_MAX || id.p[0] == '-')
		return false;
	for (size_t i = 0; i < id.len; i++)
		if (!((id.p[i] >= 'a' && id.p[i] <= 'z') || (id.p[i] >= '0' && id.p[i] <= '9') || id.p[i] == '-'))
			return false;
	return true;
}

static int decode_secret(struct span text, uint8_t out[SECRET_BYTES])
{
	size_t n;

	if (text.len != SECRET_TEXT_LEN)
		return -EINVAL;
	return base64url_decode(text, out, &n);
}

int token_split(struct span text, struct span *ret_id, uint8_t ret_secret[SECRET_BYTES])
{
	uint8_t secret[SECRET_BYTES];
	struct span id;
	size_t fixed = sizeof(token_prefix) - 1 + 1 + SECRET_TEXT_LEN;

	if (text.len <= fixed || !span_starts(text, token_prefix))
		return -EINVAL;
	id = span_make(text.p + sizeof(token_prefix) - 1, text.len - fixed);
	if (!tunnel_id_valid(id) || id.p[id.len] != '_' ||
	    decode_secret(span_make(id.p + id.len + 1, SECRET_TEXT_LEN), secret) < 0)
		return -EINVAL;
	memcpy(ret_secret, secret, sizeof(secret));
	secret_wipe(secret, sizeof(secret));
	*ret_id = id;
	return 0;
}

int token_parse(struct span text, struct token **ret)
{
	struct token *t = secret_alloc(sizeof(*t));
	struct span id;

	if (!t)
		return -ENOMEM;
	if (token_split(text, &id, t->secret) < 0) {
		token_free(t);
		return -EINVAL;
	}
	memcpy(t->text, text.p, text.len);
	memcpy(t->tunnel_id, id.p, id.len);
	*ret = t;
	return 0;
}

int token_load(const char *path, char *err, size_t err_size, struct token **ret)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	int r = secret_load("token file", path, err, err_size, &s);

	if (r < 0)
		return r;
	r = token_parse(span_make(s->text, s->len), ret);
	if (r == -EINVAL)
		snprintf(
		    err, err_size,
		    "token file %s: its line is not a token (mtt_TUNNEL_SECRET); put there what \"mcp-tunnel-relay "
		    "tunnel add\" printed",
		    path);
	else if (r < 0)
		snprintf(err, err_size, "token file %s: %s", path, strerror(-r));
	return r;
}

bool agent_key_valid(struct span text)
{
	uint8_t secret[SECRET_BYTES];
	bool valid;

	valid = text.len == AGENT_KEY_LEN && span_starts(text, key_prefix) &&
		decode_secret(span_make(text.p + sizeof(key_prefix) - 1, SECRET_TEXT_LEN), secret) == 0;
	secret_wipe(secret, sizeof(secret));
	return valid;
}

static int make_secret(char out[SECRET_TEXT_LEN + 1])
{
	uint8_t secret[SECRET_BYTES];
	int r = random_bytes(secret, sizeof(secret));

	if (r < 0)
		return r;
	base64url_encode(secret, sizeof(secret), out);
	secret_wipe(secret, sizeof(secret));
	return 0;
}

int token_make(const char *tunnel_id, char out[TOKEN_TEXT_MAX + 1])
{
	char secret[SECRET_TEXT_LEN + 1];
	int r;

	if (!tunnel_id_valid(span_of(tunnel_id)))
		return -EINVAL;
	r = make_secret(secret);
	if (r < 0)
		return r;
	snprintf(out, TOKEN_TEXT_MAX + 1, "%s%.*s_%s", token_prefix, TUNNEL_ID_MAX, tunnel_id, secret);
	secret_wipe(secret, sizeof(secret));
	return 0;
}

int agent_key_make(char out[AGENT_KEY_LEN + 1])
{
	char secret[SECRET_TEXT_LEN + 1];
	int r = make_secret(secret);

	if (r < 0)
		return r;
	snprintf(out, AGENT_KEY_LEN + 1, "%s%s", key_prefix, secret);
	secret_wipe(secret, sizeof(secret));
	return 0;
}
