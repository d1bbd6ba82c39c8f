/* Two channels of one loop talking to each other, or one channel and a raw peer; each end checks every byte it gets. */
#pragma once

#include <check.h>
#include <stdio.h>

#include "daemon/channel.h"
#include "daemon/tls.h"

/* One end: sends `to_send` bytes of the stream `seed`, and checks that it receives the stream `seed ^ 1`. */
struct end {
	struct loop *loop;
	struct channel *ch;
	uint64_t to_send, sent, received, expect;
	uint64_t tx_state, rx_state; /* position-dependent pattern */
	unsigned chunk;              /* at most so much for one pull; 0: all the room */
	unsigned pause_every;        /* pause for a moment each so many callbacks */
	unsigned n_data, n_open, n_closed, n_flushed;
	size_t largest;
	enum channel_end how;
	int error;
	char detail[256];
	struct event *resume;
	void (*on_data_hook)(struct end *e);
	void (*on_open_hook)(struct end *e);
	void (*on_pull_hook)(struct end *e); /* before anything is given */
	bool stop_when_closed;
	bool close_when_sent; /* from on_flushed */
	bool stop_when_received;
	uint64_t linger_ms;
};

enum kind { PLAIN_UNIX, PLAIN_TCP, TLS_TCP };

struct pair {
	struct loop *loop;
	struct end a, b; /* a dialled, b accepted */
	struct event *deadline;
};

/* Contexts for "relay.example", its CA known to the client; made by certs_setup() in a directory of their own, with
 * the certificates ca, other (another CA), relay, expired and early. */
extern struct tls_context *client_tls, *server_tls;
extern const struct channel_ops end_ops;

void certs_setup(void);
void certs_teardown(void);
/* A path inside the directory; good for the next few calls. */
const char *certs_path(const char *name);
struct tls_context *server_context(const char *name, bool tls12);
struct tls_context *client_context(const char *ca, bool tls12);

uint8_t pattern(uint64_t seed, uint64_t i);

/* Both non-blocking. */
void tcp_pair(int fd[2]);
void kind_pair(enum kind kind, int fd[2]);

void end_start(struct end *e, int fd, struct tls_context *tls, bool server, const char *name);

void pair_init(struct pair *p);
void pair_start(struct pair *p, enum kind kind);
/* fd[0] is a's, fd[1] b's. */
void pair_start_fds(struct pair *p, enum kind kind, const int fd[2]);
void pair_done(struct pair *p);
void run_ms(struct loop *l, unsigned ms);
/* Until loop_stop(): by stop_when_... */
void run(struct loop *l);
/* Until the condition is true, for at most 30 s. */
#define run_until(l, cond)                                                                                             \
	do {                                                                                                           \
		for (unsigned i_ = 0; i_ < 6000 && !(cond); i_++)                                                      \
			run_ms(l, 5);                                                                                  \
		ck_assert(cond);                                                                                       \
	} while (0)
/* Opened, or failed to. */
static inline bool end_settled(const struct end *e)
{
	return e->n_open || e->n_closed;
}
