/* Every variant of every transform gives the bytes and the counters that arithmetic in double precision gives, for
 * whatever shape, pitch and alignment, and touches no byte beside its result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/dtype.h"
#include "transform/transform.h"

enum { CANARY = 0xa5, SIZES = 14 };

/* Around the widths of vectors, blocks and panels. */
/* The first rows of the table, which take one source; the others: test_pack4.c. */
static size_t casts(void)
{
    size_t n = 0;

    while (n < transforms_n && transforms[n].kind <= TRANSFORM_TRANSPOSE)
        n++;
    return n;
}

static const size_t sizes[SIZES] = { 1, 2, 7, 8, 15, 31, 32, 33, 63, 65, 96, 255, 256, 300 };

/* What an element becomes, worked out without a shift */

static uint16_t double_to_f16(double a)
{
    int e;
    double m, ulp;

    if (isinf(a))
        return 0x7c00;
    m = frexp(a, &e);
    ulp = ldexp(1, e - 11 > -24 ? e - 11 : -24);
    a = nearbyint(a / ulp) * ulp;
    if (a >= 65536)
        return 0x7c00;
    if (a < ldexp(1, -14))
        return (uint16_t)ldexp(a, 24);
    m = frexp(a, &e);
    return (uint16_t)((e + 14) * 1024 + (int)((2 * m - 1) * 1024));
}

static uint16_t expect_f32(uint32_t bits, struct counters *c)
{
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000), h;
    uint32_t abs = bits & 0x7fffffff;
    float x;

    memcpy(&x, &bits, sizeof x);
    if (isnan(x)) {
        c->nan++;
        return (uint16_t)(sign | 0x7e00 | (abs >> 13 & 0x3ff));
    }
    h = double_to_f16(fabs((double)x));
    if (isfinite(x) && h == 0x7c00) {
        c->overflow++;
        c->worst = abs > c->worst ? abs : c->worst;
    }
    c->flushed += x != 0 && !h;
    return sign | h;
}

static uint16_t expect(enum dtype from, const uint8_t *src, struct counters *c)
{
    uint32_t f32;
    uint16_t x;

    if (from == DT_F32) {
        memcpy(&f32, src, sizeof f32);
        return expect_f32(f32, c);
    }
    memcpy(&x, src, sizeof x);
    if (from == DT_BF16)
        return expect_f32((uint32_t)x << 16, c);
    c->nan += (x & 0x7c00) == 0x7c00 && (x & 0x3ff);
    return x;
}

/* Memory whose end is the end of what may be touched */

struct room {
    uint8_t *base;
    size_t bytes, page;
};

