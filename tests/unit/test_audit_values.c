#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/audit_record.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

enum { FIELDS_MAX = 64, EVILS = 4 /* records with a value in every place */ };

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
	struct audit_note note = { .where = { evil, evil, evil }, .reason = z, .detail = z, .nonce = evil };

	view.id = view.client_name = view.protocol_version = evil;
	call.call_id = call.agent = call.agent_auth = call.route = call.trace = call.args_hash = evil;
	call.session_hash = evil;
	call.upstream = z;
	call.where = note.where;
	view.name = evil;
	respond(request_ok(&call));
	view.method = evil;
	audit_denied(audit, &call, TP_REASON_POLICY, z);
	audit_event(audit, AUDIT_CANARY, &note);
	turn();
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
	static char got[EVILS][16384];
	static struct parsed like[EVILS], p;
	struct span all[32];
	size_t n = all_evils(all);
	char keys[EVILS][300], these[300];
	int fd;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	for (size_t i = 0; i < n; i++) {
		emit_with(all[i]);
		for (size_t k = 0; k < EVILS; k++) {
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
	ck_assert_str_eq(keys[0], "v ev seq call agent method tool args decision chain ");
	ck_assert_str_eq(keys[2], "v ev seq call agent method args decision reason rule chain ");
	ck_assert_str_eq(keys[3], "v ev seq tunnel session peer reason detail nonce records open refused gaps chain ");
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
	size_t expect[EVILS] = { 0 }, n;
	struct span all[32];
	char *line;

	setup_file();
	n = all_evils(all);
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(truncate(path, 0), 0);
		emit_with(all[i]);
		for (size_t k = 0; k < EVILS; k++) {
			line = line_at((char *)read_file(path), k);
			ck_assert_ptr_nonnull(line);
			if (i == 0)
				expect[k] = count_strings(line, k == 2);
			ck_assert_uint_eq(count_strings(line, k == 2), expect[k]);
		}
		ck_assert_ptr_null(line_at((char *)read_file(path), EVILS));
	}
	teardown();
}
END_TEST

UNIT_MAIN("audit_values", ADD(injection_journal) ADD(injection_file))
