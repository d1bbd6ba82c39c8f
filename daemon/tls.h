/* TLS contexts (OpenSSL 3). 1.3 unless min 1.2 is asked for; certificate and name verified; ALPN http/1.1. */
#pragma once

#include "base/check.h"

struct tls_context;
struct ssl_st;

enum { TLS_PIN_BYTES = 32, TLS_PINS_MAX = 16 };

struct tls_client_options {
	const char *ca_file;   /* NULL: the system's store */
	const char *cert_file; /* PEM chain to show the server; NULL: none */
	const char *key_file;  /* with cert_file; not readable for others */
	/* SHA-256 of a SubjectPublicKeyInfo, as RFC 7469 has it: besides everything else, one of the chain must have one of these. */
	uint8_t pins[TLS_PINS_MAX][TLS_PIN_BYTES];
	size_t n_pins; /* 0: none are asked for */
	bool allow_tls12;
	bool trust_as_is; /* the certificates of ca_file need no issuer: one's own server is asked */
};

/* Base64 (44 characters) with or without "sha256/" before it. -EINVAL. */
int tls_pin_parse(const char *text, uint8_t ret[TLS_PIN_BYTES]);

struct tls_server_options {
	const char *cert_file; /* PEM chain */
	const char *key_file;
	bool allow_tls12;
};

/* err gets one line for people, naming the file. 0, -EINVAL; -ENOMEM, -EMFILE, -ENFILE. */
int tls_client_new(const struct tls_client_options *opt, char *err, size_t err_size, struct tls_context **ret);
int tls_server_new(const struct tls_server_options *opt, char *err, size_t err_size, struct tls_context **ret);
struct tls_context *tls_free(struct tls_context *t);
DEFINE_CLEANUP(struct tls_context *, tls_free)

/* The names (DNS and IP, as text) of the server certificate's subjectAltName, visited one by one. */
void tls_server_names(struct tls_context *t, void (*fn)(void *user, const char *name), void *user);

/* When the own certificate ends, in seconds since 1970; 0: there is none. */
uint64_t tls_certificate_until(const struct tls_context *t);

/* For people who ask what is wrong with a server's certificate file: whether it is good for a name or address, and whether each
 * certificate is followed by the one that issued it. *ret_n: how many there are. */
bool tls_certificate_is_for(const struct tls_context *t, const char *name);
bool tls_chain_is_in_order(const struct tls_context *t, size_t *ret_n);

/* What a server showed, when the handshake is over. */
struct tls_peer {
	uint64_t until_s; /* seconds since 1970: the first certificate of the chain ends */
	bool own;         /* it is the server's own, none of those who issued it */
	char version[16]; /* "TLSv1.3" */
};
/* False: it showed none. */
bool tls_session_peer(struct ssl_st *ssl, struct tls_peer *ret);

/* For tls_pump.c only: a session without BIO. A client needs a server_name (the contract is in channel.h). NULL: out of memory, or a
 * name that cannot be one. The session keeps what it needs of the context: tls_free() may come first. */
struct ssl_st *tls_session_new(struct tls_context *t, bool server, const char *server_name);
