/* Shared by front.c (the connection: life, reading, writing), front_serve.c (what a request head asks for) and front_answer.c (answers that
 * the relay makes itself); for nobody else. */
#pragma once

#include "base/buf.h"
#include "daemon/channel.h"
#include "daemon/digest.h"
#include "proto/mcp.h"
#include "relay/answer.h"
#include "relay/call.h"
#include "relay/front.h"
#include "relay/limits.h"
#include "relay/pace.h"

#define FRONT_MAGIC 0x66726e74

enum { FRONT_DISCARD_MAX = 64 * 1024 }; /* of a refused body; larger ones are not read to their end */

enum front_state {
	FRONT_IDLE,      /* nothing of a request has come */
	FRONT_HEAD,      /* some of its head */
	FRONT_HELD,      /* its head is read; it waits for the tunnel to be attached */
	FRONT_BODY,      /* its body flows to a call */
	FRONT_CALL,      /* complete; the answer is being made */
	FRONT_REFUSING,  /* its body is read for its id and forgotten; then the answer */
	FRONT_ANSWERED,  /* our own answer is in `out` */
	FRONT_UPGRADING, /* the 101 is in `out` */
	FRONT_CLOSING,
};

/* Of a connection among all of them: as long as its socket is open, whoever has that. */
struct front_place {
	struct address_ticket ticket;
	struct channel *channel;
	struct front *front; /* NULL: a gateway's session has it, or nobody while the last bytes go out */
};

struct front {
	unsigned magic;
	struct relay *relay;
	TAILQ_ENTRY(front) link;
	struct channel *channel;
	struct front_place *place; /* NULL with the channel */
	enum front_state state;
	struct http1_reader reader;
	struct buf out;   /* what we say ourselves: 100, 101, errors */
	struct buf early; /* came while a request was being served */
	struct call *call;
	struct mcp_scan *scan; /* REFUSING: for the id */
	struct answer refusal; /* REFUSING */
	char refusal_detail[TP_DETAIL_MAX + 1];
	char refusal_call[37];
	size_t discarded;
	bool head_only; /* the method is HEAD */
	bool body_ended;
	bool close_after; /* the connection ends with this answer */
	uint64_t deadline_ms;
	struct pace pace; /* of the body; stopped: the channel is paused */
	uint64_t sent_ms; /* when the agent last took something, or there was nothing for it */
	struct limits_ticket ticket; /* of the request */
	char *cors_origin;           /* of the request; NULL: it is none of --cors-origin */
	struct held held;
	struct loop_task turn; /* after the answer has been pulled */
	char tunnel_id[TUNNEL_ID_MAX + 1]; /* UPGRADING */
	struct audit_hash hash;            /* UPGRADING: of the gateway's token */
	uint8_t secret[SHA256_LEN];        /* hash of the agent's key or the gateway's token */
	char agent_tunnel[TUNNEL_ID_MAX + 1]; /* whose key it is; empty: no key was needed */
	char local[64]; /* the address that the agent connected to: one of our names; empty: not asked yet */
};

/* front.c */
void front_set_state(struct front *f, enum front_state state);
void front_set_paused(struct front *f, bool paused);
/* At once. */
void front_free(struct front *f);
/* What has been written still goes out. An answer that was cut is seen to be, by its framing. */
void front_close(struct front *f);

/* A connection from there was closed at once, or (room) another one for its sake; peer may be NULL. */
void front_tell_full(uint32_t reason, bool room, const struct sockaddr *peer, socklen_t len);

/* front_serve.c: what the head asks for: done, refused, or made to wait. */
void front_serve_head(struct front *f);
/* It has waited in vain. */
void front_serve_expired(struct front *f);

/* front_answer.c: answers with an error, at once when the request is complete, else when its body has been read for the id. */
void front_refuse(struct front *f, unsigned status, const char *extra, uint32_t reason, const char *text, const char *detail);
void front_refuse_reason(struct front *f, uint32_t reason, const char *detail);
/* A call that no gateway has seen anything of. The id of its message has still to be found. */
void front_refuse_call(struct front *f, uint32_t reason, const char *detail);
/* The same, with its record. */
void front_deny(struct front *f, const struct request *q, const char *agent, const struct attached *a, uint32_t reason, const char *detail);
/* The answer of a refusal, now. */
void front_write_answer(struct front *f);
