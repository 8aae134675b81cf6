/* engine_uring.c - io_uring: an op begins when it is submitted, so that several run at once.
 *
 * Nothing is registered (buffers, files) and no kernel thread polls: neither
 * gains anything for ops of megabytes.  A buffered write is only a copy into the
 * page cache, for which io_uring would wake a thread of the kernel: it is done
 * here and now.  Where io_uring is forbidden (seccomp profiles of containers
 * answer EPERM or ENOSYS), opening fails and "auto" goes on to the next engine. */
#include "io/op_queue.h"
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct uring {
    struct io_uring ring;
    unsigned in_flight;
    struct op_queue *ready; /* ops that have a result already */
};

enum { SUBMIT_TRIES = 5000, OP_MAX = 1 << 30 };

static bool can_read_and_write(struct io_uring *ring)
{
    struct io_uring_probe *p = io_uring_get_probe_ring(ring);
    bool can = p && io_uring_opcode_supported(p, IORING_OP_READ) && io_uring_opcode_supported(p, IORING_OP_WRITE);

    io_uring_free_probe(p);
    return can;
}

static void *uring_open(unsigned depth, struct err *e)
{
    struct uring *u = calloc(1, sizeof *u);
    int ret;

    if (!u)
        return err_set(e, ERR_NOMEM, "no memory for an I/O engine"), NULL;
    if (!(u->ready = op_queue_new(depth, e)))
        return free(u), NULL;
    ret = io_uring_queue_init(depth, &u->ring, 0);
    if (!ret && !can_read_and_write(&u->ring)) {
        io_uring_queue_exit(&u->ring);
        ret = -EOPNOTSUPP;
    }
    if (!ret)
        return u;
    free(u->ready);
    free(u);
    err_errno(e, -ret, "io_uring is not to be had here, --io pread does without");
    return NULL;
}

/* Short of kernel memory means later; anything else means never. */
static int submit_now(struct io_uring *ring)
{
    for (unsigned tries = 0;; tries++) {
        int ret = io_uring_submit(ring);

        if (ret >= 0)
            return 0;
        if (ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
            return ret;
        if (tries == SUBMIT_TRIES)
            return -ENOMEM;
        if (ret != -EINTR)
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
}

static int uring_begin(struct uring *u, struct io_op *op, unsigned n)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* never NULL: at most depth in flight */

    if (op->write)
        io_uring_prep_write(sqe, op->fd, op->buf + op->from, n, op->off + op->from);
    else
        io_uring_prep_read(sqe, op->fd, op->buf + op->from, n, op->off + op->from);
    io_uring_sqe_set_data(sqe, op);
    return submit_now(&u->ring);
}

static void uring_submit(void *self, struct io_op *op)
{
    struct uring *u = self;
    size_t left = op->len - op->from;
    unsigned n = left < OP_MAX ? (unsigned)left : OP_MAX;

    if (op->write && !op->direct) {
        op->res = op_do(op, n);
        op_queue_push(u->ready, op);
    } else if ((op->res = uring_begin(u, op, n))) {
        op_queue_push(u->ready, op);
    } else {
        u->in_flight++;
    }
}

static struct io_op *uring_wait(void *self)
{
    struct uring *u = self;
    struct io_uring_cqe *cqe;
    struct io_op *op;

    if (u->ready->n)
        return op_queue_pop(u->ready);
    while (io_uring_wait_cqe(&u->ring, &cqe))
        ; /* interrupted by a signal */
    op = io_uring_cqe_get_data(cqe);
    op->res = cqe->res;
    io_uring_cqe_seen(&u->ring, cqe);
    u->in_flight--;
    return op;
}

/* Leaving the ring does not wait for its transfers, and their buffers are about to go. */
static void uring_close(void *self)
{
    struct uring *u = self;

    u->ready->n = 0;
    while (u->in_flight)
        uring_wait(u);
    io_uring_queue_exit(&u->ring);
    free(u->ready);
    free(u);
}

const struct io_engine engine_uring = {
    .name = "uring",
    .open = uring_open,
    .submit = uring_submit,
    .wait = uring_wait,
    .close = uring_close,
};
