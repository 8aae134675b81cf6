/* transform_bench.c - every transform, every variant this processor has: rate, and whether it is right.
 *
 *     transform_bench [--mib 256] [--runs 9] [--csv] [--only PART OF A NAME]
 *
 * Works on data far larger than the caches, on huge pages where they can be
 * had; the best of the runs counts, by thread CPU time, so that neighbours
 * disturb least.  Rates are source bytes; `memcpy` and `nt` are shares of what
 * this machine copies, plainly and with non-temporal stores, in runs between
 * those of the variant: a machine's own rate can change within a minute.
 * `wrong` counts destination bytes that differ from the reference: a wrong
 * kernel has no speed, and the exit status is 1. */
#include "base/clock.h"
#include "transform/transform.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct shape { /* of one job */
    const char *name;
    size_t rows, cols;
    bool panel; /* destination rows as far apart as in a matrix of 5632 rows, as the pipeline has them */
};

static const struct shape shapes[] = {
    { "flat", 1, 0, false },                  /* all in one row */
    { "512x2048 in panel", 512, 2048, true }, /* a tile of 2 MiB of a [5632, 2048] matrix */
    { "11008x4096 whole", 11008, 4096, false },
};

static const struct shape packed = { "11008x4096 4-bit", 0, 0, false };

