#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/dial.h"
#include "daemon/listen.h"
#include "daemon/resolve.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/unit.h"

/* An empty label: no name server is asked, so that the answer does not depend on the network. */
#define NO_HOST "no..host"

static struct loop *loop;
static char dir[64];
static int accepted[128];
static size_t n_accepted;

struct outcome {
	unsigned calls;
	int fd;
	enum dial_error err;
	int error;
	char detail[512];
	int gai_error;
	size_t n;
	struct resolve_addr first;
};

static struct outcome out;

static void on_deadline(evutil_socket_t fd, short what, void *user)
{
	ck_abort_msg("stuck");
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "%s", "/tmp/test_dial.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(loop_new(&loop), 0);
	event_base_once(loop_base(loop), -1, EV_TIMEOUT, on_deadline, NULL, &(struct timeval){ .tv_sec = 60 });
	out = (struct outcome){ .fd = -1 };
	n_accepted = 0;
}

static void teardown(void)
{
	loop = loop_free(loop);
	rmdir(dir);
	if (out.fd >= 0)
		close(out.fd);
	for (size_t i = 0; i < n_accepted; i++)
		close(accepted[i]);
}

static void on_accepted(void *user, int fd)
{
	ck_assert_uint_lt(n_accepted, ARRAY_LEN(accepted));
	accepted[n_accepted++] = fd;
	if (user)
		loop_stop(loop);
}

static void on_dialled(void *user, int fd, enum dial_error err, int error, const char *detail)
{
	out.calls++;
	out.fd = fd;
	out.err = err;
	out.error = error;
	snprintf(out.detail, sizeof(out.detail), "%s", detail);
	loop_stop(loop);
}

static void on_resolved(void *user, int gai_error, const struct resolve_addr *addrs, size_t n)
{
	out.calls++;
	out.gai_error = gai_error;
	out.n = n;
	if (n)
		out.first = addrs[0];
	loop_stop(loop);
}

static void run(void)
{
	ck_assert_int_eq(loop_run(loop), 0);
}

static void run_ms(unsigned ms)
{
	loop_ms(loop, ms);
}

static void run_until_accepted(size_t n)
{
	for (unsigned i = 0; i < 3000 && n_accepted < n; i++)
		run_ms(5);
	ck_assert_uint_eq(n_accepted, n);
}

static void dial(const char *host, uint16_t port, uint64_t timeout_ms)
{
	struct dial_target t = { .host = host, .port = port, .timeout_ms = timeout_ms };
	struct dial *d;

	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), 0);
	ck_assert_uint_eq(out.calls, 0);
	run();
	ck_assert_uint_eq(out.calls, 1);
}

/* A port on which nobody listens, below the ephemeral range or not: taken and not listened on. */
static uint16_t dead_port(int family, int *ret_fd)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr *sa = family == AF_INET ? (struct sockaddr *)&in : (struct sockaddr *)&in6;
	socklen_t len = family == AF_INET ? sizeof(in) : sizeof(in6);

	*ret_fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(*ret_fd, sa, len), 0);
	getsockname(*ret_fd, sa, &len);
	return ntohs(family == AF_INET ? in.sin_port : in6.sin6_port);
}

