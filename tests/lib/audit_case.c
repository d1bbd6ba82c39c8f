#include "tests/lib/audit_case.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

char dir[64], path[100], err[200];
char text[TEXT_BYTES];
struct loop *loop;
struct audit *audit;
struct audit_config config;
int n_warnings, n_notices, n_errors;
char last_notice[300], last_warning[500];
size_t n_verdicts;
struct verdict verdicts[VERDICTS_MAX];
const struct audit_ending complete = { .http_status = 200, .response_bytes = 45, .ttfb_us = 678 };

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	n_errors += level == LOG_LEVEL_ERROR;
	n_warnings += level == LOG_LEVEL_WARNING;
	n_notices += level == LOG_LEVEL_NOTICE;
	if (level == LOG_LEVEL_NOTICE)
		snprintf(last_notice, sizeof(last_notice), "%s", message);
	else
		snprintf(last_warning, sizeof(last_warning), "%s", message);
}

/* Of request(), until it is refused or ended; teardown() ends the others. */
static struct audit_open *held[VERDICTS_MAX];
static size_t n_held;

void on_verdict(void *user, int r)
{
	struct audit_open **hold = user;

	if (r < 0 && hold)
		*hold = NULL;
	ck_assert_uint_lt(n_verdicts, VERDICTS_MAX);
	verdicts[n_verdicts++] = (struct verdict){ user, r };
}

void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test_audit.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/audit", dir);
	log_set_sink(on_log, NULL);
	n_verdicts = 0;
	n_warnings = n_notices = n_errors = 0;
	config = (struct audit_config){ .side = "gateway" };
}

int start(enum audit_sink sink, const char *at)
{
	config.sink = sink;
	config.path = at;
	ck_assert_int_eq(loop_new(&loop), 0);
	return audit_new(loop, &config, err, sizeof(err), &audit);
}

void setup_file(void)
{
	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
}

void teardown_unchecked(void)
{
	char other[120];

	end_calls();
	audit = audit_free(audit);
	loop = loop_free(loop);
	log_set_sink(NULL, NULL);
	snprintf(other, sizeof(other), "%s.1", path);
	unlink(other);
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

void teardown(void)
{
	if (audit && config.sink == AUDIT_FILE && access(path, F_OK) == 0)
		check_chain(path, NULL);
	teardown_unchecked();
}

/* ---- The loop ---- */

void turn(void)
{
	loop_stop(loop);
	ck_assert_int_eq(loop_run(loop), 0);
}

static void on_time(evutil_socket_t fd, short what, void *user)
{
	loop_stop(loop);
}

void run_ms(unsigned ms)
{
	struct event *ev = NULL;

	ck_assert_int_eq(loop_every(loop, MAX(ms, 1u), on_time, NULL, &ev), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	event_free(ev);
}

void run_until(bool (*fn)(void))
{
	for (int i = 0; i < 5000 && !fn(); i++)
		run_ms(1);
	ck_assert(fn());
}

/* ---- Calls ---- */

struct mcp_view tool_view(void)
{
	return (struct mcp_view){
		.kind = MCP_REQUEST,
		.method = SPAN("tools/call"),
		.id = SPAN("7"),
		.name = SPAN("get_weather"),
		.uri = SPAN("file:///never/recorded"),
		.protocol_version = SPAN("2026-07-28"),
		.client_name = SPAN("agent-app"),
		.has_arguments = true,
	};
}

struct audit_call tool_call(const struct mcp_view *v)
{
	return (struct audit_call){
		.where = { SPAN("acme"), SPAN("00ff"), SPAN("192.0.2.1:443") },
		.call_id = SPAN(CALL_ID),
		.agent = SPAN("alice@example.com"),
		.agent_auth = SPAN("mtls"),
		.trace = SPAN("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		.upstream = "http://127.0.0.1:3000/mcp",
		.view = v,
		.args_hash = SPAN(ARGS_HASH),
		.session_hash = SPAN("hmac-sha256:4267500d:00112233"),
		.request_bytes = 123,
	};
}

struct audit_open *request(void)
{
	struct audit_open **hold = &held[n_held];
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	ck_assert_uint_lt(n_held++, VERDICTS_MAX);
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, hold, hold), 0);
	ck_assert_ptr_nonnull(*hold);
	return *hold;
}

void end_call(struct audit_open *o, const struct audit_ending *e)
{
	for (size_t i = 0; i < n_held; i++)
		if (held[i] == o)
			held[i] = NULL;
	audit_response(audit, o, e);
}

void end_calls(void)
{
	for (size_t i = 0; i < n_held; i++)
		audit_response(audit, held[i], &complete);
	n_held = 0;
}

struct audit_open *request_ok(const struct audit_call *call)
{
	struct audit_open *o = NULL;
	size_t before = n_verdicts;

	ck_assert_int_eq(audit_request(audit, call, on_verdict, NULL, &o), 0);
	ck_assert_uint_eq(n_verdicts, before);
	turn();
	ck_assert_uint_eq(n_verdicts, before + 1);
	ck_assert_int_eq(verdicts[before].r, 0);
	return o;
}

void respond(struct audit_open *o)
{
	end_call(o, &complete);
	turn();
}

/* ---- What came out ---- */

const char *read_file(const char *name)
{
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	close(fd);
	return text;
}

char *line_at(char *all, size_t n)
{
	char *line = NULL;

	for (size_t i = 0; i <= n; i++) {
		line = strsep(&all, "\n");
		if (!all)
			return NULL;
	}
	return line;
}

size_t count_lines(const char *name)
{
	size_t n = 0;

	for (const char *p = read_file(name); *p; p++)
		n += *p == '\n';
	return n;
}

void assert_has(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) != NULL, "%s is not in %s", part, line);
}