static void *big(size_t bytes)
{
    void *p = mmap(NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *aligned = (unsigned char *)(((uintptr_t)p + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));

    if (p == MAP_FAILED) {
        perror("transform_bench: no memory");
        exit(1);
    }
    madvise(aligned, bytes, MADV_HUGEPAGE);
    memset(aligned, 1, bytes);
    return aligned;
}

/* bf16 and fp16 of ordinary size, also when two of them are read as one fp32. */
static void fill(unsigned char *p, size_t bytes)
{
    uint32_t x = 1;

    for (size_t i = 0; i + 1 < bytes; i += 2) {
        x = x * 1664525u + 1013904223u;
        p[i] = (unsigned char)(x >> 24);
        p[i + 1] = (unsigned char)(0x3c + (x >> 16 & 3) + (x >> 8 & 0x80));
    }
}

static double seconds_of(void (*f)(void *), void *arg)
{
    double t = clock_thread_cpu();

    f(arg);
    return clock_thread_cpu() - t;
}

static double least(double a, double b) { return a < b ? a : b; }

struct copy {
    unsigned char *dst, *src;
    size_t bytes;
};

static void plain_copy(void *arg)
{
    struct copy *c = arg;

    memcpy(c->dst, c->src, c->bytes);
    __asm__ volatile("" ::: "memory");
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void nt_copy(void *arg)
{
    struct copy *c = arg;

    for (size_t i = 0; i < c->bytes; i += 64) {
        __m256i low = _mm256_load_si256((const __m256i *)(void *)(c->src + i));
        __m256i high = _mm256_load_si256((const __m256i *)(void *)(c->src + i + 32));

        __builtin_prefetch((const void *)((uintptr_t)c->src + i + 2048));
        _mm256_stream_si256((__m256i *)(void *)(c->dst + i), low);
        _mm256_stream_si256((__m256i *)(void *)(c->dst + i + 32), high);
    }
    _mm_sfence();
}
#else /* there is none: the plain one stands for it */
static void nt_copy(void *arg) { plain_copy(arg); }
#endif

struct run {
    void (*f)(struct job *j);
    struct job job;
    unsigned repeat; /* jobs side by side, to leave the caches */
    size_t src_step, dst_step;
};

static void run_jobs(void *arg)
{
    struct run *r = arg;

    for (unsigned i = 0; i < r->repeat; i++) {
        struct job j = r->job;

        j.src = (const unsigned char *)j.src + i * r->src_step;
        j.dst = (unsigned char *)j.dst + i * r->dst_step;
        r->f(&j);
    }
}

static size_t wrong_bytes(const unsigned char *a, const unsigned char *b, size_t n)
{
    size_t wrong = 0;

    if (memcmp(a, b, n))
        for (size_t i = 0; i < n; i++)
            wrong += a[i] != b[i];
    return wrong;
}

struct bench {
    unsigned char *src, *dst, *reference;
    size_t bytes;
    unsigned runs;
    bool csv;
    const char *only; /* transforms with this in their name; NULL: all */
    size_t wrong;
};

/* Lays the job out for a shape; 0: it does not fit. */
static int lay_out(const struct bench *b, const struct transform *t, const struct shape *s, struct run *r)
{
    size_t in = dtype_bytes(t->src), out = dtype_bytes(t->dst);
    size_t cols = s->cols ? s->cols : b->bytes / in, src_bytes = s->rows * cols * in, dst_bytes;

    *r = (struct run){ .job = { .src = b->src, .dst = b->dst, .rows = s->rows, .cols = cols, .src_pitch = cols * in } };
    r->job.dst_pitch = t->kind == TRANSFORM_CAST ? cols * out : (s->panel ? 5632 : s->rows) * out;
    dst_bytes = t->kind == TRANSFORM_CAST ? s->rows * r->job.dst_pitch : cols * r->job.dst_pitch;
    if (src_bytes > b->bytes || dst_bytes > b->bytes || (t->kind == TRANSFORM_TRANSPOSE) != (s->cols != 0))
        return 0;
    r->src_step = src_bytes;
    r->dst_step = dst_bytes;
    r->repeat = (unsigned)(b->bytes / (src_bytes > dst_bytes ? src_bytes : dst_bytes));
    return 1;
}

/* A linear of 4096 inputs and 11008 outputs, 4 bits each, symmetric; 0: not of such weights. */
static int lay_out_pack(const struct bench *b, const struct transform *t, struct run *r)
{
    enum { IN = 4096, OUT = 11008, GROUP = 128 };
    static const struct pack4 pack = { .in = IN, .group = GROUP };
    static int32_t g_idx[IN];
    bool panel = t->cut == CUT_ROWS;

    if (t->kind < TRANSFORM_PACK4_IN || t->kind > TRANSFORM_PACK4_OUT || b->bytes < IN * OUT / 2)
        return 0;
    for (uint32_t k = 0; k < IN; k++) /* groups of inputs that stand far apart */
        g_idx[k] = (int32_t)(k * 2731 % IN / GROUP);
    *r = (struct run){ .job = { .src = b->src, .dst = b->dst, .pack = &pack } };
    r->job.rows = panel ? IN / 64 : 1;
    r->job.cols = panel ? OUT / 4 : OUT / 8;
    r->job.src_pitch = panel ? 32 * OUT : t->kind == TRANSFORM_PACK4_OUT ? 4 * IN : 4 * OUT;
    r->job.dst_pitch = 2 * IN;
    r->job.g_idx.at = t->kind == TRANSFORM_PACK4_IN_ACT ? g_idx : NULL;
    r->src_step = r->dst_step = IN * OUT / 2;
    r->repeat = (unsigned)(b->bytes / r->src_step);
    return 1;
}

struct times { /* the least of all runs */
    double variant, memcpy, nt;
};

/* The reference is slow and needs no precision. */
static struct times time_of(const struct bench *b, struct run *r, unsigned runs)
{
    struct copy c = { b->dst, b->src, b->bytes };
    struct times best = { 1e9, 1e9, 1e9 };

    for (unsigned i = 0; i < runs; i++) {
        best.memcpy = least(best.memcpy, seconds_of(plain_copy, &c));
        best.nt = least(best.nt, seconds_of(nt_copy, &c));
        best.variant = least(best.variant, seconds_of(run_jobs, r));
    }
    return best;
}

static void print(const struct bench *b, const struct transform *t, const struct shape *s, enum isa isa, size_t bytes,
                  const struct times *best, size_t wrong)
{
    double rate = wrong ? 0 : (double)bytes / best->variant, copy = (double)b->bytes;

    printf(b->csv ? "%s,%s,%s,%zu,%.3f,%.3f,%.3f,%.3f,%zu\n"
                  : "%-20s %-20s %-7s %6zu MiB %9.2f ms %7.2f GB/s %6.2f %6.2f %6zu\n",
           t->name, s->name, isa_name(isa), b->csv ? bytes : bytes >> 20, best->variant * 1e3, rate / 1e9,
           rate / (copy / best->memcpy), rate / (copy / best->nt), wrong);
}

static void measure(struct bench *b, const struct transform *t, const struct shape *s)
{
    struct run r;

    if (b->only && !strstr(t->name, b->only))
        return;
    if (!(s == &packed ? lay_out_pack(b, t, &r) : lay_out(b, t, s, &r)))
        return;
    r.f = t->ref;
    r.job.dst = b->reference;
    memset(b->reference, 1, b->bytes);
    run_jobs(&r);
    r.job.dst = b->dst;
    for (int isa = 0; isa <= (int)isa_best(); isa++) {
        struct times best;
        size_t wrong;

        if (isa != ISA_SCALAR && !t->fast[isa])
            continue;
        r.f = isa == ISA_SCALAR ? t->ref : t->fast[isa];
        best = time_of(b, &r, isa == ISA_SCALAR ? 1 : b->runs);
        memset(b->dst, 1, b->bytes);
        run_jobs(&r);
        wrong = wrong_bytes(b->dst, b->reference, r.dst_step * r.repeat);
        b->wrong += wrong;
        print(b, t, s, (enum isa)isa, r.src_step * r.repeat, &best, wrong);
    }
}

int main(int argc, char **argv)
{
    struct bench b = { .bytes = 256 << 20, .runs = 9 };

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--csv")) {
            b.csv = true;
        } else if (!strcmp(argv[i], "--mib") && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            b.bytes = (size_t)atoi(argv[++i]) << 20;
        } else if (!strcmp(argv[i], "--runs") && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            b.runs = (unsigned)atoi(argv[++i]);
        } else if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            b.only = argv[++i];
        } else {
            fprintf(stderr, "usage: transform_bench [--mib 256] [--runs 9] [--csv] [--only PART]\n");
            return 2;
        }
    }
    b.src = big(b.bytes);
    b.dst = big(b.bytes);
    b.reference = big(b.bytes);
    fill(b.src, b.bytes);
    if (b.csv)
        printf("transform,shape,isa,bytes,ms,gb_per_s,of_memcpy,of_nt_copy,wrong\n");
    else
        printf("%-20s %-20s %-7s %10s %12s %12s %6s %6s %6s\n", "transform", "shape", "isa", "bytes", "time", "rate",
               "memcpy", "nt", "wrong");
    for (size_t i = 0; i < transforms_n && transforms[i].kind <= TRANSFORM_TRANSPOSE; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            measure(&b, &transforms[i], &shapes[k]);
    for (size_t i = 0; i < transforms_n; i++)
        measure(&b, &transforms[i], &packed);
    return b.wrong ? 1 : 0;
}
