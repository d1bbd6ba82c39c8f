/* An audit state in a directory of its own, in memory where that can be had: the many rounds write no disk. */
#pragma once

#include "daemon/audit_state.h"
#include "tests/lib/unit.h"

#define CHAIN_A "00112233445566778899aabbccddeeff"
#define CHAIN_B "ffeeddccbbaa99887766554433221100"

extern char dir[64], file[80], err[300];
extern struct state_dir *state_dir;
extern struct audit_state *state;
extern struct audit_state_old old; /* of the newest open_it() */
extern int n_warnings;

void setup(void);
void teardown(void);
void open_it(void);
void close_it(bool clean);

/* Different for each number. */
const char *hex_of(uint64_t seq);
const char *id_of(unsigned n);
void put_head(uint64_t seq);
uint32_t put_call(unsigned n);
/* What put_head() of that number left. */
void expect_head(uint64_t seq);
/* Whether put_call() of that number left it open. */
bool is_open(unsigned n);

/* In a child: check's own asserts write to a pipe that both processes have. */
void must(bool so);
