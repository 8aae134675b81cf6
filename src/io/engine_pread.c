/* engine_pread.c - the engine that works everywhere: does the op in wait(). */
#include "io/op_queue.h"
#include <errno.h>
#include <unistd.h>

static void *pread_open(unsigned depth, struct err *e) { return op_queue_new(depth, e); }
static void pread_submit(void *self, struct io_op *op) { op_queue_push(self, op); }

ssize_t op_do(const struct io_op *op, size_t n)
{
    off_t off = (off_t)(op->off + op->from);
    ssize_t moved = op->write ? pwrite(op->fd, op->buf + op->from, n, off) : pread(op->fd, op->buf + op->from, n, off);

    return moved < 0 ? -errno : moved;
}

static struct io_op *pread_wait(void *self)
{
    struct io_op *op = op_queue_pop(self);

    op->res = op_do(op, op->len - op->from);
    return op;
}

const struct io_engine engine_pread = {
    .name = "pread",
    .open = pread_open,
    .submit = pread_submit,
    .wait = pread_wait,
    .close = free, /* what was not waited for has not begun */
};
