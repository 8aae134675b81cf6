/* 4-bit weights of every storage become the layout that the notes on the exporter describe, by every variant, for
 * whatever shape, group, order, zero points and cut into jobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "transform/transform.h"

enum { IN_MOST = 512, OUT_MOST = 72, CANARY = 0xa5 };

struct matrix {
    size_t in, out, group;
    bool act, zeros;
    struct pack4 pack;
    uint8_t w[OUT_MOST][IN_MOST];           /* as stored: input k in the order of the file */
    uint8_t zero[OUT_MOST][IN_MOST / 8];    /* stored; by group */
    int32_t g_idx[IN_MOST], order[IN_MOST]; /* order[i]: which input comes at place i */
};

static unsigned seed;

static unsigned draw(unsigned n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

static void shuffle_groups(struct matrix *m)
{
    size_t at = 0;

    for (size_t k = 0; k < m->in; k++)
        m->g_idx[k] = (int32_t)(k / m->group);
    for (size_t k = m->in - 1; m->act && k > 0; k--) {
        size_t j = draw((unsigned)k + 1);
        int32_t t = m->g_idx[k];

        m->g_idx[k] = m->g_idx[j];
        m->g_idx[j] = t;
    }
    for (size_t g = 0; g < m->in / m->group; g++)
        for (size_t k = 0; k < m->in; k++)
            if (m->g_idx[k] == (int32_t)g)
                m->order[at++] = (int32_t)k;
}

/* `folds`: every weight stays in 0..15 when its zero point becomes 8. */
static void matrix_draw(struct matrix *m, bool folds)
{
    m->pack = (struct pack4){ .in = (uint32_t)m->in, .group = (uint32_t)m->group, .zero_add = (uint8_t)draw(2) };
    m->pack.clamp = !folds;
    shuffle_groups(m);
    for (size_t n = 0; n < m->out; n++) {
        for (size_t g = 0; g < m->in / m->group; g++)
            m->zero[n][g] = (uint8_t)(folds ? 6 + draw(4) : draw(16)); /* with 1 to add or not: 6 to 10 */
        for (size_t k = 0; k < m->in; k++)
            m->w[n][k] = (uint8_t)(folds && m->zeros ? 2 + draw(12) : draw(16));
    }
}

/* ---- the storages ---- */

static void put(uint8_t *words, size_t word, size_t nibble, uint8_t v)
{
    words[word * 4 + nibble / 2] |= (uint8_t)(v << nibble % 2 * 4);
}

static const size_t awq_at[] = { 0, 4, 1, 5, 2, 6, 3, 7 }; /* where outputs 0..7 stand */

static void store(const struct matrix *m, enum transform_kind kind, uint8_t *words, uint8_t *zeros)
{
    size_t groups = m->in / m->group;

    memset(words, 0, m->in * m->out / 2);
    memset(zeros, 0, groups * m->out / 2);
    for (size_t n = 0; n < m->out; n++)
        for (size_t k = 0; k < m->in; k++)
            if (kind == TRANSFORM_PACK4_AWQ)
                put(words, k * (m->out / 8) + n / 8, awq_at[n % 8], m->w[n][k]);
            else if (kind == TRANSFORM_PACK4_OUT)
                put(words, n * (m->in / 8) + k / 8, k % 8, m->w[n][k]);
            else
                put(words, k / 8 * m->out + n, k % 8, m->w[n][k]);
    for (size_t n = 0; n < m->out; n++)
        for (size_t g = 0; g < groups; g++)
            if (kind == TRANSFORM_PACK4_OUT)
                put(zeros, n / 8 * groups + g, n % 8, m->zero[n][g]);
            else
                put(zeros, g * (m->out / 8) + n / 8, kind == TRANSFORM_PACK4_AWQ ? awq_at[n % 8] : n % 8,
                    m->zero[n][g]);
}

/* ---- what must come out ---- */

static int expected_weight(const struct matrix *m, size_t n, size_t place, uint64_t *clamped)
{
    size_t k = (size_t)m->order[place];
    int v = m->w[n][k];

    if (m->zeros)
        v += 8 - (m->zero[n][m->g_idx[k]] + m->pack.zero_add);
    *clamped += v < 0 || v > 15;
    return v < 0 ? 0 : v > 15 ? 15 : v;
}

static void expect(const struct matrix *m, uint8_t *out, uint64_t *clamped)
{
    static const int of32[] = { 0, 1, 8,  9,  16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27,
                                4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31 };
    static const int of8[] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    size_t nibble = 0;

    *clamped = 0;
    memset(out, 0, m->in * m->out / 2);
    for (size_t n4 = 0; n4 < m->out; n4 += 4)
        for (size_t k64 = 0; k64 < m->in; k64 += 64)
            for (size_t n = n4; n < n4 + 4; n++)
                for (size_t i = 0; i < 64; i++, nibble++) {
                    size_t place = k64 + i / 32 * 32 + (size_t)of32[i % 32 / 8 * 8 + (size_t)of8[i % 8]];
                    int v = expected_weight(m, n, place, clamped);

                    out[nibble / 2] |= (uint8_t)(v << nibble % 2 * 4);
                }
}

/* ---- running ---- */

typedef void variant_fn(struct job *j);

static uint8_t words[IN_MOST * OUT_MOST / 2 + 1], zeros[IN_MOST * OUT_MOST / 16 + 1],
    column[IN_MOST * OUT_MOST / 2 + 1], zero_column[IN_MOST * OUT_MOST / 16 + 1], got[IN_MOST * OUT_MOST / 2 + 64],
    want[IN_MOST * OUT_MOST / 2];

/* Rows of cells r..r+rows; zero points only of the groups that they belong to. */
static uint64_t run_panel(const struct matrix *m, variant_fn *f, size_t r, size_t rows)
{
    struct job j = { .src = words + 1 + r * 32 * m->out, .src_pitch = 32 * m->out, .dst = got + r * 128 };

    j.dst_pitch = m->in * 2;
    j.rows = rows;
    j.cols = m->out / 4;
    j.first = r;
    j.pack = &m->pack;
    if (m->zeros) {
        j.zeros.pitch = m->out / 2;
        j.zeros.at = zeros + 1 + r * 64 / m->group * j.zeros.pitch;
    }
    f(&j);
    return j.counters.clamped;
}

/* Units of 8 outputs u..u+n of words by column. */
static uint64_t run_columns(const struct matrix *m, variant_fn *f, size_t u, size_t n)
{
    struct job j = { .src = column + 1, .src_pitch = n * 32, .dst = got + u * 4 * m->in, .rows = 1, .cols = n };
    size_t groups = m->in / m->group;

    for (size_t row = 0; row < m->in / 8; row++)
        memcpy(column + 1 + row * n * 32, words + 1 + row * m->out * 4 + u * 32, n * 32);
    for (size_t g = 0; g < groups; g++)
        memcpy(zero_column + 1 + g * n * 4, zeros + 1 + g * m->out / 2 + u * 4, n * 4);
    j.first = u;
    j.pack = &m->pack;
    if (m->zeros)
        j.zeros = (struct extra){ zero_column + 1, n * 4 };
    j.g_idx.at = m->g_idx;
    f(&j);
    return j.counters.clamped;
}

static uint64_t run_rows(const struct matrix *m, variant_fn *f, size_t u, size_t n)
{
    struct job j = { .src = words + 1 + u * 4 * m->in, .src_pitch = 4 * m->in, .dst = got + u * 4 * m->in };
    size_t groups = m->in / m->group;

    j.rows = 1;
    j.cols = n;
    j.first = u;
    j.pack = &m->pack;
    if (m->zeros)
        j.zeros = (struct extra){ zeros + 1 + u * groups * 4, groups * 4 };
    j.g_idx.at = m->act ? m->g_idx : NULL;
    f(&j);
    return j.counters.clamped;
}

/* In one job, and cut somewhere. */
static void check(const struct matrix *m, const struct transform *t, variant_fn *f)
{
    uint64_t (*run)(const struct matrix *, variant_fn *, size_t, size_t) = t->kind == TRANSFORM_PACK4_OUT ? run_rows
                                                                           : t->kind == TRANSFORM_PACK4_IN_ACT
                                                                               ? run_columns
                                                                               : run_panel;
    size_t units = run == run_panel ? m->in / 64 : m->out / 8, bytes = m->in * m->out / 2;
    uint64_t clamped, expected;

    expect(m, want, &expected);
    for (size_t cut = 0; cut < units; cut++) {
        memset(got, CANARY, sizeof got);
        clamped = cut ? run(m, f, 0, cut) : 0;
        clamped += run(m, f, cut, units - cut);
        if (memcmp(got, want, bytes))
            fail_msg("%s: in %zu, out %zu, group %zu, act %d, zeros %d, cut at %zu: wrong bytes", t->name, m->in,
                     m->out, m->group, m->act, m->zeros, cut);
        assert_int_equal(clamped, expected);
        for (size_t i = bytes; i < sizeof got; i++)
            assert_int_equal(got[i], CANARY);
    }
}

static void check_variants(const struct matrix *m, const struct transform *t)
{
    store(m, t->kind, words + 1, zeros + 1);
    check(m, t, t->ref);
    for (int isa = 0; isa <= (int)isa_best(); isa++)
        if (t->fast[isa])
            check(m, t, t->fast[isa]);
}

static void layout(void **state)
{
    static const size_t groups[] = { 8, 32, 64, 128, 0 };
    static struct matrix m;

    (void)state;
    for (size_t i = 0; i < transforms_n; i++) {
        const struct transform *t = &transforms[i];
        bool may_act = t->kind == TRANSFORM_PACK4_IN_ACT || t->kind == TRANSFORM_PACK4_OUT;

        if (t->kind < TRANSFORM_PACK4_IN || t->kind > TRANSFORM_PACK4_OUT)
            continue;
        for (unsigned trial = 0; trial < 60; trial++) {
            seed = trial + 1;
            m.in = 64 * (1 + draw(IN_MOST / 64));
            m.out = 8 * (1 + draw(OUT_MOST / 8));
            m.group = groups[trial % 5];
            if (!m.group || m.in % m.group)
                m.group = m.in;
            m.act = may_act && (t->kind == TRANSFORM_PACK4_IN_ACT || trial % 2);
            m.zeros = trial % 3 != 0;
            matrix_draw(&m, trial % 3 == 1);
            check_variants(&m, t);
        }
    }
}

/* Large enough for stores that bypass the cache, at places where they can be used and where they cannot. */
static void large(void **state)
{
    enum { IN = 1024, OUT = 1024, BYTES = IN * OUT / 2 };
    static const struct pack4 pack = { .in = IN, .group = 128 };
    static _Alignas(64) uint8_t src[BYTES], a[BYTES + 64], b[BYTES + 64];
    static int32_t g_idx[IN];

    (void)state;
    for (size_t i = 0; i < BYTES; i++)
        src[i] = (uint8_t)draw(256);
    for (int32_t k = 0; k < IN; k++)
        g_idx[k] = k * 37 % IN / 128;
    for (size_t i = 0; i < transforms_n; i++) {
        const struct transform *t = &transforms[i];
        bool panel = t->cut == CUT_ROWS;

        if (t->kind < TRANSFORM_PACK4_IN || t->kind > TRANSFORM_PACK4_OUT)
            continue;
        for (size_t off = 0; off < 64; off += 31) {
            struct job j = { .src = src, .dst = a + off, .dst_pitch = IN * 2, .pack = &pack }, k;

            j.rows = panel ? IN / 64 : 1;
            j.cols = panel ? OUT / 4 : OUT / 8;
            j.src_pitch = panel ? 32 * OUT : t->kind == TRANSFORM_PACK4_OUT ? 4 * IN : 4 * OUT;
            j.g_idx.at = t->kind == TRANSFORM_PACK4_IN_ACT ? g_idx : NULL;
            k = j;
            k.dst = b + off;
            t->ref(&j);
            for (int isa = 0; isa <= (int)isa_best(); isa++) {
                if (!t->fast[isa])
                    continue;
                memset(b, CANARY, sizeof b);
                t->fast[isa](&k);
                assert_memory_equal(a + off, b + off, BYTES);
                for (size_t c = 0; c < 64; c++)
                    assert_int_equal(b[c < off ? c : BYTES + c], CANARY);
            }
        }
    }
}

/* ---- corrections ---- */

static double f16(uint16_t h)
{
    double v = h & 0x7c00 ? (1024 + (h & 1023)) * 1.0 : (h & 1023) * 1.0;

    for (int e = (h >> 10 & 31) ? (h >> 10 & 31) : 1; e != 25; e += e < 25 ? 1 : -1)
        v = e < 25 ? v / 2 : v * 2;
    return h & 0x8000 ? -v : v;
}

/* The nearest fp16, found by trying neighbours. */
static bool is_nearest(uint16_t h, double v)
{
    double d = f16(h) - v, up = f16((uint16_t)(h + 1)) - v, down = h & 0x7fff ? f16((uint16_t)(h - 1)) - v : 1e9;

    d = d < 0 ? -d : d;
    return d <= (up < 0 ? -up : up) && d <= (down < 0 ? -down : down);
}

/* (8 - zero) * scale of scales around every exponent, from both kinds of storage. */
static void corrections(void **state)
{
    enum { GROUPS = 4, OUT = 16 };
    uint16_t scale[GROUPS][OUT], turned[OUT][GROUPS], a[GROUPS][OUT], b[GROUPS][OUT];
    uint32_t zero[GROUPS][OUT / 8], zero_out[OUT / 8][GROUPS];
    struct pack4 pack = { .in = 64 * GROUPS, .group = 64 };

    (void)state;
    for (unsigned trial = 0; trial < 200; trial++) {
        seed = trial + 7;
        pack.zero_add = (uint8_t)(trial % 2);
        memset(zero, 0, sizeof zero);
        memset(zero_out, 0, sizeof zero_out);
        for (size_t g = 0; g < GROUPS; g++)
            for (size_t n = 0; n < OUT; n++) {
                uint32_t z = draw(16);

                scale[g][n] = turned[n][g] = (uint16_t)(draw(26) << 10 | draw(1024) | draw(2) << 15);
                zero[g][n / 8] |= z << n % 8 * 4;
                zero_out[n / 8][g] |= z << n % 8 * 4;
            }
        struct job j = { .src = scale, .src_pitch = sizeof scale[0], .dst = a, .rows = 1, .cols = GROUPS };
        struct job k = { .src = turned, .src_pitch = 8 * sizeof turned[0], .dst = b, .dst_pitch = sizeof b[0] };

        j.pack = k.pack = &pack;
        j.zeros = (struct extra){ zero, sizeof zero[0] };
        k.zeros = (struct extra){ zero_out, sizeof zero_out[0] };
        k.rows = OUT / 8;
        k.cols = GROUPS;
        transform_find(TRANSFORM_ZEROS_IN, DT_F16, DT_F16)->ref(&j);
        transform_find(TRANSFORM_ZEROS_OUT, DT_F16, DT_F16)->ref(&k);
        for (size_t g = 0; g < GROUPS; g++)
            for (size_t n = 0; n < OUT; n++) {
                int z = (int)(zero[g][n / 8] >> n % 8 * 4 & 15) + pack.zero_add;

                assert_true(is_nearest(a[g][n], (8 - z) * f16(scale[g][n])));
            }
        assert_memory_equal(a, b, sizeof a);
    }
}

/* Whatever a file holds that was checked and has changed since, the order is one of all inputs. */
static void order_of_garbage(void **state)
{
    enum { IN = 128 };
    int32_t g_idx[IN];
    int64_t order[IN];
    bool seen[IN] = { 0 };
    struct pack4 pack = { .in = IN, .group = 32 };
    struct job j = { .src = g_idx, .dst = order, .rows = 1, .cols = 1, .pack = &pack };

    (void)state;
    for (size_t i = 0; i < IN; i++)
        g_idx[i] = (int32_t)(i * 2654435761u);
    transform_find(TRANSFORM_GROUP_ORDER, DT_I32, DT_I64)->ref(&j);
    for (size_t i = 0; i < IN; i++) {
        assert_in_range(order[i], 0, IN - 1);
        assert_false(seen[order[i]]);
        seen[order[i]] = true;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout),
        cmocka_unit_test(large),
        cmocka_unit_test(corrections),
        cmocka_unit_test(order_of_garbage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
