#include "daemon/egress.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "daemon/token.h"
#include "proto/http1.h"

enum { EGRESS_MAGIC = 0x65677273, REQUEST_MAX = 16 * 1024, DETAIL_BYTES = 512 };

struct egress {
	unsigned magic;
	struct loop *loop;
	const struct egress_config *cfg;
	dial_fn *fn;
	void *user;
	struct dial *dial;
	bool via_proxy;
	char authority[URL_HOST_MAX + 8]; /* of the far end */
	struct event *io, *timer;
	int fd;
	struct buf out;
	struct http1_reader in;
};

bool egress_uses_proxy(const struct egress_config *cfg, const char *host, uint16_t port)
{
	return cfg->proxy.scheme && !egress_is_bypassed(cfg->no_proxy, host, port);
}

static void free_memory(void *p)
{
	struct egress *e = p;

	CHECK_OBJ(e, EGRESS_MAGIC);
	e->magic = 0;
	free(e);
}

static void end(struct egress *e)
{
	e->fn = NULL;
	dial_cancel(e->dial);
	e->dial = NULL;
	if (e->io)
		event_free(e->io);
	if (e->timer)
		event_free(e->timer);
	e->io = e->timer = NULL;
	if (e->fd >= 0)
		evutil_closesocket(e->fd);
	e->fd = -1;
	http1_reader_done(&e->in);
	/* It may hold the proxy's password. */
	if (e->out.data)
		secret_wipe(e->out.data, e->out.cap);
	buf_done(&e->out);
	loop_free_later(e->loop, free_memory, e);
}

void egress_cancel(struct egress *e)
{
	if (!e)
		return;
	CHECK_OBJ(e, EGRESS_MAGIC);
	end(e);
}

static void finish(struct egress *e, enum dial_error err, int error, const char *detail)
{
	dial_fn *fn = e->fn;
	void *user = e->user;
	int fd = -1;

	if (err == DIAL_OK) {
		fd = e->fd;
		e->fd = -1;
	}
	end(e);
	fn(user, fd, err, error, detail);
}

static void proxy_fails(struct egress *e, enum dial_error err, int error, const char *what)
{
	char detail[2 * DETAIL_BYTES];

	snprintf(detail, sizeof(detail), "proxy %s: %s", e->cfg->proxy.authority, what);
	finish(e, err, error, detail);
}

/* ---- CONNECT ---- */

static void judge_answer(struct egress *e, const struct http1_head *h, size_t rest)
{
	char what[DETAIL_BYTES];

	if (h->status == 407) {
		proxy_fails(e, DIAL_PROXY, 0,
			    e->cfg->auth_file || e->cfg->env_credentials ?
				    "it does not accept the user and password (407)" :
				    "it wants a user and password (407): put them into a file for --proxy-auth-file");
	} else if (h->status / 100 != 2) {
		snprintf(what, sizeof(what), "it refuses a connection to %s: %u %.*s", e->authority, h->status,
			 (int)MIN(h->reason_phrase.len, (size_t)80), h->reason_phrase.p ? h->reason_phrase.p : "");
		proxy_fails(e, DIAL_PROXY, 0, what);
	} else if (rest) {
		proxy_fails(e, DIAL_PROXY, 0, "bytes behind its answer to CONNECT");
	} else {
		finish(e, DIAL_OK, 0, "");
	}
}

static void on_readable(struct egress *e)
{
	uint8_t bytes[4096];
	struct http1_event ev;
	size_t used;
	ssize_t n = recv(e->fd, bytes, sizeof(bytes), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		proxy_fails(e, DIAL_PROXY, n < 0 ? errno : 0, n < 0 ? strerror(errno) : "it closed the connection instead of an answer to CONNECT");
		return;
	}
	for (size_t at = 0; at < (size_t)n; at += used) {
		if (http1_read(&e->in, bytes + at, (size_t)n - at, &used, &ev) < 0) {
			proxy_fails(e, DIAL_PROXY, ENOMEM, "out of memory");
			return;
		}
		if (ev.type == HTTP1_BAD) {
			proxy_fails(e, DIAL_PROXY, 0, "its answer to CONNECT is not HTTP");
			return;
		}
		if (ev.type == HTTP1_HEAD && e->in.head.status >= 200) {
			judge_answer(e, &e->in.head, (size_t)n - at - used);
			return;
		}
	}
}

static void on_writable(struct egress *e)
{
	ssize_t n = send(e->fd, buf_bytes(&e->out), buf_len(&e->out), MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		proxy_fails(e, DIAL_PROXY, errno, strerror(errno));
		return;
	}
	if (n > 0)
		buf_drop(&e->out, (size_t)n);
}

static void wait_for(struct egress *e);

