/* launch.c - the table of kernels.  Threads of a block, and how blocks share out a job, are as the kernels' files
 * (cast.cu, transpose.cu, pack4.cu) say. */
#include "transform/launch.h"
#include <string.h>
#include "base/dtype.h"
#include "transform/pack4_lane.h"

enum {
    WARP = 32,
    WARPS = 8,      /* of a block of casts and transposes */
    STEP = 256,     /* elements of a row that a warp casts at once */
    TILE = 64,      /* rows and columns that a block transposes */
    THREADS = 128,  /* of other blocks */
    ROWS = 65535,   /* most blocks along y */
    BLOCKS_X = 1024 /* enough blocks along a row to fill any device */
};

static size_t pieces(size_t n, size_t of) { return n / of + (n % of != 0); }

static void add_arg(struct launch *l, uint64_t v) { l->arg[l->args_n++] = v; }
static void add_at(struct launch *l, const void *at) { add_arg(l, (uintptr_t)at); }

/* `rows` x `across` blocks in one row of the grid, which has room for the most; false: not even there. */
static bool set_blocks(struct launch *l, size_t rows, size_t across)
{
    if (across && rows > INT32_MAX / across)
        return false;
    l->grid[0] = (uint32_t)(rows * across);
    l->grid[1] = l->grid[2] = 1;
    return true;
}

static void set_block(struct launch *l, uint32_t x, uint32_t y, uint32_t z)
{
    l->block[0] = x, l->block[1] = y, l->block[2] = z;
}

static void add_sides(struct launch *l, const struct job *j, size_t src_pitch)
{
    add_at(l, j->src);
    add_arg(l, src_pitch);
    add_at(l, j->dst);
}

static uint32_t least(size_t a, uint32_t b) { return a < b ? (uint32_t)a : b; }

/* ---- each returns false when one job is too large ---- */

typedef bool plan_fn(const struct transform *t, const struct job *j, const struct launch_memory *m, struct launch *l);

/* Without gaps it is one row. */
static bool plan_cast(const struct transform *t, const struct job *j, const struct launch_memory *m, struct launch *l)
{
    bool whole = !m->order && j->src_pitch == j->cols * dtype_bytes(t->src) && j->dst_pitch == j->cols * 2;
    size_t rows = whole ? 1 : j->rows, cols = whole ? j->rows * j->cols : j->cols, steps = pieces(cols, STEP);
    uint32_t along = 1;

    while (along < WARPS && along < steps)
        along *= 2;
    set_block(l, WARP, along, WARPS / along);
    l->grid[0] = least(pieces(steps, along), BLOCKS_X);
    l->grid[1] = least(pieces(rows, WARPS / along), ROWS);
    l->grid[2] = 1;
    add_sides(l, j, j->src_pitch);
    add_arg(l, j->dst_pitch);
    add_at(l, m->order);
    add_arg(l, rows);
    add_arg(l, cols);
    add_at(l, m->counters);
    return true;
}

static bool plan_transpose(const struct transform *t, const struct job *j, const struct launch_memory *m,
                           struct launch *l)
{
    (void)t;
    set_block(l, WARP, WARPS, 1);
    add_sides(l, j, j->src_pitch);
    add_arg(l, j->dst_pitch);
    add_at(l, m->order);
    add_arg(l, j->rows);
    add_arg(l, j->cols);
    add_at(l, m->counters);
    return j->rows < INT32_MAX && j->cols < INT32_MAX && set_blocks(l, pieces(j->rows, TILE), pieces(j->cols, TILE));
}

/* What stands behind the zero points in all kernels that fold them. */
static void add_pack(struct launch *l, const struct job *j, const struct launch_memory *m)
{
    add_arg(l, j->pack->group);
    add_arg(l, j->pack->zero_add);
    add_arg(l, j->pack->clamp);
    add_at(l, m->counters);
}

static void add_zeros(struct launch *l, const struct job *j)
{
    add_at(l, j->zeros.at);
    add_arg(l, j->zeros.pitch);
}