START_TEST(literal)
{
	struct listener *ln;
	int value = 0;
	socklen_t len = sizeof(value);

	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, on_accepted, NULL, &ln), 0);
	ck_assert_uint_ne(listener_port(ln), 0);
	dial("127.0.0.1", listener_port(ln), 5000);
	ck_assert_int_eq(out.err, DIAL_OK);
	ck_assert_int_ge(out.fd, 0);
	ck_assert(fcntl(out.fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(out.fd, F_GETFD) & FD_CLOEXEC);
	getsockopt(out.fd, IPPROTO_TCP, TCP_NODELAY, &value, &len);
	ck_assert_int_ne(value, 0);
	run_until_accepted(1);
	ck_assert(fcntl(accepted[0], F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(accepted[0], F_GETFD) & FD_CLOEXEC);
	value = 0;
	getsockopt(accepted[0], IPPROTO_TCP, TCP_NODELAY, &value, &len);
	ck_assert_int_ne(value, 0);
	listener_free(ln);
}
END_TEST

START_TEST(localhost_on_either_family)
{
	static const char *const addrs[] = { "127.0.0.1", "::1" };
	struct listener *ln;

	if (listen_tcp(loop, addrs[_i], 0, on_accepted, NULL, &ln) == -EADDRNOTAVAIL)
		return; /* no IPv6 here */
	dial("localhost", listener_port(ln), 5000);
	ck_assert_msg(out.err == DIAL_OK, "%s", out.detail);
	listener_free(ln);
}
END_TEST

START_TEST(refused)
{
	int held;
	uint16_t port = dead_port(AF_INET, &held);
	char want[128];

	dial("127.0.0.1", port, 5000);
	ck_assert_int_eq(out.err, DIAL_CONNECT);
	ck_assert_int_eq(out.error, ECONNREFUSED);
	ck_assert_int_eq(out.fd, -1);
	snprintf(want, sizeof(want), "cannot connect to 127.0.0.1:%u: Connection refused", port);
	ck_assert_str_eq(out.detail, want);
	close(held);
}
END_TEST

START_TEST(unknown_name)
{
	dial(NO_HOST, 443, 30000);
	ck_assert_int_eq(out.err, DIAL_RESOLVE);
	ck_assert_int_ne(out.error, 0);
	ck_assert_msg(strncmp(out.detail, "cannot resolve " NO_HOST ": ", strlen("cannot resolve " NO_HOST ": ")) == 0, "%s", out.detail);
}
END_TEST

static bool allow_none(void *user, const struct sockaddr *sa)
{
	++*(unsigned *)user;
	return false;
}

static bool allow_v4(void *user, const struct sockaddr *sa)
{
	return sa->sa_family == AF_INET;
}

START_TEST(policy)
{
	unsigned asked = 0;
	struct dial_target t = { "localhost", 9, NULL, 1000, allow_none, &asked };
	struct dial *d;

	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), 0);
	run();
	ck_assert_int_eq(out.err, DIAL_REFUSED_BY_POLICY);
	ck_assert_str_eq(out.detail, "no address of localhost is allowed");
	ck_assert_uint_eq(asked, 2);
}
END_TEST

START_TEST(policy_leaves_some)
{
	struct dial_target t = { .host = "localhost", .timeout_ms = 5000, .allow = allow_v4 };
	struct listener *ln;
	struct dial *d;

	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, on_accepted, NULL, &ln), 0);
	t.port = listener_port(ln);
	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), 0);
	run();
	ck_assert_int_eq(out.err, DIAL_OK);
	listener_free(ln);
}
END_TEST

/* A listener whose queue is full drops SYNs: connecting to it hangs. */
static uint16_t hanging_port(int *ret_fd, int *fill, size_t n)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);

	*ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(*ret_fd, (struct sockaddr *)&in, len), 0);
	ck_assert_int_eq(listen(*ret_fd, 0), 0);
	getsockname(*ret_fd, (struct sockaddr *)&in, &len);
	for (size_t i = 0; i < n; i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(fill[i], (struct sockaddr *)&in, len);
	}
	usleep(10000);
	return ntohs(in.sin_port);
}

START_TEST(timeout)
{
	int fd, fill[4];
	uint16_t port = hanging_port(&fd, fill, ARRAY_LEN(fill));
	uint64_t t0 = clock_now_us();

	dial("127.0.0.1", port, 300);
	ck_assert_int_eq(out.err, DIAL_TIMEOUT);
	ck_assert_int_eq(out.fd, -1);
	ck_assert_str_eq(out.detail, "cannot connect to 127.0.0.1 within 300 ms");
	ck_assert_uint_ge(clock_now_us() - t0, 290000);
	ck_assert_uint_lt(clock_now_us() - t0, 2000000);
	close(fd);
	for (size_t i = 0; i < ARRAY_LEN(fill); i++)
		close(fill[i]);
}
END_TEST

START_TEST(next_family_while_the_first_hangs)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct listener *ln;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	int fill[4];
	uint64_t t0;

	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, on_accepted, NULL, &ln), 0);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	in6.sin6_port = htons(listener_port(ln));
	if (bind(fd, (struct sockaddr *)&in6, sizeof(in6)) < 0) {
		close(fd);
		listener_free(ln);
		return; /* no IPv6 here, or the port is taken */
	}
	ck_assert_int_eq(listen(fd, 0), 0);
	for (size_t i = 0; i < ARRAY_LEN(fill); i++) {
		fill[i] = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(fill[i], (struct sockaddr *)&in6, sizeof(in6));
	}
	usleep(10000);
	t0 = clock_now_us();
	dial("localhost", listener_port(ln), 5000);
	ck_assert_int_eq(out.err, DIAL_OK);
	ck_assert_uint_ge(clock_now_us() - t0, 240000);
	ck_assert_uint_lt(clock_now_us() - t0, 900000);
	listener_free(ln);
	close(fd);
	for (size_t i = 0; i < ARRAY_LEN(fill); i++)
		close(fill[i]);
}
END_TEST

