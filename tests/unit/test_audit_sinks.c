#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit_record.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

enum { FIELDS_MAX = 64 };

static const struct audit_ending complete = { .http_status = 200, .response_bytes = 45, .ttfb_us = 678 };

/* ---- Injection ---- */

struct parsed {
	size_t n;
	struct {
		char name[64];
		struct span value;
	} fields[FIELDS_MAX];
};

/* As journald reads it: NAME \n, 64 bits of length, value, \n. */
static void parse_journal(struct span record, struct parsed *p)
{
	p->n = 0;
	while (record.len) {
		struct span name = span_split(&record, '\n');
		uint64_t len;

		ck_assert(p->n < FIELDS_MAX && name.len < 64 && record.len > sizeof(len));
		ck_assert_ptr_null(memchr(name.p, '=', name.len));
		memcpy(&len, record.p, sizeof(len));
		len = le64toh(len);
		ck_assert_uint_lt(len, record.len - sizeof(len));
		snprintf(p->fields[p->n].name, 64, "%.*s", SPAN_FMT(name));
		p->fields[p->n++].value = span_make(record.p + sizeof(len), len);
		record = span_make(record.p + sizeof(len) + len, record.len - sizeof(len) - len);
		ck_assert_int_eq(record.p[0], '\n');
		record = span_make(record.p + 1, record.len - 1);
	}
}

static void check_values(const struct parsed *p, const struct parsed *like)
{
	ck_assert_uint_eq(p->n, like->n);
	for (size_t i = 0; i < p->n; i++) {
		struct span v = p->fields[i].value;

		ck_assert_str_eq(p->fields[i].name, like->fields[i].name);
		ck_assert_uint_le(v.len, i ? 256 : AUDIT_MESSAGE_MAX);
		for (size_t k = 0; k < v.len; k++)
			ck_assert(((unsigned char)v.p[k] >= 0x20 && v.p[k] != 0x7f));
	}
	ck_assert_str_eq(p->fields[0].name, "MESSAGE");
}

/* Every value that comes from outside. */
static void emit_with(struct span evil)
{
	_cleanup_(freep) char *copy = span_dup(evil);
	const char *z = *copy ? copy : "x";
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;

	view.id = view.client_name = view.protocol_version = evil;
	call.call_id = call.agent = call.agent_auth = call.route = call.trace = call.arguments = evil;
	call.upstream = z;
	audit_set_session(audit, z, z);
	view.name = evil;
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	audit_response(audit, open, &complete);
	view.method = evil;
	audit_denied(audit, &call, TP_REASON_POLICY, z);
}

static const struct span evils[] = {
	BYTES("plain"),
	BYTES("a\nMCP_DECISION=deny\nPRIORITY=0"),
	BYTES("a\",\"mcp_decision\":\"deny"),
	BYTES("a\" decision=deny x=\""),
	BYTES("a decision=deny"),
	BYTES("\\\" decision=deny"),
	BYTES("\0\0\0\0\0\0\0\1"),
	BYTES("\xff\xfe\x80"),
	BYTES("="),
	BYTES("MCP_AGENT_ID\n\x01\0\0\0\0\0\0\0x\n"),
	BYTES("\xe2\x80\xa8\xe2\x80\xae\x1b[2J"),
};

static char big[6][65536];

static size_t all_evils(struct span out[32])
{
	static const char fill[] = { 'a', '\n', '"', '\\', '\xff', '\0' };
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(evils); i++)
		out[n++] = evils[i];
	for (size_t i = 0; i < ARRAY_LEN(big); i++) {
		memset(big[i], fill[i], sizeof(big[i]));
		out[n++] = span_make(big[i], sizeof(big[i]));
	}
	return n;
}

