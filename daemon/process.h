/* What both daemons do to their own process before anything else. */
#pragma once

/* Keeps the heap from being trimmed and grown again under bulk traffic; no core dumps, since memory holds secrets and other
 * people's data; umask 0077. */
void process_init(void);
