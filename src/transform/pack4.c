/* pack4.c - 4-bit weights of any storage into the layout of the runtime's group-wise GEMM.
 *
 * A unit of work is 8 outputs x 64 inputs: 256 bytes in every storage and in the result, where they are two cells of
 * 128 bytes, one for each 4 outputs.  Whatever the storage, a unit is first brought into words of eight inputs,
 * w[i][n]: word i of output n.  There zero points are folded and the layout is made.  So a storage is one way to load
 * a unit.
 *
 * What the fields of a job mean:
 *              rows   cols     src                      src_pitch           zeros
 *   in         cells  out/4    [rows * 8, out] words    of 8 rows           [groups, out/8], from first * 64 / group on
 *   awq        cells  out/4    [rows * 64, out/8]       of 64 rows          the same
 *   in-act     1      out/8    [in/8, cols * 8]         of a row            [groups, cols]
 *   out        1      out/8    [cols * 8, in/8]         of 8 rows           [cols, groups]
 * cells: of 64 inputs; the result of the first two is [out/4] rows dst_pitch apart in which they stand one behind
 * the other, from row to row of the job; that of the others is [cols * 2] rows of in * 2 bytes without a gap. */
#include "transform/pack4_lane.h"
#include <stdlib.h>
#include "base/arena.h"
#include "transform/rows.h"

enum { UNIT = 8 /* outputs */ };

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t word_at(const void *base, size_t pitch, size_t row, size_t col)
{
    uint32_t w;

    memcpy(&w, (const uint8_t *)base + row * pitch + col * sizeof w, sizeof w);
    return w;
}

/* ---- the order of groups ---- */

/* order[i]: which input comes at place i.  Stable; whatever g_idx holds, a permutation comes out. */
static void group_order(const void *g_idx, const struct pack4 *p, uint32_t *order)
{
    uint32_t groups = p->in / p->group, *at = xmalloc((groups + 1) * sizeof *at);

    memset(at, 0, (groups + 1) * sizeof *at);
    for (uint32_t k = 0; k < p->in; k++) {
        uint32_t g = word_at(g_idx, 0, 0, k);

        at[(g < groups ? g : groups - 1) + 1]++;
    }
    for (uint32_t g = 0; g < groups; g++)
        at[g + 1] += at[g];
    for (uint32_t k = 0; k < p->in; k++) {
        uint32_t g = word_at(g_idx, 0, 0, k);

        order[at[g < groups ? g : groups - 1]++] = k;
    }
    free(at);
}

static uint32_t *order_of(const struct job *j)
{
    uint32_t *order;

    if (!j->g_idx.at)
        return NULL;
    order = xmalloc(j->pack->in * sizeof *order);
    group_order(j->g_idx.at, j->pack, order);
    return order;
}

void group_order_ref(struct job *j)
{
    uint32_t in = j->pack->in, *order = xmalloc(in * sizeof *order);

    group_order(j->src, j->pack, order);
    for (uint32_t i = 0; i < in; i++) {
        int64_t v = order[i];

        memcpy((uint8_t *)j->dst + i * sizeof v, &v, sizeof v);
    }
    free(order);
    j->counters = (struct counters){ 0 };
}

/* ---- zero points ---- */

/* Of output n of unit u, in the group that begins the loaded ones + g. */
INLINE int zero_at(const struct job *j, enum transform_kind kind, size_t u, unsigned n, size_t g)
{
    bool by_output = kind == TRANSFORM_PACK4_OUT || kind == TRANSFORM_ZEROS_OUT;
    bool awq = kind == TRANSFORM_PACK4_AWQ || kind == TRANSFORM_ZEROS_AWQ;
    uint32_t w = by_output ? word_at(j->zeros.at, j->zeros.pitch, u, g) : word_at(j->zeros.at, j->zeros.pitch, g, u);

    return (int)(w >> 4 * (awq ? awq_place(n) : n) & 15) + j->pack->zero_add;
}

/* The group of input k, from the loaded ones on. */
INLINE size_t group_at(const struct job *j, size_t k)
{
    return k / j->pack->group - j->first * PACK4_IN / j->pack->group;
}

/* ---- the definition ---- */

