#include "tests/lib/channel_pair.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/loop_ms.h"

static char dir[64];
struct tls_context *client_tls, *server_tls;

uint8_t pattern(uint64_t seed, uint64_t i)
{
	return (uint8_t)((i * UINT64_C(2654435761) >> 13) ^ i ^ seed);
}

static void on_open(void *user)
{
	struct end *e = user;

	e->n_open++;
	if (e->on_open_hook)
		e->on_open_hook(e);
}

static void pause_a_moment(struct end *e)
{
	struct timeval tv = { .tv_usec = 500 };

	channel_pause(e->ch, true);
	event_add(e->resume, &tv);
}

static void on_resume(evutil_socket_t fd, short what, void *user)
{
	struct end *e = user;

	if (e->ch)
		channel_pause(e->ch, false);
}

static void on_data(void *user, uint8_t *data, size_t len)
{
	struct end *e = user;

	ck_assert_uint_gt(len, 0);
	ck_assert_uint_le(len, LOOP_RX_BYTES);
	e->n_data++;
	e->largest = MAX(e->largest, len);
	for (size_t i = 0; i < len; i++)
		if (data[i] != pattern(e->rx_state, e->received + i))
			ck_abort_msg("byte %llu differs", (unsigned long long)(e->received + i));
	e->received += len;
	if (e->on_data_hook)
		e->on_data_hook(e);
	else if (e->pause_every && e->n_data % e->pause_every == 0)
		pause_a_moment(e);
	if (e->stop_when_received && e->received >= e->expect)
		loop_stop(e->loop);
}

static size_t on_pull(void *user, uint8_t *dst, size_t room)
{
	struct end *e = user;
	size_t n;

	if (e->on_pull_hook)
		e->on_pull_hook(e);
	n = MIN(room, e->to_send - e->sent);
	if (e->chunk)
		n = MIN(n, 1 + e->sent % e->chunk);
	for (size_t i = 0; i < n; i++)
		dst[i] = pattern(e->tx_state, e->sent + i);
	e->sent += n;
	if (n && e->sent < e->to_send && n < room && e->ch)
		channel_want_write(e->ch);
	return n;
}

static void on_flushed(void *user)
{
	struct end *e = user;

	e->n_flushed++;
	if (e->close_when_sent && e->sent == e->to_send) {
		channel_close(e->ch, e->linger_ms);
		e->ch = NULL;
	}
}

static void on_closed(void *user, enum channel_end how, int error, const char *detail)
{
	struct end *e = user;

	e->n_closed++;
	e->how = how;
	e->error = error;
	snprintf(e->detail, sizeof(e->detail), "%s", detail);
	e->ch = NULL;
	if (e->stop_when_closed)
		loop_stop(e->loop);
}

const struct channel_ops end_ops = { on_open, on_data, on_pull, on_flushed, on_closed };

static void cert(const char *name, const char *san, const char *issuer, long from_s, long to_s)
{
	struct cert_spec spec = { dir, name, san, issuer, !issuer, from_s, to_s };

	ck_assert_int_eq(cert_make(&spec), 0);
}

const char *certs_path(const char *name)
{
	static char buf[4][128];
	static unsigned i;
	char *p = buf[i++ % 4];

	snprintf(p, sizeof(buf[0]), "%s/%s", dir, name);
	return p;
}

struct tls_context *server_context(const char *name, bool tls12)
{
	struct tls_server_options opt = { .allow_tls12 = tls12 };
	struct tls_context *t = NULL;
	char err[256] = "", pem[64], key[64];

	snprintf(pem, sizeof(pem), "%s.pem", name);
	snprintf(key, sizeof(key), "%s.key", name);
	opt.cert_file = certs_path(pem);
	opt.key_file = certs_path(key);
	ck_assert_msg(tls_server_new(&opt, err, sizeof(err), &t) == 0, "%s", err);
	return t;
}

struct tls_context *client_context(const char *ca, bool tls12)
{
	struct tls_client_options opt = { .ca_file = certs_path(ca), .allow_tls12 = tls12 };
	struct tls_context *t = NULL;
	char err[256] = "";

