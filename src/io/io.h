/* io.h - whole reads and writes at offsets, by whichever engine the machine has.
 *
 * An engine only has to move some of the bytes of an op and say how many.
 * io.c, above the engines, carries short transfers on until the op is whole,
 * tries again what was interrupted, and goes on without O_DIRECT where a file
 * system accepts the flag but not the transfer; so callers never see any of
 * this, and no engine has to handle it.  One `struct io` belongs to one thread
 * at a time. */
#ifndef IO_IO_H
#define IO_IO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

enum {
    IO_ALIGN = 4096
}; /* of memory, offset and length of direct transfers: ext4 serializes writes that are aligned less */

struct io_op {
    int fd;
    bool write;
    bool direct; /* fd has O_DIRECT; false afterwards when it had to be given up */
    unsigned char *buf;
    size_t len;    /* bytes asked for, more than 0 */
    size_t enough; /* bytes at least, 0 = len: less than len where a direct read is rounded out beyond the file's end */
    size_t done;   /* bytes moved so far */
    size_t from;   /* where the engine goes on: done, rounded down to a block when direct */
    unsigned stalls;  /* tries in a row that moved nothing */
    uint64_t off;     /* in the file */
    ssize_t res;      /* engine: bytes moved or -errno */
    const char *name; /* of the file, for messages */
    void *user;
};

struct io_engine {
    const char *name;
    bool test_only;                               /* never chosen by "auto" */
    void *(*open)(unsigned depth, struct err *e); /* NULL: not on this machine, and why */
    void (*submit)(void *self, struct io_op *op); /* bytes [from, len) of op; at most depth in flight */
    struct io_op *(*wait)(void *self);            /* the next one that moved; there must be one in flight */
    void (*close)(void *self);                    /* nothing touches the buffers of ops afterwards */
};

/* Rows, best first. */
extern const struct io_engine *const io_engines[];
extern const size_t io_engines_n;
extern const struct io_engine engine_uring, engine_pread, engine_fault;

struct io {
    const struct io_engine *engine;
    void *self;
    struct err refused; /* why a better one did not open */
};

/* `name`: an engine, or "auto" for the first one that opens; "mmap" is "auto" for what is not mapped (io/way.h). */
int io_open(struct io *io, const char *name, unsigned depth, struct err *e);
/* One that takes writes and keeps nothing (engine_null.c). */
int io_open_null(struct io *io, unsigned depth, struct err *e);
void io_submit(struct io *io, struct io_op *op);
struct io_op *io_wait(struct io *io, struct err *e); /* a whole op; NULL: one failed */
void io_close(struct io *io);                        /* safe on a zeroed struct */

bool io_known(const char *name);
bool io_maps(const char *name); /* files may be mapped: no engine was chosen */

/* File descriptors for reading and writing at offsets; -1 and a message on failure. */
int io_open_read(const char *path, struct err *e);
/* Creates (the file must not exist, links are not followed) with all its room on disk; readable too. */
int io_create(int dir_fd, const char *name, const char *shown, uint64_t bytes, struct err *e);
/* Opens what an earlier run's io_create made and may have filled in part; it must have all its bytes. */
int io_go_on(int dir_fd, const char *name, const char *shown, uint64_t bytes, struct err *e);
/* Opens once more what io_create made. */
int io_reopen(int dir_fd, const char *name, const char *shown, struct err *e);
/* Turns O_DIRECT on or off; says whether it is on now. */
bool io_direct(int fd, bool on);

#endif
