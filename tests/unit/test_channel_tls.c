/* Handshakes that must fail, and say why; a peer that is plain OpenSSL; context files. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/digest.h"
#include "tests/lib/channel_pair.h"
#include "tests/lib/unit.h"

struct handshake {
	const char *server;  /* certificate */
	const char *ca;
	const char *name;    /* that the client wants */
	const char *detail;  /* NULL: it works */
	const char *refusal; /* what the server hears */
};

static const struct handshake handshakes[] = {
	{ "relay", "ca.pem", "relay.example", NULL, NULL },
	{ "relay", "ca.pem", "RELAY.example", NULL, NULL },
	{ "relay", "ca.pem", "x.wild.example", NULL, NULL },
	{ "relay", "ca.pem", "127.0.0.1", NULL, NULL },
	{ "relay", "ca.pem", "2001:db8::1", NULL, NULL },
	{ "relay", "ca.pem", "other.example", "certificate is not valid for the name other.example", "bad certificate" },
	{ "relay", "ca.pem", "x.y.wild.example", "certificate is not valid for the name x.y.wild.example", "bad certificate" },
	{ "relay", "ca.pem", "127.0.0.2", "certificate is not valid for the address 127.0.0.2", "bad certificate" },
	{ "expired", "ca.pem", "relay.example", "certificate has expired", "certificate expired" },
	{ "early", "ca.pem", "relay.example", "certificate is not yet valid", "bad certificate" },
	{ "relay", "other.pem", "relay.example", "certificate not trusted: unable to get local issuer certificate", "unknown CA" },
};

static void start_tls(struct pair *p, struct tls_context *client, struct tls_context *server, const char *name)
{
	int fd[2];

	pair_init(p);
	tcp_pair(fd);
	end_start(&p->a, fd[0], client, false, name);
	end_start(&p->b, fd[1], server, true, NULL);
}

START_TEST(verification)
{
	const struct handshake *h = &handshakes[_i];
	struct tls_context *client = client_context(h->ca, false), *server = server_context(h->server, false);
	char refusal[128];
	struct pair p;

	start_tls(&p, client, server, h->name);
	/* Sessions keep what they need. */
	tls_free(client);
	tls_free(server);
	run_until(p.loop, end_settled(&p.a) && end_settled(&p.b));
	if (!h->detail) {
		ck_assert_msg(p.a.n_open && p.b.n_open, "%s / %s", p.a.detail, p.b.detail);
		pair_done(&p);
		return;
	}
	ck_assert_uint_eq(p.a.n_open, 0);
	ck_assert_uint_eq(p.a.n_closed, 1);
	ck_assert_int_eq(p.a.how, CHANNEL_TLS);
	ck_assert_str_eq(p.a.detail, h->detail);
	ck_assert_int_eq(p.b.how, CHANNEL_TLS);
	snprintf(refusal, sizeof(refusal), "the peer refused: %s", h->refusal);
	ck_assert_str_eq(p.b.detail, refusal);
	pair_done(&p);
}
END_TEST