START_TEST(cancel)
{
	struct dial_target literal_target = { .host = "127.0.0.1", .port = 9, .timeout_ms = 1000 };
	struct dial_target name_target = { .host = NO_HOST, .port = 9, .timeout_ms = 1000 };
	struct dial *d;

	ck_assert_int_eq(dial_start(loop, &literal_target, on_dialled, NULL, &d), 0);
	dial_cancel(d);
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(dial_start(loop, &name_target, on_dialled, NULL, &d), 0);
		dial_cancel(d);
	}
	dial_cancel(NULL);
	run_ms(200);
	ck_assert_uint_eq(out.calls, 0);
}
END_TEST

START_TEST(bad_targets)
{
	struct dial_target t = { .timeout_ms = 1000 };
	char path[200];
	struct dial *d;

	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), -EINVAL);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = 0;
	t.unix_path = path;
	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), -EINVAL);
	t.unix_path = NULL;
	t.host = "";
	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), -EINVAL);
	run_ms(5);
	ck_assert_uint_eq(out.calls, 0);
}
END_TEST

START_TEST(resolve_many)
{
	struct resolve *r[40];

	for (size_t i = 0; i < ARRAY_LEN(r); i++)
		ck_assert_int_eq(resolve_start(loop, NO_HOST, 1, on_resolved, NULL, &r[i]), 0);
	ck_assert_uint_eq(out.calls, 0);
	resolve_cancel(r[3]);
	resolve_cancel(r[39]);
	while (out.calls < ARRAY_LEN(r) - 2)
		run();
	ck_assert_int_ne(out.gai_error, 0);
}
END_TEST

START_TEST(resolve_literals)
{
	static const char *const hosts[] = { "192.0.2.1", "2001:db8::1" };
	static const int families[] = { AF_INET, AF_INET6 };
	struct resolve *r;

	ck_assert_int_eq(resolve_start(loop, hosts[_i], 443, on_resolved, NULL, &r), 0);
	run();
	ck_assert_int_eq(out.gai_error, 0);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_int_eq(out.first.sa.ss_family, families[_i]);
}
END_TEST

static const char *sock_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/s", dir);
	return path;
}

START_TEST(unix_socket)
{
	struct dial_target t = { .unix_path = sock_path(), .timeout_ms = 1000 };
	struct listener *ln, *second;
	struct stat st;
	struct dial *d;
	mode_t old = umask(0077);

	ck_assert_int_eq(listen_unix(loop, sock_path(), on_accepted, NULL, &ln), 0);
	umask(old);
	ck_assert_int_eq(stat(sock_path(), &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0660);
	ck_assert_uint_eq(listener_port(ln), 0);
	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), 0);
	run();
	ck_assert_int_eq(out.err, DIAL_OK);
	ck_assert_int_eq(listen_unix(loop, sock_path(), on_accepted, NULL, &second), -EADDRINUSE);
	listener_free(ln);
	ck_assert_int_lt(stat(sock_path(), &st), 0);
	ck_assert_int_eq(errno, ENOENT);
}
END_TEST

START_TEST(unix_missing)
{
	struct dial_target t = { .unix_path = sock_path(), .timeout_ms = 1000 };
	struct dial *d;
	char want[256];

	ck_assert_int_eq(dial_start(loop, &t, on_dialled, NULL, &d), 0);
	run();
	ck_assert_int_eq(out.err, DIAL_CONNECT);
	ck_assert_int_eq(out.error, ENOENT);
	snprintf(want, sizeof(want), "cannot connect to unix:%s: No such file or directory", sock_path());
	ck_assert_str_eq(out.detail, want);
}
END_TEST

