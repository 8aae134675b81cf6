#include "emit/merger.h"
#include <cblas.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "base/least.h"
#include "io/file.h"
#include "transform/merge.h"

struct rect { /* of the item, rows of which stand in one block of the source */
    uint64_t row, rows, col, cols;
};

enum { ROOM_ALIGN = 4096 };

static size_t raw_bytes(uint64_t rank) { return most(MERGE_ROWS * rank, MERGE_COLS) * sizeof(float); }

size_t merger_bytes(uint64_t rank)
{
    size_t block = MERGE_ROWS * MERGE_COLS, all = (MERGE_ROWS + MERGE_COLS) * rank * sizeof(float);

    all += block * (2 * sizeof(float) + sizeof(uint16_t)) + raw_bytes(rank);
    return (all + ROOM_ALIGN - 1) / ROOM_ALIGN * ROOM_ALIGN;
}

void merger_init(struct merger *m, void *room, uint64_t rank, int fd, const char *name)
{
    *m = (struct merger){ .product = room, .fd = fd, .name = name };
    m->sum = m->product + MERGE_ROWS * MERGE_COLS;
    m->a = m->sum + MERGE_ROWS * MERGE_COLS;
    m->b = m->a + MERGE_COLS * rank;
    m->raw = (unsigned char *)(m->b + MERGE_ROWS * rank);
    m->w = (uint16_t *)(void *)(m->raw + raw_bytes(rank));
}

/* n elements of a tensor from element `first` on. */
static int read_floats(struct merger *m, const struct tensor *t, uint64_t first, uint64_t n, float *to, struct err *e)
{
    unsigned bytes = dtype_bytes(t->dtype);

    if (file_pread(m->fd, m->name, m->raw, n * bytes, t->off + first * bytes, e))
        return -1;
    widen(to, m->raw, t->dtype, n);
    return 0;
}

/* Columns col.. of A. */
static int load_a(struct merger *m, const struct adapter_pair *p, uint64_t col, struct err *e)
{
    uint64_t in = p->a->shape[1], cols = least(MERGE_COLS, in - col);

    if (cols < MERGE_COLS)
        memset(m->a, 0, p->rank * MERGE_COLS * sizeof *m->a);
    for (uint64_t k = 0; k < p->rank; k++)
        if (read_floats(m, p->a, k * in + col, cols, m->a + k * MERGE_COLS, e))
            return -1;
    return 0;
}

/* Rows row.. of B. */
static int load_b(struct merger *m, const struct adapter_pair *p, uint64_t row, struct err *e)
{
    uint64_t rows = least(MERGE_ROWS, p->b->shape[0] - row);

    if (rows < MERGE_ROWS)
        memset(m->b, 0, MERGE_ROWS * p->rank * sizeof *m->b);
    return read_floats(m, p->b, row * p->rank, rows * p->rank, m->b, e);
}

/* Chooses kernels and takes memory; the build keeps it from doing so at the start of every program. */
void gotoblas_init(void);
static pthread_once_t started = PTHREAD_ONCE_INIT;

/* OpenBLAS keeps buffers for some hundred calls at once; beyond that it grumbles on the standard error. */
static atomic_uint calls;
enum { CALLS_MOST = 128 };

static void calls_enter(void)
{
    while (atomic_fetch_add(&calls, 1) >= CALLS_MOST) {
        atomic_fetch_sub(&calls, 1);
        sched_yield();
    }
}

/* With 12 rows or a multiple and 8 columns a call, x86 kernels with FMA sum term after term and round once for each, as
 * the BLAS did that made the files of the exporter that we replace; wider ones do not (OpenBLAS 0.3.21 for Haswell and
 * Zen) and come out one off in the last place here and there.  And calls of at most 2^18 products stay in the thread
 * that makes them. */
enum { STRIP_COLS = 8, STRIP_ROWS = 12 };

static void multiply(const struct merger *m, uint64_t rank)
{
    int rows = rank <= 512 ? MERGE_ROWS : STRIP_ROWS;

    pthread_once(&started, gotoblas_init);
    calls_enter();
    for (int r = 0; r < MERGE_ROWS; r += rows)
        for (int c = 0; c < MERGE_COLS; c += STRIP_COLS)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, STRIP_COLS, (blasint)rank, 1,
                        m->b + (size_t)r * rank, (blasint)rank, m->a + c, MERGE_COLS, 0,
                        m->product + r * MERGE_COLS + c, MERGE_COLS);
    atomic_fetch_sub(&calls, 1);
}