/* The weight of input k of output n, both of the job. */
static unsigned weight_at(const struct job *j, enum transform_kind kind, const uint32_t *order, size_t n, size_t k)
{
    k = order ? order[k] : k;
    switch (kind) {
    case TRANSFORM_PACK4_IN:
        return word_at(j->src, j->src_pitch / 8, k / 8, n) >> k % 8 * 4 & 15;
    case TRANSFORM_PACK4_AWQ:
        return word_at(j->src, j->src_pitch / 64, k, n / 8) >> awq_place(n % 8) * 4 & 15;
    case TRANSFORM_PACK4_IN_ACT:
        return word_at(j->src, j->src_pitch, k / 8, n) >> k % 8 * 4 & 15;
    default:
        return word_at(j->src, j->src_pitch / 8, n, k / 8) >> k % 8 * 4 & 15;
    }
}

/* As the notes on the exporter tell it: 32 inputs in this order, of each 8 then those of even and those of odd place.
 */
static unsigned input_at(unsigned place)
{
    static const unsigned char pairs[32] = { 0, 1, 8,  9,  16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27,
                                             4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31 };
    unsigned of8 = place % 8;

    return pairs[place / 8 * 8 + (of8 < 4 ? 2 * of8 : 2 * (of8 - 4) + 1)];
}

static void pack4_ref(struct job *j, enum transform_kind kind)
{
    bool panel = kind == TRANSFORM_PACK4_IN || kind == TRANSFORM_PACK4_AWQ;
    size_t outputs = panel ? j->cols * PACK4_OUT : j->cols * UNIT, inputs = panel ? j->rows * PACK4_IN : j->pack->in;
    size_t first = panel ? j->first * PACK4_IN : 0, pitch = panel ? j->dst_pitch : inputs / PACK4_IN * PACK4_CELL;
    uint32_t *order = order_of(j);
    struct counters sum = { 0 };

    for (size_t n = 0; n < outputs; n++)
        for (size_t at = 0; at < inputs; at++) { /* place in the result */
            size_t k = at / 32 * 32 + input_at(at % 32);
            uint8_t *dst =
                (uint8_t *)j->dst + n / 4 * pitch + at / PACK4_IN * PACK4_CELL + n % 4 * 32 + at % PACK4_IN / 2;
            uint32_t q = weight_at(j, kind, order, n, k);

            if (j->zeros.at) {
                size_t g = panel ? group_at(j, first + k) : k / j->pack->group;

                q = nibble_clamp(q, 0, PACK4_ZERO - zero_at(j, kind, n / 8, n % 8, g), &sum);
            }
            *dst = (uint8_t)(at % 2 ? *dst | q << 4 : q);
        }
    free(order);
    j->counters = sum;
}

void pack4_in_ref(struct job *j) { pack4_ref(j, TRANSFORM_PACK4_IN); }
void pack4_in_act_ref(struct job *j) { pack4_ref(j, TRANSFORM_PACK4_IN_ACT); }
void pack4_awq_ref(struct job *j) { pack4_ref(j, TRANSFORM_PACK4_AWQ); }
void pack4_out_ref(struct job *j) { pack4_ref(j, TRANSFORM_PACK4_OUT); }

/* ---- the loop ---- */

enum { BATCH = 8 };

struct unit { /* w[i][n]: the inputs 8 i .. 8 i + 7 of output n */
    _Alignas(LINE) uint32_t w[8][UNIT];
};

/* Row p of eight words by eight nibbles becomes column p, in every lane by itself. */
INLINE void turn_nibbles(uint32_t x[8][8])
{
    for (unsigned step = 4; step; step /= 2)
        for (unsigned a = 0; a < 8; a++)
            for (unsigned i = 0; !(a & step) && i < 8; i++)
                nibbles_swap(&x[a][i], &x[a + step][i], step);
}

INLINE void load_in(struct unit *unit, const struct job *j, size_t r, size_t u)
{
    const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch + u * sizeof unit->w[0];

    for (unsigned i = 0; i < 8; i++)
        memcpy(unit->w[i], src + i * (j->src_pitch / 8), sizeof unit->w[i]);
}

INLINE void load_awq(struct unit *unit, const struct job *j, size_t r, size_t u)
{
    const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch;
    uint32_t x[8][8]; /* [input % 8][input / 8] */

    for (unsigned k = 0; k < PACK4_IN; k++)
        x[k % 8][k / 8] = word_at(src, j->src_pitch / 64, k, u);
    turn_nibbles(x);
    for (unsigned p = 0; p < 8; p++)
        for (unsigned i = 0; i < 8; i++)
            unit->w[i][awq_output(p)] = x[p][i];
}

