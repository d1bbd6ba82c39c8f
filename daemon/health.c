#include "daemon/health.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/loop.h"
#include "daemon/openmetrics.h"
#include "daemon/url.h"
#include "proto/budget.h"

enum { HEALTH_MAGIC = 0x4ea17800, HEADERS_MAX = 8192, TIMEOUT_S = 10, BACKLOG = 64, CANARIES_PER_S = 1, CANARIES_BURST = 5 };

struct health {
	unsigned magic;
	struct evhttp *http;
	const struct health_ops *ops;
	void *user;
	struct url addr;
	bool bound; /* the socket file is ours */
	struct budget canaries;
};

static const char type_json[] = "application/json";
static const char type_text[] = "text/plain; charset=utf-8";
static const char type_metrics_text[] = "text/plain; version=0.0.4; charset=utf-8";
static const char type_metrics[] = "application/openmetrics-text; version=1.0.0; charset=utf-8";

static void send_body(struct evhttp_request *req, int status, const char *phrase, const char *type, struct span body)
{
	struct evkeyvalq *out = evhttp_request_get_output_headers(req);
	struct evbuffer *b = evbuffer_new();
	char length[24];

	snprintf(length, sizeof(length), "%zu", body.len);
	evhttp_add_header(out, "Content-Type", type);
	evhttp_add_header(out, "Content-Length", length);
	evhttp_add_header(out, "Cache-Control", "no-store");
	if (b && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD)
		evbuffer_add(b, body.p, body.len);
	evhttp_send_reply(req, status, phrase, b);
	if (b)
		evbuffer_free(b);
}

static void send_error(struct evhttp_request *req, int status, const char *phrase)
{
	char body[100];

	snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", phrase);
	send_body(req, status, phrase, type_json, span_of(body));
}

static void answer_ready(struct health *h, struct evhttp_request *req)
{
	struct buf body;
	bool ready;

	buf_init(&body, HEALTH_BODY_MAX);
	ready = h->ops->ready(h->user, &body);
	if (buf_len(&body) == 0)
		buf_printf(&body, "{\"ready\":%s}\n", ready ? "true" : "false");
	send_body(req, ready ? 200 : 503, ready ? "OK" : "Service Unavailable", type_json, buf_span(&body));
	buf_done(&body);
}

/* Prometheus itself names both and takes what it is given. */
static bool wants_plain_metrics(struct evhttp_request *req)
{
	const char *accept = evhttp_find_header(evhttp_request_get_input_headers(req), "Accept");

	return accept && strstr(accept, "text/plain") && !strstr(accept, "openmetrics");
}

static void answer_metrics(struct health *h, struct evhttp_request *req)
{
	bool plain = wants_plain_metrics(req);
	struct buf body, text;
	int r;

	buf_init(&body, HEALTH_BODY_MAX);
	buf_init(&text, HEALTH_BODY_MAX);
	r = h->ops->metrics(h->user, &body);
	if (r == 0)
		r = plain ? openmetrics_to_text(&text, buf_span(&body)) : buf_add_str(&body, "# EOF\n");
	if (r == 0)
		send_body(req, 200, "OK", plain ? type_metrics_text : type_metrics, buf_span(plain ? &text : &body));
	else
		send_error(req, 500, "the metrics do not fit");
	buf_done(&text);
	buf_done(&body);
}

/* A name that a web page's server chose must not lead here. */
static bool host_is_ours(struct evhttp_request *req)
{
	const char *host = evhttp_request_get_host(req);

	return !host || !*host || strcmp(host, "localhost") == 0 || host_is_address(host) || host[0] == '[';
}

static void answer_status(struct health *h, struct evhttp_request *req, bool table)
{
	struct evkeyvalq *in = evhttp_request_get_input_headers(req);
	struct buf body;

	if (evhttp_find_header(in, "Origin") || !host_is_ours(req)) {
		send_error(req, 403, "not for web pages");
		return;
	}
	buf_init(&body, HEALTH_STATUS_MAX);
	if (h->ops->status(h->user, table, &body) == 0)
		send_body(req, 200, "OK", table ? type_text : type_json, buf_span(&body));
	else
		send_error(req, 500, "the status does not fit");
	buf_done(&body);
}

static bool nonce_valid(struct span s)
{
	if (s.len < HEALTH_NONCE_MIN || s.len > HEALTH_NONCE_MAX)
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
			return false;
	return true;
}

static void answer_canary(struct health *h, struct evhttp_request *req)
{
	struct evkeyvalq *in = evhttp_request_get_input_headers(req);
	struct span nonce = span_of(evhttp_find_header(in, HEALTH_NONCE_HEADER));
	char body[HEALTH_NONCE_MAX + 32];

	if (evhttp_request_get_command(req) != EVHTTP_REQ_POST) {
		evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", "POST");
		send_error(req, 405, "method not allowed");
	} else if (evhttp_find_header(in, "Origin")) {
		send_error(req, 403, "not for web pages");
	} else if (!nonce_valid(nonce)) {
		send_error(req, 400, HEALTH_NONCE_HEADER " must have 16 to 64 digits 0-9 a-f");
	} else if (!budget_take(&h->canaries, clock_now_us() / 1000)) {
		send_error(req, 429, "too many canaries");
	} else if (h->ops->canary(h->user, nonce) != 0) {
		send_error(req, 503, "the audit sink takes no records");
	} else {
		snprintf(body, sizeof(body), "{\"nonce\":\"%.*s\"}\n", SPAN_FMT(nonce));
		send_body(req, 200, "OK", type_json, span_of(body));
	}
}