/* A raw peer that says `text` and reads until the end. */
static void raw_peer(struct pair *p, bool server, const char *text, char *answer, size_t size)
{
	ssize_t n, len = 0;
	int fd[2];

	pair_init(p);
	tcp_pair(fd);
	end_start(&p->a, fd[0], server ? server_tls : client_tls, server, "relay.example");
	p->a.stop_when_closed = true;
	ck_assert_int_eq(send(fd[1], text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	run(p->loop);
	while ((n = recv(fd[1], answer + len, size - (size_t)len, 0)) > 0)
		len += n;
	close(fd[1]);
}

START_TEST(plain_http_to_tls)
{
	char answer[1024];
	struct pair p;

	raw_peer(&p, true, "GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n", answer, sizeof(answer));
	ck_assert_int_eq(p.a.how, CHANNEL_TLS);
	ck_assert_str_eq(p.a.detail, "the peer does not speak TLS");
	ck_assert_uint_eq(p.a.n_open, 0);
	pair_done(&p);
}
END_TEST

START_TEST(tls_to_plain_http)
{
	char answer[8192];
	struct pair p;

	raw_peer(&p, false, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", answer, sizeof(answer));
	ck_assert_int_eq(p.a.how, CHANNEL_TLS);
	ck_assert_str_eq(p.a.detail, "the peer does not speak TLS");
	pair_done(&p);
}
END_TEST

START_TEST(versions)
{
	struct tls_context *old = client_context("ca.pem", true), *lax = server_context("relay", true);
	struct pair p;

	/* Allowed and wanted: 1.3 all the same, and it works. */
	start_tls(&p, old, lax, "relay.example");
	run_until(p.loop, p.a.n_open + p.b.n_open == 2);
	pair_done(&p);
	tls_free(old);
	tls_free(lax);
}
END_TEST

START_TEST(handshake_timeout)
{
	struct channel_options opt = { .tls = server_tls, .server = true, .open_timeout_ms = 100 };
	struct pair p;
	int fd[2];

	pair_init(&p);
	tcp_pair(fd);
	p.a.stop_when_closed = true;
	ck_assert_int_eq(channel_new(p.loop, fd[0], &opt, &end_ops, &p.a, &p.a.ch), 0);
	run(p.loop);
	ck_assert_int_eq(p.a.how, CHANNEL_TIMEOUT);
	ck_assert_int_eq(p.a.error, ETIMEDOUT);
	close(fd[1]);
	pair_done(&p);
}
END_TEST

START_TEST(end_during_handshake)
{
	struct pair p;
	int fd[2];

	pair_init(&p);
	tcp_pair(fd);
	end_start(&p.a, fd[0], server_tls, true, NULL);
	p.a.stop_when_closed = true;
	ck_assert_int_eq(send(fd[1], "\x16\x03\x01", 3, 0), 3);
	shutdown(fd[1], SHUT_WR);
	run(p.loop);
	ck_assert_int_eq(p.a.how, CHANNEL_TLS);
	ck_assert_str_eq(p.a.detail, "the peer closed the connection during the TLS handshake");
	close(fd[1]);
	pair_done(&p);
}
END_TEST

/* A blocking OpenSSL client in a thread, which behaves as `fn` says. */
struct peer {
	int fd;
	int max_version;
	const unsigned char *alpn;
	unsigned alpn_len;
	void (*fn)(struct peer *peer, SSL *ssl);
	bool connected;
	char alpn_got[32];
	const char *version;
	uint64_t received;
	char error[256];
};

static void *peer_thread(void *arg)
{
	struct peer *peer = arg;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl;
	const unsigned char *alpn;
	unsigned alpn_len;

	SSL_CTX_load_verify_file(ctx, certs_path("ca.pem"));
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (peer->max_version)
		SSL_CTX_set_max_proto_version(ctx, peer->max_version);
	if (peer->alpn)
		SSL_CTX_set_alpn_protos(ctx, peer->alpn, peer->alpn_len);
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, peer->fd);
	peer->connected = SSL_connect(ssl) == 1;
	if (peer->connected) {
		SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
		if (alpn_len)
			memcpy(peer->alpn_got, alpn, MIN(alpn_len, sizeof(peer->alpn_got) - 1));
		peer->version = SSL_get_version(ssl);
		if (peer->fn)
			peer->fn(peer, ssl);
	} else {
		ERR_error_string_n(ERR_peek_last_error(), peer->error, sizeof(peer->error));
	}
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(peer->fd);
	return NULL;
}

static void blocking(int fd)
{
	struct timeval tv = { .tv_sec = 30 };
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

/* b is our server; it stops the loop when it is closed. */
static void with_peer(struct pair *p, struct peer *peer, struct tls_context *server)
{
	pthread_t thread;
	int fd[2];

	tcp_pair(fd);
	blocking(fd[0]);
	peer->fd = fd[0];
	end_start(&p->b, fd[1], server, true, NULL);
	p->b.stop_when_closed = true;
	ck_assert_int_eq(pthread_create(&thread, NULL, peer_thread, peer), 0);
	run(p->loop);
	pthread_join(thread, NULL);
}

static void just_close(struct peer *peer, SSL *ssl)
{
	SSL_shutdown(ssl);
}

START_TEST(alpn)
{
	static const struct {
		const char *offer;
		unsigned len;
		const char *got; /* NULL: refused */
	} cases[] = {
		{ NULL, 0, "" },
		{ "\x08http/1.1", 9, "http/1.1" },
		{ "\x02h2\x08http/1.1", 12, "http/1.1" },
		{ "\x02h2", 3, NULL },
	};
	struct peer peer = { .alpn = (const void *)cases[_i].offer, .alpn_len = cases[_i].len, .fn = just_close };
	struct pair p;

	pair_init(&p);
	with_peer(&p, &peer, server_tls);
	ck_assert_int_eq(peer.connected, cases[_i].got != NULL);
	if (cases[_i].got)
		ck_assert_str_eq(peer.alpn_got, cases[_i].got);
	else
		ck_assert_ptr_nonnull(strstr(peer.error, "no application protocol"));
	ck_assert_int_eq(p.b.how, cases[_i].got ? CHANNEL_EOF : CHANNEL_TLS);
	pair_done(&p);
}
END_TEST

START_TEST(old_client)
{
	struct tls_context *lax = server_context("relay", true);
	struct peer strict_peer = { .max_version = TLS1_2_VERSION, .fn = just_close };
	struct peer lax_peer = { .max_version = TLS1_2_VERSION, .fn = just_close };
	struct pair p;

	pair_init(&p);
	with_peer(&p, &strict_peer, server_tls);
	ck_assert(!strict_peer.connected);
	ck_assert_str_eq(p.b.detail, "the peer offers no TLS version that is allowed here");
	pair_done(&p);
	pair_init(&p);
	with_peer(&p, &lax_peer, lax);
	ck_assert(lax_peer.connected);
	ck_assert_str_eq(lax_peer.version, "TLSv1.2");
	ck_assert_int_eq(p.b.how, CHANNEL_EOF);
	pair_done(&p);
	tls_free(lax);
}
END_TEST

static bool read_pattern(struct peer *peer, SSL *ssl, size_t len, uint64_t seed)
{
	uint8_t data[4096];
	size_t got = 0;
	int n;

	while (got < len) {
		n = SSL_read(ssl, data, (int)MIN(sizeof(data), len - got));
		if (n <= 0)
			return false;
		for (int i = 0; i < n; i++)
			if (data[i] != pattern(seed, peer->received + (uint64_t)i))
				return false;
		got += (size_t)n;
		peer->received += (uint64_t)n;
	}
	return true;
}

enum { ROUNDS = 20, ROUND_BYTES = 50000 };

static uint64_t peer_sent;

/* Keys change in both directions, again and again, in the middle of data both ways. */
static void update_keys(struct peer *peer, SSL *ssl)
{
	uint8_t data[1000];

	for (int round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = pattern(2, peer_sent + i);
		if (SSL_key_update(ssl, round % 2 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED) != 1 ||
		    SSL_write(ssl, data, sizeof(data)) != sizeof(data) || !read_pattern(peer, ssl, ROUND_BYTES, 3))
			return;
		peer_sent += sizeof(data);
	}
	/* Closing with something unread would reset the connection. */
	SSL_shutdown(ssl);
	SSL_read(ssl, data, sizeof(data));
}

START_TEST(key_update)
{
	struct peer peer = { .fn = update_keys };
	struct pair p;

	pair_init(&p);
	p.b.to_send = (uint64_t)ROUNDS * ROUND_BYTES;
	p.b.pause_every = 3;
	with_peer(&p, &peer, server_tls);
	ck_assert_uint_eq(peer.received, p.b.to_send);
	ck_assert_uint_eq(p.b.received, peer_sent);
	ck_assert_uint_eq(peer_sent, ROUNDS * 1000);
	ck_assert_int_eq(p.b.how, CHANNEL_EOF);
	pair_done(&p);
}
END_TEST

/* Requests for key updates without ever reading: neither memory nor time grows without end. */
static void flood_updates(struct peer *peer, SSL *ssl)
{
	for (int i = 0; i < 5000; i++)
		if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1 || SSL_do_handshake(ssl) != 1)
			break;
	SSL_shutdown(ssl);
}

START_TEST(key_update_flood)
{
	struct peer peer = { .fn = flood_updates };
	struct pair p;

	signal(SIGPIPE, SIG_IGN);
	pair_init(&p);
	with_peer(&p, &peer, server_tls);
	ck_assert_uint_eq(p.b.n_closed, 1);
	ck_assert_int_eq(p.b.how, CHANNEL_TLS);
	ck_assert_str_eq(p.b.detail, "too many TLS messages that are no data, such as key updates");
	pair_done(&p);
}
END_TEST

static void truncate_record(struct peer *peer, SSL *ssl)
{
	uint8_t half[100] = { 0x17, 3, 3, 0x40, 0 };

	if (send(peer->fd, half, sizeof(half), MSG_NOSIGNAL) != sizeof(half))
		return;
	shutdown(peer->fd, SHUT_WR);
}

static void garble_record(struct peer *peer, SSL *ssl)
{
	uint8_t record[105] = { 0x17, 3, 3, 0, 100 };

	if (send(peer->fd, record, sizeof(record), MSG_NOSIGNAL) != sizeof(record))
		return;
	SSL_read(ssl, record, sizeof(record));
}

START_TEST(broken_records)
{
	struct peer cut = { .fn = truncate_record }, garbled = { .fn = garble_record };
	struct pair p;

	pair_init(&p);
	with_peer(&p, &cut, server_tls);
	ck_assert_int_eq(p.b.how, CHANNEL_RESET);
	pair_done(&p);
	pair_init(&p);
	with_peer(&p, &garbled, server_tls);
	ck_assert_int_eq(p.b.how, CHANNEL_TLS);
	ck_assert_uint_eq(p.b.received, 0);
	pair_done(&p);
}
END_TEST

/* Between the two channels, everything passes byte by byte. */
struct dribble {
	int from, to;
};

static void *dribble_thread(void *arg)
{
	struct dribble *d = arg;
	char byte;

	while (recv(d->from, &byte, 1, 0) == 1)
		if (send(d->to, &byte, 1, MSG_NOSIGNAL) != 1)
			break;
	shutdown(d->to, SHUT_WR);
	return NULL;
}

START_TEST(byte_by_byte)
{
	struct dribble d[2];
	pthread_t thread[2];
	struct pair p;
	int left[2], right[2];

	pair_init(&p);
	tcp_pair(left);
	tcp_pair(right);
	blocking(left[1]);
	blocking(right[0]);
	d[0] = (struct dribble){ left[1], right[0] };
	d[1] = (struct dribble){ right[0], left[1] };
	p.a.to_send = p.b.expect = p.b.to_send = p.a.expect = 100000;
	p.a.stop_when_received = p.b.stop_when_received = true;
	end_start(&p.a, left[0], client_tls, false, "relay.example");
	end_start(&p.b, right[1], server_tls, true, NULL);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, dribble_thread, &d[i]), 0);
	while (p.a.received < p.a.expect || p.b.received < p.b.expect)
		run(p.loop);
	channel_abort(p.a.ch, false);
	channel_abort(p.b.ch, false);
	p.a.ch = p.b.ch = NULL;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	close(left[1]);
	close(right[0]);
	pair_done(&p);
}
END_TEST

