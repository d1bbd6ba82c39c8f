/* Whatever outside values say, a record is one line of valid JSON with the fields of its event, and MESSAGE is one line. */
#include "daemon/audit.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/reasons.h"

#if __has_include(<jansson.h>)
#include <jansson.h>
#define HAVE_ORACLE 1
#endif

enum { OUT_MAX = 1 << 16, LINES = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct audit *audit;
static int file;

static void fault(const char *what, struct span line)
{
	fprintf(stderr, "%s\n%.*s\n", what, SPAN_FMT(line));
	abort();
}

static void setup(void)
{
	struct audit_config cfg = { .sink = AUDIT_FILE, .side = "gateway", .checkpoint_records = UINT64_MAX };
	char path[64], err[200];

	if (audit)
		return;
	file = memfd_create("audit", 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	cfg.path = path;
	if (loop_new(&loop) < 0 || audit_new(loop, &cfg, err, sizeof(err), &audit) < 0)
		abort();
}

/* One length byte (255: all that is left) and the value. */
static struct span take(struct span *rest)
{
	struct span s = { "", 0 };
	size_t n;

	if (!rest->len)
		return s;
	n = (uint8_t)rest->p[0];
	*rest = span_make(rest->p + 1, rest->len - 1);
	s = span_make(rest->p, n == 255 ? rest->len : MIN(n, rest->len));
	*rest = span_make(rest->p + s.len, rest->len - s.len);
	return s;
}

#ifdef HAVE_ORACLE
static void check_record(struct span line)
{
	json_error_t e;
	json_t *tree = json_loadb(line.p, line.len, JSON_REJECT_DUPLICATES, &e), *value;
	const char *key;

	if (!tree)
		fault(e.text, line);
	json_object_foreach(tree, key, value) {
		if (!json_is_string(value) || json_string_length(value) > (strcmp(key, "message") == 0 ? 900 : 256))
			fault(key, line);
		for (size_t i = 0; i < json_string_length(value); i++)
			if ((uint8_t)json_string_value(value)[i] < ' ' || json_string_value(value)[i] == 0x7f)
				fault("control character", line);
	}
	json_decref(tree);
}
#else
static void check_record(struct span line)
{
}
#endif

static void check_file(void)
{
	static char out[OUT_MAX];
	ssize_t n = pread(file, out, sizeof(out), 0);
	struct span rest = span_make(out, (size_t)n);

	for (int i = 0; i < LINES; i++)
		check_record(span_split(&rest, '\n'));
	if (n <= 0 || !rest.p || rest.len)
		fault("not as many lines as records", span_make(out, (size_t)n));
	if (ftruncate(file, 0) < 0)
		abort();
}

static void on_verdict(void *user, int r)
{
	if (r < 0)
		abort();
}

static void turn(void)
{
	loop_stop(loop);
	if (loop_run(loop) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct audit_ending ending = { .http_status = 200 };
	struct span rest = span_make(size ? (const char *)data : "", size);
	struct mcp_view view = { .kind = MCP_REQUEST, .method = SPAN("tools/call") };
	struct audit_call call = { .view = &view };
	struct audit_note note = { .reason = "x" };
	struct span *const values[] = { &view.name,	 &call.agent, &view.id,	   &call.args_hash, &view.client_name,
					&call.agent_auth, &call.route, &call.trace, &call.call_id,  &view.protocol_version,
					&call.where.peer, &note.nonce, &ending.peer_head };
	struct audit_open *open = NULL;
	char *detail;

	setup();
	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		*values[i] = take(&rest);
	if (audit_request(audit, &call, on_verdict, NULL, &open) != 0)
		abort();
	turn();
	audit_response(audit, open, &ending);
	view.method = view.name;
	detail = span_dup(view.name);
	audit_denied(audit, &call, TP_REASON_POLICY, detail);
	note.detail = detail;
	audit_event(audit, AUDIT_CANARY, &note);
	turn();
	free(detail);
	check_file();
	return 0;
}
