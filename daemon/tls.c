#include "daemon/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "daemon/token.h"
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

enum { TLS_MAGIC = 0x544c5343 };

struct tls_context {
	unsigned magic;
	SSL_CTX *ctx;
};

/* ALPN wire form (RFC 7301, section 3.1). */
static const unsigned char alpn_http11[] = "\x08http/1.1";
enum { ALPN_LEN = sizeof(alpn_http11) - 1 };

#define SUITES_AES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define SUITES_CHACHA "TLS_CHACHA20_POLY1305_SHA256"
#define SUITES_12                                                                                                      \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"                     \
	"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

/* AES in software is slow, and leaks through the cache. */
static bool cpu_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & HWCAP_AES;
#else
	return false;
#endif
}

static const char *ssl_reason(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *text = NULL;

	if (ERR_SYSTEM_ERROR(e))
		return strerror(ERR_GET_REASON(e));
	if (e)
		text = ERR_reason_error_string(e);
	return text ? text : "unknown error";
}

/* The reason must be read before another call clears it, so this ends with the error queue empty. */
static int fail_file(char *err, size_t err_size, const char *what, const char *path)
{
	unsigned long first = ERR_peek_error();
	int error = ERR_SYSTEM_ERROR(first) ? ERR_GET_REASON(first) : 0;

	/* A missing file leaves a trail of errors; the system's own is the one that helps. */
	if (error)
		snprintf(err, err_size, "cannot read the %s %s: %s", what, path, strerror(error));
	else
		snprintf(err, err_size, "cannot use the %s %s: %s", what, path, ssl_reason());
	ERR_clear_error();
	return error == EMFILE || error == ENFILE || error == ENOMEM ? -error : -EINVAL;
}

/* Without it OpenSSL would ask on the terminal. */
static int no_password(char *buf, int size, int rwflag, void *user)
{
	return -1;
}

static int context_setup(SSL_CTX *ctx, bool allow_tls12)
{
	const char *suites = cpu_has_aes() ? SUITES_AES ":" SUITES_CHACHA : SUITES_CHACHA ":" SUITES_AES;

	if (SSL_CTX_set_min_proto_version(ctx, allow_tls12 ? TLS1_2_VERSION : TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, 0) != 1 || SSL_CTX_set_ciphersuites(ctx, suites) != 1 ||
	    SSL_CTX_set_cipher_list(ctx, SUITES_12) != 1)
		return -EINVAL;
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
					 SSL_OP_PRIORITIZE_CHACHA);
	SSL_CTX_clear_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_default_passwd_cb(ctx, no_password);
	return 0;
}

static int context_new(const SSL_METHOD *method, bool allow_tls12, char *err, size_t err_size, struct tls_context **ret)
{
	struct tls_context *t = calloc(1, sizeof(*t));

	if (!t) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	t->magic = TLS_MAGIC;
	ERR_clear_error();
	t->ctx = SSL_CTX_new(method);
	if (!t->ctx || context_setup(t->ctx, allow_tls12) < 0) {
		snprintf(err, err_size, "cannot set up TLS: %s", ssl_reason());
		ERR_clear_error();
		tls_free(t);
		return -EINVAL;
	}
	*ret = t;
	return 0;
}

struct tls_context *tls_free(struct tls_context *t)
{
	if (!t)
		return NULL;
	CHECK_OBJ(t, TLS_MAGIC);
	SSL_CTX_free(t->ctx);
	t->magic = 0;
	free(t);
	return NULL;
}

static int use_certificate(SSL_CTX *ctx, const char *cert_file, const char *key_file, char *err, size_t err_size)
{
	if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
		return fail_file(err, err_size, "certificate", cert_file);
	if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
		return fail_file(err, err_size, "private key", key_file);
	if (SSL_CTX_check_private_key(ctx) != 1)
		return fail_file(err, err_size, "private key", key_file);
	return 0;
}

/* ---- pins ---- */

struct pins {
	size_t n;
	uint8_t hash[TLS_PINS_MAX][TLS_PIN_BYTES];
};

/* They belong to the SSL_CTX, which sessions keep alive. */
static void pins_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl, void *argp)
{
	free(ptr);
}

static int pins_index(void)
{
	static int index = -1;

	if (index < 0)
		index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, pins_free);
	return index;
}