void assert_lacks(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) == NULL, "%s is in %s", part, line);
}

int serve(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* ---- The chain, once more ---- */

enum { PAIRS_MAX = 64, VALUE_MAX = 1100 };

struct pair {
	char name[64], value[VALUE_MAX];
};

/* One JSON string of printable ASCII and UTF-8; what is behind it. */
static const char *take_string(const char *p, char *dst, size_t size)
{
	size_t n = 0;

	ck_assert_msg(*p == '"', "no string: %.40s", p);
	for (p++; *p != '"'; p++) {
		p += *p == '\\';
		ck_assert_msg(*p && *p != '\n' && n + 1 < size, "bad string: %.40s", p);
		dst[n++] = *p;
	}
	dst[n] = '\0';
	return p + 1;
}

static size_t take_line(const char *p, struct pair *pairs)
{
	size_t n = 0;

	ck_assert_msg(*p == '{', "no record: %.80s", p);
	do {
		ck_assert_uint_lt(n, PAIRS_MAX);
		p = take_string(p + 1, pairs[n].name, sizeof(pairs[n].name));
		ck_assert_int_eq(*p, ':');
		p = take_string(p + 1, pairs[n].value, sizeof(pairs[n].value));
		for (char *c = pairs[n].name; *c; c++)
			*c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
		n++;
	} while (*p == ',');
	ck_assert_msg(strcmp(p, "}") == 0, "after the record: %s", p);
	return n;
}

static const char *find_pair(const struct pair *pairs, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(pairs[i].name, name) == 0)
			return pairs[i].value;
	return NULL;
}

const char *value_of(const char *line, const char *name)
{
	static struct pair pairs[PAIRS_MAX];
	char upper[64];
	size_t n = take_line(line, pairs);

	snprintf(upper, sizeof(upper), "%s", name);
	for (char *c = upper; *c; c++)
		*c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
	return find_pair(pairs, n, upper);
}

const char *value_at(size_t n, const char *name)
{
	char *line = line_at((char *)read_file(path), n);

	ck_assert_ptr_nonnull(line);
	return value_of(line, name);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

static bool counts(const char *name)
{
	if (strncmp(name, "MCP_", 4) == 0)
		return strcmp(name, "MCP_CHAIN") != 0;
	return strcmp(name, "MESSAGE") == 0 || strcmp(name, "MESSAGE_ID") == 0 || strcmp(name, "PRIORITY") == 0;
}

static void chain_of(struct pair *pairs, size_t n, char out[65])
{
	static char all[65536];
	unsigned char hash[32];
	size_t len = 0;
	char *cut;

	qsort(pairs, n, sizeof(*pairs), by_name);
	for (size_t i = 0; i < n; i++) {
		const char *name = pairs[i].name;

		if (!counts(name))
			continue;
		cut = strcmp(name, "MESSAGE") == 0 ? strrchr(pairs[i].value, ' ') : NULL;
		if (cut)
			*cut = '\0';
		len += (size_t)snprintf(all + len, sizeof(all) - len, "%s=%zu:%s\n", name, strlen(pairs[i].value),
					pairs[i].value);
		if (cut)
			*cut = ' ';
	}
	SHA256((unsigned char *)all, len, hash);
	for (size_t i = 0; i < sizeof(hash); i++)
		snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static void keep(char *dst, size_t len, const char *value)
{
	ck_assert(value && strlen(value) == len);
	memcpy(dst, value, len + 1);
}

static void check_record(const char *line, char prev[65], char id[33], uint64_t *seq)
{
	static struct pair pairs[PAIRS_MAX];
	size_t n = take_line(line, pairs);
	bool first = strcmp(find_pair(pairs, n, "MCP_SEQ"), "0") == 0;
	char chain[65], word[80];

	ck_assert_str_eq(pairs[0].name, "MESSAGE");
	ck_assert_uint_le(strlen(pairs[0].value), 900);
	if (*prev)
		ck_assert_str_eq(find_pair(pairs, n, "MCP_CHAIN_PREV"), prev);
	if (*id && !first)
		ck_assert_str_eq(find_pair(pairs, n, "MCP_CHAIN_ID"), id);
	if (*id && !first)
		ck_assert_uint_eq(strtoull(find_pair(pairs, n, "MCP_SEQ"), NULL, 10), *seq + 1);
	*seq = strtoull(find_pair(pairs, n, "MCP_SEQ"), NULL, 10);
	keep(id, 32, find_pair(pairs, n, "MCP_CHAIN_ID"));
	keep(prev, 64, find_pair(pairs, n, "MCP_CHAIN"));
	snprintf(word, sizeof(word), " chain=%s", prev);
	ck_assert_str_eq(strrchr(find_pair(pairs, n, "MESSAGE"), ' '), word);
	chain_of(pairs, n, chain);
	ck_assert_str_eq(chain, prev);
}

size_t check_chain(const char *name, const char *prev)
{
	char *all = strdup(read_file(name)), *rest = all, *line;
	char head[65] = "", id[33] = "";
	uint64_t seq = 0;
	size_t n = 0;

	if (prev)
		snprintf(head, sizeof(head), "%s", prev);
	while ((line = strsep(&rest, "\n")) && rest) {
		check_record(line, head, id, &seq);
		n++;
	}
	ck_assert_str_eq(line, "");
	free(all);
	return n;
}