/* Key and value pairs of MESSAGE, as a logfmt parser reads them: the keys in order. */
static void line_keys(struct span line, char *out, size_t size)
{
	size_t n = 0, i = strlen("MCPAUDIT");

	ck_assert(span_starts(line, "MCPAUDIT "));
	while (i < line.len) {
		ck_assert_int_eq(line.p[i++], ' ');
		while (line.p[i] != '=' && n + 2 < size)
			out[n++] = line.p[i++];
		out[n++] = ' ';
		if (line.p[++i] != '"') {
			while (i < line.len && line.p[i] != ' ')
				ck_assert(line.p[i] != '=' && line.p[i++] != '"');
			continue;
		}
		for (i++; line.p[i] != '"'; i++) {
			i += line.p[i] == '\\';
			ck_assert_uint_lt(i, line.len - 1);
		}
		i++;
	}
	out[n] = '\0';
}

START_TEST(injection_journal)
{
	static char got[3][16384];
	struct parsed like[3], p;
	struct span all[32];
	size_t n = all_evils(all);
	char keys[3][300], these[300];
	int fd;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	for (size_t i = 0; i < n; i++) {
		emit_with(all[i]);
		for (size_t k = 0; k < 3; k++) {
			ssize_t len = recv(fd, i ? text : got[k], 16384, 0);

			ck_assert_int_gt(len, 0);
			ck_assert_int_lt(len, 4096);
			parse_journal(span_make(i ? text : got[k], (size_t)len), i ? &p : &like[k]);
			check_values(i ? &p : &like[k], &like[k]);
			line_keys((i ? &p : &like[k])->fields[0].value, i ? these : keys[k], sizeof(these));
			if (i)
				ck_assert_str_eq(these, keys[k]);
		}
	}
	ck_assert_str_eq(keys[0], "v ev seq call agent method tool args decision ");
	ck_assert_str_eq(keys[2], "v ev seq call agent method args decision reason rule ");
	close(fd);
	teardown();
}
END_TEST

#ifdef HAVE_ORACLE
static size_t count_strings(const char *line, bool want_deny)
{
	json_error_t e;
	json_t *tree = json_loads(line, JSON_REJECT_DUPLICATES, &e), *value;
	const char *key;
	size_t n;

	ck_assert_msg(tree != NULL, "%s: %s", e.text, line);
	n = json_object_size(tree);
	json_object_foreach(tree, key, value)
		ck_assert_msg(json_is_string(value), "%s", key);
	value = json_object_get(tree, "mcp_decision");
	ck_assert(!value || strcmp(json_string_value(value), want_deny ? "deny" : "allow") == 0);
	json_decref(tree);
	return n;
}
#else
/* What can be said without a parser: as many strings, and nothing that ends one too early. */
static size_t count_strings(const char *line, bool want_deny)
{
	size_t n = 0;

	for (const char *p = line; *p; p++) {
		p += p[0] == '\\' && p[1];
		n += *p == '"';
	}
	return n;
}
#endif

START_TEST(injection_file)
{
	size_t expect[3] = { 0 }, n;
	struct span all[32];
	char *line;

	setup_file();
	n = all_evils(all);
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		emit_with(all[i]);
		for (size_t k = 0; k < 3; k++) {
			line = line_at((char *)read_file(path), k);
			ck_assert_ptr_nonnull(line);
			if (i == 0)
				expect[k] = count_strings(line, k == 2);
			ck_assert_uint_eq(count_strings(line, k == 2), expect[k]);
		}
		ck_assert_ptr_null(line_at((char *)read_file(path), 3));
	}
	teardown();
}
END_TEST

/* ---- Sinks that fail ---- */

static bool healthy(const char *expect_detail)
{
	const char *detail = "";
	bool ok = audit_healthy(audit, &detail);

	ck_assert_str_eq(detail, expect_detail);
	return ok;
}

START_TEST(full)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = (void *)&call;

	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, "/dev/full"), 0);
	ck_assert(healthy(""));
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(audit_request(audit, &call, &open), -ENOSPC);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_ptr_eq(open, (void *)&call);
	ck_assert(!healthy("cannot write /dev/full: No space left on device"));
	ck_assert_int_eq(n_warnings, 1);
	ck_assert_int_eq(n_notices, 0);
	teardown();
}
END_TEST

