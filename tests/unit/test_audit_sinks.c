#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit_writer.h"
#include "proto/reasons.h"
#include "tests/lib/audit_case.h"

static bool healthy(const char *expect_detail)
{
	const char *detail = "";
	bool ok = audit_healthy(audit, &detail);

	ck_assert_str_eq(detail, expect_detail);
	ck_assert(ok == !audit_counters(audit)->failing);
	return ok;
}

static bool is_well(void)
{
	return !audit_counters(audit)->failing;
}

static int try_request(void)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);
	struct audit_open *o = (void *)&call;
	int r = audit_request(audit, &call, on_verdict, NULL, &o);

	ck_assert((o != NULL) == (r == 0));
	return r;
}

static void deny_one(void)
{
	struct mcp_view view = tool_view();
	struct audit_call call = tool_call(&view);

	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	turn();
}

/* ---- Files ---- */

START_TEST(full)
{
	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, "/dev/full"), 0);
	ck_assert(healthy(""));
	ck_assert_int_eq(try_request(), 0);
	ck_assert_uint_eq(n_verdicts, 0);
	turn();
	ck_assert_uint_eq(n_verdicts, 1);
	ck_assert_int_eq(verdicts[0].r, -ENOSPC);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(try_request(), -ENOSPC);
	deny_one();
	run_ms(250);
	ck_assert(!healthy("cannot write /dev/full: No space left on device"));
	ck_assert_str_eq(audit_counters(audit)->cause, "sink-full");
	ck_assert_uint_eq(audit_counters(audit)->refused, 101);
	ck_assert_uint_eq(audit_counters(audit)->queued, 1);
	ck_assert_uint_eq(audit_counters(audit)->written, 0);
	ck_assert_uint_eq(n_verdicts, 1);
	ck_assert_int_eq(n_warnings, 1);
	ck_assert_int_eq(n_notices, 0);
	teardown();
}
END_TEST

/* No ck_assert here or while the limit is in force: each writes to check's own file, which the limit would cut too. */
static void limit_file(rlim_t bytes)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_FSIZE, &lim) < 0)
		abort();
	lim.rlim_cur = bytes;
	if (setrlimit(RLIMIT_FSIZE, &lim) < 0)
		abort();
}

static void turn_unchecked(void)
{
	loop_stop(loop);
	if (loop_run(loop) != 0)
		abort();
}

static struct audit_open *trio[3];

static void request_three(void)
{
	n_verdicts = 0;
	ck_assert_int_eq(truncate(path, 0), 0);
	for (int i = 0; i < 3; i++)
		trio[i] = request();
}

static void respond_three(size_t n)
{
	for (size_t i = 0; i < n; i++)
		end_call(trio[i], &complete);
}

/* Of three requests in a batch that is cut there, the whole ones stay and the others are refused, without a trace. */
static void cut_at(size_t bytes)
{
	size_t whole = 0;

	request_three();
	limit_file(bytes);
	turn_unchecked();
	limit_file(RLIM_INFINITY);
	ck_assert_uint_eq(n_verdicts, 3);
	for (size_t i = 0; i < 3; i++) {
		whole += verdicts[i].r == 0;
		ck_assert(verdicts[i].r == 0 ? i < whole : verdicts[i].r == -EFBIG);
	}
	ck_assert_uint_eq(check_chain(path, NULL), whole);
	ck_assert(whole == 0 || strlen(read_file(path)) <= bytes);
	ck_assert_uint_eq(audit_counters(audit)->queued, 0);
	respond_three(whole);
	run_until(is_well);
	/* The answers; or, when there are none, one record to try with. No number is missing. */
	ck_assert_uint_eq(check_chain(path, NULL), whole == 3 ? 3 : whole ? 2 * whole : 1);
	turn();
}

