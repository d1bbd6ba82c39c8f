#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/egress.h"
#include "tests/lib/unit.h"

START_TEST(what_is_reached_straight)
{
	static const struct {
		const char *list, *host;
		unsigned port;
		bool straight;
	} t[] = {
	    {NULL, "relay.example", 443, false},
	    {"", "relay.example", 443, false},
	    {NULL, "localhost", 443, true},
	    {"", "127.0.0.1", 443, true},
	    {"", "::1", 443, true},
	    {"*", "relay.example", 443, true},
	    {"relay.example", "relay.example", 443, true},
	    {"RELAY.example", "relay.example", 443, true},
	    {".example", "relay.example", 443, true},
	    {"example", "relay.example", 443, true},
	    {"*.example", "relay.example", 443, true},
	    {"ample", "relay.example", 443, false},
	    {"relay.example.org", "relay.example", 443, false},
	    {"a.test, relay.example", "relay.example", 443, true},
	    {"a.test relay.example", "relay.example", 443, true},
	    {",,  ,", "relay.example", 443, false},
	    {".", "relay.example", 443, false},
	    {"relay.example:443", "relay.example", 443, true},
	    {"relay.example:8443", "relay.example", 443, false},
	    {"192.0.2.7", "192.0.2.7", 443, true},
	    {"192.0.2.7", "192.0.2.70", 443, false},
	    {"192.0.2.7:443", "192.0.2.7", 443, true},
	    {"10.0.0.0/8", "10.255.1.2", 443, true},
	    {"10.0.0.0/8", "11.0.0.1", 443, false},
	    {"10.128.0.0/9", "10.127.0.1", 443, false},
	    {"10.0.0.0/33", "10.0.0.0", 443, false},
	    {"0.0.0.0/0", "10.0.0.0", 443, true},
	    {"0.0.0.0/0", "relay.example", 443, false},
	    {"2001:db8::/32", "2001:db8::7", 443, true},
	    {"[2001:db8::7]:443", "2001:db8::7", 443, true},
	    {"[2001:db8::7]:444", "2001:db8::7", 443, false},
	    {"2001:db8::7", "2001:db8::7", 443, true},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		ck_assert_msg(egress_is_bypassed(t[i].list, t[i].host, (uint16_t)t[i].port) == t[i].straight, "\"%s\" and %s:%u",
			      t[i].list, t[i].host, t[i].port);
}
END_TEST

static void clear_environment(void)
{
	unsetenv("https_proxy");
	unsetenv("HTTPS_PROXY");
	unsetenv("no_proxy");
	unsetenv("NO_PROXY");
}

static int init(struct egress_config *cfg, const char *option, char err[256])
{
	return egress_config_init(cfg, option, NULL, err, 256);
}

START_TEST(the_option)
{
	struct egress_config cfg;
	char err[256];

	clear_environment();
	ck_assert_int_eq(init(&cfg, "auto", err), 0);
	ck_assert_uint_eq(cfg.proxy.scheme, 0);
	setenv("HTTPS_PROXY", "http://proxy.example:3128", 1);
	ck_assert_int_eq(init(&cfg, "none", err), 0);
	ck_assert_uint_eq(cfg.proxy.scheme, 0);
	ck_assert_int_eq(init(&cfg, "http://other.example:8080/", err), 0);
	ck_assert_str_eq(cfg.proxy.host, "other.example");
	ck_assert_ptr_null(cfg.no_proxy);
	egress_config_done(&cfg);
	ck_assert_int_eq(init(&cfg, "https://other.example:8080", err), -EINVAL);
	ck_assert_int_eq(init(&cfg, "http://u:secret@other.example:8080", err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "--proxy-auth-file"));
	ck_assert_ptr_null(strstr(err, "secret"));
}
END_TEST

START_TEST(the_environment)
{
	struct egress_config cfg;
	char err[256];

	clear_environment();
	setenv("HTTPS_PROXY", "http://upper.example:3128", 1);
	setenv("NO_PROXY", "a.test", 1);
	setenv("https_proxy", "http://a%40b:p%3aw@lower.example:3128/", 1);
	ck_assert_int_eq(init(&cfg, "auto", err), 0);
	ck_assert_str_eq(cfg.proxy.authority, "lower.example:3128");
	ck_assert_str_eq(cfg.env_credentials, "a@b:p:w");
	ck_assert_str_eq(cfg.no_proxy, "a.test");
	egress_config_done(&cfg);
	ck_assert_ptr_null(cfg.env_credentials);
	setenv("https_proxy", "bare.example:3128", 1);
	ck_assert_int_eq(init(&cfg, "auto", err), 0);
	ck_assert_str_eq(cfg.proxy.authority, "bare.example:3128");
	egress_config_done(&cfg);
	setenv("https_proxy", "socks5://bare.example:3128", 1);
	ck_assert_int_eq(init(&cfg, "auto", err), -EINVAL);
	setenv("https_proxy", "http://u:%0a@bare.example:3128", 1);
	ck_assert_int_eq(init(&cfg, "auto", err), -EINVAL);
	ck_assert_ptr_null(cfg.env_credentials);
	clear_environment();
}
END_TEST

/* ---- a proxy of one connection ---- */

struct proxy_case {
	struct loop *loop;
	int listener, peer;
	const char *answer;
	size_t answer_at;
	char request[1024];
	size_t n;
	struct event *accepting, *reading;
	int fd;
	enum dial_error err;
	char detail[256];
	bool over;
};

static void on_request(evutil_socket_t fd, short what, void *user)
{
	struct proxy_case *p = user;
	ssize_t n = recv(fd, p->request + p->n, sizeof(p->request) - 1 - p->n, 0);

	ck_assert_int_gt(n, 0);
	p->n += (size_t)n;
	if (!strstr(p->request, "\r\n\r\n"))
		return;
	event_del(p->reading);
	if (p->answer)
		ck_assert_int_gt(send(fd, p->answer, strlen(p->answer), 0), 0);
	else
		shutdown(fd, SHUT_RDWR);
}

static void on_accept(evutil_socket_t fd, short what, void *user)
{
	struct proxy_case *p = user;

	p->peer = accept(fd, NULL, NULL);
	ck_assert_int_ge(p->peer, 0);
	p->reading = event_new(loop_base(p->loop), p->peer, EV_READ | EV_PERSIST, on_request, p);
	event_add(p->reading, NULL);
}

static void on_over(void *user, int take_fd, enum dial_error err, int error, const char *detail)
{
	struct proxy_case *p = user;

	p->fd = take_fd;
	p->err = err;
	p->over = true;
	snprintf(p->detail, sizeof(p->detail), "%s", detail);
	loop_stop(p->loop);
}

static void run_proxy(struct proxy_case *p, const char *answer, const char *auth_file, uint64_t timeout_ms)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct dial_target target = { .host = "relay.example", .port = 443, .timeout_ms = timeout_ms };
	socklen_t len = sizeof(sa);
	struct egress_config cfg;
	struct egress *e;
	char option[64], err[256];

	*p = (struct proxy_case){ .answer = answer, .fd = -1, .peer = -1 };
	ck_assert_int_eq(loop_new(&p->loop), 0);
	p->listener = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(p->listener, (struct sockaddr *)&sa, len), 0);
	ck_assert_int_eq(listen(p->listener, 1), 0);
	ck_assert_int_eq(getsockname(p->listener, (struct sockaddr *)&sa, &len), 0);
	p->accepting = event_new(loop_base(p->loop), p->listener, EV_READ, on_accept, p);
	event_add(p->accepting, NULL);
	snprintf(option, sizeof(option), "http://127.0.0.1:%u", ntohs(sa.sin_port));
	ck_assert_int_eq(egress_config_init(&cfg, option, auth_file, err, sizeof(err)), 0);
	ck_assert_int_eq(egress_start(p->loop, &cfg, &target, on_over, p, &e), 0);
	ck_assert_int_eq(loop_run(p->loop), 0);
	ck_assert(p->over);
	egress_config_done(&cfg);
	event_free(p->accepting);
	if (p->reading)
		event_free(p->reading);
	if (p->fd >= 0)
		close(p->fd);
	if (p->peer >= 0)
		close(p->peer);
	close(p->listener);
	p->loop = loop_free(p->loop);
}

