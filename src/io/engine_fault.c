/* engine_fault.c - for tests: pread that moves few bytes at a time, takes a while, and
 * whose n-th op fails.  A test raises n from 1 until the run succeeds, and so visits
 * every place where I/O can fail; one that does something in the middle of a run has it
 * take its time, which depends on no processor. */
#include "io/engine_fault.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include "io/op_queue.h"

static const struct io_fault *given;
static struct io_fault given_copy;
static atomic_ulong count; /* over all engines: the reader's and the writer's ops are one sequence */

void io_fault_set(const struct io_fault *f)
{
    if (f)
        given_copy = *f;
    given = f ? &given_copy : NULL;
    atomic_store(&count, 0);
}

unsigned long io_fault_count(void) { return atomic_load(&count); }

/* One "key=number"; returns what stands behind it, or NULL. */
static const char *parse_one(const char *text, struct io_fault *f)
{
    static const char *const keys[] = { "at_most=", "fail=", "error=", "delay=" };
    unsigned long v[4] = { f->at_most, f->fail, (unsigned long)f->error, f->delay };
    char *end;

    for (size_t k = 0; k < 4; k++) {
        size_t n = strlen(keys[k]);

        if (strncmp(text, keys[k], n))
            continue;
        v[k] = strtoul(text + n, &end, 10);
        if (end == text + n || (*end && *end != ',') || v[2] > 4095 || v[3] > 1000000)
            return NULL;
        *f = (struct io_fault){ v[0], v[1], (int)v[2], (unsigned)v[3] };
        return *end ? end + 1 : end;
    }
    return NULL;
}

static int from_environment(struct io_fault *f, struct err *e)
{
    const char *env = getenv("WEIGHBRIDGE_FAULT"), *at = env;

    *f = (struct io_fault){ .error = EIO };
    while (at && *at)
        if (!(at = parse_one(at, f)))
            return err_set(e, ERR_USAGE, "WEIGHBRIDGE_FAULT is \"%s\": expected e.g. \"at_most=4096,fail=7,error=5\"",
                           env);
    return 0;
}

struct fault {
    struct io_fault what;
    struct op_queue *queue;
};

static void fault_close(void *self)
{
    struct fault *f = self;

    free(f->queue);
    free(f);
}

static void *fault_open(unsigned depth, struct err *e)
{
    struct fault *f = calloc(1, sizeof *f);

    if (!f)
        return err_set(e, ERR_NOMEM, "no memory for an I/O engine"), NULL;
    if (given)
        f->what = *given;
    else if (from_environment(&f->what, e))
        return fault_close(f), NULL;
    if (!(f->queue = op_queue_new(depth, e)))
        return fault_close(f), NULL;
    return f;
}

/* As a disk has it: a few at once, which take turns, and the others when these are over. */
static void fault_submit(void *self, struct io_op *op)
{
    enum { AT_ONCE = 8 };
    struct op_queue *q = ((struct fault *)self)->queue;

    op_queue_push(q, op);
    if (!op->done)
        return;
    for (unsigned i = q->n - 1; i >= AT_ONCE; i--) {
        struct io_op **behind = &q->op[(q->head + i) % q->depth], **before = &q->op[(q->head + i - 1) % q->depth];

        *behind = *before;
        *before = op;
    }
}

static size_t few(const struct io_fault *what, const struct io_op *op)
{
    size_t n = op->len - op->from, most = what->at_most;

    if (op->direct) /* a disk moves whole blocks */
        most = (most + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    return most && most < n ? most : n;
}

static void take_time(unsigned microseconds)
{
    const struct timespec t = { .tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000L };

    if (microseconds)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static struct io_op *fault_wait(void *self)
{
    const struct fault *f = self;
    struct io_op *op = op_queue_pop(f->queue);

    take_time(f->what.delay);
    op->res = atomic_fetch_add(&count, 1) + 1 == f->what.fail ? -f->what.error : op_do(op, few(&f->what, op));
    return op;
}

const struct io_engine engine_fault = {
    .name = "fault",
    .test_only = true,
    .open = fault_open,
    .submit = fault_submit,
    .wait = fault_wait,
    .close = fault_close,
};