START_TEST(cut)
{
	size_t ends[4] = { 0 };

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	for (size_t i = 0; i < 4; i++) {
		for (int near = -3; near < 4; near++) {
			request_three();
			turn();
			for (size_t k = 0, at = 0; k < 3; k++)
				at = ends[k + 1] = at + strcspn(read_file(path) + at, "\n") + 1;
			respond_three(3);
			turn();
			if (near >= 0 || i > 0)
				cut_at(near == 3 ? ends[i] + 200 : ends[i] + (size_t)near);
		}
	}
	teardown();
}
END_TEST

/* Refused calls leave no hole and no gap: nothing of them happened. Endings are not lost. */
START_TEST(sequence)
{
	struct audit_open *a = NULL;
	int first;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	a = request();
	turn();
	limit_file(1);
	request();
	turn_unchecked();
	first = try_request();
	end_call(a, &complete);
	turn_unchecked();
	limit_file(RLIM_INFINITY);
	ck_assert_int_eq(first, -EFBIG);
	ck_assert_int_eq(verdicts[1].r, -EFBIG);
	run_until(is_well);
	ck_assert_uint_eq(count_lines(path), 2);
	ck_assert_str_eq(value_at(1, "mcp_event"), "call.response");
	ck_assert_str_eq(value_at(1, "mcp_seq"), "1");
	assert_has(last_notice, "2 calls were refused, 0 calls were made without a record, 0 records were lost");
	ck_assert_uint_eq(audit_counters(audit)->gaps, 0);
	ck_assert_str_eq(audit_counters(audit)->cause, "");
	teardown();
}
END_TEST

/* What another process left half-written is ended by a newline. */
START_TEST(left_torn)
{
	int fd;

	make_dir();
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	ck_assert_int_eq(write(fd, "{}\n{\"mess", 9), 9);
	close(fd);
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
	deny_one();
	audit_reopen(audit);
	deny_one();
	ck_assert_str_eq(line_at((char *)read_file(path), 1), "{\"mess");
	assert_has(line_at((char *)read_file(path), 2), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=0");
	assert_has(line_at((char *)read_file(path), 3), "{\"message\":\"MCPAUDIT v=1 ev=call.denied seq=1");
	ck_assert_ptr_null(line_at((char *)read_file(path), 4));
	teardown_unchecked();
}
END_TEST

/* A pipe cannot be cut: its torn line is ended, and the record comes again. Full, it is waited for. */
START_TEST(pipe_full)
{
	struct audit_open *o;
	char *line, *rest;
	size_t n = 0, n_torn = 0, seq = 0;
	ssize_t got = 1;
	int fd;

	make_dir();
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_SETPIPE_SZ, 65536), 65536);
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
	/* More at once than there is room for: a record is cut. */
	for (int i = 0; i < 60; i++)
		o = request();
	turn();
	ck_assert_uint_gt(audit_counters(audit)->queued, 0);
	ck_assert(healthy(""));
	end_call(o, &complete);
	for (int i = 0; i < 500 && got > 0; i++) {
		got = read(fd, text + n, TEXT_BYTES - 1 - n);
		n += got > 0 ? (size_t)got : 0;
		if (got < 0 && audit_counters(audit)->queued) {
			run_ms(1);
			got = 1;
		}
	}
	text[n] = '\0';
	rest = text;
	while ((line = strsep(&rest, "\n")) && rest) {
		char expect[40];

		snprintf(expect, sizeof(expect), "ev=call.request seq=%zu ", seq);
		ck_assert_ptr_null(strstr(line + 1, "{\"message\""));
		n_torn += !strstr(line, "\"}");
		if (!strstr(line, "\"}"))
			continue;
		assert_has(line, expect);
		seq++;
	}
	ck_assert_uint_eq(n_torn, 1);
	ck_assert_uint_eq(seq, audit_counters(audit)->written);
	close(fd);
	teardown_unchecked();
}
END_TEST

