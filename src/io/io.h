/* io.h - whole reads and writes at offsets, by whichever engine the machine has.
 *
 * An engine only has to move some of the bytes of an op and say how many.
 * io.c, above the engines, carries short transfers on until the op is whole;
 * so callers never see one, and no engine has to handle one.  One `struct io`
 * belongs to one thread. */
#ifndef IO_IO_H
#define IO_IO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct io_op {
    int fd;
    bool write;
    unsigned char *buf;
    size_t len;       /* bytes asked for */
    size_t enough;    /* bytes at least: less than len where a direct read is rounded out beyond the file's end */
    size_t done;      /* bytes moved so far */
    uint64_t off;     /* in the file */
    ssize_t res;      /* engine: bytes moved or -errno */
    const char *name; /* of the file, for messages */
    void *user;
};

struct io_engine {
    const char *name;
    void *(*open)(unsigned depth, struct err *e); /* NULL: not on this machine, and why */
    void (*submit)(void *self, struct io_op *op); /* at most depth in flight */
    struct io_op *(*wait)(void *self);            /* the next one that moved; there must be one in flight */
    void (*close)(void *self);                    /* waits for what is in flight */
};

/* Rows, best first; "fault" is for tests and never chosen by "auto". */
extern const struct io_engine *const io_engines[];
extern const size_t io_engines_n;

struct io {
    const struct io_engine *engine;
    void *self;
    unsigned in_flight;
};

/* `name`: an engine, or "auto" for the first one that opens. */
int io_open(struct io *io, const char *name, unsigned depth, struct err *e);
void io_submit(struct io *io, struct io_op *op);
struct io_op *io_wait(struct io *io, struct err *e); /* a whole op; NULL: failed */
void io_close(struct io *io);                        /* safe on a zeroed struct */

/* Opens for reading or writing at offsets.  `direct` asks for O_DIRECT and is
 * set to false where the file system refuses it. -1 and a message on failure. */
int io_open_read(const char *path, bool *direct, struct err *e);
int io_create(int dir_fd, const char *name, const char *shown, uint64_t bytes, bool *direct, struct err *e);

enum { IO_ALIGN = 4096 }; /* of memory, offset and length of direct transfers: io_uring and ext4 want no less to be quick */

#endif