static struct room room_make(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct room r = { .bytes = (bytes + page - 1) / page * page, .page = page };

    r.base = mmap(NULL, r.bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(r.base != MAP_FAILED);
    assert_int_equal(mprotect(r.base + r.bytes, page, PROT_NONE), 0);
    return r;
}

static void room_free(struct room *r) { munmap(r->base, r->bytes + r->page); }

/* Jobs in such memory */

struct setup {
    size_t rows, cols;
    size_t src_pad, dst_pad; /* bytes between rows */
    size_t src_off, dst_off; /* bytes free after the last row: the alignment */
};

struct trial {
    const struct transform *t;
    struct job job;
    struct room src, dst, want;
    struct counters counters; /* wanted */
    size_t dst_rows, dst_cols;
};

static uint8_t *source_at(struct trial *b, size_t r, size_t c)
{
    return (uint8_t *)(uintptr_t)b->job.src + r * b->job.src_pitch + c * dtype_bytes(b->t->src);
}

static void trial_init(struct trial *b, const struct transform *t, const struct setup *s)
{
    bool turned = t->kind == TRANSFORM_TRANSPOSE;
    size_t src_bytes, dst_bytes;

    *b = (struct trial){ .t = t, .dst_rows = turned ? s->cols : s->rows, .dst_cols = turned ? s->rows : s->cols };
    b->job = (struct job){ .src_pitch = s->cols * dtype_bytes(t->src) + s->src_pad,
                           .dst_pitch = b->dst_cols * dtype_bytes(t->dst) + s->dst_pad,
                           .rows = s->rows,
                           .cols = s->cols };
    src_bytes = s->rows * b->job.src_pitch - s->src_pad + s->src_off;
    dst_bytes = b->dst_rows * b->job.dst_pitch - s->dst_pad + s->dst_off;
    b->src = room_make(src_bytes);
    b->dst = room_make(dst_bytes);
    b->want = room_make(dst_bytes);
    b->job.src = b->src.base + b->src.bytes - src_bytes;
    b->job.dst = b->dst.base + b->dst.bytes - dst_bytes;
}

static void trial_free(struct trial *b)
{
    room_free(&b->src);
    room_free(&b->dst);
    room_free(&b->want);
}

/* The source is filled: works out what must come. */
static void trial_expect(struct trial *b)
{
    uint8_t *want = b->want.base + ((uint8_t *)b->job.dst - b->dst.base);

    memset(b->want.base, CANARY, b->want.bytes);
    b->counters = (struct counters){ 0 };
    for (size_t r = 0; r < b->job.rows; r++) {
        for (size_t c = 0; c < b->job.cols; c++) {
            bool turned = b->t->kind == TRANSFORM_TRANSPOSE;
            uint16_t h = expect(b->t->src, source_at(b, r, c), &b->counters);

            memcpy(want + (turned ? c : r) * b->job.dst_pitch + (turned ? r : c) * sizeof h, &h, sizeof h);
        }
    }
}

static void trial_compare(const struct trial *b, const char *name)
{
    const struct job *j = &b->job;
    const struct counters *c = &j->counters, *w = &b->counters;
    size_t i = 0;

    if (memcmp(b->dst.base, b->want.base, b->dst.bytes)) {
        while (b->dst.base[i] == b->want.base[i])
            i++;
        fail_msg("%s %s, %zu x %zu, pitches %zu and %zu: byte %td is %02x, not %02x", b->t->name, name, j->rows,
                 j->cols, j->src_pitch, j->dst_pitch, b->dst.base + i - (uint8_t *)j->dst, b->dst.base[i],
                 b->want.base[i]);
    }
    if (memcmp(c, w, offsetof(struct counters, worst) + sizeof w->worst))
        fail_msg("%s %s, %zu x %zu: %llu overflow, %llu flushed, %llu nan, worst %08x, not %llu, %llu, %llu, %08x",
                 b->t->name, name, j->rows, j->cols, (unsigned long long)c->overflow, (unsigned long long)c->flushed,
                 (unsigned long long)c->nan, c->worst, (unsigned long long)w->overflow, (unsigned long long)w->flushed,
                 (unsigned long long)w->nan, w->worst);
}

static void trial_run(struct trial *b, void (*variant)(struct job *j), const char *name)
{
    memset(b->dst.base, CANARY, b->dst.bytes);
    memset(&b->job.counters, CANARY, sizeof b->job.counters);
    variant(&b->job);
    trial_compare(b, name);
}

/* The definition, and all variants that this processor can run. */
static void trial_check(struct trial *b)
{
    trial_expect(b);
    trial_run(b, b->t->ref, "ref");
    for (int isa = 0; isa <= (int)isa_best(); isa++)
        if (b->t->fast[isa])
            trial_run(b, b->t->fast[isa], isa_name((enum isa)isa));
}

/* Elements to convert */

static uint64_t random_state;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((uint64_t)random_bits() * n >> 32); }

/* The element that keeps most of the float's bits; of fp16's NaNs the one next to infinity. */
static void put(enum dtype type, uint8_t *at, uint32_t f32)
{
    struct counters c = { 0 };
    uint16_t h = type == DT_BF16 ? (uint16_t)(f32 >> 16) : expect_f32(f32, &c);

    if (type == DT_F16 && c.nan)
        h = 0x7c01;

    memcpy(at, type == DT_F32 ? (void *)&f32 : (void *)&h, dtype_bytes(type));
}

