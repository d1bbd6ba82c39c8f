/* A call, an audit record's sink in a directory of its own, and what came out of it. */
#pragma once

#include "daemon/audit.h"
#include "tests/lib/unit.h"

#define CALL_ID "0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a"
#define ARGS_HASH "hmac-sha256-jcs:4267500d:befc32efbb452524936b6c7dd3b09a03fab1103238bf97de5f3d51ce2df319f0"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

/* SPAN() where only a constant may stand. */
#define BYTES(literal)                                                                                                 \
	{                                                                                                              \
		literal, sizeof(literal) - 1                                                                           \
	}

enum { TEXT_BYTES = 1 << 20, VERDICTS_MAX = 40000 };

extern char dir[64], path[100], err[200];
extern char text[TEXT_BYTES]; /* what the sink got; lines are cut in it */
extern struct loop *loop;
extern struct audit *audit;
extern struct audit_config config; /* of the next start(); make_dir() sets it anew */
extern int n_warnings, n_notices, n_errors;
extern char last_notice[300], last_warning[500];
extern const struct audit_ending complete;

/* In the order they came. */
extern size_t n_verdicts;
extern struct verdict {
	void *user;
	int r;
} verdicts[VERDICTS_MAX];
void on_verdict(void *user, int r);

/* The directory, with nothing in it yet; the log and the verdicts are counted from here on. */
void make_dir(void);
/* Makes loop and audit. */
int start(enum audit_sink sink, const char *at);
/* Both of it, with the file at path; no record is written yet. */
void setup_file(void);
/* A file at path is checked first: its chain, pairs and sequence, when it was not truncated. */
void teardown(void);
/* The same without looking at the file. */
void teardown_unchecked(void);
/* A datagram socket at path, for the journal's records. */
int serve(void);

/* The end of a turn: what is queued is sent, verdicts come. */
void turn(void);
void run_ms(unsigned ms);
/* Until it says true; a few seconds at most. */
void run_until(bool (*fn)(void));

/* tools/call of get_weather, and its facts. */
struct mcp_view tool_view(void);
struct audit_call tool_call(const struct mcp_view *v);
/* Queues one; it must be accepted for that. user of on_verdict is one further each time. */
struct audit_open *request(void);
/* audit_response(); what is not ended by the test is ended by end_calls(), which teardown() calls first. */
void end_call(struct audit_open *o, const struct audit_ending *e);
void end_calls(void);
/* Queues it, and the verdict is 0 at the end of the turn. */
struct audit_open *request_ok(const struct audit_call *call);
/* The answer is complete; at the end of the turn it is in the sink. */
void respond(struct audit_open *o);

const char *read_file(const char *name);
/* The nth line, from 0; NULL after the last. */
char *line_at(char *all, size_t n);
size_t count_lines(const char *name);
void assert_has(const char *line, const char *part);
void assert_lacks(const char *line, const char *part);
/* The value of a field in a JSON line, unescaped, in static memory; NULL when it is not there. */
const char *value_of(const char *line, const char *name);
/* Of the nth line of the file at path. */
const char *value_at(size_t n, const char *name);

/* Every line is a record whose MCP_CHAIN is right, by an implementation that shares nothing with the product, and goes
 * on from the one before; the first from prev (NULL: not looked at). The number of lines. */
size_t check_chain(const char *name, const char *prev);
