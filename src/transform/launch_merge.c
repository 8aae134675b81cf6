#include "transform/launch_merge.h"
#include <limits.h>
#include <string.h>

enum {
    ALIGN = 256,
    WARP = 32,
    WARPS = 8,      /* of a block */
    QUAD = 4,       /* elements of a thread that merges */
    ROWS = 65535,   /* most blocks along y */
    BLOCKS_X = 1024 /* enough blocks along a row to fill any device */
};

static const struct row {
    enum dtype dtype;
    const char *widen, *merge;
} rows[] = {
    { DT_BF16, "gpu_widen_bf16", "gpu_merge_bf16" },
    { DT_F32, "gpu_widen_f32", "gpu_merge_f32" },
    { DT_F16, "gpu_widen_f16", "gpu_merge_f16" },
};

static const struct row *row_of(enum dtype t)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].dtype == t)
            return &rows[i];
    return NULL;
}

static size_t room_of(size_t floats) { return (floats * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN; }

size_t launch_merge_room(const struct job *j, size_t rank)
{
    return room_of(j->rows * rank) + room_of(rank * j->cols) + room_of(j->rows * j->cols);
}

static void add_arg(struct launch *l, uint64_t v) { l->arg[l->args_n++] = v; }
static void add_at(struct launch *l, const void *at) { add_arg(l, (uintptr_t)at); }

static size_t pieces(size_t n, size_t of) { return n / of + (n % of != 0); }
static uint32_t least(size_t a, uint32_t b) { return a < b ? (uint32_t)a : b; }

/* Warps along rows of `cols` where a thread takes `each` of them; the others from row to row. */
static void set_grid(struct launch *l, size_t n, size_t cols, size_t each)
{
    size_t steps = pieces(cols, WARP * each);
    uint32_t along = 1;

    while (along < WARPS && along < steps)
        along *= 2;
    l->block[0] = WARP;
    l->block[1] = along;
    l->block[2] = WARPS / along;
    l->grid[0] = least(pieces(steps, along), BLOCKS_X);
    l->grid[1] = least(pieces(n, WARPS / along), ROWS);
    l->grid[2] = 1;
}

static struct launch plan_widen(const struct merge_factor *f, const uint32_t *order, size_t n, size_t cols, float *to)
{
    struct launch l = { .kernel = row_of(f->dtype)->widen };

    set_grid(&l, n, cols, 1);
    add_at(&l, f->at);
    add_arg(&l, f->pitch);
    add_at(&l, to);
    add_at(&l, order);
    add_arg(&l, n);
    add_arg(&l, cols);
    return l;
}

static struct launch plan_merge(const struct transform *t, const struct job *j, const struct launch_memory *m,
                                float scale, float *sum)
{
    struct launch l = { .kernel = row_of(t->src)->merge };
    uint32_t bits;

    memcpy(&bits, &scale, sizeof bits);
    set_grid(&l, j->rows, j->cols, QUAD);
    add_at(&l, j->src);
    add_arg(&l, j->src_pitch);
    add_at(&l, sum);
    add_at(&l, m->order);
    add_arg(&l, j->rows);
    add_arg(&l, j->cols);
    add_arg(&l, bits);
    add_at(&l, m->counters);
    return l;
}

/* The sum becomes what the job would have made of the weights. */
static bool plan_result(const struct transform *t, const struct job *j, const struct launch_memory *m, const float *sum,
                        struct launch *l)
{
    const struct transform *wide = transform_find(t->kind, DT_F32, t->dst);
    struct launch_memory memory = { .counters = m->counters };
    struct launch made[LAUNCH_MOST];
    struct job job = { .src = sum,
                       .src_pitch = j->cols * sizeof *sum,
                       .dst = j->dst,
                       .dst_pitch = j->dst_pitch,
                       .rows = j->rows,
                       .cols = j->cols };

    if (!wide || launch_job(wide, &job, &memory, made) != 1)
        return false;
    *l = made[0];
    return true;
}

bool launch_merge(const struct transform *t, const struct job *j, const struct launch_memory *m,
                  const struct merge_job *merge, struct merge_launch *out)
{
    float *b32 = merge->room, *a32 = b32 + room_of(j->rows * merge->rank) / sizeof *b32;
    float *sum = a32 + room_of(merge->rank * j->cols) / sizeof *a32;

    *out = (struct merge_launch){ 0 };
    if (!j->rows || !j->cols)
        return true;
    if (!row_of(t->src) || !row_of(merge->a.dtype) || !row_of(merge->b.dtype) || j->rows > INT_MAX ||
        j->cols > INT_MAX || merge->rank > INT_MAX || !plan_result(t, j, m, sum, &out->after[1]))
        return false;
    out->before[0] = plan_widen(&merge->b, merge->order, j->rows, merge->rank, b32);
    out->before[1] = plan_widen(&merge->a, NULL, merge->rank, j->cols, a32);
    out->before_n = 2;
    out->product =
        (struct gpu_product){ .a = a32, .b = b32, .c = sum, .rows = j->rows, .cols = j->cols, .rank = merge->rank };
    out->after[0] = plan_merge(t, j, m, merge->scale, sum);
    out->after_n = 2;
    return true;
}
