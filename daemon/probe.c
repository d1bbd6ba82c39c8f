#include "daemon/probe.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/digest.h"

enum { LINGER_MS = 300 };

/* ---- waiting ---- */

static void on_over(evutil_socket_t fd, short what, void *user)
{
	loop_stop(user);
}

int probe_wait(struct loop *l, const bool *done, uint64_t timeout_ms)
{
	const struct timeval tv = loop_timeval(timeout_ms);
	struct event *timer;
	int r;

	if (*done)
		return 0;
	timer = event_new(loop_base(l), -1, 0, on_over, l);
	if (!timer || event_add(timer, &tv) < 0) {
		if (timer)
			event_free(timer);
		return -ENOMEM;
	}
	r = loop_run(l);
	event_free(timer);
	if (r < 0)
		return r;
	return *done ? 0 : -ETIMEDOUT;
}

/* ---- names ---- */

struct names {
	struct loop *loop;
	struct resolve_addr *addrs;
	size_t n;
	int error;
	bool done;
};

static void on_names(void *user, int gai_error, const struct resolve_addr *addrs, size_t n)
{
	struct names *q = user;

	q->error = gai_error;
	q->n = n;
	if (n)
		memcpy(q->addrs, addrs, n * sizeof(*addrs));
	q->done = true;
	loop_stop(q->loop);
}

int probe_resolve(struct loop *l, const char *host, uint16_t port, uint64_t timeout_ms, struct resolve_addr *addrs, size_t *ret_n, char *detail)
{
	struct names q = { .loop = l, .addrs = addrs };
	struct resolve *resolve;
	int r = resolve_start(l, host, port, on_names, &q, &resolve);

	if (r == 0)
		r = probe_wait(l, &q.done, timeout_ms);
	if (r == -ETIMEDOUT) {
		resolve_cancel(resolve);
		snprintf(detail, PROBE_DETAIL_MAX, "no answer about %s within %.0f s", host, (double)timeout_ms / 1000);
		return r;
	}
	if (r < 0 || q.error) {
		snprintf(detail, PROBE_DETAIL_MAX, "cannot resolve %s: %s", host, r < 0 ? strerror(-r) : gai_strerror(q.error));
		return r < 0 ? r : -EHOSTUNREACH;
	}
	*ret_n = q.n;
	return 0;
}

/* ---- TCP ---- */

struct attempt {
	struct attempts *all;
	struct dial *dial;
	struct probe_tcp *result;
};

struct attempts {
	struct loop *loop;
	uint64_t began_us;
	size_t open;
	bool done;
	struct attempt each[RESOLVE_ADDRS];
};

static void on_attempt(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct attempt *a = user;

	a->dial = NULL;
	if (take_fd >= 0)
		close(take_fd);
	a->result->error = err == DIAL_OK ? 0 : error ? error : EIO;
	a->result->took_us = clock_now_us() - a->all->began_us;
	if (--a->all->open == 0) {
		a->all->done = true;
		loop_stop(a->all->loop);
	}
}

static int start_attempt(struct attempts *all, const struct resolve_addr *addr, uint64_t timeout_ms, struct attempt *a)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];
	struct dial_target target = { .host = host, .timeout_ms = timeout_ms };
	uint64_t number;
	int r;

	if (getnameinfo((const struct sockaddr *)&addr->sa, addr->len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return -EAFNOSUPPORT;
	if (span_u64(span_of(port), &number) < 0)
		return -EINVAL;
	target.port = (uint16_t)number;
	snprintf(a->result->text, sizeof(a->result->text), strchr(host, ':') ? "[%.46s]:%s" : "%.46s:%s", host, port);
	r = dial_start(all->loop, &target, on_attempt, a, &a->dial);
	all->open += r == 0;
	return r;
}

int probe_tcp(struct loop *l, const struct resolve_addr *addrs, size_t n, uint64_t timeout_ms, struct probe_tcp *ret)
{
	struct attempts all = { .loop = l, .began_us = clock_now_us() };
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		ret[i] = (struct probe_tcp){ .error = ETIMEDOUT };
		all.each[i] = (struct attempt){ .all = &all, .result = &ret[i] };
		r = start_attempt(&all, &addrs[i], timeout_ms, &all.each[i]);
	}
	if (r == 0)
		r = probe_wait(l, &all.done, timeout_ms);
	for (size_t i = 0; i < n; i++)
		dial_cancel(all.each[i].dial);
	return r == -ETIMEDOUT ? 0 : r;
}

/* ---- dialling ---- */

struct dialling {
	struct loop *loop;
	int fd;
	enum dial_error error;
	char *detail;
	bool done;
};

static void on_dialled(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct dialling *q = user;

	q->fd = take_fd;
	q->error = err;
	snprintf(q->detail, PROBE_DETAIL_MAX, "%s", detail);
	q->done = true;
	loop_stop(q->loop);
}

int probe_dial(struct loop *l, const struct egress_config *cfg, const struct dial_target *target, enum dial_error *ret_error, char *detail)
{
	struct dialling q = { .loop = l, .fd = -1, .detail = detail };
	struct egress *egress = NULL;
	struct dial *dial = NULL;
	int r = cfg ? egress_start(l, cfg, target, on_dialled, &q, &egress) : dial_start(l, target, on_dialled, &q, &dial);

	/* Its own timeout comes first, and says what was waited for. */
	if (r == 0)
		r = probe_wait(l, &q.done, target->timeout_ms + 1000);
	*ret_error = q.error;
	if (r == 0)
		return q.fd;
	if (!q.done) {
		egress_cancel(egress);
		dial_cancel(dial);
	}
	*ret_error = r == -ETIMEDOUT ? DIAL_TIMEOUT : DIAL_CONNECT;
	snprintf(detail, PROBE_DETAIL_MAX, "cannot connect: %s", strerror(-r));
	return -1;
}