static uint32_t float_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Like a weight, and now and then any bits. */
static uint32_t random_element(uint32_t rare)
{
    return random_below(rare) ? float_bits(((float)random_below(65536) - 32768) / 1048576) : random_bits();
}

static void fill(struct trial *b, uint32_t rare)
{
    for (size_t r = 0; r < b->job.rows; r++)
        for (size_t c = 0; c < b->job.cols; c++)
            put(b->t->src, source_at(b, r, c), random_element(rare));
}

/* The tests */

/* All 65536 patterns of a 16-bit type; for a float all upper halves, with one lower half. */
static void check_all_patterns(const struct transform *t, uint32_t lower)
{
    const struct setup s = { .rows = 256, .cols = 256 };
    struct trial b;

    trial_init(&b, t, &s);
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t f32 = i << 16 | lower;
        uint16_t x = (uint16_t)i;

        memcpy(source_at(&b, i / 256, i % 256), t->src == DT_F32 ? (void *)&f32 : (void *)&x, dtype_bytes(t->src));
    }
    trial_check(&b);
    trial_free(&b);
}

/* Ties lie at 0x1000 for normal results and at a bit further up for each bit that a subnormal one lacks. */
static void every_pattern_is_converted(void **state)
{
    const uint32_t lower[] = { 0,      1,      0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000,
                               0x3001, 0x7fff, 0x8000, 0x8001, 0xf000, 0xffff };

    (void)state;
    for (size_t i = 0; i < casts(); i++)
        for (size_t k = 0; k < (transforms[i].src == DT_F32 ? sizeof lower / sizeof *lower : 1); k++)
            check_all_patterns(&transforms[i], lower[k]);
}

static const struct {
    uint32_t f32;
    uint16_t f16;
    unsigned overflow, flushed, nan;
} known[] = {
    { 0x477fe000, 0x7bff, 0, 0, 0 },                                  /* 65504 */
    { 0x477fefff, 0x7bff, 0, 0, 0 },                                  /* 65519.996 */
    { 0x477ff000, 0x7c00, 1, 0, 0 },                                  /* 65520 */
    { 0xc77ff000, 0xfc00, 1, 0, 0 },                                  /* -65520 */
    { 0x7e967699, 0x7c00, 1, 0, 0 },                                  /* 1e38 */
    { 0x7f7fffff, 0x7c00, 1, 0, 0 },                                  /* the largest */
    { 0x7f800000, 0x7c00, 0, 0, 0 },                                  /* infinity */
    { 0xff800000, 0xfc00, 0, 0, 0 }, { 0x337d6687, 0x0001, 0, 0, 0 }, /* 5.9e-8 */
    { 0x32f91b3a, 0x0000, 0, 1, 0 },                                  /* 2.9e-8 */
    { 0x33000000, 0x0000, 0, 1, 0 },                                  /* 2^-25, a tie */
    { 0x33000001, 0x0001, 0, 0, 0 }, { 0xb3000000, 0x8000, 0, 1, 0 },
    { 0x33c00000, 0x0002, 0, 0, 0 }, /* 1.5 * 2^-24, a tie */
    { 0x387fc000, 0x03ff, 0, 0, 0 }, /* the largest subnormal */
    { 0x387fe000, 0x0400, 0, 0, 0 }, /* a tie between it and the least normal */
    { 0x38800000, 0x0400, 0, 0, 0 }, /* 2^-14 */
    { 0x3f801000, 0x3c00, 0, 0, 0 }, /* 1 + 2^-11, a tie */
    { 0x3f803000, 0x3c02, 0, 0, 0 }, { 0x00000000, 0x0000, 0, 0, 0 },
    { 0x80000000, 0x8000, 0, 0, 0 }, /* -0.0 */
    { 0x00000001, 0x0000, 0, 1, 0 }, /* the least */
    { 0x7fc00000, 0x7e00, 0, 0, 1 }, /* NaN, quiet */
    { 0x7f800001, 0x7e00, 0, 0, 1 }, /* signaling: becomes quiet */
    { 0xffa02000, 0xff01, 0, 0, 1 }, /* sign and top of the payload stay */
    { 0x7fffffff, 0x7fff, 0, 0, 1 },
};

