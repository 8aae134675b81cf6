/* map.h - pieces of files as memory, which may be read whatever becomes of the file.
 *
 * A file that is cut short, or whose disk fails, while it is mapped would end the
 * process by SIGBUS.  So while somebody holds the guard, a handler puts zeros in
 * the place of the piece, marks it as broken and lets the reader go on; who has
 * read a piece asks io_map_check before it believes what it read.  Nothing is
 * jumped out of: no lock stays taken, and it does not matter which thread reads,
 * or which library it is in.
 *
 * The handler is there only while the guard is held.  A SIGBUS that is not about
 * our pieces goes to whatever handled it before, and that one is put back in the
 * end; if by then somebody else has put another in its place, that one stays, and
 * the guard is refused from then on. */
#ifndef IO_MAP_H
#define IO_MAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct io_map {
    unsigned char *base;     /* NULL: none */
    size_t room;             /* whole pages from base on */
    const unsigned char *at; /* the first byte asked for */
    uint64_t off;            /* of it in the file */
    size_t bytes;
    int fd;         /* of the caller, who keeps it open */
    unsigned place; /* where the handler finds it */
};

/* Threads that read a piece must not block SIGBUS. False: there cannot be one now; then nothing may be mapped. */
bool io_guard(void);
void io_unguard(void);

/* The guard must be held. False: cannot be mapped, read it. Pages come in now, as many as can be had; `cached`: those
 * that are in the page cache, as the file is known to be, nearly whole. */
bool io_map(struct io_map *m, int fd, uint64_t off, size_t bytes, bool cached);
/* After reading; an error when the file did not have all the bytes any more. */
int io_map_check(const struct io_map *m, const char *name, struct err *e);
void io_unmap(struct io_map *m); /* safe on a zeroed struct */

#endif
