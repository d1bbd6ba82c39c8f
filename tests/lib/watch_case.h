/* A watch over the journal, with a journald of its own that gets records of a chain. Needs --wrap of sd_journal_open,
 * sd_journal_open_directory and sd_journal_next. */
#pragma once

#include <semaphore.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "daemon/audit_watch.h"
#include "daemon/journal.h"
#include "tests/lib/journald.h"
#include "tests/lib/unit.h"

#define CHAIN "00112233445566778899aabbccddeeff"
#define HEAD "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_HEAD "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

extern struct loop *loop;
extern struct worker *worker;
extern struct audit_watch *watch;
extern struct journal *journal;
extern unsigned n_results;
extern struct audit_watch_result result; /* the newest */

/* A disk that does not answer, one time for each sem_post(). */
extern atomic_bool disk_hangs;
extern sem_t disk_answers;
extern int misses; /* so many times a directory is opened without its files */
/* This file is cut short when so many records were read. */
extern const char *cut_file;
extern int cut_after;
extern int fail_after; /* after so many records reading fails once */
extern useconds_t slow_us, slow_elsewhere_us; /* each record takes that long; of what is not read from the disk alone */

/* What the watch is asked to look for. */
extern uint64_t asked[AUDIT_WATCH_ASKED_MAX];
extern size_t n_asked;

/* Keeps the result and stops the loop. user: &result. */
void on_result(void *user, const struct audit_watch_result *r);
void setup_loop(void);
/* In a hurry. */
void setup_watch(bool need_disk, uint64_t every_ms);
/* Both, and a journald: see journald_enter() and journald_start(). False: not possible here, which was said. */
bool setup(const char *disk, const char *conf);
void teardown(void);

int try_send(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head);
/* Waits while journald is busy. */
void send_as(const char *chain, uint64_t seq, const char *priority, const char *event, const char *head);
/* first to end - 1 of CHAIN. */
void send_range(uint64_t first, uint64_t end);

void next_result(void);
/* The next result is that. */
void expect(enum audit_watch_state state, uint64_t missing);
/* Until a result of that state; what was missing up to it, and in it. */
uint64_t wait_for(enum audit_watch_state state);