static void known_numbers_are_converted(void **state)
{
    const struct transform *t = transform_find(TRANSFORM_CAST, DT_F32, DT_F16);

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        for (int isa = -1; isa <= (int)isa_best(); isa++) {
            uint16_t h;
            struct job j = { .src = &known[i].f32, .dst = &h, .src_pitch = 4, .dst_pitch = 2, .rows = 1, .cols = 1 };

            if (isa >= 0 && !t->fast[isa])
                continue;
            (isa < 0 ? t->ref : t->fast[isa])(&j);
            assert_int_equal(h, known[i].f16);
            assert_int_equal(j.counters.overflow, known[i].overflow);
            assert_int_equal(j.counters.flushed, known[i].flushed);
            assert_int_equal(j.counters.nan, known[i].nan);
            assert_int_equal(j.counters.worst, known[i].overflow ? known[i].f32 & 0x7fffffff : 0);
        }
    }
}

/* Odd addresses and pitches too. */
static void check_shape(const struct transform *t, size_t rows, size_t cols)
{
    const struct setup s = { .rows = rows,
                             .cols = cols,
                             .src_pad = random_below(2) * random_below(70),
                             .dst_pad = random_below(2) * random_below(70),
                             .src_off = random_below(2) * random_below(70),
                             .dst_off = random_below(2) * random_below(70) };
    struct trial b;

    trial_init(&b, t, &s);
    fill(&b, rows % 2 ? 4 : 200);
    trial_check(&b);
    trial_free(&b);
}

static void every_shape_and_alignment_is_converted(void **state)
{
    (void)state;
    for (size_t i = 0; i < casts(); i++)
        for (size_t r = 0; r < SIZES; r++)
            for (size_t c = 0; c < SIZES; c++)
                check_shape(&transforms[i], sizes[r], sizes[c]);
}

/* Large enough for stores that bypass the cache; rows of the result start in lines, beside lines and at odd bytes. */
static void large_results_are_converted(void **state)
{
    const struct setup setups[] = {
        { .rows = 288, .cols = 544, .src_pad = 0, .dst_pad = 0 },
        { .rows = 300, .cols = 608, .dst_pad = 64, .dst_off = 64 },
        { .rows = 288, .cols = 544, .src_pad = 8, .dst_pad = 16, .src_off = 8, .dst_off = 6 },
        { .rows = 287, .cols = 531, .src_pad = 2, .dst_pad = 2, .dst_off = 22 },
        { .rows = 287, .cols = 531, .src_pad = 1, .dst_pad = 1, .src_off = 3, .dst_off = 5 },
        { .rows = 3, .cols = 70001, .dst_off = 34 },
        { .rows = 70001, .cols = 3, .dst_off = 2 },
    };

    (void)state;
    for (size_t i = 0; i < casts(); i++) {
        for (size_t k = 0; k < sizeof setups / sizeof *setups; k++) {
            struct trial b;

            trial_init(&b, &transforms[i], &setups[k]);
            fill(&b, 1000);
            trial_check(&b);
            trial_free(&b);
        }
    }
}

/* One element that is counted, at every place of rows of every length; then beside another. */
static void counters_see_every_place(void **state)
{
    const uint32_t special[] = { 0x47800000, 0x7f800000, 0x7fc00000, 0x33000000, 0x00010000, 0x80000000 };
    enum { N = 70 };
    const struct setup s = { .rows = 1, .cols = N };
    struct trial b;

    (void)state;
    for (size_t i = 0; i < casts(); i++) {
        trial_init(&b, &transforms[i], &s);
        fill(&b, UINT32_MAX);
        for (size_t k = 0; k < N * sizeof special / sizeof *special; k++) {
            b.job.cols = N - k % 3;
            put(b.t->src, source_at(&b, 0, k % N), special[k / N]);
            if (k % 2 && k % N)
                put(b.t->src, source_at(&b, 0, k % N - 1), float_bits(0.25f));
            trial_check(&b);
            put(b.t->src, source_at(&b, 0, k % N), float_bits(0.5f));
        }
        trial_free(&b);
    }
}