/* No ck_assert here or while the limit is in force: each writes to check's own file, which the limit would cut as well. */
static void limit_file(rlim_t bytes)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_FSIZE, &lim) < 0)
		abort();
	lim.rlim_cur = bytes;
	if (setrlimit(RLIMIT_FSIZE, &lim) < 0)
		abort();
}

/* A record of which only a part was written is no record, and the next one is whole. Cut at every byte. */
START_TEST(torn)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *a = NULL, *b;
	size_t len = 1;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	for (size_t cut = 0; cut <= len; cut++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		ck_assert_int_eq(audit_request(audit, &call, &a), 0);
		len = strlen(read_file(path));
		limit_file(len + cut);
		r = audit_request(audit, &call, &b);
		limit_file(RLIM_INFINITY);
		ck_assert_int_eq(r, cut + 1 >= len ? 0 : cut ? -ENOSPC : -EFBIG);
		audit_response(audit, a, &complete);
		if (r == 0)
			audit_response(audit, b, &complete);
		/* The first record, what is left of the second, the third. */
		ck_assert_ptr_nonnull(line_at((char *)read_file(path), 0));
		assert_has(line_at((char *)read_file(path), cut ? 2 : 1), "{\"message\":\"MCPAUDIT v=1 ev=call.response");
		ck_assert_ptr_null(line_at((char *)read_file(path), r == 0 ? 4 : cut ? 3 : 2));
		if (cut)
			ck_assert_uint_eq(strlen(line_at((char *)read_file(path), 1)), MIN(cut, len - 1));
	}
	teardown();
}
END_TEST

/* A lost ending leaves a hole in the sequence, a refused call does not. */
START_TEST(sequence)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *a = NULL, *b = NULL;
	int first, second;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	ck_assert_int_eq(audit_request(audit, &call, &a), 0);
	limit_file(strlen(read_file(path)));
	first = audit_request(audit, &call, &b);
	second = audit_request(audit, &call, &b);
	audit_response(audit, a, &complete);
	limit_file(RLIM_INFINITY);
	ck_assert_int_eq(first, -EFBIG);
	ck_assert_int_eq(second, -EFBIG);
	ck_assert_int_eq(audit_request(audit, &call, &b), 0);
	assert_has(line_at((char *)read_file(path), 0), "ev=call.request seq=0 ");
	assert_has(line_at((char *)read_file(path), 1), "ev=call.request seq=2 ");
	assert_has(last_notice, "2 calls were refused, and 1 records");
	audit_response(audit, b, &complete);
	teardown();
}
END_TEST

START_TEST(left_torn)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	int fd;

	make_dir();
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	ck_assert_int_eq(write(fd, "{}\n{\"mess", 9), 9);
	close(fd);
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	audit_reopen(audit);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_str_eq(line_at((char *)read_file(path), 1), "{\"mess");
	assert_has(line_at((char *)read_file(path), 2), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=0");
	assert_has(line_at((char *)read_file(path), 3), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=1");
	ck_assert_ptr_null(line_at((char *)read_file(path), 4));
	teardown();
}
END_TEST

START_TEST(reopen)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	char moved[120], hidden[120];

	setup_file();
	snprintf(moved, sizeof(moved), "%s.1", path);
	snprintf(hidden, sizeof(hidden), "%s.2", dir);
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_int_eq(rename(path, moved), 0);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_int_eq(access(path, F_OK), -1);
	audit_reopen(audit);
	audit_response(audit, open, &complete);
	assert_has(line_at((char *)read_file(moved), 1), "ev=call.denied seq=1 ");
	ck_assert_ptr_null(line_at((char *)read_file(moved), 2));
	assert_has(line_at((char *)read_file(path), 0), "ev=call.response seq=2 ");
	/* What cannot be opened leaves the old one in use. */
	ck_assert_int_eq(rename(dir, hidden), 0);
	audit_reopen(audit);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	ck_assert_int_eq(rename(hidden, dir), 0);
	ck_assert(healthy(""));
	assert_has(line_at((char *)read_file(path), 1), "ev=call.denied seq=3 ");
	teardown();
}
END_TEST

