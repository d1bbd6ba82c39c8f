/* TLS contexts (OpenSSL 3). 1.3 unless min 1.2 is asked for; certificate and name verified; ALPN http/1.1. */
#pragma once

#include "base/check.h"

struct tls_context;

enum { TLS_PIN_BYTES = 32, TLS_PINS_MAX = 16 };

struct tls_client_options {
	const char *ca_file;   /* NULL: the system's store */
	const char *cert_file; /* PEM chain to show the server; NULL: none */
	const char *key_file;  /* with cert_file; not readable for others */
	/* SHA-256 of a SubjectPublicKeyInfo, as RFC 7469 has it: besides everything else, one of the chain must have one of these. */
	uint8_t pins[TLS_PINS_MAX][TLS_PIN_BYTES];
	size_t n_pins; /* 0: none are asked for */
	bool allow_tls12;
};

/* Base64 (44 characters) with or without "sha256/" before it. -EINVAL. */
int tls_pin_parse(const char *text, uint8_t ret[TLS_PIN_BYTES]);

struct tls_server_options {
	const char *cert_file; /* PEM chain */
	const char *key_file;
	bool allow_tls12;
};

/* err gets one line for people, naming the file. 0, -EINVAL, -ENOMEM. */
int tls_client_new(const struct tls_client_options *opt, char *err, size_t err_size, struct tls_context **ret);
int tls_server_new(const struct tls_server_options *opt, char *err, size_t err_size, struct tls_context **ret);
struct tls_context *tls_free(struct tls_context *t);

/* The names (DNS and IP, as text) of the server certificate's subjectAltName, visited one by one. */
void tls_server_names(struct tls_context *t, void (*fn)(void *user, const char *name), void *user);

/* For tls_pump.c only: a session without BIO. A client needs a server_name (the contract is in channel.h). NULL: out of memory, or a
 * name that cannot be one. The session keeps what it needs of the context: tls_free() may come first. */
struct ssl_st *tls_session_new(struct tls_context *t, bool server, const char *server_name);
