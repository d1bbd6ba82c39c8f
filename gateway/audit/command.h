/* The commands of mcp-tunnel-audit. Each gets its own name as argv[0] and returns the exit status. */
#pragma once

#include <stddef.h>

enum { EXIT_WHOLE = 0, EXIT_NOT_WHOLE = 1, EXIT_UNSURE = 2 };

int command_verify(int argc, char **argv);
int command_hash(int argc, char **argv);
int command_canary(int argc, char **argv);

/* One line on standard error; returns EXIT_UNSURE. */
int command_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What getopt_long() found wrong (opterr = 0, optstring beginning with ':'), as one line; returns EXIT_UNSURE. */
int command_bad_option(int argc, char **argv, int result);
/* Flushes standard output; exit, or EXIT_UNSURE with a line when that fails. */
int command_end(int exit_status);