START_TEST(a_tunnel)
{
	struct proxy_case p;

	run_proxy(&p, "HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\n\r\n", NULL, 10000);
	ck_assert_int_eq(p.err, DIAL_OK);
	ck_assert_int_ge(p.fd, 0);
	ck_assert_str_eq(p.request, "CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n\r\n");
}
END_TEST

START_TEST(an_interim_answer_first)
{
	struct proxy_case p;

	run_proxy(&p, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", NULL, 10000);
	ck_assert_int_eq(p.err, DIAL_OK);
}
END_TEST

START_TEST(credentials)
{
	char path[] = "/tmp/mcp-tunnel-egress-XXXXXX";
	int fd = mkstemp(path);
	struct proxy_case p;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "Aladdin:open sesame\n", 20), 20);
	run_proxy(&p, "HTTP/1.1 200 OK\r\n\r\n", path, 10000);
	ck_assert_int_eq(p.err, DIAL_OK);
	ck_assert_ptr_nonnull(strstr(p.request, "\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"));
	ck_assert_int_eq(fchmod(fd, 0644), 0);
	run_proxy(&p, "HTTP/1.1 200 OK\r\n\r\n", path, 10000);
	ck_assert_int_eq(p.err, DIAL_PROXY);
	ck_assert_ptr_nonnull(strstr(p.detail, path));
	close(fd);
	unlink(path);
}
END_TEST

START_TEST(refusals)
{
	static const struct {
		const char *answer, *detail;
	} t[] = {
	    {"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "--proxy-auth-file"},
	    {"HTTP/1.1 403 Forbidden\r\n\r\n", "it refuses a connection to relay.example:443: 403 Forbidden"},
	    {"HTTP/1.1 200 OK\r\n\r\nhello", "bytes behind its answer"},
	    {"SSH-2.0-x\r\n\r\n", "is not HTTP"},
	    {NULL, "closed the connection"},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct proxy_case p;

		run_proxy(&p, t[i].answer, NULL, 10000);
		ck_assert_int_eq(p.err, DIAL_PROXY);
		ck_assert_int_eq(p.fd, -1);
		ck_assert_msg(strstr(p.detail, t[i].detail) && strstr(p.detail, "proxy 127.0.0.1:"), "%s", p.detail);
	}
}
END_TEST

START_TEST(a_proxy_that_says_nothing)
{
	struct proxy_case p;

	run_proxy(&p, "HTTP/1.1 200", NULL, 50);
	ck_assert_int_eq(p.err, DIAL_TIMEOUT);
}
END_TEST

UNIT_MAIN("egress", ADD(what_is_reached_straight) ADD(the_option) ADD(the_environment) ADD(a_tunnel)
	  ADD(an_interim_answer_first) ADD(credentials) ADD(refusals) ADD(a_proxy_that_says_nothing))
