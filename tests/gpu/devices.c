/* devices.c - does everything of gpu.h on the devices of this machine, or on simulated ones, and compares what comes
 * out with the host.
 *
 *     gpu_devices cuda|cuda:LIST|cuda:all [PART...]    # copy cast transpose merge exchange room; default: all
 *
 * Exit status: 0 all as it should be; 1 wrong; 3 a device failed (the message is on the standard error); 77 no device.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "gpu/gpu.h"
#include "transform/launch_merge.h"
#include "transform/merge.h"

enum { WRONG = 1, FAILED = 3, SKIPPED = 77, HOST_BYTES = 4 << 20, PAGE = 4096 };

static struct gpu g;
static struct err e;
static unsigned char *host; /* pinned, HOST_BYTES */
static int status;

static void wrong(const char *part, unsigned device)
{
    fprintf(stderr, "wrong: %s on device %u\n", part, g.info[device].number);
    status = WRONG;
}

/* A value for byte i that no neighbour has. */
static unsigned char pattern(size_t i) { return (unsigned char)(i * 167 + i / 251); }

static struct gpu_piece whole(size_t bytes) { return (struct gpu_piece){ 1, bytes, bytes, bytes }; }

/* What is queued on `from` so far comes before what `to` gets from now on. */
static int order(unsigned device, enum gpu_stream from, enum gpu_stream to)
{
    struct gpu_event *v;

    if (gpu_event_make(&g, device, false, &v, &e))
        return -1;
    if (gpu_record(&g, device, from, v, &e) || gpu_after(&g, device, to, v, &e))
        return -1;
    return gpu_event_free(&g, device, v, &e);
}

static int finish(unsigned device, enum gpu_stream s)
{
    struct gpu_event *v;

    if (gpu_event_make(&g, device, false, &v, &e))
        return -1;
    if (gpu_record(&g, device, s, v, &e) || gpu_wait(&g, device, v, &e))
        return -1;
    return gpu_event_free(&g, device, v, &e);
}

/* Bytes of the host's pinned memory to the device, and back. */
static int put(unsigned device, void *at, size_t from, size_t bytes)
{
    struct gpu_piece p = whole(bytes);

    return gpu_copy_in(&g, device, at, host + from, &p, &e);
}

static int get(unsigned device, size_t to, const void *at, size_t bytes)
{
    struct gpu_piece p = whole(bytes);

    return gpu_copy_out(&g, device, host + to, at, &p, &e) || finish(device, GPU_OUT) ? -1 : 0;
}

/* ---- parts ---- */

/* Rows with gaps on both sides, a copy within, zeros, a time. */
static int do_copy(unsigned device)
{
    enum { ROWS = 7, ROW = 300, GAP_HOST = 340, GAP_DEVICE = 384, HALF = HOST_BYTES / 2 };
    struct gpu_piece in = { ROWS, ROW, GAP_HOST, GAP_DEVICE }, out = { ROWS, ROW, GAP_DEVICE, GAP_HOST };
    struct gpu_event *begin, *end;
    bool done = false;
    double seconds;
    unsigned char *at;

    for (size_t i = 0; i < HALF; i++)
        host[i] = pattern(i);
    memset(host + HALF, 0xEE, HALF);
    if (gpu_alloc(&g, device, 2 * ROWS * GAP_DEVICE, (void **)&at, &e) ||
        gpu_event_make(&g, device, true, &begin, &e) || gpu_event_make(&g, device, true, &end, &e) ||
        gpu_record(&g, device, GPU_IN, begin, &e) || gpu_clear(&g, device, GPU_IN, at, 2 * ROWS * GAP_DEVICE, &e) ||
        gpu_copy_in(&g, device, at, host, &in, &e) || gpu_record(&g, device, GPU_IN, end, &e) ||
        order(device, GPU_IN, GPU_COMPUTE) ||
        gpu_copy_within(&g, device, at + ROWS * GAP_DEVICE, at, ROWS * GAP_DEVICE, &e) ||
        order(device, GPU_COMPUTE, GPU_OUT) ||
        gpu_copy_out(&g, device, host + HALF, at + ROWS * GAP_DEVICE, &out, &e) || finish(device, GPU_OUT))
        return -1;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < GAP_HOST; c++)
            if (host[HALF + r * GAP_HOST + c] != (c < ROW ? pattern(r * GAP_HOST + c) : 0xEE)) {
                wrong("copy", device);
                r = ROWS;
                break;
            }
    if (get(device, HALF, at + ROW, GAP_DEVICE - ROW))
        return -1;
    for (size_t c = 0; c < GAP_DEVICE - ROW; c++)
        if (host[HALF + c])
            wrong("clear", device);
    while (!done)
        if (gpu_done(&g, device, end, &done, &e))
            return -1;
    if (gpu_elapsed(&g, device, begin, end, &seconds, &e) || gpu_event_free(&g, device, begin, &e) ||
        gpu_event_free(&g, device, end, &e))
        return -1;
    if (!(seconds >= 0))
        wrong("time", device);
    return gpu_free(&g, device, at, &e);
}

