#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/health.h"
#include "tests/lib/unit.h"

static bool is_ready;
static int metrics_result;
static char logged[200];

static bool ready(void *user, struct buf *out)
{
	buf_printf(out, "{\"ready\":%s,\"tunnel\":\"%s\"}", is_ready ? "true" : "false", (const char *)user);
	return is_ready;
}

static int metrics(void *user, struct buf *out)
{
	buf_add_str(out, "mcp_tunnel_calls_total 42\n");
	return metrics_result;
}

static const struct health_ops ops = { ready, metrics, NULL, NULL };

static char canaries[200];
static int canary_result;

static int canary(void *user, struct span nonce)
{
	snprintf(canaries + strlen(canaries), sizeof(canaries) - strlen(canaries), "%.*s ", SPAN_FMT(nonce));
	return canary_result;
}

static const struct health_ops ops_with_canary = { ready, metrics, canary, NULL };

static int status_result;

static int status(void *user, bool table, struct buf *out)
{
	buf_add_str(out, table ? "TUNNEL  acme\n" : "{\"tunnels\":[]}\n");
	return status_result;
}

static const struct health_ops ops_with_status = { ready, metrics, NULL, status };

static void sink(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	snprintf(logged, sizeof(logged), "%s", message);
}

static int dial_port(uint16_t port)
{
	struct sockaddr_in sa = {
	    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static int dial_path(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* One request, the whole answer; the server closes because the request says so. headers: whole lines. */
static const char *ask_with(struct event_base *base, int fd, const char *method, const char *path, const char *headers)
{
	static char answer[4096];
	char req[512];
	size_t n = 0;

	n = (size_t)snprintf(req, sizeof(req),
			     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n%s\r\n", method,
			     path, headers);
	ck_assert_int_eq(write(fd, req, n), (ssize_t)n);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	n = 0;
	for (int i = 0; i < 100000 && n + 1 < sizeof(answer); i++) {
		ssize_t got;

		event_base_loop(base, EVLOOP_NONBLOCK);
		got = read(fd, answer + n, sizeof(answer) - 1 - n);
		if (got == 0)
			break;
		if (got > 0)
			n += (size_t)got;
	}
	answer[n] = '\0';
	close(fd);
	return answer;
}

static const char *ask(struct event_base *base, int fd, const char *method, const char *path)
{
	return ask_with(base, fd, method, path, "");
}

static void expect(const char *answer, const char *a, const char *b)
{
	ck_assert_msg(strstr(answer, a) && strstr(answer, b), "%s", answer);
}

START_TEST(tcp)
{
	struct event_base *base = event_base_new();
	struct health *h = NULL;
	char err[200] = "";
	uint16_t port;

	log_set_sink(sink, NULL);
	ck_assert_msg(health_start(base, "127.0.0.1:0", &ops, (void *)"acme", err, sizeof(err), &h) == 0, "%s", err);
	port = health_port(h);
	ck_assert_uint_ne(port, 0);
	snprintf(err, sizeof(err), "health on http://127.0.0.1:%u", port);
	ck_assert_str_eq(logged, err);

	expect(ask(base, dial_port(port), "GET", "/healthz"), "HTTP/1.1 200 ", "\r\n\r\n{\"status\":\"ok\"}");
	is_ready = false;
	expect(ask(base, dial_port(port), "GET", "/readyz"), "HTTP/1.1 503 ", "{\"ready\":false,\"tunnel\":\"acme\"}");
	is_ready = true;
	expect(ask(base, dial_port(port), "GET", "/readyz?verbose"), "HTTP/1.1 200 ", "{\"ready\":true");
	expect(ask(base, dial_port(port), "GET", "/metrics"), "openmetrics-text; version=1.0.0",
	       "\r\n\r\nmcp_tunnel_calls_total 42\n# EOF\n");
	expect(ask_with(base, dial_port(port), "GET", "/metrics", "Accept: text/plain\r\n"), "text/plain; version=0.0.4",
	       "\r\n\r\nmcp_tunnel_calls_total 42\n");
	ck_assert_ptr_null(strstr(ask_with(base, dial_port(port), "GET", "/metrics", "Accept: text/plain\r\n"), "EOF"));
	expect(ask_with(base, dial_port(port), "GET", "/metrics", "Accept: text/plain;q=0.5,application/openmetrics-text\r\n"),
	       "openmetrics-text; version=1.0.0", "\n# EOF\n");
	metrics_result = -ENOBUFS;
	expect(ask(base, dial_port(port), "GET", "/metrics"), "HTTP/1.1 500 ", "{\"error\":");
	expect(ask(base, dial_port(port), "GET", "/"), "HTTP/1.1 404 ", "{\"error\":");
	expect(ask(base, dial_port(port), "GET", "/healthz/"), "HTTP/1.1 404 ", "application/json");
	expect(ask(base, dial_port(port), "POST", "/healthz"), "HTTP/1.1 405 ", "Allow: GET, HEAD");
	expect(ask(base, dial_port(port), "HEAD", "/healthz"), "HTTP/1.1 200 ", "Content-Length: 16\r\n");
	ck_assert_ptr_null(strstr(ask(base, dial_port(port), "HEAD", "/healthz"), "status"));

	snprintf(logged, sizeof(logged), "127.0.0.1:%u", port);
	ck_assert_int_eq(health_start(base, logged, &ops, NULL, err, sizeof(err), &h), -EADDRINUSE);
	ck_assert_msg(strstr(err, logged) && strstr(err, "in use"), "%s", err);
	ck_assert_ptr_null(health_stop(h));
	ck_assert_ptr_null(health_stop(NULL));
	event_base_free(base);
}
END_TEST

START_TEST(unix_socket)
{
	struct event_base *base = event_base_new();
	struct health *h = NULL, *second = NULL;
	char dir[] = "/tmp/test_health.XXXXXX", path[100], err[200] = "";
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct stat st;
	int stale;

	log_set_sink(sink, NULL);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "unix:%s/health.sock", dir);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path + 5);
	stale = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(stale, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(stale);

	ck_assert_msg(health_start(base, path, &ops, (void *)"x", err, sizeof(err), &h) == 0, "%s", err);
	ck_assert_int_eq(stat(path + 5, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0660);
	expect(ask(base, dial_path(path + 5), "GET", "/healthz"), "HTTP/1.1 200 ", "ok");
	ck_assert_int_eq(health_start(base, path, &ops, NULL, err, sizeof(err), &second), -EADDRINUSE);
	/* The refused one left the first one's file alone. */
	expect(ask(base, dial_path(path + 5), "GET", "/healthz"), "HTTP/1.1 200 ", "ok");
	health_stop(h);
	ck_assert_int_eq(access(path + 5, F_OK), -1);
	ck_assert_int_eq(health_start(base, "nonsense", &ops, NULL, err, sizeof(err), &h), -EINVAL);
	event_base_free(base);
	rmdir(dir);
}
END_TEST

#define NONCE "00112233445566778899aabbccddeeff"
#define NONCE_LINE HEALTH_NONCE_HEADER ": " NONCE "\r\n"

START_TEST(canary_record)
{
	static const char *const bad[] = { "", HEALTH_NONCE_HEADER ": 0123\r\n",
					   HEALTH_NONCE_HEADER ": 00112233445566778899AABBCCDDEEFF\r\n",
					   HEALTH_NONCE_HEADER ": " NONCE NONCE "0\r\n" };
	struct event_base *base = event_base_new();
	struct health *h = NULL;
	char err[200] = "";
	int refused = 0;
	uint16_t port;

	log_set_sink(sink, NULL);
	ck_assert_int_eq(health_start(base, "127.0.0.1:0", &ops, (void *)"x", err, sizeof(err), &h), 0);
	expect(ask_with(base, dial_port(health_port(h)), "POST", HEALTH_CANARY_PATH, NONCE_LINE), "HTTP/1.1 404 ", "");
	health_stop(h);
	ck_assert_int_eq(health_start(base, "127.0.0.1:0", &ops_with_canary, (void *)"x", err, sizeof(err), &h), 0);
	port = health_port(h);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		expect(ask_with(base, dial_port(port), "POST", HEALTH_CANARY_PATH, bad[i]), "HTTP/1.1 400 ", "16 to 64");
	expect(ask_with(base, dial_port(port), "GET", HEALTH_CANARY_PATH, NONCE_LINE), "HTTP/1.1 405 ", "Allow: POST");
	expect(ask_with(base, dial_port(port), "POST", HEALTH_CANARY_PATH, NONCE_LINE "Origin: http://evil.example\r\n"),
	       "HTTP/1.1 403 ", "web pages");
	ck_assert_str_eq(canaries, "");
	expect(ask_with(base, dial_port(port), "POST", HEALTH_CANARY_PATH, NONCE_LINE), "HTTP/1.1 200 ",
	       "\r\n\r\n{\"nonce\":\"" NONCE "\"}");
	ck_assert_str_eq(canaries, NONCE " ");
	canary_result = -EAGAIN;
	expect(ask_with(base, dial_port(port), "POST", HEALTH_CANARY_PATH, NONCE_LINE), "HTTP/1.1 503 ", "sink");
	for (int i = 0; i < 10; i++)
		refused += strstr(ask_with(base, dial_port(port), "POST", HEALTH_CANARY_PATH, NONCE_LINE), " 429 ") != NULL;
	ck_assert_int_ge(refused, 5);
	health_stop(h);
	event_base_free(base);
}
END_TEST

START_TEST(state_in_detail)
{
	struct event_base *base = event_base_new();
	struct health *h = NULL, *without = NULL;
	char err[200] = "";
	uint16_t port;

	ck_assert_int_eq(health_start(base, "127.0.0.1:0", &ops_with_status, (void *)"acme", err, sizeof(err), &h), 0);
	ck_assert_int_eq(health_start(base, "127.0.0.1:0", &ops, (void *)"acme", err, sizeof(err), &without), 0);
	port = health_port(h);
	/* ask_with() says "Host: x", which could be a web page's name for this machine. */
	expect(ask(base, dial_port(port), "GET", "/status"), "HTTP/1.1 403 ", "not for web pages");
	expect(ask(base, dial_port(port), "GET", "http://127.0.0.1/status"), "HTTP/1.1 200 ", "{\"tunnels\":[]}");
	expect(ask(base, dial_port(port), "GET", "http://localhost:1/status.txt"), "text/plain", "TUNNEL  acme");
	expect(ask(base, dial_port(port), "GET", "http://[::1]:1/status.txt"), "HTTP/1.1 200 ", "TUNNEL  acme");
	expect(ask(base, dial_port(port), "GET", "http://127.0.0.1.evil.example/status"), "HTTP/1.1 403 ", "");
	expect(ask_with(base, dial_port(port), "GET", "http://127.0.0.1/status", "Origin: http://127.0.0.1\r\n"), "HTTP/1.1 403 ", "");
	expect(ask(base, dial_port(port), "POST", "http://127.0.0.1/status"), "HTTP/1.1 405 ", "Allow: GET, HEAD");
	status_result = -ENOBUFS;
	expect(ask(base, dial_port(port), "GET", "http://127.0.0.1/status"), "HTTP/1.1 500 ", "does not fit");
	expect(ask(base, dial_port(health_port(without)), "GET", "http://127.0.0.1/status"), "HTTP/1.1 404 ", "");
	health_stop(h);
	health_stop(without);
	event_base_free(base);
}
END_TEST

UNIT_MAIN("health", ADD(state_in_detail) ADD(tcp) ADD(unix_socket) ADD(canary_record))