	ck_assert_msg(tls_client_new(&opt, err, sizeof(err), &t) == 0, "%s", err);
	return t;
}

void certs_setup(void)
{
	snprintf(dir, sizeof(dir), "%s", "/tmp/test_channel.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	cert("ca", NULL, NULL, -3600, 3600);
	cert("other", NULL, NULL, -3600, 3600);
	cert("relay", "DNS:relay.example,DNS:*.wild.example,IP:127.0.0.1,IP:2001:db8::1", "ca", -3600, 3600);
	cert("expired", "DNS:relay.example", "ca", -7200, -3600);
	cert("early", "DNS:relay.example", "ca", 3600, 7200);
	client_tls = client_context("ca.pem", false);
	server_tls = server_context("relay", false);
}

void certs_teardown(void)
{
	static const char *const names[] = { "ca", "other", "relay", "expired", "early" };
	char file[128];

	client_tls = tls_free(client_tls);
	server_tls = tls_free(server_tls);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(file, sizeof(file), "%s/%s.pem", dir, names[i]);
		unlink(file);
		snprintf(file, sizeof(file), "%s/%s.key", dir, names[i]);
		unlink(file);
	}
	rmdir(dir);
}

void tcp_pair(int fd[2])
{
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	ck_assert_int_eq(bind(l, (struct sockaddr *)&a, len), 0);
	ck_assert_int_eq(listen(l, 4), 0);
	ck_assert_int_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd[0], (struct sockaddr *)&a, len), 0);
	fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_ge(fd[1], 0);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	close(l);
}

static void end_init(struct end *e, struct loop *l, uint64_t seed)
{
	e->loop = l;
	e->tx_state = seed;
	e->rx_state = seed ^ 1;
	e->resume = event_new(loop_base(l), -1, 0, on_resume, e);
}

void end_start(struct end *e, int fd, struct tls_context *tls, bool server, const char *name)
{
	struct channel_options opt = { .tls = tls, .server = server, .server_name = name, .open_timeout_ms = 5000 };

	ck_assert_int_eq(channel_new(e->loop, fd, &opt, &end_ops, e, &e->ch), 0);
	channel_want_write(e->ch);
}

static void end_done(struct end *e)
{
	if (e->ch)
		channel_abort(e->ch, false);
	e->ch = NULL;
	event_free(e->resume);
}

static void on_deadline(evutil_socket_t fd, short what, void *user)
{
	ck_abort_msg("stuck");
}

void pair_init(struct pair *p)
{
	struct timeval tv = { .tv_sec = 100 };

	*p = (struct pair){ 0 };
	ck_assert_int_eq(loop_new(&p->loop), 0);
	p->deadline = event_new(loop_base(p->loop), -1, 0, on_deadline, NULL);
	event_add(p->deadline, &tv);
	end_init(&p->a, p->loop, 2);
	end_init(&p->b, p->loop, 3);
}

void kind_pair(enum kind kind, int fd[2])
{
	if (kind == PLAIN_UNIX)
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	else
		tcp_pair(fd);
}

void pair_start_fds(struct pair *p, enum kind kind, const int fd[2])
{
	bool tls = kind == TLS_TCP;

	end_start(&p->a, fd[0], tls ? client_tls : NULL, false, "relay.example");
	end_start(&p->b, fd[1], tls ? server_tls : NULL, true, NULL);
}

void pair_start(struct pair *p, enum kind kind)
{
	int fd[2];

	kind_pair(kind, fd);
	pair_start_fds(p, kind, fd);
}

void pair_done(struct pair *p)
{
	end_done(&p->a);
	end_done(&p->b);
	event_free(p->deadline);
	loop_free(p->loop);
	/* No TLS call may leave its errors to somebody else. */
	ck_assert_uint_eq(ERR_peek_error(), 0);
}

void run_ms(struct loop *l, unsigned ms)
{
	loop_ms(l, ms);
}

void run(struct loop *l)
{
	ck_assert_int_eq(loop_run(l), 0);
}
