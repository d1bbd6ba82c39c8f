#include "tests/lib/state_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

char dir[64], file[80], err[300];
struct state_dir *state_dir;
struct audit_state *state;
struct audit_state_old old;
int n_warnings;

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	n_warnings += level == LOG_LEVEL_WARNING;
}

void setup(void)
{
	bool memory = access("/dev/shm", W_OK) == 0;

	snprintf(dir, sizeof(dir), "%s/test_audit_state.XXXXXX", memory ? "/dev/shm" : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/audit", dir);
	ck_assert_msg(state_dir_open(dir, err, sizeof(err), &state_dir) == 0, "%s", err);
	log_set_sink(on_log, NULL);
}

void open_it(void)
{
	audit_state_old_done(&old);
	ck_assert_int_eq(audit_state_open(state_dir, &state, &old), 0);
}

void close_it(bool clean)
{
	state = audit_state_close(state, clean);
}

void teardown(void)
{
	char command[100];

	state = audit_state_close(state, false);
	audit_state_old_done(&old);
	state_dir = state_dir_close(state_dir);
	log_set_sink(NULL, NULL);
	snprintf(command, sizeof(command), "rm -r '%s'", dir);
	ck_assert_int_eq(system(command), 0);
}

const char *hex_of(uint64_t seq)
{
	static char text[65];

	for (size_t i = 0; i < 4; i++)
		snprintf(text + 16 * i, 17, "%016lx", (unsigned long)(seq * 0x9e3779b97f4a7c15 + i));
	return text;
}

const char *id_of(unsigned n)
{
	static char text[40];

	snprintf(text, sizeof(text), "0190b5a4-7f3b-7c3e-8a51-%012x", n);
	return text;
}

void put_head(uint64_t seq)
{
	audit_state_head(state, CHAIN_A, seq, hex_of(seq), 1000 * seq);
}

uint32_t put_call(unsigned n)
{
	uint32_t slot = 0;

	ck_assert_int_eq(audit_state_call_open(state, id_of(n), &slot), 0);
	return slot;
}

void expect_head(uint64_t seq)
{
	ck_assert(old.found);
	ck_assert_str_eq(old.chain_id, CHAIN_A);
	ck_assert_uint_eq(old.seq, seq);
	ck_assert_str_eq(old.head, hex_of(seq));
	ck_assert_uint_eq(old.time_us, 1000 * seq);
}

bool is_open(unsigned n)
{
	for (size_t i = 0; i < old.n_open; i++)
		if (strcmp(old.open[i], id_of(n)) == 0)
			return true;
	return false;
}

void must(bool so)
{
	if (!so)
		_exit(99);
}