INLINE void load_in_act(struct unit *unit, const struct job *j, size_t r, size_t u, const uint32_t *order)
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t w[UNIT] = { 0 };

        for (unsigned b = 0; b < 8; b++) {
            uint32_t k = order[r * PACK4_IN + i * 8 + b], row[UNIT];

            memcpy(row, (const uint8_t *)j->src + k / 8 * j->src_pitch + u * sizeof row, sizeof row);
            for (unsigned n = 0; n < UNIT; n++)
                w[n] |= (row[n] >> k % 8 * 4 & 15) << 4 * b;
        }
        memcpy(unit->w[i], w, sizeof w);
    }
}

INLINE void load_out(struct unit *unit, const struct job *j, size_t r, size_t u, const uint32_t *order)
{
    const uint8_t *src = (const uint8_t *)j->src + u * j->src_pitch;

    for (unsigned i = 0; !order && i < 8; i++)
        for (unsigned n = 0; n < UNIT; n++)
            unit->w[i][n] = word_at(src, j->src_pitch / 8, n, r * 8 + i);
    for (unsigned i = 0; order && i < 8; i++)
        for (unsigned n = 0; n < UNIT; n++) {
            const uint32_t *k = order + r * PACK4_IN + i * 8;
            uint32_t w = 0;

            for (unsigned b = 0; b < 8; b++)
                w |= (word_at(src, j->src_pitch / 8, n, k[b] / 8) >> k[b] % 8 * 4 & 15) << 4 * b;
            unit->w[i][n] = w;
        }
}

/* A group is a multiple of 8 inputs: one zero point for each word. */
INLINE void fold_zeros(struct unit *unit, const struct job *j, enum transform_kind kind, size_t r, size_t u,
                       struct counters *c)
{
    bool panel = kind == TRANSFORM_PACK4_IN || kind == TRANSFORM_PACK4_AWQ;

    for (unsigned i = 0; i < 8; i++) {
        size_t k = r * PACK4_IN + i * 8;
        size_t g = panel ? group_at(j, j->first * PACK4_IN + k) : k / j->pack->group;

        for (unsigned n = 0; n < UNIT; n++) {
            int d = PACK4_ZERO - zero_at(j, kind, u, n, g);

            unit->w[i][n] = word_move(unit->w[i][n], d, j->pack->clamp, c);
        }
    }
}

INLINE void load(struct unit *unit, const struct job *j, enum transform_kind kind, const uint32_t *order, size_t r,
                 size_t u)
{
    switch (kind) {
    case TRANSFORM_PACK4_IN:
        load_in(unit, j, r, u);
        break;
    case TRANSFORM_PACK4_AWQ:
        load_awq(unit, j, r, u);
        break;
    case TRANSFORM_PACK4_IN_ACT:
        load_in_act(unit, j, r, u, order);
        break;
    default:
        load_out(unit, j, r, u, order);
    }
}

/* Has the processor fetch what the units from u on will load: some lines of each of many rows, which its own
 * prefetchers do not foresee. */
INLINE void load_ahead(const struct job *j, enum transform_kind kind, size_t r, size_t u)
{
    const uint8_t *src = (const uint8_t *)j->src;

    if (kind == TRANSFORM_PACK4_IN)
        for (unsigned i = 0; i < 8; i++)
            for (unsigned at = 0; at < BATCH * 32; at += LINE)
                __builtin_prefetch(src + r * j->src_pitch + i * (j->src_pitch / 8) + u * 32 + at, 0, 2);
    if (kind == TRANSFORM_PACK4_AWQ)
        for (unsigned i = 0; i < PACK4_IN; i++)
            __builtin_prefetch(src + r * j->src_pitch + i * (j->src_pitch / PACK4_IN) + u * 4, 0, 2);
    if (kind == TRANSFORM_PACK4_OUT)
        for (unsigned i = 0; i < BATCH * UNIT; i++)
            __builtin_prefetch(src + u * j->src_pitch + i * (j->src_pitch / UNIT) + r * 32, 0, 2);
}

