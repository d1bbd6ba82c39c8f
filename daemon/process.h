/* What both daemons do to their own process before anything else. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Keeps the heap from being trimmed and grown again under bulk traffic; no core dumps, since memory holds secrets and other
 * people's data; umask 0077. */
void process_init(void);

/* Whether SIGTERM, SIGINT and SIGHUP get through. A daemon holds them back from the start of main() until its loop runs, and again
 * from the end of the loop: whenever one comes, the program stops in order, with its own exit status. */
void process_signals(bool through);

/* Lets the process have that many files open, as far as its hard limit goes. How many it may have now: more or less than that. */
size_t process_files(size_t wanted);
