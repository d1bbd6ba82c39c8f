/* Whole reads and writes of files: what a signal interrupts goes on. They wait; not for sockets and pipes of an event loop. */
#pragma once

#include <stddef.h>

/* From where the descriptor is, until dst is full or the file ends: 0 and *ret_len, or -errno. */
int io_read_all(int fd, void *dst, size_t size, size_t *ret_len);
/* 0, or -errno: -EIO when nothing more is taken. */
int io_write_all(int fd, const void *p, size_t len);