/* What the instruction sets do each in their own way; `dst` of both cells of a unit. */
typedef void store_fn(const struct unit *unit, uint8_t *first4, uint8_t *last4);
/* At most BATCH units side by side, u.. of row r; false: not in this case. */
typedef bool batch_fn(struct unit *unit, const struct job *j, enum transform_kind kind, const uint32_t *order, size_t r,
                      size_t u, size_t n);

/* Where the destination allows it and is large, whole lines bypass the cache. */
struct machine {
    store_fn *store, *stream;
    batch_fn *batch; /* NULL: there is none */
};

/* Blocks of a few units by a few cells: both sides are touched in runs of some lines, and lines of the source serve
 * all units that share them.  Where inputs come in the order of their groups, each cell takes lines from everywhere,
 * and a block has all cells: so a line comes from memory once. */
INLINE void pack4(struct job *j, enum transform_kind kind, const struct machine *m)
{
    enum { CELLS = 16 };
    bool panel = kind == TRANSFORM_PACK4_IN || kind == TRANSFORM_PACK4_AWQ;
    size_t cells = panel ? j->rows : j->pack->in / PACK4_IN, units = panel ? j->cols * PACK4_OUT / UNIT : j->cols;
    size_t pitch = panel ? j->dst_pitch : cells * PACK4_CELL;
    bool stream = m->stream && ((uintptr_t)j->dst | pitch) % 32 == 0 && cells * units * 2 * PACK4_CELL >= STREAM_MIN;
    uint32_t *order = order_of(j);
    size_t some = order ? cells : CELLS;
    struct counters sum = { 0 };

    for (size_t r0 = 0; r0 < cells; r0 += some)
        for (size_t u0 = 0; u0 < units; u0 += BATCH)
            for (size_t r = r0; r < cells && r < r0 + some; r++) {
                size_t n = units - u0 < BATCH ? units - u0 : BATCH;
                struct unit unit[BATCH];
                bool loaded = m->batch && m->batch(unit, j, kind, order, r, u0, n);

                if (!order && u0 + 2 * BATCH <= units)
                    load_ahead(j, kind, r, u0 + BATCH);
                for (size_t i = 0; i < n; i++) {
                    uint8_t *dst = (uint8_t *)j->dst + (u0 + i) * 2 * pitch + r * PACK4_CELL;

                    if (!loaded)
                        load(&unit[i], j, kind, order, r, u0 + i);
                    if (j->zeros.at)
                        fold_zeros(&unit[i], j, kind, r, u0 + i, &sum);
                    if (stream)
                        m->stream(&unit[i], dst, dst + pitch);
                    else
                        m->store(&unit[i], dst, dst + pitch);
                }
            }
    free(order);
    j->counters = sum;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* One 16-byte lane holds the words of one output and one half: even nibbles of each word, then odd ones. */
AVX2 static inline __m256i split_nibbles(__m256i x)
{
    const __m256i low = _mm256_set1_epi8(15), shift = _mm256_set1_epi16(0x1001);
    const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9, 2, 3, 10,
                                           11, 4, 5, 12, 13, 6, 7, 14, 15);
    __m256i even = _mm256_maddubs_epi16(_mm256_and_si256(x, low), shift);
    __m256i odd = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), shift);

    return _mm256_shuffle_epi8(_mm256_packus_epi16(even, odd), order);
}

struct lanes { /* v[i]: outputs i and i + 4 */
    __m256i v[4];
};

/* Four words of eight outputs: bytes are turned so that those of an output come together. */
AVX2 static inline struct lanes turn_half(const uint32_t w[4][UNIT])
{
    __m256i w0 = _mm256_loadu_si256((const __m256i *)w[0]), w1 = _mm256_loadu_si256((const __m256i *)w[1]);
    __m256i w2 = _mm256_loadu_si256((const __m256i *)w[2]), w3 = _mm256_loadu_si256((const __m256i *)w[3]);
    __m256i low = _mm256_unpacklo_epi8(w0, w1), low2 = _mm256_unpacklo_epi8(w2, w3);
    __m256i high = _mm256_unpackhi_epi8(w0, w1), high2 = _mm256_unpackhi_epi8(w2, w3);

    return (struct lanes){
        { split_nibbles(_mm256_unpacklo_epi16(low, low2)), split_nibbles(_mm256_unpackhi_epi16(low, low2)),
          split_nibbles(_mm256_unpacklo_epi16(high, high2)), split_nibbles(_mm256_unpackhi_epi16(high, high2)) }
    };
}

