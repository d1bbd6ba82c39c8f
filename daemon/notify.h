/* What systemd wants to hear (sd_notify). Everything does nothing when the service manager did not ask. */
#pragma once

#include "base/check.h"

void notify_ready(const char *status);
void notify_status(const char *fmt, ...) _printf_(1, 2);
void notify_stopping(const char *status);
/* Around what SIGHUP asks for. notify_reloaded() leaves STATUS as it is. */
void notify_reloading(void);
void notify_reloaded(void);

/* How often the service manager wants to hear from us, in µs; 0: never. Ping at half of it. */
uint64_t notify_watchdog_us(void);
void notify_watchdog_ping(void);