/* Cells of 64 inputs by units of 8 outputs, or by quads of 4. */
static bool plan_panel(const struct transform *t, const struct job *j, const struct launch_memory *m, struct launch *l)
{
    bool awq = t->kind == TRANSFORM_PACK4_AWQ;

    set_block(l, THREADS, 1, 1);
    add_sides(l, j, j->src_pitch / (awq ? PACK4_IN : PACK4_WORD));
    add_arg(l, j->dst_pitch);
    add_arg(l, j->cols);
    add_zeros(l, j);
    add_arg(l, j->first * PACK4_IN);
    add_pack(l, j, m);
    return j->cols < INT32_MAX &&
           set_blocks(l, j->rows, awq ? pieces(j->cols / 2, WARP) : pieces(j->cols * 2, THREADS));
}

static bool plan_in_act(const struct transform *t, const struct job *j, const struct launch_memory *m, struct launch *l)
{
    size_t cells = j->pack->in / PACK4_IN, quads = j->cols * 2;

    (void)t;
    set_block(l, THREADS, 1, 1);
    add_sides(l, j, j->src_pitch);
    add_arg(l, cells * PACK4_CELL);
    add_arg(l, quads);
    add_zeros(l, j);
    add_at(l, m->scratch);
    add_pack(l, j, m);
    return quads < INT32_MAX && set_blocks(l, cells, pieces(quads * 2, THREADS));
}

static bool plan_out(const struct transform *t, const struct job *j, const struct launch_memory *m, struct launch *l)
{
    size_t cells = j->pack->in / PACK4_IN, quads = j->cols * 2;
    uint32_t warps = cells < 16 ? 1 : 4;

    (void)t;
    set_block(l, WARP, warps, 1);
    add_sides(l, j, j->src_pitch / 8);
    add_arg(l, cells);
    add_zeros(l, j);
    add_at(l, j->g_idx.at ? m->scratch : NULL);
    add_pack(l, j, m);
    return quads < INT32_MAX && set_blocks(l, quads, pieces(cells, 4 * warps));
}

static bool plan_zeros_group(const struct transform *t, const struct job *j, const struct launch_memory *m,
                             struct launch *l)
{
    size_t units = j->zeros.pitch / sizeof(uint32_t);

    set_block(l, THREADS, 1, 1);
    add_sides(l, j, j->src_pitch);
    add_arg(l, units);
    add_zeros(l, j);
    add_arg(l, j->pack->zero_add);
    add_arg(l, t->kind == TRANSFORM_ZEROS_AWQ);
    add_at(l, m->counters);
    return units < INT32_MAX && set_blocks(l, j->cols, pieces(units, THREADS));
}

static bool plan_zeros_out(const struct transform *t, const struct job *j, const struct launch_memory *m,
                           struct launch *l)
{
    (void)t;
    set_block(l, WARP, THREADS / WARP, 1);
    add_sides(l, j, j->src_pitch / 8);
    add_arg(l, j->dst_pitch);
    add_arg(l, j->rows);
    add_arg(l, j->cols);
    add_zeros(l, j);
    add_arg(l, j->pack->zero_add);
    add_at(l, m->counters);
    return j->rows < INT32_MAX && j->cols < INT32_MAX &&
           set_blocks(l, pieces(j->rows, 2), pieces(j->cols, THREADS / 2));
}

static bool plan_order(const struct job *j, const void *g_idx, void *dst, uint32_t bytes, struct launch *l)
{
    uint32_t groups = j->pack->in / j->pack->group;

    l->kernel = "gpu_group_order";
    set_block(l, WARP, THREADS / WARP, 1);
    add_at(l, g_idx);
    add_arg(l, j->pack->in);
    add_arg(l, groups);
    add_at(l, dst);
    add_arg(l, bytes);
    return set_blocks(l, pieces(groups, THREADS / WARP), 1);
}