static void add_name(void *user, const char *name)
{
	strcat(user, name);
	strcat(user, " ");
}

START_TEST(names)
{
	char all[512] = "";

	tls_server_names(server_tls, add_name, all);
	ck_assert_str_eq(all, "relay.example *.wild.example 127.0.0.1 2001:db8::1 ");
}
END_TEST

static void spki_hash(const char *name, uint8_t hash[SHA256_LEN])
{
	char file[64];
	unsigned char *der = NULL;
	FILE *f;
	X509 *cert;
	int len;

	snprintf(file, sizeof(file), "%s.pem", name);
	f = fopen(certs_path(file), "r");
	ck_assert_ptr_nonnull(f);
	cert = PEM_read_X509(f, NULL, NULL, NULL);
	ck_assert_ptr_nonnull(cert);
	len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
	ck_assert_int_gt(len, 0);
	ck_assert_int_eq(digest_sha256(der, (size_t)len, hash), 0);
	OPENSSL_free(der);
	X509_free(cert);
	fclose(f);
}

START_TEST(pins)
{
	/* openssl x509 -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64, of nobody's key */
	static const char of_nobody[] = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
	struct tls_client_options opt = { .ca_file = certs_path("ca.pem") };
	struct tls_context *pinned[3] = { NULL };
	char err[256] = "";
	struct pair p;

	ck_assert_int_eq(tls_pin_parse(of_nobody, opt.pins[0]), 0);
	for (size_t i = 0; i < ARRAY_LEN(pinned); i++) {
		opt.n_pins = i;
		if (i == 2)
			spki_hash("relay", opt.pins[1]);
		ck_assert_msg(tls_client_new(&opt, err, sizeof(err), &pinned[i]) == 0, "%s", err);
	}
	start_tls(&p, pinned[0], server_tls, "relay.example");
	run_until(p.loop, p.a.n_open + p.b.n_open == 2);
	pair_done(&p);
	start_tls(&p, pinned[1], server_tls, "relay.example");
	run_until(p.loop, p.a.n_closed && p.b.n_closed);
	ck_assert_int_eq(p.a.how, CHANNEL_TLS);
	ck_assert_str_eq(p.a.detail, "no key in the certificate chain is one of those pinned");
	pair_done(&p);
	start_tls(&p, pinned[2], server_tls, "relay.example");
	/* The session outlives its context, and so do the pins. */
	for (size_t i = 0; i < ARRAY_LEN(pinned); i++)
		tls_free(pinned[i]);
	run_until(p.loop, p.a.n_open + p.b.n_open == 2);
	pair_done(&p);
}
END_TEST