static int start(unsigned device, const struct launch *l)
{
    struct gpu_kernel k = { .name = l->kernel, .args_n = l->args_n, .arg = l->arg };

    memcpy(k.grid, l->grid, sizeof k.grid);
    memcpy(k.block, l->block, sizeof k.block);
    return gpu_launch(&g, device, &k, &e);
}

static bool same_counters(const struct counters *a, const struct counters *b)
{
    return a->overflow == b->overflow && a->flushed == b->flushed && a->nan == b->nan && a->worst == b->worst;
}

/* bf16 of every kind of value, by a kernel and by the CPU's definition. */
static int do_transform(unsigned device, enum transform_kind kind, const char *part)
{
    enum { ROWS = 130, COLS = 520, N = ROWS * COLS, RESULT = HOST_BYTES / 2, COUNTERS = RESULT + N * 2 };
    const struct transform *t = transform_find(kind, DT_BF16, DT_F16);
    size_t dst_pitch = kind == TRANSFORM_CAST ? COLS * 2 : ROWS * 2;
    struct launch l[LAUNCH_MOST];
    unsigned char *at, *src, *expected = malloc(N * 2);
    struct counters *counters = (struct counters *)(void *)(host + (COUNTERS + 63) / 64 * 64);
    struct job j = { .src_pitch = COLS * 2, .dst_pitch = dst_pitch, .rows = ROWS, .cols = COLS };
    struct launch_memory m = { 0 };
    size_t n;

    for (size_t i = 0; i < N; i++)
        ((uint16_t *)(void *)host)[i] = (uint16_t)(i * 40503u + i / 7);
    j.src = host;
    j.dst = expected;
    t->ref(&j);
    if (gpu_alloc(&g, device, N * 4 + 256, (void **)&at, &e)) {
        free(expected);
        return -1;
    }
    src = at + N * 2;
    m.counters = src + N * 2;
    struct job on = {
        .src = src, .src_pitch = COLS * 2, .dst = at, .dst_pitch = dst_pitch, .rows = ROWS, .cols = COLS
    };
    n = launch_job(t, &on, &m, l);
    if (n != 1 || put(device, src, 0, N * 2) || gpu_clear(&g, device, GPU_IN, m.counters, sizeof *counters, &e) ||
        order(device, GPU_IN, GPU_COMPUTE) || start(device, &l[0]) || order(device, GPU_COMPUTE, GPU_OUT) ||
        get(device, RESULT, at, N * 2) ||
        get(device, (size_t)((unsigned char *)counters - host), m.counters, sizeof *counters)) {
        free(expected);
        return -1;
    }
    if (memcmp(host + RESULT, expected, N * 2))
        wrong(part, device);
    if (!same_counters(counters, &j.counters))
        wrong("counters", device);
    free(expected);
    return gpu_free(&g, device, at, &e);
}

static int do_cast(unsigned device) { return do_transform(device, TRANSFORM_CAST, "cast"); }
static int do_transpose(unsigned device) { return do_transform(device, TRANSFORM_TRANSPOSE, "transpose"); }

static uint16_t half_of(float x)
{
    uint16_t h;
    struct job j = { .src = &x, .src_pitch = 4, .dst = &h, .dst_pitch = 2, .rows = 1, .cols = 1 };

    transform_find(TRANSFORM_CAST, DT_F32, DT_F16)->ref(&j);
    return h;
}

/* Numbers from -1 to 1, which stand for themselves in fp32. */
static float value(size_t i) { return (float)((int)(i * 2654435761u >> 16 & 0xffff) - 32768) / 32768; }

enum { M_ROWS = 37, M_COLS = 65, M_RANK = 11 }; /* all different, so that no two can be taken for each other */

