/* gpu_bench.c - every kernel on every device that is asked for: rate, and whether it is right.
 *
 *     gpu_bench [--device cuda:all] [--mib 256] [--runs 9] [--csv]
 *
 * The best of the runs counts, by the device's own events.  Rates are of bytes read and written; `copy` is the share of
 * what a copy within the device reads and writes in a second.  `wrong` counts destination bytes that differ from the
 * CPU's (merged values: those that are more than one off in the last place of fp16), and counters that do: a wrong
 * kernel has no speed, and the exit status is 1.  Without a device it is 77. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "gpu/gpu.h"
#include "transform/launch_merge.h"
#include "transform/merge.h"

enum { ALIGN = 256, SKIPPED = 77, COLS = 4096, GROUP = 128, RANK = 16, RUNS_MOST = 1000 };

static struct gpu g;
static struct err e;
static unsigned char *in, *out, *expected; /* of the host; the first two are pinned */
static size_t bytes, runs = 9, wrong_all;
static bool csv;
static double copy_rate; /* of the device that is measured */

struct work {
    char name[32];
    const struct transform *t;
    struct job job; /* without addresses */
    struct pack4 pack;
    size_t src, zeros, g_idx, order, dst; /* bytes of each */
};

/* ---- the sources: one behind the other ---- */

static size_t round_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }
static size_t zeros_at(const struct work *w) { return round_up(w->src); }
static size_t g_idx_at(const struct work *w) { return zeros_at(w) + round_up(w->zeros); }
static size_t order_at(const struct work *w) { return g_idx_at(w) + round_up(w->g_idx); }
static size_t all_sources(const struct work *w) { return order_at(w) + round_up(w->order); }

static uint32_t next(uint32_t *x) { return *x = *x * 1664525u + 1013904223u; }

/* Numbers of ordinary size, also when two of 16 bits are read as one of 32; and some of each other kind. */
static void fill(unsigned char *p, size_t n)
{
    uint32_t x = 1;

    for (size_t i = 0; i + 1 < n; i += 2) {
        uint32_t r = next(&x);

        p[i] = (unsigned char)(r >> 24);
        p[i + 1] = (unsigned char)(r >> 20 & 15 ? 0x3c + (r >> 16 & 3) + (r >> 8 & 0x80) : r >> 12);
    }
}

static void fill_order(uint32_t *order, size_t n, size_t of)
{
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)(i * 2731 % of);
}

static void fill_all(const struct work *w)
{
    uint32_t *g_idx = (uint32_t *)(void *)(in + g_idx_at(w));

    fill(in, all_sources(w));
    for (uint32_t k = 0; k < w->g_idx / sizeof *g_idx; k++) /* groups of inputs that stand far apart */
        g_idx[k] = k * 2731 % w->pack.in / GROUP;
    fill_order((uint32_t *)(void *)(in + order_at(w)), w->order / sizeof(uint32_t), w->job.rows);
}

/* The job at these addresses. */
static struct job job_at(const struct work *w, const unsigned char *sources, unsigned char *dst)
{
    struct job j = w->job;

    j.src = sources;
    j.dst = dst;
    j.pack = w->pack.in ? &w->pack : NULL;
    j.zeros.at = w->zeros ? sources + zeros_at(w) : NULL;
    j.g_idx.at = w->g_idx ? sources + g_idx_at(w) : NULL;
    if (w->t->kind == TRANSFORM_GROUP_ORDER)
        j.src = j.g_idx.at;
    return j;
}

/* ---- what there is to do ---- */

static struct work casts(const struct transform *t, bool gather)
{
    size_t row = COLS * dtype_bytes(t->src), rows = bytes / row;
    struct work w = {
        .t = t, .src = rows * row, .dst = rows * COLS * 2, .order = gather ? rows * sizeof(uint32_t) : 0
    };

    snprintf(w.name, sizeof w.name, "%s%s", t->name, gather ? " gathered" : "");
    w.job = (struct job){ .rows = rows, .cols = COLS, .src_pitch = row, .dst_pitch = COLS * 2 };
    if (t->kind == TRANSFORM_TRANSPOSE)
        w.job.dst_pitch = rows * 2;
    return w;
}