int tls_pin_parse(const char *text, uint8_t ret[TLS_PIN_BYTES])
{
	enum { PIN_TEXT_LEN = 44 };
	uint8_t bytes[PIN_TEXT_LEN / 4 * 3];
	struct span s = span_of(text);
	size_t n;

	if (span_starts(s, "sha256/"))
		s = span_make(s.p + 7, s.len - 7);
	if (s.len != PIN_TEXT_LEN || base64_decode(s, bytes, &n) < 0 || n != TLS_PIN_BYTES)
		return -EINVAL;
	memcpy(ret, bytes, TLS_PIN_BYTES);
	return 0;
}

static bool is_pinned(const struct pins *pins, X509 *cert)
{
	uint8_t hash[SHA256_LEN];
	unsigned char *der = NULL;
	int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
	bool found = false;

	if (len > 0 && digest_sha256(der, (size_t)len, hash) == 0)
		for (size_t i = 0; i < pins->n && !found; i++)
			found = memcmp(hash, pins->hash[i], sizeof(hash)) == 0;
	OPENSSL_free(der);
	return found;
}

/* The last call is that of the server's own certificate, when the chain is known to be good. */
static int on_verify(int good, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct pins *pins = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), pins_index());
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store);

	if (!good || !pins || X509_STORE_CTX_get_error_depth(store) > 0)
		return good;
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (is_pinned(pins, sk_X509_value(chain, i)))
			return 1;
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

static int use_pins(SSL_CTX *ctx, const struct tls_client_options *opt)
{
	struct pins *pins;

	if (!opt->n_pins)
		return 0;
	pins = calloc(1, sizeof(*pins));
	if (!pins)
		return -ENOMEM;
	pins->n = MIN(opt->n_pins, (size_t)TLS_PINS_MAX);
	memcpy(pins->hash, opt->pins, sizeof(pins->hash));
	if (SSL_CTX_set_ex_data(ctx, pins_index(), pins) != 1) {
		free(pins);
		return -ENOMEM;
	}
	return 0;
}

int tls_client_new(const struct tls_client_options *opt, char *err, size_t err_size, struct tls_context **ret)
{
	_cleanup_(tls_freep) struct tls_context *t = NULL;
	int r;

	r = context_new(TLS_client_method(), opt->allow_tls12, err, err_size, &t);
	if (r < 0)
		return r;
	if (opt->cert_file) {
		r = secret_file_check("private key", opt->key_file, err, err_size);
		if (r == 0)
			r = use_certificate(t->ctx, opt->cert_file, opt->key_file, err, err_size);
		if (r < 0)
			return -EINVAL;
	}
	if (opt->ca_file) {
		if (SSL_CTX_load_verify_file(t->ctx, opt->ca_file) != 1)
			return fail_file(err, err_size, "CA file", opt->ca_file);
	} else if (SSL_CTX_set_default_verify_paths(t->ctx) != 1) {
		snprintf(err, err_size, "cannot use the system's CA certificates: %s", ssl_reason());
		ERR_clear_error();
		return -EINVAL;
	}
	if (opt->trust_as_is)
		X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(t->ctx), X509_V_FLAG_PARTIAL_CHAIN);
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, on_verify);
	/* 0 is success here. */
	if (use_pins(t->ctx, opt) < 0 || SSL_CTX_set_alpn_protos(t->ctx, alpn_http11, ALPN_LEN) != 0) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	ERR_clear_error();
	*ret = steal_ptr(&t);
	return 0;
}

/* Called only when the client sent the extension. RFC 7301, section 3.2: no overlap is a fatal alert. */
static int on_alpn_select(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
			  unsigned in_len, void *user)
{
	unsigned char *selected;

	if (SSL_select_next_proto(&selected, out_len, alpn_http11, ALPN_LEN, in, in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = selected;
	return SSL_TLSEXT_ERR_OK;
}

int tls_server_new(const struct tls_server_options *opt, char *err, size_t err_size, struct tls_context **ret)
{
	_cleanup_(tls_freep) struct tls_context *t = NULL;
	int r;

	r = context_new(TLS_server_method(), opt->allow_tls12, err, err_size, &t);
	if (r < 0)
		return r;
	r = use_certificate(t->ctx, opt->cert_file, opt->key_file, err, err_size);
	if (r < 0)
		return r;
	SSL_CTX_set_alpn_select_cb(t->ctx, on_alpn_select, NULL);
	SSL_CTX_set_num_tickets(t->ctx, 1);
	ERR_clear_error();
	*ret = steal_ptr(&t);
	return 0;
}

static void visit_name(const GENERAL_NAME *name, void (*fn)(void *user, const char *name), void *user)
{
	char text[256];
	int len, type;
	const ASN1_STRING *s = GENERAL_NAME_get0_value(name, &type);
	const unsigned char *data = ASN1_STRING_get0_data(s);

	len = ASN1_STRING_length(s);
	if (type == GEN_DNS && len > 0 && (size_t)len < sizeof(text) && !memchr(data, 0, (size_t)len)) {
		memcpy(text, data, (size_t)len);
		text[len] = 0;
		fn(user, text);
	} else if (type == GEN_IPADD && (len == 4 || len == 16) &&
		   inet_ntop(len == 4 ? AF_INET : AF_INET6, data, text, sizeof(text))) {
		fn(user, text);
	}
}

void tls_server_names(struct tls_context *t, void (*fn)(void *user, const char *name), void *user)
{
	X509 *cert;
	GENERAL_NAMES *names;

	CHECK_OBJ(t, TLS_MAGIC);
	cert = SSL_CTX_get0_certificate(t->ctx);
	names = cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_DNS || name->type == GEN_IPADD)
			visit_name(name, fn, user);
	}
	GENERAL_NAMES_free(names);
	ERR_clear_error();
}

