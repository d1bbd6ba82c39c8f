#include "tests/lib/watch_case.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

struct loop *loop;
struct worker *worker;
struct audit_watch *watch;
struct journal *journal;
static struct event *give_up;
unsigned n_results;
struct audit_watch_result result;

/* ---- A disk that does not answer ---- */

atomic_bool disk_hangs;
sem_t disk_answers;
int misses;
useconds_t slow_us, slow_elsewhere_us;
static atomic_bool elsewhere;

int __real_sd_journal_open(sd_journal **ret, int flags);
int __wrap_sd_journal_open(sd_journal **ret, int flags);
int __wrap_sd_journal_open(sd_journal **ret, int flags)
{
	if (atomic_load(&disk_hangs))
		sem_wait(&disk_answers);
	elsewhere = true;
	return __real_sd_journal_open(ret, flags);
}

int __real_sd_journal_open_directory(sd_journal **ret, const char *path, int flags);
int __wrap_sd_journal_open_directory(sd_journal **ret, const char *path, int flags);
int __wrap_sd_journal_open_directory(sd_journal **ret, const char *path, int flags)
{
	if (atomic_load(&disk_hangs))
		sem_wait(&disk_answers);
	if (misses > 0) {
		misses--;
		path = "/run/systemd";
	}
	elsewhere = false;
	return __real_sd_journal_open_directory(ret, path, flags);
}

/* ---- A file that is cut short while it is read ---- */

const char *cut_file;
int cut_after, fail_after;

int __real_sd_journal_next(sd_journal *j);
int __wrap_sd_journal_next(sd_journal *j);
int __wrap_sd_journal_next(sd_journal *j)
{
	if (cut_file && --cut_after == 0 && truncate(cut_file, 8192) < 0)
		perror(cut_file);
	if (fail_after && --fail_after == 0)
		return -EIO;
	if (elsewhere && slow_elsewhere_us)
		usleep(slow_elsewhere_us);
	else if (slow_us)
		usleep(slow_us);
	return __real_sd_journal_next(j);
}

/* ---- */

void on_result(void *user, const struct audit_watch_result *r)
{
	ck_assert_ptr_eq(user, &result);
	n_results++;
	result = *r;
	ck_assert_int_eq(r->ok, r->state == AUDIT_WATCH_WHOLE);
	ck_assert_int_eq(r->ok, r->cause == NULL);
	if (r->cause)
		ck_assert_str_eq(r->cause, audit_watch_cause(r->state));
	ck_assert_int_eq(r->ok, r->detail[0] == '\0');
	loop_stop(loop);
}

uint64_t asked[AUDIT_WATCH_ASKED_MAX];
size_t n_asked;

static size_t on_ask(void *user, uint64_t ret_seqs[AUDIT_WATCH_ASKED_MAX])
{
	ck_assert_ptr_eq(user, &result);
	memcpy(ret_seqs, asked, n_asked * sizeof(asked[0]));
	return n_asked;
}

static void on_give_up(evutil_socket_t fd, short what, void *user)
{
	ck_abort_msg("no result");
}

void setup_loop(void)
{
	ck_assert_int_eq(sem_init(&disk_answers, 0, 0), 0);
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(worker_new(loop, 2, &worker), 0);
	ck_assert_int_eq(journal_new(NULL, &journal), 0);
	ck_assert_int_eq(loop_every(loop, 60000, on_give_up, NULL, &give_up), 0);
}

void setup_watch(bool need_disk, uint64_t every_ms)
{
	const struct audit_watch_config cfg = {
		.chain_id = CHAIN,
		.need_disk = need_disk,
		.on_result = on_result,
		.on_ask = on_ask,
		.user = &result,
		.first_ms = 20,
		.every_ms = every_ms,
		.retry_ms = 50,
		.settle_ms = 10,
		.stuck_ms = 2500,
	};

	ck_assert_int_eq(audit_watch_new(loop, worker, &cfg, &watch), 0);
}

bool setup(const char *disk, const char *conf)
{
	if (!journald_enter(disk) || !journald_start(conf)) {
		printf("# no such journald here: not tested\n");
		return false;
	}
	setup_loop();
	setup_watch(true, 50);
	return true;
}

void teardown(void)
{
	watch = audit_watch_free(watch);
	worker = worker_free(worker);
	event_free(give_up);
	journal = journal_free(journal);
	loop = loop_free(loop);
	journald_kill();
}

int try_send(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head)
{
	char number[24] = "", id[48] = "";
	struct journal_field f[] = {
		{ "MESSAGE",
		  SPAN("MCPAUDIT v=1 ev=call.request call=0190b5a4-7f3b-7c3e-8a51-0f2e6d1c9b7a agent=\"alice\"") },
		{ "MESSAGE_ID", SPAN("b841c1811f564dbba297bc18d8dee8aa") },
		{ "PRIORITY", span_of(priority) },
		{ "SYSLOG_IDENTIFIER", SPAN("mcp-tunnel-gateway") },
		{ "MCP_SCHEMA", SPAN("1") },
		{ "MCP_EVENT", span_of(event) },
		{ "MCP_CHAIN_ID", span_of(chain) },
		{ "MCP_CHAIN", span_of(head) },
		{ "MCP_SEQ", span_of(number) },
		{ "MCP_CALL_ID", span_of(id) },
		{ "MCP_METHOD", SPAN("tools/call") },
		{ "MCP_AGENT_ID", SPAN("alice@example.com") },
	};

	snprintf(number, sizeof(number), "%lu", (unsigned long)seq);
	snprintf(id, sizeof(id), "0190b5a4-7f3b-7c3e-8a51-%012lx", (unsigned long)seq);
	f[8].value = span_of(number);
	f[9].value = span_of(id);
	return journal_send(journal, f, ARRAY_LEN(f));
}

void send_as(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head)
{
	int r = -EAGAIN;

	for (int i = 0; i < 50000 && (r = try_send(chain, seq, priority, event, head)) == -EAGAIN; i++)
		usleep(200);
	ck_assert_int_eq(r, 0);
}

void send_range(uint64_t first, uint64_t end)
{
	for (uint64_t seq = first; seq < end; seq++)
		send_as(CHAIN, seq, "6", "call.request", HEAD);
}

void next_result(void)
{
	ck_assert_int_eq(loop_run(loop), 0);
}

void expect(enum audit_watch_state state, uint64_t missing)
{
	next_result();
	ck_assert_msg(result.state == state && result.missing == missing,
		      "%s (%s), %lu missing, %lu to %lu; expected %s, %lu", audit_watch_cause(result.state),
		      result.detail, (unsigned long)result.missing, (unsigned long)result.first_missing,
		      (unsigned long)result.last_missing, audit_watch_cause(state), (unsigned long)missing);
}

uint64_t wait_for(enum audit_watch_state state)
{
	uint64_t missing = 0;

	for (int i = 0; i < 1000; i++) {
		next_result();
		missing += result.missing;
		if (result.state == state)
			return missing;
	}
	ck_abort_msg("never %s", audit_watch_cause(state));
	return missing;
}
