/* engine_null.c - takes writes and keeps nothing, to measure all else.  In no table: a read would make up bytes. */
#include "io/op_queue.h"

static void *null_open(unsigned depth, struct err *e) { return op_queue_new(depth, e); }
static void null_submit(void *self, struct io_op *op) { op_queue_push(self, op); }

static struct io_op *null_wait(void *self)
{
    struct io_op *op = op_queue_pop(self);

    op->res = (ssize_t)(op->len - op->from);
    return op;
}

static const struct io_engine engine_null = {
    .name = "null", .test_only = true, .open = null_open, .submit = null_submit, .wait = null_wait, .close = free
};

int io_open_null(struct io *io, unsigned depth, struct err *e)
{
    *io = (struct io){ .engine = &engine_null, .self = null_open(depth, e) };
    return io->self ? 0 : -1;
}
