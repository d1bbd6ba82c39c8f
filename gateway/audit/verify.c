#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "daemon/audit_state.h"
#include "gateway/audit/command.h"
#include "gateway/audit/inputs.h"
#include "gateway/audit/trail.h"

enum { STAMP_MAX = 32 };

struct job {
	struct input_file *files;
	const char **names; /* of the files, for findings */
	const char **states;
	size_t n_files, n_states;
	bool json, quiet, has_relay;
};

static const char usage[] =
	"Usage: mcp-tunnel-audit verify [--relay FILE]... [--state FILE]... [--json|--quiet] FILE...\n"
	"\n"
	"  FILE          what journalctl -a -o json printed, or a file of --audit file:PATH; - is standard input\n"
	"  --relay FILE  the relay's log: calls and heads are compared\n"
	"  --state FILE  the file \"audit\" in the state directory: the head in it must be in the log\n"
	"  --json        an object a line\n"
	"  --quiet       the exit status only\n"
	"\n"
	"Exit status: 0 whole, 1 not whole, 2 could not tell.\n";

static void job_done(struct job *j)
{
	free(j->files);
	free(j->names);
	free(j->states);
}

static void add_file(struct job *j, const char *path, bool is_relay)
{
	j->names[j->n_files] = path;
	j->files[j->n_files++] = (struct input_file){ path, is_relay };
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct job *j)
{
	static const struct option options[] = {
		{ "relay", required_argument, NULL, 'r' }, { "state", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },	   { "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },	   { NULL, 0, NULL, 0 },
	};
	size_t n_stdin = 0;
	int c;

	while ((c = getopt_long(argc, argv, ":hq", options, NULL)) >= 0) {
		if (c == 'r') {
			add_file(j, optarg, true);
			j->has_relay = true;
		} else if (c == 's') {
			j->states[j->n_states++] = optarg;
		} else if (c == 'j') {
			j->json = true;
		} else if (c == 'q') {
			j->quiet = true;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return command_end(EXIT_WHOLE);
		} else {
			return command_bad_option(argc, argv, c);
		}
	}
	for (int i = optind; i < argc; i++)
		add_file(j, argv[i], false);
	for (size_t i = 0; i < j->n_files; i++)
		n_stdin += strcmp(j->files[i].path, "-") == 0;
	if (j->n_files == 0)
		return command_fail("verify: FILE is missing: name a log, or - for standard input");
	if (n_stdin > 1)
		return command_fail("verify: standard input (-) is named twice");
	return -1;
}

/* ---- What is said at the end ---- */

static const char *stamp(uint64_t us, char out[STAMP_MAX])
{
	time_t s = (time_t)(us / 1000000);
	struct tm tm;

	if (us == 0 || !gmtime_r(&s, &tm))
		return "?";
	strftime(out, STAMP_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
	return out;
}

static void print_count(const char *who, uint64_t n, const char *what, const char *text)
{
	if (n)
		printf("%s: %" PRIu64 " %s%s %s\n", who, n, what, plural(n), text);
}

static void print_side(const struct trail_sums *s, enum side side)
{
	char from[STAMP_MAX], to[STAMP_MAX];
	const char *who = side_name(side);

	if (s->n_records[side] == 0)
		return;
	printf("%s: %" PRIu64 " record%s in %zu chain%s, %" PRIu64 " call%s, %" PRIu64 " denied, %s to %s\n", who,
	       s->n_records[side], plural(s->n_records[side]), s->n_chains[side], plural(s->n_chains[side]),
	       s->n_requests[side], plural(s->n_requests[side]), s->n_denied[side], stamp(s->first_us[side], from),
	       stamp(s->last_us[side], to));
	print_count(who, s->calls.n_open[side], "call", "open where the log ends");
	print_count(who, s->calls.n_before[side], "call", "from before the log begins");
}

static void print_both(const struct trail_sums *s)
{
	if (s->claims_agree || s->claims_differ)
		printf("heads: %" PRIu64 " agree, %" PRIu64 " differ\n", s->claims_agree, s->claims_differ);
	if (s->n_records[SIDE_GATEWAY] == 0 || s->n_records[SIDE_RELAY] == 0)
		return;
	printf("both: %" PRIu64 " call%s the same in both logs\n", s->n_matched, plural(s->n_matched));
	print_count("both", s->calls.n_not_reached, "call", "of the relay without an answer of the gateway");
	print_count("both", s->calls.n_outside, "call", "at times that one of the logs does not cover");
	print_count("both", s->calls.n_other_tunnel, "call", "of other tunnels");
	print_count("both", s->calls.n_not_comparable, "call", "with hashes that were made with different keys");
}

static const char *verdict(int status)
{
	return status == EXIT_WHOLE ? "whole" : status == EXIT_NOT_WHOLE ? "not whole" : "could not tell";
}

static void print_text(const struct findings *f, const struct trail_sums *s, int status)
{
	uint64_t n = f->n[FINDING_FAULT] + f->n[FINDING_UNSURE] + f->n[FINDING_NOTE];

	if (n > FINDINGS_PRINTED_MAX)
		printf("%" PRIu64 " further findings are not shown\n", n - FINDINGS_PRINTED_MAX);
	for (int side = 0; side < SIDE_N; side++)
		print_side(s, side);
	print_both(s);
	printf("%s", verdict(status));
	if (status == EXIT_NOT_WHOLE)
		printf(": %" PRIu64 " fault%s", f->n[FINDING_FAULT], plural(f->n[FINDING_FAULT]));
	else if (status == EXIT_UNSURE && s->n_records[SIDE_GATEWAY] + s->n_records[SIDE_RELAY] == 0)
		printf(": there is no audit record");
	printf("\n");
}

static void print_json_side(const struct trail_sums *s, enum side side)
{
	char from[STAMP_MAX], to[STAMP_MAX];

	printf(",\"%s\":{\"records\":%" PRIu64 ",\"chains\":%zu,\"calls\":%" PRIu64 ",\"denied\":%" PRIu64
	       ",\"open\":%" PRIu64 ",\"began_before\":%" PRIu64 ",\"from\":\"%s\",\"to\":\"%s\"}",
	       side_name(side), s->n_records[side], s->n_chains[side], s->n_requests[side], s->n_denied[side],
	       s->calls.n_open[side], s->calls.n_before[side], stamp(s->first_us[side], from),
	       stamp(s->last_us[side], to));
}

static void print_json(const struct findings *f, const struct trail_sums *s, uint64_t others, int status)
{
	printf("{\"result\":\"%s\",\"exit\":%d,\"faults\":%" PRIu64 ",\"unsure\":%" PRIu64 ",\"notes\":%" PRIu64
	       ",\"other_lines\":%" PRIu64,
	       verdict(status), status, f->n[FINDING_FAULT], f->n[FINDING_UNSURE], f->n[FINDING_NOTE], others);
	for (int side = 0; side < SIDE_N; side++)
		if (s->n_records[side])
			print_json_side(s, side);
	printf(",\"heads\":{\"agree\":%" PRIu64 ",\"differ\":%" PRIu64 "},\"both\":{\"same\":%" PRIu64
	       ",\"no_answer\":%" PRIu64 ",\"not_covered\":%" PRIu64 ",\"other_tunnel\":%" PRIu64
	       ",\"other_key\":%" PRIu64 "}}\n",
	       s->claims_agree, s->claims_differ, s->n_matched, s->calls.n_not_reached, s->calls.n_outside,
	       s->calls.n_other_tunnel, s->calls.n_not_comparable);
}

/* ---- The work ---- */

/* What the process that uses the state directory has seen accepted. Read before the log: the log may be newer. */
static int claim_state(const char *path, struct findings *f, struct trail *t)
{
	struct finding w = { .weight = FINDING_UNSURE, .kind = "unreadable" };
	struct audit_state_old old;
	char name[FINDING_TEXT_MAX];
	struct log_head head;
	int r = audit_state_peek(path, &old);

	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		finding_add(f, &w, "%s: %s", finding_text(span_of(path), name),
			    r == -EINVAL ? "it is no audit state, or has no head" : strerror(-r));
		return 0;
	}
	if (log_head_make(span_of(old.chain_id), old.seq, span_of(old.head), &head))
		r = trail_claim(t, &head, old.time_us);
	else
		finding_add(f, &w, "%s: the head in it is none", finding_text(span_of(path), name));
	audit_state_old_done(&old);
	return r;
}

static int claim_states(const struct job *j, struct findings *f, struct trail *t)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < j->n_states; i++)
		r = claim_state(j->states[i], f, t);
	return r;
}

