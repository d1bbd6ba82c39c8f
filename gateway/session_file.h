/* The id of the session that this process has, kept in the state directory: if the process is killed, the next one names that session to
 * the relay, which then need not wait for it. Whoever has the directory open is alone there, so what a file says that it did not write
 * itself is of a process that is dead. */
#pragma once

#include "daemon/state_dir.h"
#include "proto/tunnel.h"

/* False when there is none, or none that makes sense. d may be NULL: then nothing is kept. */
bool session_file_read(struct state_dir *d, uint8_t ret[TP_SESSION_ID_BYTES]);
/* Quick, and not waiting for the disk: it is to outlive the process, not the machine. 0 or -errno. */
int session_file_write(struct state_dir *d, const uint8_t id[TP_SESSION_ID_BYTES]);
void session_file_remove(struct state_dir *d);