START_TEST(pin_forms)
{
	static const char *const bad[] = {
		"", "sha256/", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUx",
		"sha1/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", " 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
	};
	uint8_t a[TLS_PIN_BYTES], b[TLS_PIN_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(tls_pin_parse(bad[i], a) == -EINVAL, "%s", bad[i]);
	ck_assert_int_eq(tls_pin_parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", a), 0);
	ck_assert_int_eq(tls_pin_parse("sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", b), 0);
	ck_assert_mem_eq(a, b, sizeof(a));
}
END_TEST

START_TEST(files)
{
	char err[256], want[256], missing[128];
	struct tls_server_options server = { .cert_file = certs_path("relay.pem"), .key_file = certs_path("other.key") };
	struct tls_client_options client = { .ca_file = missing };
	struct tls_context *t = NULL;

	snprintf(missing, sizeof(missing), "%s", certs_path("missing.pem"));
	ck_assert_int_eq(tls_client_new(&client, err, sizeof(err), &t), -EINVAL);
	snprintf(want, sizeof(want), "cannot read the CA file %s: No such file or directory", missing);
	ck_assert_str_eq(err, want);
	client.ca_file = server.key_file;
	ck_assert_int_eq(tls_client_new(&client, err, sizeof(err), &t), -EINVAL);
	ck_assert_msg(strncmp(err, "cannot use the CA file ", 23) == 0, "%s", err);
	ck_assert_int_eq(tls_server_new(&server, err, sizeof(err), &t), -EINVAL);
	snprintf(want, sizeof(want), "cannot use the private key %s: key values mismatch", server.key_file);
	ck_assert_str_eq(err, want);
	server.key_file = missing;
	ck_assert_int_eq(tls_server_new(&server, err, sizeof(err), &t), -EINVAL);
	snprintf(want, sizeof(want), "cannot read the private key %s: No such file or directory", missing);
	ck_assert_str_eq(err, want);
	server.cert_file = certs_path("relay.key");
	ck_assert_int_eq(tls_server_new(&server, err, sizeof(err), &t), -EINVAL);
	ck_assert_msg(strncmp(err, "cannot use the certificate ", 27) == 0, "%s", err);
	ck_assert_ptr_null(t);
	client.ca_file = NULL;
	ck_assert_int_eq(tls_client_new(&client, err, sizeof(err), &t), 0);
	tls_free(t);
	ck_assert_uint_eq(ERR_peek_error(), 0);
}
END_TEST

UNIT_MAIN("channel_tls", tcase_add_checked_fixture(tc, certs_setup, certs_teardown);
	  tcase_add_loop_test(tc, verification, 0, ARRAY_LEN(handshakes));
	  ADD(plain_http_to_tls) ADD(tls_to_plain_http) ADD(versions) ADD(handshake_timeout) ADD(end_during_handshake)
	  tcase_add_loop_test(tc, alpn, 0, 4);
	  ADD(old_client) ADD(key_update) ADD(key_update_flood) ADD(broken_records) ADD(byte_by_byte) ADD(names)
	  ADD(pins) ADD(pin_forms) ADD(files))