AVX2 static void store_avx2(const struct unit *unit, uint8_t *first4, uint8_t *last4)
{
    struct lanes a = turn_half(unit->w), b = turn_half(unit->w + 4);

    for (unsigned i = 0; i < 4; i++)
        _mm256_storeu_si256((__m256i *)(first4 + i * 32), _mm256_permute2x128_si256(a.v[i], b.v[i], 0x20));
    for (unsigned i = 0; i < 4; i++)
        _mm256_storeu_si256((__m256i *)(last4 + i * 32), _mm256_permute2x128_si256(a.v[i], b.v[i], 0x31));
}

AVX2 static void stream_avx2(const struct unit *unit, uint8_t *first4, uint8_t *last4)
{
    struct lanes a = turn_half(unit->w), b = turn_half(unit->w + 4);

    for (unsigned i = 0; i < 4; i++)
        _mm256_stream_si256((__m256i *)(first4 + i * 32), _mm256_permute2x128_si256(a.v[i], b.v[i], 0x20));
    for (unsigned i = 0; i < 4; i++)
        _mm256_stream_si256((__m256i *)(last4 + i * 32), _mm256_permute2x128_si256(a.v[i], b.v[i], 0x31));
}

/* 8 x 8 words. */
AVX2 static inline void turn_words(__m256i v[8])
{
    __m256i t[8];

    for (unsigned i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (unsigned i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (unsigned i = 0; i < 4; i++) {
        t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
    }
    memcpy(v, t, sizeof t);
}

/* Exchanges nibbles between rows a and b that are `step` apart: one round of turning 8 x 8 nibbles. */
AVX2 static inline void swap_nibbles(__m256i *a, __m256i *b, int bits, uint32_t mask)
{
    __m256i swap = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi32(*a, bits), *b), _mm256_set1_epi32((int)mask));

    *a = _mm256_xor_si256(*a, _mm256_slli_epi32(swap, bits));
    *b = _mm256_xor_si256(*b, swap);
}

/* Eight units of an AWQ row of cells: words of eight inputs of eight units are turned into nibbles, then into words. */
AVX2 static bool batch_awq_avx2(struct unit *unit, const struct job *j, size_t r, size_t u)
{
    const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch + u * sizeof(uint32_t);

    for (unsigned i = 0; i < 8; i++) { /* word of the unit: inputs 8 i .. */
        __m256i x[8], y[8];

        for (unsigned k = 0; k < 8; k++)
            x[k] = _mm256_loadu_si256((const __m256i *)(src + (i * 8 + k) * (j->src_pitch / 64)));
        for (unsigned k = 0; k < 4; k++)
            swap_nibbles(&x[k], &x[k + 4], 16, 0x0000ffff);
        for (unsigned k = 0; k < 8; k += k % 4 == 1 ? 3 : 1)
            swap_nibbles(&x[k], &x[k + 2], 8, 0x00ff00ff);
        for (unsigned k = 0; k < 8; k += 2)
            swap_nibbles(&x[k], &x[k + 1], 4, 0x0f0f0f0f);
        for (unsigned n = 0; n < UNIT; n++)
            y[n] = x[awq_place(n)];
        turn_words(y);
        for (unsigned k = 0; k < BATCH; k++)
            _mm256_storeu_si256((__m256i *)unit[k].w[i], y[k]);
    }
    return true;
}

AVX2 static inline void load_rows_avx2(struct unit *unit, const struct job *j, size_t r, size_t u)
{
    const uint8_t *src = (const uint8_t *)j->src + u * j->src_pitch + r * 32;
    __m256i v[8];

    for (unsigned n = 0; n < UNIT; n++)
        v[n] = _mm256_loadu_si256((const __m256i *)(src + n * (j->src_pitch / 8)));
    turn_words(v);
    memcpy(unit->w, v, sizeof v);
}

