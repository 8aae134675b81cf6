#include "io/io.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/str.h"
#include "io/file.h"

#define ANEW "run without --resume to begin anew"

const struct io_engine *const io_engines[] = { &engine_uring, &engine_pread, &engine_fault };
const size_t io_engines_n = sizeof io_engines / sizeof *io_engines;

/* An op that is interrupted or put off so many times in a row will not come to an end. */
enum { STALLS_MAX = 10000 };

static int open_auto(struct io *io, unsigned depth, struct err *e)
{
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err why = { 0 };

        if (io_engines[i]->test_only)
            continue;
        io->engine = io_engines[i];
        if ((io->self = io->engine->open(depth, &why)))
            return 0;
        io->refused = why;
    }
    return err_set(e, io->refused.kind, "%s", io->refused.msg);
}

static int unknown_engine(const char *name, struct err *e)
{
    struct str known = { 0 };

    for (size_t i = 0; i < io_engines_n; i++)
        str_addf(&known, ", %s", io_engines[i]->name);
    err_set(e, ERR_USAGE, "I/O engine \"%s\" is unknown: choose one of auto, mmap%s", name, str_text(&known));
    str_release(&known);
    return -1;
}

int io_open(struct io *io, const char *name, unsigned depth, struct err *e)
{
    *io = (struct io){ 0 };
    if (io_maps(name))
        return open_auto(io, depth, e);
    for (size_t i = 0; i < io_engines_n; i++) {
        if (strcmp(name, io_engines[i]->name))
            continue;
        io->engine = io_engines[i];
        io->self = io->engine->open(depth, e);
        return io->self ? 0 : -1;
    }
    return unknown_engine(name, e);
}

bool io_maps(const char *name) { return !strcmp(name, "auto") || !strcmp(name, "mmap"); }

bool io_known(const char *name)
{
    for (size_t i = 0; i < io_engines_n; i++)
        if (!strcmp(io_engines[i]->name, name))
            return true;
    return io_maps(name);
}

void io_close(struct io *io)
{
    if (io->self)
        io->engine->close(io->self);
    io->self = NULL;
}

void io_submit(struct io *io, struct io_op *op)
{
    op->done = op->from = op->stalls = 0;
    if (!op->enough)
        op->enough = op->len;
    io->engine->submit(io->self, op);
}

enum outcome { FAILED = -1, AGAIN, WHOLE };

static enum outcome put_off(struct io_op *op, struct err *e)
{
    if (++op->stalls > STALLS_MAX)
        return err_errno(e, (int)-op->res, "%s: gave up a %s at %llu after %u tries", op->name,
                         op->write ? "write" : "read", (unsigned long long)(op->off + op->from), STALLS_MAX),
               FAILED;
    if (op->res == -EAGAIN)
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    return AGAIN;
}

static enum outcome refused(struct io_op *op, struct err *e)
{
    int code = (int)-op->res;
    unsigned long long at = op->off + op->from;

    if (code == EINTR || code == EAGAIN)
        return put_off(op, e);
    if (code == EINVAL && op->direct) {
        op->direct = io_direct(op->fd, false);
        return AGAIN;
    }
    if (code == ENOSPC || code == EDQUOT)
        err_set(e, ERR_SPACE,
                "%s: no room for the %zu bytes at %llu (%s): free some, or choose an output on another disk", op->name,
                op->len - op->from, at, strerror(code));
    else if (code == EFBIG)
        file_too_large(op->name, op->off + op->len, e);
    else
        err_errno(e, code, "%s: %s of %zu bytes at %llu failed", op->name, op->write ? "write" : "read",
                  op->len - op->from, at);
    return FAILED;
}

static enum outcome moved(struct io_op *op, struct err *e)
{
    size_t done = op->from + (size_t)op->res;

    if (done <= op->done && op->write)
        return err_set(e, ERR_IO, "%s: takes no more bytes at %llu, %zu are left to write", op->name,
                       (unsigned long long)(op->off + op->done), op->len - op->done),
               FAILED;
    if (done <= op->done)
        return err_set(e, ERR_FORMAT,
                       "%s: ends at %llu, %zu bytes too early: it was cut short after its header was read; complete it "
                       "and run again",
                       op->name, (unsigned long long)(op->off + op->done), op->enough - op->done),
               FAILED;
    op->done = done;
    op->stalls = 0;
    op->from = op->direct ? done / IO_ALIGN * IO_ALIGN : done;
    return done >= op->enough ? WHOLE : AGAIN;
}

struct io_op *io_wait(struct io *io, struct err *e)
{
    for (;;) {
        struct io_op *op = io->engine->wait(io->self);
        enum outcome o = op->res < 0 ? refused(op, e) : moved(op, e);

        if (o != AGAIN)
            return o == WHOLE ? op : NULL;
        io->engine->submit(io->self, op);
    }
}

int io_open_read(const char *path, struct err *e)
{
    int fd = file_open_read(path, e);

    if (fd >= 0)
        fcntl(fd, F_SETFL, 0); /* opened so as not to block on a FIFO, but reads of a file must not be put off */
    return fd;
}

/* All room at once: no surprise in the middle, and few extents. Where the file system cannot, the length alone. */
static int reserve(int fd, const char *shown, uint64_t bytes, struct err *e)
{
    int ret;

    if (!bytes)
        return 0;
    do
        ret = fallocate(fd, 0, 0, (off_t)bytes);
    while (ret && errno == EINTR);
    if (ret && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        ret = ftruncate(fd, (off_t)bytes);
    if (ret && (errno == ENOSPC || errno == EDQUOT))
        return err_set(e, ERR_SPACE,
                       "%s: no room for its %llu bytes (%s): free some, or choose an output on another disk", shown,
                       (unsigned long long)bytes, strerror(errno));
    if (ret && errno == EFBIG)
        return file_too_large(shown, bytes, e);
    return ret ? err_errno(e, errno, "%s: cannot be given its %llu bytes", shown, (unsigned long long)bytes) : 0;
}

int io_create(int dir_fd, const char *name, const char *shown, uint64_t bytes, struct err *e)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);

    if (fd < 0)
        return err_errno(e, errno, "%s: cannot be created", shown);
    if (!reserve(fd, shown, bytes, e))
        return fd;
    close(fd);
    return -1;
}

static int open_there(int dir_fd, const char *name) { return openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC); }

static int cannot_reopen(const char *shown, struct err *e)
{
    return err_errno(e, errno, "%s: cannot be opened again", shown);
}

int io_reopen(int dir_fd, const char *name, const char *shown, struct err *e)
{
    int fd = open_there(dir_fd, name);

    return fd < 0 ? cannot_reopen(shown, e) : fd;
}

int io_go_on(int dir_fd, const char *name, const char *shown, uint64_t bytes, struct err *e)
{
    int fd = open_there(dir_fd, name);
    struct file_id id;

    if (fd < 0)
        return errno == ENOENT ? err_set(e, ERR_FORMAT, "%s: is gone, and an earlier run had begun it: " ANEW, shown)
                               : cannot_reopen(shown, e);
    if (!file_identify(fd, shown, &id, e) && id.bytes < bytes)
        err_set(e, ERR_FORMAT, "%s: has %llu bytes, expected the %llu that an earlier run gave it: " ANEW, shown,
                (unsigned long long)id.bytes, (unsigned long long)bytes);
    if (!e->kind && !reserve(fd, shown, bytes, e))
        return fd;
    close(fd);
    return -1;
}

bool io_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return false;
    if (fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT))
        return flags & O_DIRECT;
    return on;
}