/* A linear of 4096 inputs with zero points. */
static struct work packs(const struct transform *t, bool by_group)
{
    size_t units = bytes / (COLS * 4), outputs = units * 8, groups = COLS / GROUP;
    bool panel = t->cut == CUT_ROWS, by_output = t->kind == TRANSFORM_PACK4_OUT;
    struct work w = { .t = t,
                      .pack = { .in = COLS, .group = GROUP, .zero_add = 1, .clamp = true },
                      .src = outputs * COLS / 2,
                      .dst = outputs * COLS / 2,
                      .zeros = groups * outputs / 2,
                      .g_idx = by_group ? COLS * sizeof(uint32_t) : 0 };

    snprintf(w.name, sizeof w.name, "%s%s", t->name, by_group && by_output ? " by group" : "");
    w.job.rows = panel ? COLS / 64 : 1;
    w.job.cols = panel ? outputs / 4 : units;
    w.job.src_pitch = panel ? 32 * outputs : by_output ? 4 * COLS : 4 * outputs;
    w.job.dst_pitch = panel ? 2 * COLS : 0;
    w.job.zeros.pitch = by_output ? groups * 4 : outputs / 2;
    return w;
}

static struct work zeros(const struct transform *t)
{
    size_t groups = 1024, scale = dtype_bytes(t->src), units = bytes / (groups * 8 * scale);
    bool by_output = t->kind == TRANSFORM_ZEROS_OUT;
    struct work w = { .t = t,
                      .pack = { .in = (uint32_t)(groups * 64), .group = 64, .zero_add = 1 },
                      .src = units * groups * 8 * scale,
                      .dst = units * groups * 16,
                      .zeros = units * groups * 4 };

    snprintf(w.name, sizeof w.name, "%s", t->name);
    w.job.rows = by_output ? units : 1;
    w.job.cols = groups;
    w.job.src_pitch = 8 * scale * (by_output ? groups : units);
    w.job.dst_pitch = units * 16;
    w.job.zeros.pitch = 4 * (by_output ? groups : units);
    return w;
}

static struct work orders(const struct transform *t)
{
    struct work w = { .t = t, .pack = { .in = bytes < 64 << 20 ? 4096 : 28672, .group = GROUP } };

    snprintf(w.name, sizeof w.name, "%s", t->name);
    w.g_idx = w.pack.in * sizeof(uint32_t);
    w.dst = w.pack.in * sizeof(int64_t);
    w.job = (struct job){ .rows = 1, .cols = 1 };
    return w;
}

/* ---- on a device ---- */

struct side { /* what is held on the device */
    unsigned device;
    unsigned char *in, *out;
    struct counters *counters;
    void *scratch;
    struct gpu_event *begin, *end, *order;
};

static int open_side(struct side *s, unsigned device)
{
    *s = (struct side){ .device = device };
    return gpu_alloc(&g, device, 3 * bytes, (void **)&s->in, &e) ||
                   gpu_alloc(&g, device, 4 * bytes, (void **)&s->out, &e) ||
                   gpu_alloc(&g, device, sizeof *s->counters, (void **)&s->counters, &e) ||
                   gpu_alloc(&g, device, bytes, &s->scratch, &e) || gpu_event_make(&g, device, true, &s->begin, &e) ||
                   gpu_event_make(&g, device, true, &s->end, &e) || gpu_event_make(&g, device, false, &s->order, &e)
               ? -1
               : 0;
}

static int close_side(struct side *s)
{
    return gpu_free(&g, s->device, s->in, &e) || gpu_free(&g, s->device, s->out, &e) ||
                   gpu_free(&g, s->device, s->counters, &e) || gpu_free(&g, s->device, s->scratch, &e) ||
                   gpu_event_free(&g, s->device, s->begin, &e) || gpu_event_free(&g, s->device, s->end, &e) ||
                   gpu_event_free(&g, s->device, s->order, &e)
               ? -1
               : 0;
}

static int follow(struct side *s, enum gpu_stream before, enum gpu_stream after)
{
    return gpu_record(&g, s->device, before, s->order, &e) || gpu_after(&g, s->device, after, s->order, &e) ? -1 : 0;
}

static struct gpu_piece whole(size_t n) { return (struct gpu_piece){ 1, n, n, n }; }

