/* A small MCP server to try the tunnel with: three tools over Streamable HTTP, revisions 2025-03-26 to 2026-07-28. */
#include "sample-rpc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY_MAX_BYTES = 128 << 20 };

struct options {
	char host[64];
	const char *path;
	uint16_t port;
};

struct server {
	const struct options *opt;
	struct event_base *base;
	struct evhttp *http;
	uint16_t port;
};

static const char usage[] = "usage: sample-mcp-server [--listen 127.0.0.1:9000] [--path /mcp]\n"
			    "  port 0 picks a free one; the first line of output names it\n";

/* "127.0.0.1:9000", "[::1]:9000" */
static int parse_listen(const char *s, struct options *opt)
{
	const char *colon = strrchr(s, ':');
	struct span host, port;
	uint64_t v;

	if (!colon)
		return -EINVAL;
	host = span_make(s, (size_t)(colon - s));
	port = span_of(colon + 1);
	if (host.len >= 2 && host.p[0] == '[' && host.p[host.len - 1] == ']')
		host = span_make(host.p + 1, host.len - 2);
	if (host.len == 0 || host.len >= sizeof(opt->host) || port.len == 0 || span_u64(port, &v) < 0 || v > UINT16_MAX)
		return -EINVAL;
	memcpy(opt->host, host.p, host.len);
	opt->host[host.len] = '\0';
	opt->port = (uint16_t)v;
	return 0;
}

static void parse_options(int argc, char **argv, struct options *opt)
{
	static const struct option known[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "path", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage, stdout);
			exit(0);
		} else if (c == 'l' && parse_listen(optarg, opt) < 0) {
			fprintf(stderr, "sample-mcp-server: --listen %s: wanted is ADDRESS:PORT\n", optarg);
			exit(2);
		} else if (c == 'p') {
			opt->path = optarg;
		} else if (c == '?') {
			fputs(usage, stderr);
			exit(2);
		}
	}
	if (optind != argc || opt->path[0] != '/') {
		fputs(usage, stderr);
		exit(2);
	}
}

/* The name in a Host field or an origin, without scheme and port. */
static bool is_own_name(const struct server *srv, const char *s)
{
	static const char *const local[] = { "localhost", "127.0.0.1", "[::1]" };
	const char *colon = strrchr(s, ':');
	size_t len = colon && !strchr(colon, ']') ? (size_t)(colon - s) : strlen(s);
	struct span name = span_make(s, len);

	for (size_t i = 0; i < ARRAY_LEN(local); i++) {
		if (span_iis(name, local[i]))
			return true;
	}
	return span_iis(name, srv->opt->host);
}

/* A web page must not reach this server by a name of its own (DNS rebinding). */
static bool is_local_caller(const struct server *srv, struct evhttp_request *req)
{
	struct evkeyvalq *headers = evhttp_request_get_input_headers(req);
	const char *host = evhttp_find_header(headers, "Host");
	const char *origin = evhttp_find_header(headers, "Origin");

	if (!host || !is_own_name(srv, host))
		return false;
	return !origin || (strncmp(origin, "http://", 7) == 0 && is_own_name(srv, origin + 7));
}

static void handle_get(struct evhttp_request *req)
{
	const char *accept = evhttp_find_header(evhttp_request_get_input_headers(req), "Accept");

	if (accept && strstr(accept, "text/event-stream"))
		tool_idle(req);
	else
		evhttp_send_reply(req, 406, "Not Acceptable", NULL);
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct server *srv = arg;

	if (strcmp(evhttp_request_get_uri(req), srv->opt->path) != 0)
		evhttp_send_reply(req, 404, "Not Found", NULL);
	else if (!is_local_caller(srv, req))
		evhttp_send_reply(req, 403, "Forbidden", NULL);
	else if (evhttp_request_get_command(req) == EVHTTP_REQ_POST)
		rpc_handle(req);
	else if (evhttp_request_get_command(req) == EVHTTP_REQ_GET)
		handle_get(req);
	else
		evhttp_send_reply(req, 204, "No Content", NULL);
}

static int server_bind(struct server *srv)
{
	struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(srv->http, srv->opt->host, srv->opt->port);
	struct sockaddr_storage addr = { 0 };
	socklen_t len = sizeof(addr);
	int fd, one = 1;

	if (!bound)
		return errno ? -errno : -EADDRNOTAVAIL;
	fd = evhttp_bound_socket_get_fd(bound);
	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		return -errno;
	/* Accepted sockets inherit it; an event must not wait for the acknowledgement of the one before. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): getsockname() has written it. */
	srv->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
						     : ((struct sockaddr_in *)&addr)->sin_port);
	return 0;
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	event_base_loopbreak(arg);
}

static void allow_many_streams(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static int server_run(struct server *srv)
{
	struct event *term = evsignal_new(srv->base, SIGTERM, on_signal, srv->base);
	struct event *intr = evsignal_new(srv->base, SIGINT, on_signal, srv->base);
	bool v6 = strchr(srv->opt->host, ':') != NULL;
	int r = -1;

	if (term && intr && event_add(term, NULL) == 0 && event_add(intr, NULL) == 0) {
		printf("listening on http://%s%s%s:%u%s\n", v6 ? "[" : "", srv->opt->host, v6 ? "]" : "", srv->port,
		       srv->opt->path);
		fflush(stdout);
		r = event_base_dispatch(srv->base);
	}
	if (term)
		event_free(term);
	if (intr)
		event_free(intr);
	return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct options opt = { .host = "127.0.0.1", .path = "/mcp", .port = 9000 };
	struct server srv = { .opt = &opt };
	int r;

	parse_options(argc, argv, &opt);
	signal(SIGPIPE, SIG_IGN);
	allow_many_streams();
	srv.base = event_base_new();
	srv.http = srv.base ? evhttp_new(srv.base) : NULL;
	if (!srv.http)
		return 1;
	evhttp_set_max_body_size(srv.http, BODY_MAX_BYTES);
	evhttp_set_allowed_methods(srv.http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_DELETE);
	evhttp_set_gencb(srv.http, on_request, &srv);
	r = server_bind(&srv);
	if (r < 0) {
		fprintf(stderr, "sample-mcp-server: cannot listen on %s port %u: %s\n", opt.host, opt.port,
			strerror(-r));
		return 1;
	}
	r = server_run(&srv);
	/* Streams that are still open go with the process. */
	return r;
}