static void an_empty_job_does_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < casts(); i++) {
        for (int isa = -1; isa <= (int)isa_best(); isa++) {
            uint16_t x = 0x3c00, y = 0;
            struct job rows = { .src = &x, .dst = &y, .cols = 5 }, cols = { .src = &x, .dst = &y, .rows = 5 };
            void (*variant)(struct job *) = isa < 0 ? transforms[i].ref : transforms[i].fast[isa];

            rows.counters.nan = cols.counters.nan = 1;
            if (!variant)
                continue;
            variant(&rows);
            variant(&cols);
            assert_int_equal(y + rows.counters.nan + cols.counters.nan, 0);
        }
    }
}

static void counters_add_up(void **state)
{
    struct counters sum = { 1, 2, 3, 7, 4, 5 };

    (void)state;
    counters_add(&sum, &(struct counters){ 10, 20, 30, 5, 40, 3 });
    assert_int_equal(sum.worst, 7);
    counters_add(&sum, &(struct counters){ 100, 200, 300, 9, 400, 6 });
    assert_int_equal(sum.overflow, 111);
    assert_int_equal(sum.flushed, 222);
    assert_int_equal(sum.clamped, 444);
    assert_int_equal(sum.clamped_most, 6);
    assert_int_equal(sum.nan, 333);
    assert_int_equal(sum.worst, 9);
}

static void a_row_is_found_by_what_it_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < transforms_n; i++)
        assert_ptr_equal(transform_find(transforms[i].kind, transforms[i].src, transforms[i].dst), &transforms[i]);
    assert_null(transform_find(TRANSFORM_CAST, DT_F64, DT_F16));
    assert_null(transform_find(TRANSFORM_CAST, DT_F32, DT_BF16));
}

static void the_environment_forbids_better_variants(void **state)
{
    const struct transform *t = &transforms[0];
    enum isa best;

    (void)state;
    unsetenv("WEIGHBRIDGE_ISA");
    best = isa_best();
    if (best == ISA_AVX512) /* not always the fastest */
        assert_true(transform_best(t) == t->fast[ISA_AVX512] || transform_best(t) == t->fast[ISA_AVX2]);
    else
        assert_true(transform_best(t) == (best == ISA_SCALAR ? t->ref : t->fast[best]));
    setenv("WEIGHBRIDGE_ISA", isa_name(best), 1);
    assert_true(transform_best(t) == (best == ISA_SCALAR ? t->ref : t->fast[best]));
    setenv("WEIGHBRIDGE_ISA", "scalar", 1);
    assert_int_equal(isa_best(), ISA_SCALAR);
    assert_true(transform_best(t) == t->ref);
    setenv("WEIGHBRIDGE_ISA", "avx2", 1);
    assert_int_equal(isa_best(), best == ISA_AVX512 ? ISA_AVX2 : best == ISA_NEON ? ISA_SCALAR : best);
    setenv("WEIGHBRIDGE_ISA", "neon", 1);
    assert_int_equal(isa_best(), best);
    setenv("WEIGHBRIDGE_ISA", "abacus", 1);
    assert_int_equal(isa_best(), best);
    unsetenv("WEIGHBRIDGE_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_numbers_are_converted),
        cmocka_unit_test(every_pattern_is_converted),
        cmocka_unit_test(every_shape_and_alignment_is_converted),
        cmocka_unit_test(large_results_are_converted),
        cmocka_unit_test(counters_see_every_place),
        cmocka_unit_test(an_empty_job_does_nothing),
        cmocka_unit_test(counters_add_up),
        cmocka_unit_test(a_row_is_found_by_what_it_does),
        cmocka_unit_test(the_environment_forbids_better_variants),
    };

    unsetenv("WEIGHBRIDGE_ISA"); /* all variants are to be seen */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