static bool merged_right(const uint16_t *got, float scale)
{
    const float *a = (const float *)(const void *)host, *b = a + M_RANK * M_COLS, *w = b + M_ROWS * M_RANK;

    for (size_t r = 0; r < M_ROWS; r++)
        for (size_t c = 0; c < M_COLS; c++) {
            double product = 0;
            float weight;
            uint16_t h = half_of(w[r * M_COLS + c]);
            int apart;

            for (size_t k = 0; k < M_RANK; k++)
                product += (double)b[r * M_RANK + k] * (double)a[k * M_COLS + c];
            widen(&weight, &h, DT_F16, 1);
            apart = (int)half_of((float)((double)weight + product * (double)scale)) - got[r * M_COLS + c];
            if (apart < -1 || apart > 1)
                return false;
        }
    return true;
}

static int do_merge(unsigned device)
{
    enum { A = M_RANK * M_COLS * 4, B = M_ROWS * M_RANK * 4, W = M_ROWS * M_COLS * 4, OUT = M_ROWS * M_COLS * 2 };
    struct job j = { .src_pitch = M_COLS * 4, .dst_pitch = M_COLS * 2, .rows = M_ROWS, .cols = M_COLS };
    struct launch_memory m = { 0 };
    struct merge_job mj = { .rank = M_RANK, .scale = 0.625f };
    struct merge_launch l;
    unsigned char *in, *out;

    for (size_t i = 0; i < (A + B + W) / 4; i++)
        ((float *)(void *)host)[i] = value(i + 1);
    if (gpu_alloc(&g, device, A + B + W, (void **)&in, &e) || gpu_alloc(&g, device, OUT, (void **)&out, &e) ||
        gpu_alloc(&g, device, sizeof(struct counters), &m.counters, &e) ||
        gpu_alloc(&g, device, launch_merge_room(&j, M_RANK), &mj.room, &e))
        return -1;
    mj.a = (struct merge_factor){ in, M_COLS * 4, DT_F32 };
    mj.b = (struct merge_factor){ in + A, M_RANK * 4, DT_F32 };
    j.src = in + A + B;
    j.dst = out;
    if (!launch_merge(transform_find(TRANSFORM_CAST, DT_F32, DT_F16), &j, &m, &mj, &l)) {
        wrong("plan of a merge", device);
        return 0;
    }
    if (put(device, in, 0, A + B + W) || gpu_clear(&g, device, GPU_IN, m.counters, sizeof(struct counters), &e) ||
        order(device, GPU_IN, GPU_COMPUTE) || start(device, &l.before[0]) || start(device, &l.before[1]) ||
        gpu_product(&g, device, &l.product, &e) || start(device, &l.after[0]) || start(device, &l.after[1]) ||
        order(device, GPU_COMPUTE, GPU_OUT) || get(device, HOST_BYTES / 2, out, OUT))
        return -1;
    if (!merged_right((const uint16_t *)(const void *)(host + HOST_BYTES / 2), mj.scale))
        wrong("merge", device);
    return gpu_free(&g, device, in, &e) || gpu_free(&g, device, out, &e) || gpu_free(&g, device, m.counters, &e) ||
                   gpu_free(&g, device, mj.room, &e)
               ? -1
               : 0;
}

/* More than there is: a message, and the device is as good as before. */
static int do_room(unsigned device)
{
    struct err said = { 0 };
    void *at;

    if (!gpu_alloc(&g, device, g.info[device].memory * 2, &at, &said)) {
        wrong("room", device);
        return gpu_free(&g, device, at, &e);
    }
    if (!strstr(said.msg, "asked for") || !strstr(said.msg, "free") || g.failed != device)
        wrong("what is said of too little room", device);
    return 0;
}

/* ---- all devices together ---- */

enum { EXCHANGED = 100000, ROWS_SUMMED = 40, ROW_SUMMED = 48 };

static int out_of(unsigned device) { return order(device, GPU_IN, GPU_OUT); }

static int exchange_bytes(unsigned char **at)
{
    unsigned last = g.n - 1;

    for (size_t i = 0; i < EXCHANGED; i++)
        host[i] = pattern(i);
    if (put(last, at[last], 0, EXCHANGED) || gpu_broadcast(&g, last, (void *const *)at, EXCHANGED, &e))
        return -1;
    for (unsigned i = 0; i < g.n; i++) { /* and round a ring, into the other half */
        unsigned to = (i + 1) % g.n;

        if (gpu_send(&g, i, at[i], to, at[to] + EXCHANGED, EXCHANGED, &e))
            return -1;
    }
    for (unsigned i = 0; i < g.n; i++) {
        memset(host + EXCHANGED, 0, 2 * EXCHANGED);
        if (out_of(i) || get(i, EXCHANGED, at[i], 2 * EXCHANGED))
            return -1;
        if (memcmp(host, host + EXCHANGED, EXCHANGED))
            wrong("broadcast", i);
        if (memcmp(host, host + 2 * EXCHANGED, EXCHANGED))
            wrong("send", i);
    }
    return 0;
}

