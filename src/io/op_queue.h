/* op_queue.h - first in, first out: for engines that do an op only when it is waited for. */
#ifndef IO_OP_QUEUE_H
#define IO_OP_QUEUE_H
#include "io/io.h"
#include <stdlib.h>

struct op_queue {
    unsigned depth, head, n;
    struct io_op *op[];
};

static inline struct op_queue *op_queue_new(unsigned depth, struct err *e)
{
    struct op_queue *q = calloc(1, sizeof *q + depth * sizeof *q->op);

    if (!q)
        return err_set(e, ERR_NOMEM, "no memory for an I/O queue of %u", depth), NULL;
    q->depth = depth;
    return q;
}

static inline void op_queue_push(struct op_queue *q, struct io_op *op) { q->op[(q->head + q->n++) % q->depth] = op; }

static inline struct io_op *op_queue_pop(struct op_queue *q)
{
    struct io_op *op = q->op[q->head];

    q->head = (q->head + 1) % q->depth;
    q->n--;
    return op;
}

/* Bytes [from, from + n) of the op, now; bytes moved or -errno. */
ssize_t op_do(const struct io_op *op, size_t n);

#endif