static void on_io(evutil_socket_t fd, short what, void *user)
{
	struct egress *e = user;

	CHECK_OBJ(e, EGRESS_MAGIC);
	if (buf_len(&e->out))
		on_writable(e);
	else
		on_readable(e);
	if (e->fn)
		wait_for(e);
}

static void wait_for(struct egress *e)
{
	short what = buf_len(&e->out) ? EV_WRITE : EV_READ;

	event_assign(e->io, loop_base(e->loop), e->fd, what, on_io, e);
	if (event_add(e->io, NULL) < 0)
		proxy_fails(e, DIAL_PROXY, ENOMEM, "out of memory");
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	struct egress *e = user;

	CHECK_OBJ(e, EGRESS_MAGIC);
	proxy_fails(e, DIAL_TIMEOUT, ETIMEDOUT, "no answer to CONNECT in time");
}

/* USER:PASSWORD as RFC 7617 has it. */
static int write_credentials(struct egress *e, struct span pair, const char **ret_why)
{
	char line[sizeof("Basic ") + (SECRET_FILE_MAX + 2) / 3 * 4 + 1] = "Basic ";
	int r;

	*ret_why = "its credentials are not USER:PASSWORD";
	if (pair.len > SECRET_FILE_MAX || !memchr(pair.p, ':', pair.len))
		return -EINVAL;
	base64_encode(pair.p, pair.len, line + strlen(line));
	r = http1_write_field(&e->out, SPAN("Proxy-Authorization"), span_of(line));
	secret_wipe(line, sizeof(line));
	*ret_why = "out of memory";
	return r;
}

static int write_request(struct egress *e, char *why, size_t why_size)
{
	_cleanup_(secret_freep) struct secret *s = NULL;
	const char *text = "out of memory";
	int r = http1_write_request(&e->out, SPAN("CONNECT"), span_of(e->authority));

	if (r == 0)
		r = http1_write_field(&e->out, SPAN("Host"), span_of(e->authority));
	snprintf(why, why_size, "%s", text);
	if (r == 0 && e->cfg->auth_file) {
		r = secret_load("proxy credentials file", e->cfg->auth_file, why, why_size, &s);
		if (r < 0)
			return r;
		r = write_credentials(e, span_make(s->text, s->len), &text);
	} else if (r == 0 && e->cfg->env_credentials) {
		r = write_credentials(e, span_of(e->cfg->env_credentials), &text);
	}
	if (r == 0)
		r = http1_write_end(&e->out);
	if (r < 0)
		snprintf(why, why_size, "%s", text);
	return r;
}

static void on_dialled(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct egress *e = user;
	char why[DETAIL_BYTES];

	CHECK_OBJ(e, EGRESS_MAGIC);
	e->dial = NULL;
	e->fd = take_fd;
	if (err != DIAL_OK && e->via_proxy)
		proxy_fails(e, err, error, detail);
	else if (err != DIAL_OK || !e->via_proxy)
		finish(e, err, error, detail);
	else if (write_request(e, why, sizeof(why)) < 0)
		proxy_fails(e, DIAL_PROXY, 0, why);
	else
		wait_for(e);
}

static int start_dial(struct egress *e, const struct dial_target *target)
{
	const struct timeval tv = loop_timeval(target->timeout_ms);
	struct dial_target t = *target;

	if (e->via_proxy) {
		t.host = e->cfg->proxy.host;
		t.port = e->cfg->proxy.port;
		if (target->timeout_ms && event_add(e->timer, &tv) < 0)
			return -ENOMEM;
	}
	return dial_start(e->loop, &t, on_dialled, e, &e->dial);
}

int egress_start(struct loop *l, const struct egress_config *cfg, const struct dial_target *target, dial_fn *fn, void *user,
		 struct egress **ret)
{
	struct egress *e = calloc(1, sizeof(*e));
	bool bare_ipv6 = strchr(target->host, ':') != NULL;
	int r = -ENOMEM;

	if (!e)
		return -ENOMEM;
	*e = (struct egress){ .magic = EGRESS_MAGIC, .loop = l, .cfg = cfg, .fn = fn, .user = user, .fd = -1 };
	e->via_proxy = egress_uses_proxy(cfg, target->host, target->port);
	snprintf(e->authority, sizeof(e->authority), bare_ipv6 ? "[%s]:%u" : "%s:%u", target->host, target->port);
	buf_init(&e->out, REQUEST_MAX);
	http1_reader_init(&e->in, HTTP1_RESPONSE);
	e->io = event_new(loop_base(l), -1, 0, on_io, e);
	e->timer = event_new(loop_base(l), -1, 0, on_timeout, e);
	if (e->io && e->timer)
		r = start_dial(e, target);
	if (r < 0) {
		end(e);
		return r;
	}
	*ret = e;
	return 0;
}
