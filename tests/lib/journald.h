/* A real journald for a unit test, in namespaces that the test process enters for good. */
#pragma once

#include "base/check.h"

/* Into namespaces of its own, with an empty /run, /etc/systemd and, with `disk` (a size as of tmpfs, "64m"),
 * /var/log/journal. False: not possible here. As another user than root there is no disk. */
bool journald_enter(const char *disk);

/* conf: lines of journald.conf, besides RateLimitIntervalSec=0 and Storage=persistent, which later lines overrule.
 * False: it does not come up. */
bool journald_start(const char *conf);
/* From the next start on it keeps to memory until `journalctl --flush`, as at boot. */
void journald_early(void);
/* In order, so that it stores what it was sent. */
void journald_stop(void);
void journald_kill(void);
void journald_pause(void);
void journald_resume(void);
/* journalctl with these arguments; its status. */
int journald_ctl(const char *arguments);
/* What was sent is stored. */
void journald_sync(void);
/* This process becomes a part of that unit, so that rate limits count for it. False: not possible here. _leave before
 * the end of the test. */
bool journald_unit(const char *name);
void journald_unit_leave(void);