static int put(struct side *s, size_t n)
{
    struct gpu_piece p = whole(n);

    return gpu_copy_in(&g, s->device, s->in, in, &p, &e) || follow(s, GPU_IN, GPU_COMPUTE) ? -1 : 0;
}

static int get(struct side *s, size_t n)
{
    struct gpu_piece result = whole(n), counters = whole(sizeof(struct counters));

    return follow(s, GPU_COMPUTE, GPU_OUT) || gpu_copy_out(&g, s->device, out, s->out, &result, &e) ||
                   gpu_copy_out(&g, s->device, out + round_up(n), s->counters, &counters, &e) ||
                   gpu_record(&g, s->device, GPU_OUT, s->order, &e) || gpu_wait(&g, s->device, s->order, &e)
               ? -1
               : 0;
}

static int start(struct side *s, const struct launch *l)
{
    struct gpu_kernel k = { .name = l->kernel, .args_n = l->args_n, .arg = l->arg };

    memcpy(k.grid, l->grid, sizeof k.grid);
    memcpy(k.block, l->block, sizeof k.block);
    return gpu_launch(&g, s->device, &k, &e);
}

/* Least seconds of `runs` times what `once` queues on a stream. */
static int time_of(struct side *s, enum gpu_stream on, int (*once)(struct side *s, void *arg), void *arg, double *best)
{
    *best = 1e9;
    for (size_t i = 0; i < runs; i++) {
        double seconds;

        if (gpu_clear(&g, s->device, on, s->counters, sizeof *s->counters, &e) ||
            gpu_record(&g, s->device, on, s->begin, &e) || once(s, arg) || gpu_record(&g, s->device, on, s->end, &e) ||
            gpu_wait(&g, s->device, s->end, &e) || gpu_elapsed(&g, s->device, s->begin, s->end, &seconds, &e))
            return -1;
        *best = seconds < *best ? seconds : *best;
    }
    return 0;
}

enum { NOT_COMPARED = -1 };

/* `wrong`: bytes, or NOT_COMPARED, where the next line tells of what this one made. */
static void print(const struct side *s, const char *name, size_t moved, double seconds, long wrong)
{
    double rate = wrong > 0 || seconds <= 0 ? 0 : (double)moved / seconds;
    char text[32] = "-";

    if (wrong != NOT_COMPARED)
        snprintf(text, sizeof text, "%ld", wrong);
    wrong_all += wrong > 0 ? (size_t)wrong : 0;
    if (csv)
        printf("%u,%s,%zu,%.4f,%.2f,%.3f,%s\n", g.info[s->device].number, name, moved, seconds * 1e3, rate / 1e9,
               copy_rate > 0 ? rate / copy_rate : 0, text);
    else
        printf("%6u %-24s %8.1f MB %9.3f ms %9.2f GB/s %6.2f %8s\n", g.info[s->device].number, name,
               (double)moved / 1e6, seconds * 1e3, rate / 1e9, copy_rate > 0 ? rate / copy_rate : 0, text);
    fflush(stdout);
}

/* ---- copies ---- */

static int once_within(struct side *s, void *arg)
{
    (void)arg;
    return gpu_copy_within(&g, s->device, s->out, s->in, bytes, &e);
}

static int once_in(struct side *s, void *arg)
{
    struct gpu_piece p = whole(bytes);

    (void)arg;
    return gpu_copy_in(&g, s->device, s->in, in, &p, &e);
}

static int once_out(struct side *s, void *arg)
{
    struct gpu_piece p = whole(bytes);

    (void)arg;
    return gpu_copy_out(&g, s->device, out, s->out, &p, &e);
}

static size_t differing(const unsigned char *a, const unsigned char *b, size_t n)
{
    size_t wrong = 0;

    for (size_t i = 0; i < n; i++)
        wrong += a[i] != b[i];
    return wrong;
}

