/* What an agent's request head asks for, and whether the relay carries it. Pure: head in, request or refusal out. Design, section 8. */
#pragma once

#include "base/span.h"
#include "proto/http1.h"

struct relay_config;

enum request_kind {
	REQUEST_AGENT,  /* a call for a tunnel */
	REQUEST_ATTACH, /* a gateway's upgrade */
	REQUEST_PREFLIGHT, /* a browser asks whether a page may call (CORS); to be answered only for --cors-origin */
};

struct request {
	enum request_kind kind;
	struct span tunnel;
	struct span route; /* empty: the default one */
	struct span query; /* absent: none */
	struct span key;   /* absent: none given */
	bool key_in_authorization; /* Authorization was for us and stops here */
};

struct refusal {
	unsigned status;
	const char *text;       /* for people */
	const char *extra;      /* a field line with its CRLF, or NULL */
	uint32_t reason;        /* of reasons.def */
};

/* Names that the relay answers to. */
struct request_names {
	char **names; /* lower case, without port */
	size_t n;
};

/* Adds one; duplicates are fine. "*.example.com" stands for one label. -ENOMEM. */
int request_names_add(struct request_names *names, const char *name);
void request_names_done(struct request_names *names);

/* What a preflight is where it is not answered: a method that is not carried. */
extern const struct refusal request_bad_method;

/* True and *ret, or false and *ret_refusal. local: the numeric address that the agent connected to, "unix" for a UNIX socket. */
bool request_check(const struct http1_head *h, const struct request_names *names, const char *local,
		   bool (*origin_allowed)(const void *user, struct span origin), const void *user, struct request *ret,
		   struct refusal *ret_refusal);

/* Whether a field of the agent's request travels to the gateway. */
bool request_field_travels(const struct http1_head *h, const struct request *q, struct span name);
