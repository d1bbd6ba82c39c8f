/* What one process leaves to the next. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/state_dir.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

static char state_path[120];
static struct state_dir *state;

static void begin(enum audit_sink sink)
{
	snprintf(state_path, sizeof(state_path), "%s/state", dir);
	ck_assert_int_eq(state_dir_open(state_path, err, sizeof(err), &state), 0);
	config.state_dir = state;
	ck_assert_int_eq(start(sink, path), 0);
	audit_start(audit);
}

static void end(void)
{
	end_calls();
	audit = audit_free(audit);
	loop = loop_free(loop);
	state = state_dir_close(state);
}

static void clean(void)
{
	char command[200];

	end();
	snprintf(command, sizeof(command), "rm -rf %s", state_path);
	ck_assert_int_eq(system(command), 0);
	teardown_unchecked();
}

static struct audit_open *call_number(unsigned n)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o;
	char id[37];

	snprintf(id, sizeof(id), "0190b5a4-7f3b-7c3e-8a51-%012u", n);
	call.call_id = span_of(id);
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &o), 0);
	return o;
}

/* Does that in a process that is killed then. */
static void in_a_process(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		begin(AUDIT_FILE);
		fn();
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void three_calls(void)
{
	struct audit_open *second;

	call_number(1);
	second = call_number(2);
	call_number(3);
	turn();
	respond(second);
	/* Withdrawn, and queued only: nobody has seen these. */
	end_call(call_number(4), &complete);
	call_number(5);
}

/* Each call that was open is told, once, and the chain goes on. */
START_TEST(killed)
{
	char from[40];
	size_t n;

	make_dir();
	in_a_process(three_calls);
	n = count_lines(path);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(check_chain(path, ZEROS), n + 3);
	ck_assert_str_eq(value_at(n, "mcp_event"), "gateway.start");
	ck_assert_str_eq(value_at(n, "mcp_seq"), "0");
	for (size_t i = 0; i < 2; i++) {
		ck_assert_str_eq(value_at(n + 1 + i, "mcp_gap_cause"), "killed");
		ck_assert_str_eq(value_at(n + 1 + i, "mcp_gap_count"), "1");
		ck_assert_str_eq(value_at(n + 1 + i, "mcp_call_id"),
				 i ? "0190b5a4-7f3b-7c3e-8a51-000000000003" : "0190b5a4-7f3b-7c3e-8a51-000000000001");
		ck_assert_str_eq(value_at(n + 1 + i, "priority"), "2");
		snprintf(from, sizeof(from), "%s", value_at(n + 1 + i, "mcp_gap_from"));
		ck_assert_int_lt(strcmp(from, value_at(n + 1 + i, "mcp_gap_to")), 0);
	}
	audit_stop(audit, "x");
	end();
	n = count_lines(path);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(check_chain(path, ZEROS), n + 1);
	clean();
}
END_TEST

static void many_calls(void)
{
	for (unsigned i = 0; i < 70; i++)
		call_number(i);
	turn();
}

START_TEST(many_killed)
{
	size_t n;

	make_dir();
	in_a_process(many_calls);
	n = count_lines(path);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(check_chain(path, ZEROS), n + 2);
	ck_assert_str_eq(value_at(n + 1, "mcp_gap_cause"), "killed");
	ck_assert_str_eq(value_at(n + 1, "mcp_gap_count"), "70");
	ck_assert_ptr_null(value_at(n + 1, "mcp_call_id"));
	clean();
}
END_TEST

static void nothing(void)
{
}

/* Killed again before it could tell: the third process tells. */
START_TEST(killed_twice)
{
	struct rlimit lim, full;

	signal(SIGXFSZ, SIG_IGN);
	make_dir();
	in_a_process(three_calls);
	getrlimit(RLIMIT_FSIZE, &lim);
	full = lim;
	full.rlim_cur = 8192; /* room for the state, not for another record */
	ck_assert_int_eq(truncate(path, 0), 0);
	ck_assert_int_eq(truncate(path, 8192), 0);
	setrlimit(RLIMIT_FSIZE, &full);
	in_a_process(nothing);
	setrlimit(RLIMIT_FSIZE, &lim);
	unlink(path);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(count_lines(path), 3);
	ck_assert_str_eq(value_at(2, "mcp_call_id"), "0190b5a4-7f3b-7c3e-8a51-000000000003");
	clean();
}
END_TEST

/* Calls that were refused, or ended, are not open. */
START_TEST(none_open)
{
	struct audit_open *o;
	int fd;

	make_dir();
	fd = serve();
	begin(AUDIT_JOURNALD);
	o = call_number(1);
	turn();
	respond(o);
	close(fd);
	call_number(2);
	turn();
	ck_assert_int_lt(verdicts[1].r, 0);
	end();
	unlink(path);
	fd = serve();
	begin(AUDIT_JOURNALD);
	ck_assert_uint_eq(audit_counters(audit)->written, 1);
	close(fd);
	clean();
}
END_TEST

static void last_chain(int fd, char out[65])
{
	char got[4096];
	ssize_t n;

	while ((n = recv(fd, got, sizeof(got), 0)) > 0) {
		const char *at = memmem(got, (size_t)n, "MCP_CHAIN\n", 10);

		ck_assert_ptr_nonnull(at);
		snprintf(out, 65, "%.64s", at + 18);
	}
}

/* Where the sink itself cannot be read, the state knows the head; also after SIGKILL, and when a file was moved away. */
START_TEST(head_of_state)
{
	char head[65] = "", got[4096], *at;
	ssize_t n;
	int fd;

	make_dir();
	fd = serve();
	begin(AUDIT_JOURNALD);
	respond(call_number(1));
	audit_stop(audit, "x");
	last_chain(fd, head);
	end();
	begin(AUDIT_JOURNALD);
	n = recv(fd, got, sizeof(got), 0);
	at = memmem(got, (size_t)n, "MCP_CHAIN_PREV\n", 15);
	ck_assert_ptr_nonnull(at);
	ck_assert(strncmp(at + 23, head, 64) == 0);
	ck_assert_int_eq(recv(fd, got, sizeof(got), 0), -1);
	end();
	close(fd);
	unlink(path);
	begin(AUDIT_FILE);
	snprintf(head, sizeof(head), "%s", value_at(0, "mcp_chain"));
	end();
	unlink(path);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(check_chain(path, head), 1);
	clean();
}
END_TEST

/* The state has seen more than there is. */
START_TEST(file_cut)
{
	size_t n;

	make_dir();
	in_a_process(three_calls);
	n = count_lines(path);
	ck_assert_int_eq(truncate(path, strrchr(read_file(path), '{') - text), 0);
	ck_assert_uint_eq(count_lines(path), n - 1);
	begin(AUDIT_FILE);
	ck_assert_uint_eq(check_chain(path, ZEROS), n - 1 + 4);
	ck_assert_str_eq(value_at(n, "mcp_gap_cause"), "read-back-missing");
	ck_assert_str_eq(value_at(n, "mcp_gap_count"), "1");
	clean();
}
END_TEST

/* A state that cannot be used is told in the log and does not keep anybody from working. */
START_TEST(no_state)
{
	char file[160];
	int fd;

	make_dir();
	begin(AUDIT_FILE);
	end();
	snprintf(file, sizeof(file), "%s/audit", state_path);
	fd = open(file, O_WRONLY | O_TRUNC);
	ck_assert_int_eq(write(fd, "garbage", 7), 7);
	close(fd);
	unlink(path);
	begin(AUDIT_FILE);
	ck_assert_str_eq(value_at(1, "mcp_gap_cause"), "state-missing");
	end();
	unlink(file);
	ck_assert_int_eq(mkdir(file, 0700), 0);
	begin(AUDIT_FILE);
	ck_assert_int_eq(n_warnings, 1);
	assert_has(last_warning, "no state is kept in");
	respond(call_number(1));
	rmdir(file);
	clean();
}
END_TEST

UNIT_MAIN("audit_restart", ADD(killed) ADD(many_killed) ADD(killed_twice) ADD(none_open) ADD(head_of_state) ADD(file_cut)
			     ADD(no_state))
