/* mcp-tunnel-relay tunnel add|list|rotate|remove NAME --state-dir DIR
 * mcp-tunnel-relay agent  add|list|remove NAME --tunnel NAME --state-dir DIR
 *
 * A new token or key is the only line on stdout, once; what to do with it goes to stderr.
 */
#pragma once

#include <stdbool.h>

/* Whether main()'s arguments are for admin_main(): the first one is "tunnel" or "agent". */
bool admin_wanted(int argc, char **argv);

/* Takes main()'s arguments. The exit status: 0, 1 (failed), 2 (usage). */
int admin_main(int argc, char **argv);