/* Inputs in group order: a nibble of each of 64 rows, for eight units at once. */
AVX2 static bool batch_in_act_avx2(struct unit *unit, const struct job *j, const uint32_t *order, size_t r, size_t u)
{
    const __m256i low = _mm256_set1_epi32(15);

    for (unsigned i = 0; i < 8; i++) {
        __m256i w[BATCH];

        for (unsigned c = 0; c < BATCH; c++)
            w[c] = _mm256_setzero_si256();
        for (unsigned b = 8; b-- > 0;) {
            uint32_t k = order[r * PACK4_IN + i * 8 + b];
            const uint8_t *src = (const uint8_t *)j->src + k / 8 * j->src_pitch + u * 32;
            __m128i shift = _mm_cvtsi32_si128((int)(k % 8 * 4));

            for (unsigned c = 0; c < BATCH; c++) {
                __m256i x = _mm256_srl_epi32(_mm256_loadu_si256((const __m256i *)(src + c * 32)), shift);

                w[c] = _mm256_or_si256(_mm256_slli_epi32(w[c], 4), _mm256_and_si256(x, low));
            }
        }
        for (unsigned c = 0; c < BATCH; c++)
            _mm256_storeu_si256((__m256i *)unit[c].w[i], w[c]);
    }
    return true;
}

AVX2 static bool batch_avx2(struct unit *unit, const struct job *j, enum transform_kind kind, const uint32_t *order,
                            size_t r, size_t u, size_t n)
{
    if (kind == TRANSFORM_PACK4_IN_ACT && n == BATCH)
        return batch_in_act_avx2(unit, j, order, r, u);
    if (kind == TRANSFORM_PACK4_AWQ && n == BATCH)
        return batch_awq_avx2(unit, j, r, u);
    if (kind != TRANSFORM_PACK4_OUT || j->g_idx.at)
        return false;
    for (size_t i = 0; i < n; i++)
        load_rows_avx2(&unit[i], j, r, u + i);
    return true;
}

/* The same with each nibble turned to its place at once. */
AVX512 static bool batch_in_act_avx512(struct unit *unit, const struct job *j, const uint32_t *order, size_t r,
                                       size_t u)
{
    for (unsigned i = 0; i < 8; i++) {
        __m512i w[BATCH / 2];

        for (unsigned c = 0; c < BATCH / 2; c++)
            w[c] = _mm512_setzero_si512();
        for (unsigned b = 0; b < 8; b++) {
            uint32_t k = order[r * PACK4_IN + i * 8 + b];
            const uint8_t *src = (const uint8_t *)j->src + k / 8 * j->src_pitch + u * 32;
            __m512i turn = _mm512_set1_epi32((int)((b - k) % 8 * 4)), place = _mm512_set1_epi32((int)(15u << 4 * b));

            for (unsigned c = 0; c < BATCH / 2; c++) {
                __m512i x = _mm512_rolv_epi32(_mm512_loadu_si512(src + c * 64), turn);

                w[c] = _mm512_ternarylogic_epi32(w[c], x, place, 0xf8); /* w or (x and place) */
            }
        }
        for (unsigned c = 0; c < BATCH / 2; c++) {
            _mm256_storeu_si256((__m256i *)unit[2 * c].w[i], _mm512_castsi512_si256(w[c]));
            _mm256_storeu_si256((__m256i *)unit[2 * c + 1].w[i], _mm512_extracti64x4_epi64(w[c], 1));
        }
    }
    return true;
}

AVX512 static bool batch_avx512(struct unit *unit, const struct job *j, enum transform_kind kind, const uint32_t *order,
                                size_t r, size_t u, size_t n)
{
    (void)kind; /* there is one */
    return n == BATCH && batch_in_act_avx512(unit, j, order, r, u);
}

static const struct machine machine_avx2 = { store_avx2, stream_avx2, batch_avx2 };
static const struct machine machine_avx512 = { store_avx2, stream_avx2, batch_avx512 };

AVX2 void pack4_in_avx2(struct job *j) { pack4(j, TRANSFORM_PACK4_IN, &machine_avx2), _mm_sfence(); }
AVX2 void pack4_in_act_avx2(struct job *j) { pack4(j, TRANSFORM_PACK4_IN_ACT, &machine_avx2), _mm_sfence(); }
AVX2 void pack4_awq_avx2(struct job *j) { pack4(j, TRANSFORM_PACK4_AWQ, &machine_avx2), _mm_sfence(); }
AVX2 void pack4_out_avx2(struct job *j) { pack4(j, TRANSFORM_PACK4_OUT, &machine_avx2), _mm_sfence(); }
AVX512 void pack4_in_act_avx512(struct job *j) { pack4(j, TRANSFORM_PACK4_IN_ACT, &machine_avx512), _mm_sfence(); }

