/* A mapped file can fail under whoever reads or writes it: the disk has an error or is full, the file was cut short.
 * The kernel then sends SIGBUS, which would end the process. Under guard the page is replaced by an empty one of
 * memory instead, and the file is lost from there on. Anywhere else SIGBUS does what it did before.
 */
#pragma once

#include "base/check.h"

enum { SIGBUS_RANGES = 4 };

/* Until sigbus_unguard() of the same place. Nothing when SIGBUS_RANGES are guarded already. */
void sigbus_guard(const void *p, size_t len);
/* True: a page of it failed. */
bool sigbus_unguard(const void *p);
/* Whether a page of it failed so far. */
bool sigbus_hit(const void *p);

/* Every address, for what this thread does until sigbus_thread_leave(), which says whether a page failed. Not nested.
 * SIGBUS is unblocked meanwhile. */
void sigbus_thread_enter(void);
bool sigbus_thread_leave(void);