START_TEST(reopen)
{
	char moved[120], hidden[120];
	struct audit_open *open;

	setup_file();
	snprintf(moved, sizeof(moved), "%s.1", path);
	snprintf(hidden, sizeof(hidden), "%s.2", dir);
	open = request();
	turn();
	ck_assert_int_eq(rename(path, moved), 0);
	deny_one();
	ck_assert_int_eq(access(path, F_OK), -1);
	audit_reopen(audit);
	respond(open);
	assert_has(line_at((char *)read_file(moved), 1), "ev=call.denied seq=1 ");
	ck_assert_ptr_null(line_at((char *)read_file(moved), 2));
	assert_has(line_at((char *)read_file(path), 0), "ev=call.response seq=2 ");
	/* What cannot be opened leaves the old one in use. */
	ck_assert_int_eq(rename(dir, hidden), 0);
	audit_reopen(audit);
	deny_one();
	ck_assert_int_eq(rename(hidden, dir), 0);
	ck_assert(healthy(""));
	ck_assert_int_eq(n_errors, 1);
	assert_has(line_at((char *)read_file(path), 1), "ev=call.denied seq=3 ");
	teardown();
}
END_TEST

/* Records go into a batch while the longest form of each finds room. */
START_TEST(batch_full)
{
	enum { QUOTES = 2000 };
	_cleanup_(audit_writer_freep) struct audit_writer *w = NULL;
	char own[512], value[QUOTES], why[128];
	const struct journal_field f = { "MESSAGE", span_make(value, sizeof(value)) };
	const size_t line = sizeof("{\"message\":\"\"}") + 2 * (size_t)QUOTES;
	size_t n = 0;
	int r, error;
	struct stat st;

	setup_file();
	snprintf(own, sizeof(own), "%s.own", path);
	memset(value, '"', sizeof(value));
	ck_assert_int_eq(audit_writer_new(AUDIT_FILE, own, why, sizeof(why), &w), 0);
	while ((r = audit_writer_add(w, &f, 1)) == 0)
		n++;
	ck_assert_int_eq(r, -ENOBUFS);
	ck_assert_uint_eq(n, AUDIT_BATCH_BYTES / line);
	ck_assert_uint_eq(audit_writer_send(w, &error), n);
	ck_assert_int_eq(stat(own, &st), 0);
	ck_assert_uint_eq((size_t)st.st_size, n * line);
	unlink(own);
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
	struct audit_note note = { .reason = "x" };
	struct audit_open *open = (void *)&call;

	make_dir();
	ck_assert_int_eq(start(AUDIT_NONE, NULL), 0);
	audit_start(audit);
	ck_assert_int_eq(audit_request(audit, &call, on_verdict, NULL, &open), AUDIT_AT_ONCE);
	ck_assert_ptr_null(open);
	end_call(open, &complete);
	audit_denied(audit, &call, TP_REASON_POLICY, "x");
	audit_event(audit, AUDIT_SESSION_OPEN, &note);
	audit_reopen(audit);
	ck_assert(healthy(""));
	ck_assert_str_eq(audit_head(audit), "");
	audit_stop(audit, "x");
	ck_assert_uint_eq(n_verdicts, 0);
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
	config.sync = AUDIT_SYNC_EACH;
	ck_assert_int_eq(start(AUDIT_FILE, path), -EINVAL);
	loop_free(loop);
	config.sync = AUDIT_SYNC_OFF;
	ck_assert_int_eq(start(AUDIT_FILE, dir), -EISDIR);
	teardown();
}
END_TEST

/* ---- The journal's socket ---- */

/* How many datagrams there are. */
static size_t empty_socket(int fd)
{
	size_t n = 0;

	while (recv(fd, text, sizeof(text), 0) > 0)
		n++;
	return n;
}