/* What comes out has gone all three ways. */
static int measure_copies(struct side *s)
{
    double within, inward, outward;

    fill(in, bytes);
    memset(out, 0, bytes);
    if (time_of(s, GPU_IN, once_in, NULL, &inward) || follow(s, GPU_IN, GPU_COMPUTE) ||
        time_of(s, GPU_COMPUTE, once_within, NULL, &within) || follow(s, GPU_COMPUTE, GPU_OUT) ||
        time_of(s, GPU_OUT, once_out, NULL, &outward))
        return -1;
    copy_rate = within > 0 ? 2 * (double)bytes / within : 0;
    print(s, "copy in", bytes, inward, NOT_COMPARED);
    print(s, "copy within", 2 * bytes, within, NOT_COMPARED);
    print(s, "copy out", bytes, outward, (long)differing(in, out, bytes));
    return 0;
}

/* ---- transforms ---- */

struct launches {
    size_t n;
    struct launch l[LAUNCH_MOST];
};

static int once_launches(struct side *s, void *arg)
{
    struct launches *all = arg;

    for (size_t i = 0; i < all->n; i++)
        if (start(s, &all->l[i]))
            return -1;
    return 0;
}

/* A gather is made row by row. */
static struct counters on_cpu(const struct work *w)
{
    struct job j = job_at(w, in, expected);
    const uint32_t *order = (const uint32_t *)(const void *)(in + order_at(w));
    struct counters sum = { 0 };

    if (!w->order) {
        transform_best(w->t)(&j);
        return j.counters;
    }
    for (size_t r = 0; r < w->job.rows; r++) {
        struct job row = j;

        row.rows = 1;
        row.src = in + order[r] * j.src_pitch;
        row.dst = expected + r * j.dst_pitch;
        transform_best(w->t)(&row);
        counters_add(&sum, &row.counters);
    }
    return sum;
}

static bool same_counters(const struct counters *a, const struct counters *b)
{
    return a->overflow == b->overflow && a->flushed == b->flushed && a->nan == b->nan && a->worst == b->worst &&
           a->clamped == b->clamped && a->clamped_most == b->clamped_most;
}

static long wrong_of(const struct work *w, const struct counters *want)
{
    struct counters got;

    memcpy(&got, out + round_up(w->dst), sizeof got);
    return (long)differing(out, expected, w->dst) + !same_counters(&got, want);
}

static int measure(struct side *s, const struct work *w)
{
    struct job on = job_at(w, s->in, s->out);
    struct launch_memory m = { s->counters, s->scratch, NULL };
    struct launches all;
    struct counters want;
    double seconds;

    if (w->order)
        m.order = (const uint32_t *)(const void *)(s->in + order_at(w));
    fill_all(w);
    memset(expected, 0, w->dst);
    want = on_cpu(w);
    all.n = launch_job(w->t, &on, &m, all.l);
    if (all.n > LAUNCH_MOST)
        return err_set(&e, ERR_INTERNAL, "%s: too large for one job: give less by --mib", w->name);
    if (put(s, all_sources(w)) || gpu_clear(&g, s->device, GPU_COMPUTE, s->out, w->dst, &e) ||
        time_of(s, GPU_COMPUTE, once_launches, &all, &seconds) || get(s, w->dst))
        return -1;
    print(s, w->name, w->src + w->zeros + w->g_idx + w->order + w->dst, seconds, wrong_of(w, &want));
    return 0;
}

/* ---- a merge: weights of bf16, factors behind them in fp32, of which the result takes a part ---- */

static int once_product(struct side *s, void *arg)
{
    return gpu_product(&g, s->device, &((struct merge_launch *)arg)->product, &e);
}

static int once_before(struct side *s, void *arg)
{
    struct merge_launch *m = arg;

    return start(s, &m->before[0]) || start(s, &m->before[1]) ? -1 : 0;
}

/* The product is made again each time, since the sum takes its place. */
static int once_merge(struct side *s, void *arg)
{
    struct merge_launch *m = arg;

    return once_before(s, arg) || once_product(s, arg) || start(s, &m->after[0]) || start(s, &m->after[1]) ? -1 : 0;
}

