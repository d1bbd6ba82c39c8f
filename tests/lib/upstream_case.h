/* Calls of gateway/upstream to a scripted server, and what they came to. One loop, one upstream, at most one peer for each test. */
#pragma once

#include <check.h>

#include "gateway/upstream.h"
#include "proto/reasons.h"
#include "tests/lib/peer.h"

enum { MIB = 1024 * 1024 };

#define GET "GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

extern struct loop *loop;
extern struct upstream *up;
extern struct peer peer;
extern bool has_peer;
extern const struct upstream_ops call_ops;

/* What a call came to. */
struct result {
	struct upstream_call *call;
	unsigned sents, heads, datas, ends, fails;
	unsigned status;
	uint32_t reason;
	uint64_t bytes;
	char body[64], detail[256];
	void (*on_head)(struct result *r);
	void (*on_data)(struct result *r);
	void (*on_end)(struct result *r);
};

void run_ms(unsigned ms);
/* The condition is not looked at again once it was true. */
#define run_until(cond)                                                                                                \
	do {                                                                                                           \
		bool met_ = false;                                                                                     \
		for (unsigned i_ = 0; i_ < 6000 && !(met_ = (cond)); i_++)                                             \
			run_ms(5);                                                                                     \
		ck_assert_msg(met_, "%s", #cond);                                                                      \
	} while (0)

static inline bool over(const struct result *r)
{
	return r->ends || r->fails;
}

void upstream_setup(void);
void upstream_teardown(void);
/* The peer, and an upstream that goes to it. */
void start(peer_fn *fn, uint64_t idle_ms, size_t max_idle);
/* The same, and the server may be asked for an answer: ASKED comes. */
#define ASKED "OPTIONS /mcp HTTP/1.1\r\nHost: x\r\n\r\n"
void start_asking(peer_fn *fn);

void call_bytes(struct result *r, const char *head, size_t body_len, bool idempotent);
void call_get(struct result *r);
void call_post(struct result *r);
/* Waits for its end, which has to be that. */
void good(struct result *r, const char *body);
void bad(struct result *r, uint32_t reason);
