/* cached.h - what of a file the page cache held before we came, so that only what we brought is dropped again.
 *
 * Looked at once, in pieces: later the kernel's reading ahead has come between. */
#ifndef IO_CACHED_H
#define IO_CACHED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_cached {
    double share; /* of the file; -1: unknown, and then nothing is dropped */
    uint64_t bytes;
    bool *piece; /* that were there; NULL: all, none or unknown */
};

void io_cached_look(struct io_cached *c, int fd, uint64_t bytes);
/* Drops these bytes, where they were not there before and nobody has them mapped. */
void io_cached_drop(const struct io_cached *c, int fd, uint64_t off, uint64_t bytes);
void io_cached_release(struct io_cached *c);

#endif
