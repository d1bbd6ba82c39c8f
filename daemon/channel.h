/* A byte channel: one connected (or connecting) non-blocking stream socket, with or without TLS, pumped by plain events.
 *
 * Reading: what the kernel has is read in one go (at most LOOP_RX_BYTES), decrypted into the loop's scratch, and handed to on_data,
 * which must take all of it. channel_pause() stops that (backpressure). While paused, only the peer's going away is
 * watched: a reset ends the channel at once; an orderly end does so too, unless bytes came before it that nobody has read yet:
 * then they are handed over when the pause is over, and the end after them.
 *
 * Writing: nothing is pushed. The owner says channel_want_write(), and at the end of the loop's turn the channel pulls as
 * much as fits (at most LOOP_TX_BYTES) from on_pull, encrypts it with one run of SSL_write, and sends it with one send(). What the
 * kernel does not take waits in the channel (ciphertext, bounded), and nothing more is pulled until it is gone. When
 * on_pull filled all the room, it is asked again: a few times at once, then after the others had their turn.
 *
 * Half-closes are not supported: the peer's FIN ends the channel. A peer that stops reading (EPIPE, reset) may have answered before:
 * what it sent is still read and handed over, then the channel ends with CHANNEL_RESET.
 *
 * Ends: on_closed is called exactly once, unless the owner closed first; no callback comes after it or after
 * channel_close(). The memory goes at the end of the turn. on_closed, too, ends with the channel gone: the owner forgets it.
 * The owner may call anything of this file from any callback.
 */
#pragma once

#include "base/span.h"
#include "daemon/loop.h"

struct channel;
struct tls_context;
struct tls_peer;

enum channel_end {
	CHANNEL_EOF,        /* the peer closed in order (FIN; with TLS, close_notify) */
	CHANNEL_RESET,      /* reset, or FIN without close_notify while TLS was up, timeout of the kernel */
	CHANNEL_CONNECT,    /* connect() failed: error holds errno */
	CHANNEL_TLS,        /* handshake or record error; `detail` says which, for people: "certificate has expired" ... */
	CHANNEL_TIMEOUT,    /* connect and handshake took longer than allowed */
	CHANNEL_ERROR,      /* anything else: error holds errno */
};

struct channel_ops {
	void (*on_open)(void *user); /* connected and, with TLS, verified; may be NULL. Never called from channel_new() */
	void (*on_data)(void *user, uint8_t *data, size_t len);
	/* Writes at most room bytes to dst, returns how many. 0: nothing now. */
	size_t (*on_pull)(void *user, uint8_t *dst, size_t room);
	/* Everything pulled so far is in the kernel; may be NULL. */
	void (*on_flushed)(void *user);
	/* error is 0 or an errno; detail is one phrase for people, never NULL, gone after the call. */
	void (*on_closed)(void *user, enum channel_end end, int error, const char *detail);
};

struct channel_options {
	struct tls_context *tls;   /* NULL: plain */
	bool server;               /* accepted, not dialled */
	const char *server_name;   /* client: SNI and the name that the certificate must have (DNS name or IP literal) */
	uint64_t open_timeout_ms;  /* for connect and handshake; 0: none */
	uint32_t notsent_lowat;    /* TCP_NOTSENT_LOWAT; 0: leave alone */
};

/* Takes the descriptor (closed on failure too). The socket may still be connecting. ops must outlive the channel; the strings of opt
 * need not. -EINVAL: TLS client without a usable server_name. */
int channel_new(struct loop *l, int take_fd, const struct channel_options *opt, const struct channel_ops *ops, void *user,
		struct channel **ret);

/* Other callbacks from now on (an HTTP connection that becomes a tunnel session). */
void channel_set_ops(struct channel *c, const struct channel_ops *ops, void *user);

/* Before on_open too: it is remembered. */
void channel_want_write(struct channel *c);
void channel_pause(struct channel *c, bool paused);

/* The last of all calls: the descriptor has been closed, also where nobody owned the channel any more. For counting what is open. */
void channel_when_gone(struct channel *c, void (*on_gone)(void *user), void *user);

/* In order. Before it returns, everything that on_pull still gives is taken (until it returns 0; called from inside on_pull: what that
 * call returns is the last); then the owner is never called again and may go away. What was taken is sent, then
 * close_notify and FIN, and the peer's end is waited for (input is discarded, so that no reset overtakes the last bytes), all for at most linger_ms.
 * Unsent then, or more than CHANNEL_CLOSE_BYTES to take: the peer sees a reset, never a clean end. Before on_open: just closes. */
enum { CHANNEL_CLOSE_BYTES = 1024 * 1024 };
void channel_close(struct channel *c, uint64_t linger_ms);
/* At once. With `reset` the peer sees RST (so that a cut body never looks complete). */
void channel_abort(struct channel *c, bool reset);

/* What the peer of an open channel showed; false without TLS. */
bool channel_tls_peer(const struct channel *c, struct tls_peer *ret);

bool channel_is_open(const struct channel *c);
int channel_fd(const struct channel *c);
/* "192.0.2.1:443", "[2001:db8::1]:443" or "unix"; "" before it is connected. */
void channel_peer(const struct channel *c, char *dst, size_t size);
/* The numeric address alone, for limits per address; "unix". */
void channel_peer_addr(const struct channel *c, char *dst, size_t size);