static bool apart(uint16_t a, uint16_t b)
{
    int d = (int)(a & 0x7fff) - (int)(b & 0x7fff);
    bool nan = (a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00;

    return !nan && (d < -1 || d > 1 || ((a ^ b) & 0x8000 && (a & 0x7fff) + (b & 0x7fff) > 1));
}

static long wrong_merged(size_t rows, const float *a, const float *b, float scale)
{
    float product[COLS], sum[COLS];
    uint16_t w[COLS], row[COLS];
    long wrong = 0;

    for (size_t r = 0; r < rows; r++) {
        struct job half = {
            .src = in + r * COLS * 2, .dst = w, .rows = 1, .cols = COLS, .src_pitch = COLS * 2, .dst_pitch = COLS * 2
        };
        struct job last = {
            .src = sum, .dst = row, .rows = 1, .cols = COLS, .src_pitch = sizeof sum, .dst_pitch = sizeof row
        };

        transform_best(transform_find(TRANSFORM_CAST, DT_BF16, DT_F16))(&half);
        merge_row(product, b + r * RANK, RANK, a, COLS, COLS);
        merge_add(sum, w, product, COLS, scale);
        transform_best(transform_find(TRANSFORM_CAST, DT_F32, DT_F16))(&last);
        for (size_t c = 0; c < COLS; c++)
            wrong += apart(row[c], ((const uint16_t *)(const void *)out)[r * COLS + c]);
    }
    return wrong;
}

static int measure_merge(struct side *s)
{
    size_t rows = bytes / (COLS * 2) / 2, w = rows * COLS * 2, a = RANK * COLS * sizeof(float),
           b = rows * RANK * sizeof(float);
    struct job j = {
        .src = s->in, .dst = s->out, .rows = rows, .cols = COLS, .src_pitch = COLS * 2, .dst_pitch = COLS * 2
    };
    struct launch_memory m = { .counters = s->counters };
    struct merge_job mj = { .rank = RANK, .scale = 0.25f, .room = s->out + round_up(w) };
    struct merge_launch l;
    double seconds;

    fill(in, w);
    for (size_t i = 0; i < (a + b) / sizeof(float); i++)
        ((float *)(void *)(in + w))[i] = (float)(i * 40503u % 2001) / 1000 - 1;
    mj.a = (struct merge_factor){ s->in + w, COLS * sizeof(float), DT_F32 };
    mj.b = (struct merge_factor){ s->in + w + a, RANK * sizeof(float), DT_F32 };
    if (!launch_merge(transform_find(TRANSFORM_CAST, DT_BF16, DT_F16), &j, &m, &mj, &l))
        return err_set(&e, ERR_INTERNAL, "merge: too large for one job: give less by --mib");
    if (put(s, w + a + b) || time_of(s, GPU_COMPUTE, once_before, &l, &seconds))
        return -1;
    print(s, "merge: factors", 2 * (a + b), seconds, NOT_COMPARED);
    if (time_of(s, GPU_COMPUTE, once_product, &l, &seconds))
        return -1;
    print(s, "merge: product", a + b + 2 * w, seconds, NOT_COMPARED);
    if (time_of(s, GPU_COMPUTE, once_merge, &l, &seconds) || get(s, w))
        return -1;
    print(
        s, "merge: all", a + b + 2 * w, seconds,
        wrong_merged(rows, (const float *)(const void *)(in + w), (const float *)(const void *)(in + w + a), mj.scale));
    return 0;
}

/* ---- */

static int measure_transform(struct side *s, const struct transform *t)
{
    struct work w;
    bool gathers = t->kind == TRANSFORM_CAST || t->kind == TRANSFORM_PACK4_OUT,
         acts = t->kind == TRANSFORM_PACK4_IN_ACT;

    for (int more = acts; more <= (gathers || acts); more++) {
        if (t->kind <= TRANSFORM_TRANSPOSE)
            w = casts(t, more);
        else if (t->kind <= TRANSFORM_PACK4_OUT)
            w = packs(t, more);
        else
            w = t->kind == TRANSFORM_GROUP_ORDER ? orders(t) : zeros(t);
        if (measure(s, &w))
            return -1;
    }
    return 0;
}

static int measure_device(unsigned device)
{
    struct side s;

    copy_rate = 0;
    if (open_side(&s, device) || measure_copies(&s))
        return -1;
    for (size_t i = 0; i < transforms_n; i++)
        if (measure_transform(&s, &transforms[i]))
            return -1;
    return measure_merge(&s) || close_side(&s) ? -1 : 0;
}

static int send_to(struct side *from, struct side *to)
{
    return gpu_send(&g, from->device, from->in, to->device, to->out, bytes, &e);
}

/* From the first device to another: the least time, as that one sees it. */
static int measure_link(struct side *from, struct side *to)
{
    double best = 1e9;

    for (size_t k = 0; k < runs; k++) {
        double seconds;

        if (gpu_record(&g, to->device, GPU_IN, to->begin, &e) || send_to(from, to) ||
            gpu_record(&g, to->device, GPU_IN, to->end, &e) || gpu_wait(&g, to->device, to->end, &e) ||
            gpu_elapsed(&g, to->device, to->begin, to->end, &seconds, &e))
            return -1;
        best = seconds < best ? seconds : best;
    }
    memset(out, 0, bytes);
    if (follow(to, GPU_IN, GPU_OUT) || once_out(to, NULL) || gpu_record(&g, to->device, GPU_OUT, to->order, &e) ||
        gpu_wait(&g, to->device, to->order, &e))
        return -1;
    print(to, "send from the first", bytes, best, (long)differing(in, out, bytes));
    return 0;
}

static int measure_links(void)
{
    struct side side[GPU_MOST];

    copy_rate = 0;
    fill(in, bytes);
    for (unsigned i = 0; i < g.n; i++)
        if (open_side(&side[i], i))
            return -1;
    if (gpu_join(&g, &e) || once_in(&side[0], NULL))
        return -1;
    for (unsigned i = 1; i < g.n; i++)
        if (measure_link(&side[0], &side[i]))
            return -1;
    for (unsigned i = 0; i < g.n; i++)
        if (close_side(&side[i]))
            return -1;
    return 0;
}

static int measure_all(void)
{
    if (gpu_pin(&g, in, 3 * bytes, &e) || gpu_pin(&g, out, 2 * bytes + ALIGN, &e))
        return -1;
    for (unsigned i = 0; i < g.n; i++)
        if (measure_device(i))
            return -1;
    if (g.n > 1 && measure_links())
        return -1;
    return gpu_unpin(&g, in, &e) || gpu_unpin(&g, out, &e) ? -1 : 0;
}

static unsigned char *map(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        perror("gpu_bench: no memory");
        exit(1);
    }
    return p;
}

