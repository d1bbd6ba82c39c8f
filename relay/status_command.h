/* mcp-tunnel-relay status [--state-dir DIR | --admin ADDRESS] [--json]
 *
 * Asks the running relay by the socket in its state directory, or by its --admin-listen. */
#pragma once

#include <stdbool.h>

#define STATUS_SOCKET "status.sock" /* in the state directory, whose owner alone gets in */

/* Whether main()'s arguments are for status_main(): the first one is "status". */
bool status_wanted(int argc, char **argv);

/* Takes main()'s arguments. The exit status: 0, 1 (no relay answers), 2 (usage). */
int status_main(int argc, char **argv);