/* The file is private whatever the umask says; so is the one after a rotation. */
START_TEST(made_private)
{
	const mode_t before = umask(0);
	struct stat st;

	setup_file();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(unlink(path), 0);
	audit_reopen(audit);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	teardown();
	umask(before);
}
END_TEST

START_TEST(no_sink)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = (void *)&call;

	make_dir();
	ck_assert_int_eq(start(AUDIT_NONE, NULL), 0);
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert_ptr_null(open);
	audit_response(audit, open, &complete);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	audit_reopen(audit);
	ck_assert(healthy(""));
	teardown();
	ck_assert_ptr_null(audit_free(NULL));
}
END_TEST

START_TEST(bad_start)
{
	char expect[200];

	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, "/nonexistent/audit"), -ENOENT);
	ck_assert_str_eq(err, "audit: cannot open the file /nonexistent/audit: No such file or directory");
	loop_free(loop);
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), -ENOENT);
	snprintf(expect, sizeof(expect), "audit: cannot reach journald at %s: No such file or directory", path);
	ck_assert_str_eq(err, expect);
	loop_free(loop);
	ck_assert_int_eq(start(AUDIT_FILE, dir), -EISDIR);
	teardown();
}
END_TEST

/* The queue is full: refused at once. Then journald is gone, comes back, is restarted. */
START_TEST(journal_fails)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	uint64_t before;
	int fd, n = 0;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	before = clock_now_us();
	while (n++ < 100000 && audit_request(audit, &call, &open) == 0)
		audit_response(audit, open, &complete);
	ck_assert_int_eq(audit_request(audit, &call, &open), -EAGAIN);
	ck_assert_uint_lt(clock_now_us() - before, 20 * 1000000);
	ck_assert(!healthy("the queue of journald is full"));
	ck_assert_int_eq(n_warnings, 1);
	while (recv(fd, text, sizeof(text), 0) > 0)
		;
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	ck_assert(healthy(""));
	ck_assert_int_eq(n_notices, 1);
	audit_response(audit, open, &complete);

	close(fd);
	ck_assert_int_eq(audit_request(audit, &call, &open), -ECONNREFUSED);
	ck_assert(!healthy("journald is not running: Connection refused"));
	unlink(path);
	ck_assert_int_eq(audit_request(audit, &call, &open), -ENOENT);
	fd = serve();
	ck_assert_int_eq(audit_request(audit, &call, &open), 0);
	close(fd);
	unlink(path);
	fd = serve();
	audit_response(audit, open, &complete);
	ck_assert(healthy(""));
	close(fd);
	teardown();
}
END_TEST

/* A sink that fails again and again fills no log, and nothing of it stays untold. */
START_TEST(flapping)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *open = NULL;
	int refused = 0, told = 0, n = 0;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	for (int i = 0; i < 100; i++) {
		limit_file(1);
		refused += audit_request(audit, &call, &open) < 0;
		limit_file(RLIM_INFINITY);
		ck_assert_int_eq(truncate(path, 0), 0);
		ck_assert_int_eq(audit_request(audit, &call, &open), 0);
		audit_response(audit, open, &complete);
		if (n_notices > n && sscanf(last_notice, "audit: records are taken again; %d", &told) == 1) {
			n = n_notices;
			refused -= told;
		}
	}
	ck_assert_int_ge(n_warnings, 1);
	ck_assert_int_lt(n_warnings, 20);
	ck_assert_int_gt(refused, 0);
	for (int i = 0; i < 1000 && n_notices == n; i++) {
		usleep(10000);
		audit_denied(audit, &call, TP_REASON_POLICY, "x");
	}
	ck_assert_int_eq(sscanf(last_notice, "audit: records are taken again; %d", &told), 1);
	ck_assert_int_eq(told, refused);
	teardown();
}
END_TEST

UNIT_MAIN("audit_sinks", ADD(injection_journal) ADD(injection_file) ADD(full) ADD(torn) ADD(sequence) ADD(left_torn)
			 ADD(reopen) ADD(made_private) ADD(no_sink) ADD(bad_start) ADD(journal_fails) ADD(flapping))
