#include "daemon/tls_pump.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>

#include "daemon/tls.h"

/* A key update has 27 bytes, and costs as much as kilobytes of data. */
enum { MESSAGES_RATE = 1, MESSAGES_BURST = 64 };

static int bio_read(BIO *b, char *dst, size_t size, size_t *ret_len)
{
	struct tls_pump *p = BIO_get_data(b);
	size_t n = MIN(size, p->in_len);

	BIO_clear_retry_flags(b);
	if (p->flooded)
		return 0;
	if (n == 0) {
		BIO_set_retry_read(b);
		return 0;
	}
	memcpy(dst, p->in, n);
	p->in += n;
	p->in_len -= n;
	*ret_len = n;
	return 1;
}

static int bio_write(BIO *b, const char *src, size_t len, size_t *ret_len)
{
	struct tls_pump *p = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	if (len > LOOP_TX_RAW_BYTES - p->out_len) {
		/* The order is spill, then scratch: empty the one into the other. */
		if (buf_add(p->spill, p->out, p->out_len) < 0)
			return 0;
		p->out_len = 0;
		if (buf_add(p->spill, src, len) < 0)
			return 0;
	} else {
		memcpy(p->out + p->out_len, src, len);
		p->out_len += len;
	}
	*ret_len = len;
	return 1;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	return cmd == BIO_CTRL_FLUSH;
}

/* Lives as long as the process: BIOs do not hold a reference. */
static BIO_METHOD *bio_method(void)
{
	static BIO_METHOD *method;
	BIO_METHOD *m;

	if (method)
		return method;
	m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "channel");
	if (!m)
		return NULL;
	BIO_meth_set_read_ex(m, bio_read);
	BIO_meth_set_write_ex(m, bio_write);
	BIO_meth_set_ctrl(m, bio_ctrl);
	method = m;
	return method;
}

static void on_message(int is_sent, int version, int type, const void *message, size_t len, SSL *ssl, void *user)
{
	struct tls_pump *p = user;

	if (!is_sent && type == SSL3_RT_HANDSHAKE && !budget_take(&p->messages, clock_now_us() / 1000))
		p->flooded = true;
}

int tls_pump_init(struct tls_pump *p, struct tls_context *t, bool server, const char *server_name, struct loop *l,
		  struct buf *spill)
{
	BIO_METHOD *method = bio_method();
	SSL *ssl;
	BIO *b;

	if (!server && (!server_name || !*server_name))
		return -EINVAL;
	ssl = method ? tls_session_new(t, server, server_name) : NULL;
	b = ssl ? BIO_new(method) : NULL;
	if (!b) {
		SSL_free(ssl);
		return -ENOMEM;
	}
	*p = (struct tls_pump){ .ssl = ssl, .out = loop_tx_raw(l), .spill = spill };
	budget_init(&p->messages, MESSAGES_RATE, MESSAGES_BURST);
	SSL_set_msg_callback(ssl, on_message);
	SSL_set_msg_callback_arg(ssl, p);
	BIO_set_data(b, p);
	BIO_set_init(b, 1);
	SSL_set_bio(ssl, b, b);
	return 0;
}

void tls_pump_done(struct tls_pump *p)
{
	SSL_free(p->ssl);
	p->ssl = NULL;
}

static enum tls_result failed(struct tls_pump *p, int r)
{
	switch (SSL_get_error(p->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return TLS_AGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return TLS_EOF;
	default:
		return TLS_FAILED;
	}
}

enum tls_result tls_pump_handshake(struct tls_pump *p)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(p->ssl);
	return r == 1 ? TLS_DONE : failed(p, r);
}

enum tls_result tls_pump_read(struct tls_pump *p, uint8_t *dst, size_t room, size_t *ret_len)
{
	size_t n;
	int r;

	*ret_len = 0;
	ERR_clear_error();
	while (*ret_len < room) {
		r = SSL_read_ex(p->ssl, dst + *ret_len, room - *ret_len, &n);
		if (r != 1)
			return failed(p, r);
		*ret_len += n;
	}
	return TLS_DONE;
}

enum tls_result tls_pump_write(struct tls_pump *p, const uint8_t *src, size_t len)
{
	size_t n;
	int r;

	ERR_clear_error();
	r = SSL_write_ex(p->ssl, src, len, &n);
	/* The BIO takes everything or fails: there is no "again" here, and no part. */
	return r == 1 && n == len ? TLS_DONE : TLS_FAILED;
}

void tls_pump_shutdown(struct tls_pump *p)
{
	ERR_clear_error();
	SSL_shutdown(p->ssl);
	ERR_clear_error();
}

static void verify_error(struct tls_pump *p, long v, char *dst, size_t size)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(p->ssl);
	char *ip;

	switch (v) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
		snprintf(dst, size, "certificate is not valid for the name %s", X509_VERIFY_PARAM_get0_host(param, 0));
		return;
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		ip = X509_VERIFY_PARAM_get1_ip_asc(param);
		snprintf(dst, size, "certificate is not valid for the address %s", ip ? ip : "dialled");
		OPENSSL_free(ip);
		return;
	case X509_V_ERR_CERT_HAS_EXPIRED:
		snprintf(dst, size, "certificate has expired");
		return;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		snprintf(dst, size, "certificate is not yet valid");
		return;
	case X509_V_ERR_APPLICATION_VERIFICATION:
		snprintf(dst, size, "no key in the certificate chain is one of those pinned");
		return;
	default:
		snprintf(dst, size, "certificate not trusted: %s", X509_verify_cert_error_string(v));
	}
}

static void library_error(unsigned long e, bool in_handshake, char *dst, size_t size)
{
	int reason = ERR_GET_LIB(e) == ERR_LIB_SSL ? ERR_GET_REASON(e) : 0;
	const char *text = e ? ERR_reason_error_string(e) : NULL;
	bool not_tls = reason == SSL_R_HTTP_REQUEST || reason == SSL_R_HTTPS_PROXY_REQUEST ||
		       reason == SSL_R_WRONG_VERSION_NUMBER;

	/* OpenSSL has no text for this alert. */
	if (reason == SSL_AD_REASON_OFFSET + SSL_AD_CERTIFICATE_REQUIRED)
		snprintf(dst, size, "the peer refused: it asks for a certificate");
	else if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
		snprintf(dst, size, "the peer refused: %s", SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
	else if (in_handshake && not_tls)
		snprintf(dst, size, "the peer does not speak TLS");
	else if (reason == SSL_R_UNSUPPORTED_PROTOCOL)
		snprintf(dst, size, "the peer offers no TLS version that is allowed here");
	else
		snprintf(dst, size, "TLS failed: %s", text ? text : "unknown error");
}

void tls_pump_error(struct tls_pump *p, char *dst, size_t size)
{
	unsigned long e = ERR_peek_error();
	long v = SSL_get_verify_result(p->ssl);

	if (p->flooded)
		snprintf(dst, size, "too many TLS messages that are no data, such as key updates");
	else if (v != X509_V_OK)
		verify_error(p, v, dst, size);
	else
		library_error(e, !SSL_is_init_finished(p->ssl), dst, size);
	ERR_clear_error();
}