static int read_all(const struct job *j, struct findings *f, struct trail *t, struct trail_sums *ret, uint64_t *ret_others)
{
	_cleanup_(inputs_freep) struct inputs *in = NULL;
	const struct log_record *record;
	int r = claim_states(j, f, t);

	if (r == 0)
		r = inputs_new(j->files, j->n_files, f, &in);
	if (r < 0)
		return r;
	if (j->has_relay || inputs_have_both(in))
		trail_expect_both(t);
	while ((r = inputs_next(in, &record)) > 0) {
		r = trail_add(t, record);
		if (r < 0)
			return r;
	}
	*ret_others = inputs_others(in);
	return r < 0 ? r : trail_finish(t, ret);
}

static int verify(const struct job *j)
{
	_cleanup_(trail_freep) struct trail *t = NULL;
	struct findings f = {
		.out = stdout,
		.form = j->quiet ? FINDINGS_QUIET : j->json ? FINDINGS_JSON : FINDINGS_TEXT,
		.files = j->names,
		.n_files = j->n_files,
	};
	struct trail_sums sums = { 0 };
	uint64_t others = 0;
	int r = trail_new(&f, HEADS_NEWEST, &t), status;

	if (r == 0)
		r = read_all(j, &f, t, &sums, &others);
	if (r < 0)
		return command_fail("verify: %s", strerror(-r));
	status = f.n[FINDING_FAULT] ? EXIT_NOT_WHOLE
		 : f.n[FINDING_UNSURE] || sums.n_records[SIDE_GATEWAY] + sums.n_records[SIDE_RELAY] == 0 ? EXIT_UNSURE
													   : EXIT_WHOLE;
	if (f.form == FINDINGS_JSON)
		print_json(&f, &sums, others, status);
	else if (f.form == FINDINGS_TEXT)
		print_text(&f, &sums, status);
	return command_end(status);
}

int command_verify(int argc, char **argv)
{
	struct job j = { .files = calloc((size_t)argc, sizeof(*j.files)),
			 .names = calloc((size_t)argc, sizeof(*j.names)),
			 .states = calloc((size_t)argc, sizeof(*j.states)) };
	int status = j.files && j.names && j.states ? parse(argc, argv, &j) : command_fail("out of memory");

	if (status < 0)
		status = verify(&j);
	job_done(&j);
	return status;
}