/* Nobody is there: refused at once, and not for longer than it takes. What was in the old socket may be gone. */
START_TEST(journal_gone)
{
	struct audit_open *open;
	int fd;

	make_dir();
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	open = request();
	turn();
	close(fd);
	request();
	turn();
	ck_assert_int_eq(verdicts[1].r, -ECONNREFUSED);
	ck_assert(!healthy("journald is not running: Connection refused"));
	ck_assert_str_eq(audit_counters(audit)->cause, "sink-unreachable");
	unlink(path);
	ck_assert_int_eq(try_request(), -ECONNREFUSED);
	end_call(open, &complete);
	run_ms(150);
	ck_assert(!healthy("journald is not running: No such file or directory"));
	fd = serve();
	run_until(is_well);
	ck_assert_int_gt(recv(fd, text, sizeof(text), 0), 0);
	ck_assert_ptr_nonnull(memmem(text, 300, SPAN("ev=call.response seq=1").p, 22));
	ck_assert_int_gt(recv(fd, text, sizeof(text), 0), 0);
	ck_assert_ptr_nonnull(memmem(text, 300, SPAN("ev=audit.gap seq=2 count=0 cause=sink-unreachable").p, 49));
	ck_assert_uint_eq(empty_socket(fd), 0);
	ck_assert_int_eq(n_notices, 1);
	/* A restart between two records is no failure. */
	close(fd);
	unlink(path);
	fd = serve();
	request();
	turn();
	ck_assert_int_eq(verdicts[2].r, 0);
	ck_assert(healthy(""));
	close(fd);
	teardown();
}
END_TEST

/* Full, as in a healthy burst: waited for, and nothing is refused or lost. */
START_TEST(journal_burst)
{
	size_t n_got = 0;
	int fd, n = 0;

	make_dir();
	config.refuse_after_ms = 20000;
	fd = serve();
	ck_assert_int_eq(start(AUDIT_JOURNALD, path), 0);
	while (n < 20000 && audit_counters(audit)->queued == 0) {
		for (int i = 0; i < 10; i++, n++)
			request();
		turn();
	}
	ck_assert_uint_gt(audit_counters(audit)->queued, 0);
	ck_assert(healthy(""));
	for (int i = 0; i < 100; i++, n++)
		request();
	turn();
	ck_assert_uint_lt(n_verdicts, (size_t)n);
	for (int i = 0; i < 20000 && n_got < (size_t)n; i++) {
		n_got += empty_socket(fd);
		run_ms(1);
	}
	ck_assert_uint_eq(n_got, (size_t)n);
	ck_assert_uint_eq(n_verdicts, (size_t)n);
	for (size_t i = 0; i < n_verdicts; i++)
		ck_assert_int_eq(verdicts[i].r, 0);
	ck_assert_int_eq(n_warnings + n_notices, 0);
	close(fd);
	teardown();
}
END_TEST

/* A sink that fails again and again fills no log, and nothing of it stays untold. */
START_TEST(flapping)
{
	int refused = 0, told = 0, n = 0;

	signal(SIGXFSZ, SIG_IGN);
	setup_file();
	for (int i = 0; i < 25; i++) {
		limit_file(1);
		request();
		turn_unchecked();
		limit_file(RLIM_INFINITY);
		refused++;
		run_until(is_well);
		if (n_notices > n && sscanf(last_notice, "audit: records are taken again; %d", &told) == 1) {
			n = n_notices;
			refused -= told;
		}
	}
	ck_assert_int_ge(n_warnings, 1);
	ck_assert_int_lt(n_warnings, 5);
	ck_assert_int_gt(refused, 0);
	for (int i = 0; i < 1000 && n_notices == n; i++) {
		run_ms(10);
		deny_one();
	}
	ck_assert_int_eq(sscanf(last_notice, "audit: records are taken again; %d", &told), 1);
	ck_assert_int_eq(told, refused);
	teardown();
}
END_TEST

UNIT_MAIN("audit_sinks", ADD(full) ADD(cut) ADD(sequence) ADD(left_torn) ADD(pipe_full) ADD(reopen) ADD(batch_full)
			 ADD(made_private) ADD(no_sink) ADD(bad_start) ADD(journal_gone) ADD(journal_burst) ADD(flapping))