START_TEST(unix_stale)
{
	struct listener *ln, *again;
	char moved[160];
	struct stat st;
	int fd;

	/* Moved away, so that freeing leaves it behind, as a crash would. */
	ck_assert_int_eq(listen_unix(loop, sock_path(), on_accepted, NULL, &ln), 0);
	snprintf(moved, sizeof(moved), "%s.moved", sock_path());
	ck_assert_int_eq(rename(sock_path(), moved), 0);
	listener_free(ln);
	ck_assert_int_eq(rename(moved, sock_path()), 0);
	ck_assert_int_eq(listen_unix(loop, sock_path(), on_accepted, NULL, &again), 0);
	listener_free(again);
	/* What is not a socket is not ours to remove. */
	fd = open(sock_path(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	ck_assert_int_eq(listen_unix(loop, sock_path(), on_accepted, NULL, &again), -EADDRINUSE);
	ck_assert_int_eq(stat(sock_path(), &st), 0);
	unlink(sock_path());
}
END_TEST

START_TEST(listen_errors)
{
	struct listener *ln, *second;
	char path[200];

	ck_assert_int_eq(listen_tcp(loop, "relay.example", 0, on_accepted, NULL, &ln), -EINVAL);
	ck_assert_int_eq(listen_tcp(loop, "", 0, on_accepted, NULL, &ln), -EINVAL);
	ck_assert_int_eq(listen_tcp(loop, "192.0.2.1", 0, on_accepted, NULL, &ln), -EADDRNOTAVAIL);
	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, on_accepted, NULL, &ln), 0);
	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", listener_port(ln), on_accepted, NULL, &second), -EADDRINUSE);
	listener_free(ln);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = 0;
	ck_assert_int_eq(listen_unix(loop, path, on_accepted, NULL, &ln), -ENAMETOOLONG);
	ck_assert_int_eq(listen_unix(loop, "", on_accepted, NULL, &ln), -EINVAL);
}
END_TEST

static unsigned logged;

static void count_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	logged++;
	ck_assert_ptr_nonnull(strstr(message, "cannot accept connections: Too many open files"));
}

START_TEST(out_of_descriptors)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct rlimit old, low;
	struct rusage before, after;
	struct listener *ln;
	int fd, next;

	log_set_sink(count_log, NULL);
	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, on_accepted, NULL, &ln), 0);
	in.sin_port = htons(listener_port(ln));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &old);
	low = (struct rlimit){ (rlim_t)next, old.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
	getrusage(RUSAGE_SELF, &before);
	run_ms(450);
	getrusage(RUSAGE_SELF, &after);
	ck_assert_uint_eq(n_accepted, 0);
	ck_assert_uint_eq(logged, 1);
	ck_assert_int_lt(after.ru_stime.tv_sec * 1000000 + after.ru_stime.tv_usec - before.ru_stime.tv_sec * 1000000 -
				 before.ru_stime.tv_usec,
			 100000);
	setrlimit(RLIMIT_NOFILE, &old);
	run_until_accepted(1);
	close(fd);
	listener_free(ln);
	log_set_sink(NULL, NULL);
}
END_TEST

static void free_on_accept(void *user, int fd)
{
	struct listener **ln = user;

	n_accepted++;
	close(fd);
	*ln = listener_free(*ln);
}

START_TEST(free_from_the_callback)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct listener *ln;
	int fd[3];

	ck_assert_int_eq(listen_tcp(loop, "127.0.0.1", 0, free_on_accept, &ln, &ln), 0);
	in.sin_port = htons(listener_port(ln));
	for (int i = 0; i < 3; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ck_assert_int_eq(connect(fd[i], (struct sockaddr *)&in, sizeof(in)), 0);
	}
	run_until_accepted(1);
	run_ms(20);
	ck_assert_uint_eq(n_accepted, 1);
	n_accepted = 0;
	ck_assert_ptr_null(ln);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
}
END_TEST

UNIT_MAIN("dial", tcase_add_checked_fixture(tc, setup, teardown);
	  ADD(literal) tcase_add_loop_test(tc, localhost_on_either_family, 0, 2);
	  ADD(refused) ADD(unknown_name) ADD(policy) ADD(policy_leaves_some) ADD(timeout)
	  ADD(next_family_while_the_first_hangs)
	  ADD(cancel) ADD(bad_targets) ADD(resolve_many) tcase_add_loop_test(tc, resolve_literals, 0, 2);
	  ADD(unix_socket) ADD(unix_missing) ADD(unix_stale) ADD(listen_errors) ADD(out_of_descriptors)
	  ADD(free_from_the_callback))