#elif defined(__AARCH64EL__)

static void store_plain(const struct unit *unit, uint8_t *first4, uint8_t *last4)
{
    uint32_t out[8][UNIT]; /* word of the result, output */

    for (unsigned h = 0; h < 8; h += 4)
        for (unsigned t = 0; t < 4; t++)
            for (unsigned n = 0; n < UNIT; n++)
                out[h + t][n] = pack4_turn(unit->w[h][n], unit->w[h + 1][n], unit->w[h + 2][n], unit->w[h + 3][n], t);
    for (unsigned n = 0; n < UNIT; n++) {
        uint8_t *dst = (n < 4 ? first4 : last4) + n % 4 * 32;
        uint32_t line[8];

        for (unsigned t = 0; t < 8; t++)
            line[t] = out[t][n];
        memcpy(dst, line, sizeof line);
    }
}

static const struct machine machine_neon = { store_plain, NULL, NULL };

void pack4_in_neon(struct job *j) { pack4(j, TRANSFORM_PACK4_IN, &machine_neon); }
void pack4_in_act_neon(struct job *j) { pack4(j, TRANSFORM_PACK4_IN_ACT, &machine_neon); }
void pack4_awq_neon(struct job *j) { pack4(j, TRANSFORM_PACK4_AWQ, &machine_neon); }
void pack4_out_neon(struct job *j) { pack4(j, TRANSFORM_PACK4_OUT, &machine_neon); }
#endif

/* ---- what is added back where zero points cannot be folded ---- */

/* Of the scale that the runtime multiplies with, which is fp16. */
static void correction(uint8_t *dst, uint16_t scale, int zero, struct counters *sum)
{
    uint16_t h = scale_times(scale, PACK4_ZERO - zero, sum);

    memcpy(dst, &h, sizeof h);
}

/* cols: groups; src: scales [cols, out], src_pitch apart; zeros: [cols, out/8]; the result has no gaps. */
LANE void zeros_by_group(struct job *j, enum transform_kind kind, size_t src_bytes, element_fn *element)
{
    size_t out = j->zeros.pitch / sizeof(uint32_t) * UNIT;
    struct counters sum = { 0 }, scale = { 0 }; /* what scales lose is counted where they are cast for themselves */

    for (size_t g = 0; g < j->cols; g++)
        for (size_t n = 0; n < out; n++)
            correction((uint8_t *)j->dst + (g * out + n) * 2,
                       element((const uint8_t *)j->src + g * j->src_pitch + n * src_bytes, &scale),
                       zero_at(j, kind, n / UNIT, n % UNIT, g), &sum);
    j->counters = sum;
}

/* rows: of 8 outputs; cols: groups; src: scales [rows * 8, cols]; src_pitch: of 8 rows; zeros: [rows, cols]. */
LANE void zeros_by_output(struct job *j, size_t src_bytes, element_fn *element)
{
    struct counters sum = { 0 }, scale = { 0 };

    for (size_t n = 0; n < j->rows * UNIT; n++)
        for (size_t g = 0; g < j->cols; g++)
            correction((uint8_t *)j->dst + g * j->dst_pitch + n * 2,
                       element((const uint8_t *)j->src + n * (j->src_pitch / UNIT) + g * src_bytes, &scale),
                       zero_at(j, TRANSFORM_ZEROS_OUT, n / UNIT, n % UNIT, g), &sum);
    j->counters = sum;
}

void zeros_in_f16_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_IN, 2, f16_at); }
void zeros_in_bf16_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_IN, 2, bf16_at); }
void zeros_in_f32_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_IN, 4, f32_at); }
void zeros_awq_f16_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_AWQ, 2, f16_at); }
void zeros_awq_bf16_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_AWQ, 2, bf16_at); }
void zeros_awq_f32_ref(struct job *j) { zeros_by_group(j, TRANSFORM_ZEROS_AWQ, 4, f32_at); }
void zeros_out_f16_ref(struct job *j) { zeros_by_output(j, 2, f16_at); }
void zeros_out_bf16_ref(struct job *j) { zeros_by_output(j, 2, bf16_at); }
void zeros_out_f32_ref(struct job *j) { zeros_by_output(j, 4, f32_at); }