static bool plan_group_order(const struct transform *t, const struct job *j, const struct launch_memory *m,
                             struct launch *l)
{
    (void)m;
    return plan_order(j, j->src, j->dst, dtype_bytes(t->dst), l);
}

/* ---- the table ---- */

static const struct row {
    enum transform_kind kind;
    enum dtype src;
    const char *kernel;
    plan_fn *plan;
} rows[] = {
    { TRANSFORM_CAST, DT_BF16, "gpu_cast_bf16", plan_cast },
    { TRANSFORM_CAST, DT_F32, "gpu_cast_f32", plan_cast },
    { TRANSFORM_CAST, DT_F16, "gpu_cast_f16", plan_cast },
    { TRANSFORM_TRANSPOSE, DT_BF16, "gpu_transpose_bf16", plan_transpose },
    { TRANSFORM_TRANSPOSE, DT_F32, "gpu_transpose_f32", plan_transpose },
    { TRANSFORM_TRANSPOSE, DT_F16, "gpu_transpose_f16", plan_transpose },
    { TRANSFORM_PACK4_IN, DT_I32, "gpu_pack4_in", plan_panel },
    { TRANSFORM_PACK4_IN_ACT, DT_I32, "gpu_pack4_in_act", plan_in_act },
    { TRANSFORM_PACK4_AWQ, DT_I32, "gpu_pack4_awq", plan_panel },
    { TRANSFORM_PACK4_OUT, DT_I32, "gpu_pack4_out", plan_out },
    { TRANSFORM_ZEROS_IN, DT_F16, "gpu_zeros_group_f16", plan_zeros_group },
    { TRANSFORM_ZEROS_IN, DT_BF16, "gpu_zeros_group_bf16", plan_zeros_group },
    { TRANSFORM_ZEROS_IN, DT_F32, "gpu_zeros_group_f32", plan_zeros_group },
    { TRANSFORM_ZEROS_AWQ, DT_F16, "gpu_zeros_group_f16", plan_zeros_group },
    { TRANSFORM_ZEROS_AWQ, DT_BF16, "gpu_zeros_group_bf16", plan_zeros_group },
    { TRANSFORM_ZEROS_AWQ, DT_F32, "gpu_zeros_group_f32", plan_zeros_group },
    { TRANSFORM_ZEROS_OUT, DT_F16, "gpu_zeros_out_f16", plan_zeros_out },
    { TRANSFORM_ZEROS_OUT, DT_BF16, "gpu_zeros_out_bf16", plan_zeros_out },
    { TRANSFORM_ZEROS_OUT, DT_F32, "gpu_zeros_out_f32", plan_zeros_out },
    { TRANSFORM_GROUP_ORDER, DT_I32, "gpu_group_order", plan_group_order },
};

static const struct row *row_of(const struct transform *t)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].kind == t->kind && rows[i].src == t->src)
            return &rows[i];
    return NULL;
}

static bool gathers(const struct transform *t, const struct job *j)
{
    return (t->kind == TRANSFORM_PACK4_IN_ACT || t->kind == TRANSFORM_PACK4_OUT) && j->g_idx.at;
}

size_t launch_scratch(const struct transform *t, const struct job *j)
{
    return gathers(t, j) ? j->pack->in * sizeof(uint32_t) : 0;
}

size_t launch_job(const struct transform *t, const struct job *j, const struct launch_memory *m,
                  struct launch out[LAUNCH_MOST])
{
    const struct row *row = row_of(t);
    size_t n = 0;

    memset(out, 0, LAUNCH_MOST * sizeof *out);
    if (!row)
        return SIZE_MAX;
    if (gathers(t, j) && !plan_order(j, j->g_idx.at, m->scratch, sizeof(uint32_t), &out[n++]))
        return SIZE_MAX;
    out[n].kernel = row->kernel;
    if (!row->plan(t, j, m, &out[n++]))
        return SIZE_MAX;
    return out[n - 1].grid[0] && out[n - 1].grid[1] ? n : 0;
}
