/* One TLS session between two pieces of memory; for channel.c only. Ciphertext that came from the socket is shown to
 * it and is used up by the next calls; ciphertext that it makes lands in the loop's loop_tx_raw(), and what does not fit
 * there in a `struct buf`. */
#pragma once

#include "base/buf.h"
#include "daemon/loop.h"
#include "proto/budget.h"

struct tls_context;
struct ssl_st;

struct tls_pump {
	struct ssl_st *ssl;
	const uint8_t *in; /* not yet used; the caller sets it */
	size_t in_len;
	uint8_t *out; /* scratch of the caller, empty between two calls of foreign code */
	size_t out_len;
	struct buf *spill; /* what is in it goes out before out[0..out_len) */
	struct budget messages; /* of the handshake, and of what TLS says between the data: key updates above all */
	bool flooded;
};

enum tls_result {
	TLS_DONE,   /* handshake over; bytes were read or written */
	TLS_AGAIN,  /* more ciphertext is needed */
	TLS_EOF,    /* close_notify */
	TLS_FAILED, /* tls_pump_error() says why; there may be an alert to send */
};

/* 0, -EINVAL (no usable name), -ENOMEM. */
int tls_pump_init(struct tls_pump *p, struct tls_context *t, bool server, const char *server_name, struct loop *l,
		  struct buf *spill);
void tls_pump_done(struct tls_pump *p);

enum tls_result tls_pump_handshake(struct tls_pump *p);
/* As much plaintext as the input gives, up to room. *ret_len is set always; with TLS_EOF or TLS_FAILED too, bytes may
 * have come first. TLS_DONE: room is used up. */
enum tls_result tls_pump_read(struct tls_pump *p, uint8_t *dst, size_t room, size_t *ret_len);
enum tls_result tls_pump_write(struct tls_pump *p, const uint8_t *src, size_t len);
/* close_notify. */
void tls_pump_shutdown(struct tls_pump *p);

/* One phrase for people about the last TLS_FAILED; call it before anything else uses OpenSSL. */
void tls_pump_error(struct tls_pump *p, char *dst, size_t size);