/* ---- HTTP ---- */

struct probe {
	struct loop *loop;
	struct channel *channel; /* NULL: ended */
	struct http1_reader reader;
	struct buf out, body;
	bool whole, open, done;
	int result;
	enum channel_end end;
	char detail[PROBE_DETAIL_MAX];
};

static void finish(struct probe *p, int result)
{
	if (p->done)
		return;
	p->result = result;
	p->done = true;
	loop_stop(p->loop);
}

static void on_open(void *user)
{
	struct probe *p = user;

	p->open = true;
	finish(p, 0);
}

/* False: no more of the bytes is wanted. */
static bool take_event(struct probe *p, const struct http1_event *ev)
{
	if (ev->type == HTTP1_HEAD && (p->reader.head.status >= 200 || p->reader.head.status == 101)) {
		if (p->whole)
			return true;
		finish(p, 0);
	} else if (ev->type == HTTP1_DATA) {
		if (buf_add_span(&p->body, span_make(ev->data.p, MIN(ev->data.len, buf_room(&p->body)))) == 0 && buf_room(&p->body))
			return true;
		finish(p, 0);
	} else if (ev->type == HTTP1_BAD) {
		snprintf(p->detail, sizeof(p->detail), "the answer is not HTTP: %s", ev->error);
		p->end = CHANNEL_ERROR;
		finish(p, -EPROTO);
	} else if (ev->type == HTTP1_END) {
		finish(p, 0);
	} else {
		return ev->type == HTTP1_HEAD;
	}
	return false;
}

static void on_data(void *user, uint8_t *data, size_t len)
{
	struct probe *p = user;
	struct http1_event ev;
	size_t used;

	do {
		if (p->done && p->open)
			return;
		if (http1_read(&p->reader, data, len, &used, &ev) < 0) {
			finish(p, -ENOMEM);
			return;
		}
		data += used;
		len -= used;
	} while (take_event(p, &ev));
}

static size_t on_pull(void *user, uint8_t *dst, size_t room)
{
	struct probe *p = user;
	size_t n = MIN(room, buf_len(&p->out));

	if (n)
		memcpy(dst, buf_bytes(&p->out), n);
	buf_drop(&p->out, n);
	return n;
}

static void on_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct probe *p = user;
	struct http1_event ev = { .type = HTTP1_MORE };

	p->channel = NULL;
	p->end = end;
	snprintf(p->detail, sizeof(p->detail), "%s", detail);
	if (end == CHANNEL_EOF && p->open)
		http1_read_eof(&p->reader, &ev);
	finish(p, ev.type == HTTP1_END ? 0 : error ? -error : -ECONNRESET);
}

static const struct channel_ops callbacks = { .on_open = on_open, .on_data = on_data, .on_pull = on_pull, .on_closed = on_closed };

int probe_open(struct loop *l, int take_fd, const struct channel_options *opt, enum channel_end *ret_end, char *detail, struct probe **ret)
{
	struct probe *p = calloc(1, sizeof(*p));
	int r;

	*ret_end = CHANNEL_ERROR;
	snprintf(detail, PROBE_DETAIL_MAX, "out of memory");
	if (!p) {
		close(take_fd);
		return -ENOMEM;
	}
	p->loop = l;
	buf_init(&p->out, PROBE_BODY_MAX);
	buf_init(&p->body, PROBE_BODY_MAX);
	http1_reader_init(&p->reader, HTTP1_RESPONSE);
	r = channel_new(l, take_fd, opt, &callbacks, p, &p->channel);
	if (r == 0)
		r = probe_wait(l, &p->done, opt->open_timeout_ms + 1000);
	if (r == 0)
		r = p->result;
	if (r < 0) {
		*ret_end = p->end;
		snprintf(detail, PROBE_DETAIL_MAX, "%s", p->detail[0] ? p->detail : strerror(-r));
		probe_close(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct probe *probe_close(struct probe *p)
{
	if (!p)
		return NULL;
	if (p->channel)
		channel_close(p->channel, LINGER_MS);
	http1_reader_done(&p->reader);
	/* It may have held a token. */
	if (p->out.data)
		secret_wipe(p->out.data, p->out.cap);
	buf_done(&p->out);
	buf_done(&p->body);
	free(p);
	return NULL;
}

bool probe_tls_peer(const struct probe *p, struct tls_peer *ret)
{
	return p->channel && channel_tls_peer(p->channel, ret);
}

struct span probe_body(const struct probe *p)
{
	return buf_span(&p->body);
}

int probe_ask(struct probe *p, struct buf *take_request, bool body, uint64_t timeout_ms, enum channel_end *ret_end, char *detail,
	      const struct http1_head **ret_head)
{
	int r;

	p->out = *take_request;
	buf_init(take_request, take_request->max);
	p->whole = body;
	p->done = !p->channel;
	p->result = -ECONNRESET;
	if (p->channel) {
		p->end = CHANNEL_TIMEOUT;
		channel_want_write(p->channel);
	}
	r = probe_wait(p->loop, &p->done, timeout_ms);
	if (r == -ETIMEDOUT)
		snprintf(p->detail, sizeof(p->detail), "no answer within %.0f s", (double)timeout_ms / 1000);
	if (r == 0)
		r = p->result;
	*ret_end = p->end;
	snprintf(detail, PROBE_DETAIL_MAX, "%s", p->detail);
	*ret_head = &p->reader.head;
	return r;
}
