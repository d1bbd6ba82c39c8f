/* Shared by channel.c (life and ends), channel_rx.c (reading) and channel_tx.c (writing and closing in order); for
 * nobody else. */
#pragma once

#include <event2/event_struct.h>
#include <netinet/in.h>

#include "base/buf.h"
#include "daemon/channel.h"
#include "daemon/tls_pump.h"

enum {
	CHANNEL_MAGIC = 0x4348414e,
	/* Everything taken at close, as TLS records, behind one full batch. */
	CHANNEL_PENDING_BYTES = CHANNEL_CLOSE_BYTES + CHANNEL_CLOSE_BYTES / 16 + LOOP_TX_RAW_BYTES,
	/* OpenSSL may hold one partial record: with it, one read never decrypts to more than LOOP_RX_BYTES. */
	CHANNEL_TLS_RECV_BYTES = LOOP_RX_BYTES - 18 * 1024,
};

enum channel_state {
	CHANNEL_CONNECTING,
	CHANNEL_HANDSHAKE,
	CHANNEL_OPEN,
	CHANNEL_CLOSING,   /* sending what is pending; no owner any more */
	CHANNEL_LINGERING, /* FIN is out; waiting for the peer's */
	CHANNEL_CLOSED,    /* waiting to be freed */
};

enum channel_watch {
	WATCH_NOTHING,
	WATCH_READ, /* level-triggered */
	/* Edge-triggered EV_CLOSED and EV_WRITE: libevent reports EPOLLERR as EV_READ | EV_WRITE, so that EV_CLOSED
	 * alone, level-triggered, would miss a reset and spin on it. */
	WATCH_GONE,
};

struct channel {
	unsigned magic;
	enum channel_state state;
	enum channel_watch watch;
	int fd;
	struct loop *loop;
	const struct channel_ops *ops;
	void *user;
	void (*on_gone)(void *user); /* or NULL */
	void *gone_user;
	struct event io;
	struct event write; /* only beside WATCH_READ or WATCH_NOTHING, while connecting or blocked */
	struct event timer; /* open timeout, then linger */
	struct loop_task task;
	struct loop_task abandoned; /* while nobody owns it */
	struct tls_pump pump; /* ssl is NULL: plain */
	struct buf pending;   /* not taken by the kernel yet */
	struct buf held;      /* plaintext that had to be read during a pause */
	uint64_t linger_ms;
	int tx_error; /* nothing can be sent any more */
	int fault;    /* to be reported by the task: found where the owner must not be called */
	bool held_eof;
	bool paused;
	bool want;    /* on_pull may have something */
	bool blocked; /* the kernel takes no more */
	bool pulling; /* inside on_pull */
	bool closing; /* channel_close() was called inside on_pull */
	bool dirty;   /* on_flushed is due */
	bool peer_eof; /* while closing */
	struct sockaddr_in6 peer; /* large enough for the families in use */
};

/* channel.c */
/* The end that the owner hears of. */
void channel_end(struct channel *c, enum channel_end end, int error, const char *detail);
void channel_end_errno(struct channel *c, int error);
void channel_destroy(struct channel *c, bool reset);
void channel_set_watch(struct channel *c, enum channel_watch watch);
void channel_watch_write(struct channel *c);
void channel_fault(struct channel *c, int error);
void channel_opened(struct channel *c);
void channel_set_timer(struct channel *c, uint64_t ms);

/* channel_rx.c */
void channel_handshake(struct channel *c);
void channel_read(struct channel *c);
void channel_deliver_held(struct channel *c);
/* During a pause: did the peer go away? */
void channel_check_gone(struct channel *c, bool closed);

/* channel_tx.c */
void channel_send(struct channel *c, const uint8_t *p, size_t len);
/* What the pump made. */
void channel_send_pumped(struct channel *c);
/* Sends what is pending, then pulls. */
void channel_flush(struct channel *c);
/* CHANNEL_CLOSING and later. */
void channel_close_advance(struct channel *c);
void channel_discard(struct channel *c);