static uint64_t counter(unsigned device, size_t row) { return (uint64_t)(device + 1) << 33 | (row * 77 + device * 5); }

/* What stands beside the values stays as it is. */
static bool summed_right(const unsigned char *rows, enum gpu_sum how, unsigned device)
{
    for (size_t r = 0; r < ROWS_SUMMED; r++) {
        uint64_t sum = 0, got = 0, beside;
        uint32_t most = 0;

        for (unsigned i = 0; i < g.n; i++) {
            sum += counter(i, r);
            most = (uint32_t)counter(i, r) > most ? (uint32_t)counter(i, r) : most;
        }
        memcpy(&got, rows + r * ROW_SUMMED, how == GPU_SUM_64 ? 8 : 4);
        memcpy(&beside, rows + r * ROW_SUMMED + 8, 8);
        if (got != (how == GPU_SUM_64 ? sum : most) || beside != counter(device, r))
            return false;
    }
    return true;
}

static int exchange_sums(unsigned char **at, enum gpu_sum how)
{
    enum { BYTES = ROWS_SUMMED * ROW_SUMMED };

    for (unsigned i = 0; i < g.n; i++) {
        for (size_t r = 0; r < ROWS_SUMMED; r++) {
            uint64_t c = counter(i, r);

            memcpy(host + i * BYTES + r * ROW_SUMMED, &c, 8);
            memcpy(host + i * BYTES + r * ROW_SUMMED + 8, &c, 8);
        }
        if (put(i, at[i], i * BYTES, BYTES))
            return -1;
    }
    if (gpu_reduce(&g, (void *const *)at, ROWS_SUMMED, ROW_SUMMED, how, &e))
        return -1;
    for (unsigned i = 0; i < g.n; i++) {
        if (out_of(i) || get(i, HOST_BYTES / 2, at[i], BYTES))
            return -1;
        if (!summed_right(host + HOST_BYTES / 2, how, i))
            wrong(how == GPU_SUM_64 ? "sum" : "maximum", i);
    }
    return 0;
}

static int do_exchange(void)
{
    unsigned char *at[GPU_MOST];

    for (unsigned i = 0; i < g.n; i++)
        if (gpu_alloc(&g, i, 2 * EXCHANGED, (void **)&at[i], &e))
            return -1;
    if (gpu_join(&g, &e) || exchange_bytes(at) || exchange_sums(at, GPU_SUM_64) || exchange_sums(at, GPU_MOST_32))
        return -1;
    for (unsigned i = 0; i < g.n; i++)
        if (gpu_free(&g, i, at[i], &e))
            return -1;
    return 0;
}

/* ---- */

static const struct {
    const char *name;
    int (*each)(unsigned device);
    int (*all)(void);
} parts[] = {
    { "copy", do_copy, NULL },   { "cast", do_cast, NULL }, { "transpose", do_transpose, NULL },
    { "merge", do_merge, NULL }, { "room", do_room, NULL }, { "exchange", NULL, do_exchange },
};

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], name))
            return true;
    return argc == 2;
}

static int run(int argc, char **argv)
{
    if (gpu_pin(&g, host, HOST_BYTES, &e))
        return -1;
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
        if (!wanted(parts[p].name, argc, argv))
            continue;
        if (parts[p].all && parts[p].all())
            return -1;
        for (unsigned i = 0; parts[p].each && i < g.n; i++)
            if (parts[p].each(i))
                return -1;
    }
    return gpu_unpin(&g, host, &e);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    host = mmap(NULL, HOST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        return 2;
    if (gpu_open(&g, argv[1], NULL, 0, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return !strncmp(e.msg, "no CUDA device: ", 16) ? SKIPPED : FAILED;
    }
    for (unsigned i = 0; i < g.n; i++)
        printf("device %u: %s, %.1f GB\n", g.info[i].number, g.info[i].name, (double)g.info[i].memory / 1e9);
    if (run(argc, argv)) {
        fprintf(stderr, "%s\n", e.msg);
        status = FAILED;
    }
    gpu_close(&g);
    if (!status)
        puts("all right");
    return status;
}
