/* A call, an audit record's sink in a directory of its own, and what came out of it. */
#pragma once

#include "daemon/audit.h"
#include "tests/lib/unit.h"

#define SECRET "mcptun_secret"
#define CALL_ID "0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a"
#define ARGS "{\"b\":1,\"a\":\"x\"}"
/* Computed with Python's hmac and hashlib. */
#define ARGS_HASH "hmac-sha256-jcs:4267500d:befc32efbb452524936b6c7dd3b09a03fab1103238bf97de5f3d51ce2df319f0"

/* SPAN() where only a constant may stand. */
#define BYTES(literal)                                                                                                 \
	{                                                                                                              \
		literal, sizeof(literal) - 1                                                                           \
	}

enum { TEXT_BYTES = 1 << 20 };

extern char dir[64], path[100], err[200];
extern char text[TEXT_BYTES]; /* what the sink got; lines are cut in it */
extern struct loop *loop;
extern struct audit *audit;
extern int n_warnings, n_notices;
extern char last_notice[300];

/* The directory, with nothing in it yet; the log is counted from here on. */
void make_dir(void);
/* Makes loop and audit. */
int start(enum audit_sink sink, const char *at);
/* Both of it, with the file at path. */
void setup_file(void);
void teardown(void);
/* A datagram socket at path, for the journal's records. */
int serve(void);

/* tools/call of get_weather, and its facts. */
struct mcp_view tool_view(void);
struct audit_call tool_call(const struct mcp_view *v);

const char *read_file(const char *name);
/* The nth line, from 0; NULL after the last. */
char *line_at(char *all, size_t n);
void assert_has(const char *line, const char *part);
void assert_lacks(const char *line, const char *part);