static void answer_get(struct health *h, struct evhttp_request *req, struct span path)
{
	enum evhttp_cmd_type method = evhttp_request_get_command(req);

	if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
		evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", "GET, HEAD");
		send_error(req, 405, "method not allowed");
	} else if (span_is(path, "/healthz")) {
		send_body(req, 200, "OK", type_json, SPAN("{\"status\":\"ok\"}\n"));
	} else if (span_is(path, "/readyz")) {
		answer_ready(h, req);
	} else if (span_is(path, "/metrics")) {
		answer_metrics(h, req);
	} else {
		answer_status(h, req, span_is(path, HEALTH_STATUS_TABLE_PATH));
	}
}

static bool is_get(const struct health *h, struct span path)
{
	if (span_is(path, HEALTH_STATUS_PATH) || span_is(path, HEALTH_STATUS_TABLE_PATH))
		return h->ops->status != NULL;
	return span_is(path, "/healthz") || span_is(path, "/readyz") || span_is(path, "/metrics");
}

static void on_request(struct evhttp_request *req, void *user)
{
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	struct span path = span_of(uri ? evhttp_uri_get_path(uri) : "");
	struct health *h = user;

	CHECK_OBJ(h, HEALTH_MAGIC);
	if (is_get(h, path))
		answer_get(h, req, path);
	else if (h->ops->canary && span_is(path, HEALTH_CANARY_PATH))
		answer_canary(h, req);
	else
		send_error(req, 404, "not found: /healthz, /readyz and /metrics are here");
}

/* A socket file that refuses connections was left behind by a process that is gone. */
static void remove_stale(const struct sockaddr_un *sa)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 && errno == ECONNREFUSED)
		unlink(sa->sun_path);
	close(fd);
}

static int bind_unix(struct health *h)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd, r;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", h->addr.socket);
	remove_stale(&sa);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* The file is made with the descriptor's mode: it never exists wider. */
	if (fchmod(fd, 0660) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	h->bound = true;
	if (chmod(sa.sun_path, 0660) < 0 || listen(fd, BACKLOG) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	if (!evhttp_accept_socket_with_handle(h->http, fd)) {
		close(fd);
		return -ENOMEM;
	}
	return 0;
}

static int bind_tcp(struct health *h)
{
	struct sockaddr_storage sa = { 0 };
	struct evhttp_bound_socket *bound;
	socklen_t len = sizeof(sa);

	errno = 0;
	bound = evhttp_bind_socket_with_handle(h->http, h->addr.host, h->addr.port);
	if (!bound)
		return errno ? -errno : -EADDRNOTAVAIL;
	if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): getsockname() has written it. */
	h->addr.port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&sa)->sin6_port
						      : ((struct sockaddr_in *)(void *)&sa)->sin_port);
	return 0;
}

static void log_address(const struct health *h)
{
	if (url_is_unix(&h->addr))
		log_info("health on unix:%s", h->addr.socket);
	else
		log_info("health on http://%s%s%s:%u", h->addr.is_ipv6 ? "[" : "", h->addr.host,
			 h->addr.is_ipv6 ? "]" : "", h->addr.port);
}

static struct health *health_new(struct event_base *base, const struct url *addr, const struct health_ops *ops,
				 void *user)
{
	struct health *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	*h = (struct health){ .magic = HEALTH_MAGIC, .ops = ops, .user = user, .addr = *addr };
	budget_init(&h->canaries, CANARIES_PER_S, CANARIES_BURST);
	h->http = evhttp_new(base);
	if (!h->http)
		return health_stop(h);
	evhttp_set_gencb(h->http, on_request, h);
	evhttp_set_allowed_methods(h->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST | EVHTTP_REQ_PUT |
						    EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
	evhttp_set_max_headers_size(h->http, HEADERS_MAX);
	evhttp_set_max_body_size(h->http, HEADERS_MAX);
	evhttp_set_timeout(h->http, TIMEOUT_S);
	return h;
}

int health_start(struct event_base *base, const char *listen_on, const struct health_ops *ops, void *user, char *err,
		 size_t err_size, struct health **ret)
{
	struct health *h;
	const char *why;
	struct url addr;
	int r;

	if (url_parse_listen_addr(listen_on, &addr, &why) < 0) {
		snprintf(err, err_size, "cannot serve health on %s: %s", listen_on, why);
		return -EINVAL;
	}
	h = health_new(base, &addr, ops, user);
	if (!h) {
		snprintf(err, err_size, "cannot serve health on %s: out of memory", listen_on);
		return -ENOMEM;
	}
	r = url_is_unix(&addr) ? bind_unix(h) : bind_tcp(h);
	if (r < 0) {
		snprintf(err, err_size, "cannot serve health on %s: %s", listen_on, strerror(-r));
		health_stop(h);
		return r;
	}
	log_address(h);
	*ret = h;
	return 0;
}

uint16_t health_port(const struct health *h)
{
	return h->addr.port;
}

struct health *health_stop(struct health *h)
{
	if (!h)
		return NULL;
	if (h->http)
		evhttp_free(h->http);
	if (h->bound)
		unlink(h->addr.socket);
	h->magic = 0;
	free(h);
	return NULL;
}