static uint64_t source_row(const struct merge *what, uint64_t row)
{
    return what->gather ? (uint64_t)what->gather[row] : row;
}

/* Rounds the weights of `r` to fp16, adds what their block gives them, and rounds into the job's place. */
static void add(const struct merger *m, const struct merge *what, struct job *j, struct rect r)
{
    const struct transform *t = what->transform;
    uint64_t row = r.row - what->row, col = r.col - what->col;
    size_t src = dtype_bytes(t->src), dst = dtype_bytes(t->dst), across = t->kind == TRANSFORM_TRANSPOSE;
    struct job in = { .src = (const unsigned char *)j->src + row * j->src_pitch + col * src,
                      .src_pitch = j->src_pitch,
                      .dst = m->w,
                      .dst_pitch = MERGE_COLS * sizeof *m->w,
                      .rows = r.rows,
                      .cols = r.cols };
    struct job out = { .src = m->sum,
                       .src_pitch = MERGE_COLS * sizeof *m->sum,
                       .dst =
                           (unsigned char *)j->dst + (across ? col : row) * j->dst_pitch + (across ? row : col) * dst,
                       .dst_pitch = j->dst_pitch,
                       .rows = r.rows,
                       .cols = r.cols };

    transform_best(transform_find(TRANSFORM_CAST, t->src, DT_F16))(&in);
    for (size_t i = 0; i < r.rows; i++)
        merge_add(m->sum + i * MERGE_COLS, m->w + i * MERGE_COLS,
                  m->product + source_row(what, r.row + i) % MERGE_ROWS * MERGE_COLS + r.col % MERGE_COLS, r.cols,
                  (float)what->pair->scale);
    transform_best(transform_find(t->kind, DT_F32, DT_F16))(&out);
    in.counters.flushed = in.counters.nan = 0; /* what became of them shows in the result */
    counters_add(&j->counters, &in.counters);
    counters_add(&j->counters, &out.counters);
}

/* How many of the job's rows from `row` on stand in one block of the source, at most as many as a block has. */
static uint64_t rows_of_block(const struct merge *what, uint64_t row, uint64_t end)
{
    uint64_t block = source_row(what, row) / MERGE_ROWS, n = 1;

    while (n < MERGE_ROWS && row + n < end && source_row(what, row + n) / MERGE_ROWS == block)
        n++;
    return n;
}

/* All rows of the job in one column of blocks. */
static int column_do(struct merger *m, const struct merge *what, struct job *j, struct rect r, struct err *e)
{
    uint64_t end = what->row + j->rows, made = UINT64_MAX;

    if (load_a(m, what->pair, r.col / MERGE_COLS * MERGE_COLS, e))
        return -1;
    for (r.row = what->row; r.row < end; r.row += r.rows) {
        uint64_t block = source_row(what, r.row) / MERGE_ROWS;

        r.rows = rows_of_block(what, r.row, end);
        if (block != made) {
            if (load_b(m, what->pair, block * MERGE_ROWS, e))
                return -1;
            multiply(m, what->pair->rank);
            made = block;
        }
        add(m, what, j, r);
    }
    return 0;
}

int merger_do(struct merger *m, const struct merge *what, struct job *j, struct err *e)
{
    uint64_t end = what->col + j->cols;
    struct rect r = { .col = what->col };

    for (; r.col < end; r.col += r.cols) {
        r.cols = least((r.col / MERGE_COLS + 1) * MERGE_COLS, end) - r.col;
        if (column_do(m, what, j, r, e))
            return -1;
    }
    return 0;
}

int merger_once(const struct merge *what, struct job *j, struct err *e)
{
    const struct ckpt_file *f = what->pair->file;
    void *room = malloc(merger_bytes(what->pair->rank));
    struct merger m;
    int fd = ckpt_open_source(f, e), ret = -1;

    if (!room)
        err_set(e, ERR_NOMEM, "%s: no memory to merge it", f->path);
    if (room && fd >= 0) {
        merger_init(&m, room, what->pair->rank, fd, f->path);
        ret = merger_do(&m, what, j, e);
    }
    if (fd >= 0)
        file_close(fd);
    free(room);
    return ret;
}
