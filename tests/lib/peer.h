/* A scripted peer: a child process that accepts connections on loopback and does exactly what its function says. What it does not
 * expect ends it, and peer_finish() fails then. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct peer {
	pid_t pid;
	uint16_t port;
	int said; /* a pipe: bytes of peer_say() */
	int told; /* a pipe: bytes for peer_wait() */
};

/* The script, in the child; ln listens. Returning ends it well. */
typedef void peer_fn(int ln);

/* path: a UNIX socket instead of TCP; NULL. */
void peer_start(struct peer *p, peer_fn *fn, const char *path);
/* Waits for its end; it must have gone well. */
void peer_finish(struct peer *p);
/* Whether peer_say() was called once more; does not wait. */
int peer_has_said(const struct peer *p);
void peer_tell(const struct peer *p);

/* ---- in the child ---- */

int peer_accept(int ln);
/* Exactly these bytes come next. */
void peer_expect(int fd, const char *text);
/* Reads up to and with the text. */
void peer_expect_until(int fd, const char *text);
/* Reads n bytes of anything. */
void peer_take(int fd, uint64_t n);
/* The connection ends, in order or by reset; nothing comes before that, or whatever comes is dropped. */
void peer_expect_end(int fd);
void peer_drop_until_end(int fd);
void peer_send(int fd, const char *text);
void peer_send_bulk(int fd, uint64_t n);
/* Sends as much as is taken without waiting for longer than quiet_ms; how much that was. */
uint64_t peer_send_what_fits(int fd, uint64_t most, int quiet_ms);
void peer_close(int fd);
void peer_reset(int fd);
void peer_say(void);
void peer_wait(void);
void peer_check(int ok, const char *what);