static void print_head(void)
{
    for (unsigned i = 0; i < g.n; i++)
        fprintf(stderr, "device %u: %s, %.1f GB\n", g.info[i].number, g.info[i].name, (double)g.info[i].memory / 1e9);
    if (!strncmp(g.info[0].name, "Simulated", 9))
        fprintf(stderr, "simulated devices: the times mean nothing\n");
    if (csv)
        printf("device,kernel,bytes,ms,gb_per_s,of_copy,wrong\n");
    else
        printf("%6s %-24s %11s %12s %14s %6s %8s\n", "device", "kernel", "moved", "time", "rate", "copy", "wrong");
}

static int usage(void)
{
    fprintf(stderr, "usage: gpu_bench [--device cuda:all] [--mib 256] [--runs 9] [--csv]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *device = "cuda:all";
    size_t mib = 256;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--csv"))
            csv = true;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
        else if (!strcmp(argv[i], "--mib") && i + 1 < argc && atoi(argv[i + 1]) > 0 && atoi(argv[i + 1]) <= 4096)
            mib = (size_t)atoi(argv[++i]);
        else if (!strcmp(argv[i], "--runs") && i + 1 < argc && atoi(argv[i + 1]) > 0 && atoi(argv[i + 1]) <= RUNS_MOST)
            runs = (size_t)atoi(argv[++i]);
        else
            return usage();
    }
    bytes = mib << 20;
    if (gpu_open(&g, device, NULL, 0, &e)) {
        fprintf(stderr, "%s%s\n", strncmp(e.msg, "no CUDA device: ", 16) ? "gpu_bench: " : "skipped: ", e.msg);
        return e.kind == ERR_USAGE ? 2 : strncmp(e.msg, "no CUDA device: ", 16) ? 1 : SKIPPED;
    }
    in = map(3 * bytes);
    out = map(2 * bytes + ALIGN);
    expected = map(2 * bytes);
    print_head();
    if (measure_all()) {
        fprintf(stderr, "gpu_bench: %s\n", e.msg);
        wrong_all++;
    }
    gpu_close(&g);
    return wrong_all ? 1 : 0;
}