static uint64_t until_of(const X509 *cert)
{
	struct tm tm;
	time_t until;

	if (!cert || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
		return 0;
	until = timegm(&tm);
	return until > 0 ? (uint64_t)until : 1;
}

uint64_t tls_certificate_until(const struct tls_context *t)
{
	CHECK_OBJ(t, TLS_MAGIC);
	return until_of(SSL_CTX_get0_certificate(t->ctx));
}

static bool is_ip(const char *name)
{
	unsigned char addr[16];

	return inet_pton(AF_INET, name, addr) == 1 || inet_pton(AF_INET6, name, addr) == 1;
}

bool tls_certificate_is_for(const struct tls_context *t, const char *name)
{
	X509 *cert;
	int r;

	CHECK_OBJ(t, TLS_MAGIC);
	cert = SSL_CTX_get0_certificate(t->ctx);
	if (!cert)
		return false;
	r = is_ip(name) ? X509_check_ip_asc(cert, name, 0) : X509_check_host(cert, name, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL);
	ERR_clear_error();
	return r == 1;
}

bool tls_chain_is_in_order(const struct tls_context *t, size_t *ret_n)
{
	STACK_OF(X509) *more = NULL;
	X509 *cert, *next;
	bool good = true;

	CHECK_OBJ(t, TLS_MAGIC);
	cert = SSL_CTX_get0_certificate(t->ctx);
	(void)SSL_CTX_get0_chain_certs(t->ctx, &more);
	for (int i = 0; cert && i < sk_X509_num(more); i++, cert = next) {
		next = sk_X509_value(more, i);
		good = good && X509_check_issued(next, cert) == X509_V_OK;
	}
	*ret_n = (cert ? 1 : 0) + (size_t)MAX(sk_X509_num(more), 0);
	ERR_clear_error();
	return good;
}

bool tls_session_peer(struct ssl_st *ssl, struct tls_peer *ret)
{
	STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
	int n = sk_X509_num(chain);

	if (n <= 0)
		return false;
	*ret = (struct tls_peer){ .until_s = until_of(sk_X509_value(chain, 0)), .own = true };
	for (int i = 1; i < n; i++) {
		uint64_t until_s = until_of(sk_X509_value(chain, i));

		if (until_s && until_s < ret->until_s) {
			ret->until_s = until_s;
			ret->own = false;
		}
	}
	snprintf(ret->version, sizeof(ret->version), "%s", SSL_get_version(ssl));
	return true;
}

static int session_expect(SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	if (!name || !*name)
		return -EINVAL;
	if (is_ip(name))
		return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1 ? 0 : -EINVAL;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (SSL_set1_host(ssl, name) != 1 || SSL_set_tlsext_host_name(ssl, name) != 1)
		return -EINVAL;
	return 0;
}

struct ssl_st *tls_session_new(struct tls_context *t, bool server, const char *server_name)
{
	SSL *ssl;

	CHECK_OBJ(t, TLS_MAGIC);
	ERR_clear_error();
	ssl = SSL_new(t->ctx);
	if (!ssl)
		return NULL;
	if (server) {
		SSL_set_accept_state(ssl);
	} else if (session_expect(ssl, server_name) < 0) {
		SSL_free(ssl);
		ERR_clear_error();
		return NULL;
	} else {
		SSL_set_connect_state(ssl);
	}
	return ssl;
}
