/* transpose.c - element (r, c) becomes fp16 at row c, column r.
 *
 * Memory decides the speed, so both sides are touched in long runs: WIDTH
 * elements of a source row, then the next row; RUN elements of a destination
 * row, then the next row.  In between stands a block of RUN x WIDTH elements,
 * cast by the cast of the same instruction set, which also counts, and turned
 * 32 x 32 at a time into a panel of runs.  Turning straight to the
 * destination, 64 bytes to each row in turn, is half as fast where the pitch is
 * a multiple of 4096, as it is for most tensors.
 * A worker needs 64 KiB of stack for it, and as much of its second-level cache. */
#include <stdbool.h>
#include "transform/cast_lane.h"
#include "transform/rows.h"

enum {
    TURN = 32,   /* rows and columns that are turned at once */
    RUN = 128,   /* source rows of a block */
    WIDTH = 128, /* source columns of a block */
};

/* The definition */

LANE void transpose_ref(struct job *j, size_t src_bytes, element_fn *element)
{
    struct counters sum = { 0 };

    for (size_t r = 0; r < j->rows; r++) {
        const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch;
        uint8_t *dst = (uint8_t *)j->dst + r * 2;

        for (size_t c = 0; c < j->cols; c++) {
            uint16_t h = element(src + c * src_bytes, &sum);

            memcpy(dst + c * j->dst_pitch, &h, sizeof h);
        }
    }
    j->counters = sum;
}

void transpose_bf16_f16_ref(struct job *j) { transpose_ref(j, 2, bf16_at); }
void transpose_f32_f16_ref(struct job *j) { transpose_ref(j, 4, f32_at); }
void transpose_f16_f16_ref(struct job *j) { transpose_ref(j, 2, f16_at); }

/* The loop */

/* Cast, still in the order of the source.  The padding spreads a column over the sets of the cache. */
struct block {
    _Alignas(LINE) uint16_t at[RUN][WIDTH + LINE / 2];
};

/* Turned: runs of TURN rows of the destination. */
struct panel {
    _Alignas(LINE) uint16_t at[TURN][RUN];
};

struct machine {
    size_t src_bytes; /* of an element */
    void (*cast)(struct job *j);
    void (*turn)(const struct block *b, size_t r, size_t c, struct panel *p);
    void (*stream)(uint8_t *dst, const uint8_t *src, size_t lines); /* dst is aligned to LINE; NULL: there is none */
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Whole lines bypass the cache. */
static void write_run(const struct machine *m, uint8_t *dst, const uint8_t *src, size_t n, bool stream)
{
    size_t head = -(uintptr_t)dst % LINE;

    if (stream && n >= LINE) {
        size_t lines = (n - head) / LINE * LINE;

        memcpy(dst, src, head);
        m->stream(dst + head, src + head, lines / LINE);
        dst += head + lines, src += head + lines, n -= head + lines;
    }
    memcpy(dst, src, n);
}

/* Has the processor fetch some rows of the next block, in which no prefetcher of its own finds its way: lines of rows
 * that lie far apart. */
static void fetch_rows(const struct machine *m, const struct job *next, size_t first, size_t rows)
{
    for (size_t r = first; r < least(first + rows, next->rows); r++)
        for (size_t at = 0; at < next->cols * m->src_bytes; at += LINE)
            __builtin_prefetch((const uint8_t *)next->src + r * next->src_pitch + at, 0, 2);
}

/* At most RUN rows and WIDTH columns. `next`: of those beside it; none at the end of a row. */
static void transpose_block(const struct machine *m, struct job *j, const struct job *next, bool stream,
                            struct counters *sum)
{
    struct block block;
    struct panel panel;
    size_t fetched = 0; /* rows */
    struct job cast = { .src = j->src,
                        .src_pitch = j->src_pitch,
                        .dst = &block,
                        .dst_pitch = sizeof block.at[0],
                        .rows = j->rows,
                        .cols = j->cols };

    m->cast(&cast);
    counters_add(sum, &cast.counters);
    for (size_t c = 0; c < j->cols; c += TURN) {
        for (size_t r = 0; r < j->rows; r += TURN) {
            fetch_rows(m, next, fetched, TURN * TURN / WIDTH);
            fetched += TURN * TURN / WIDTH;
            m->turn(&block, r, c, &panel);
        }
        for (size_t i = 0; i < least(TURN, j->cols - c); i++)
            write_run(m, (uint8_t *)j->dst + (c + i) * j->dst_pitch, (const uint8_t *)panel.at[i], j->rows * 2, stream);
    }
}

/* The first block of a row or column is shorter, so that the others start at a line where the pitch allows it. */
static void transpose(struct job *j, const struct machine *m)
{
    size_t rows = RUN - (uintptr_t)j->dst % LINE / 2, cols = WIDTH - (uintptr_t)j->src % LINE / m->src_bytes;
    bool stream = m->stream && j->rows * j->cols * 2 >= STREAM_MIN;
    struct counters sum = { 0 };

    for (size_t r = 0, n = rows; r < j->rows; r += n, n = RUN) {
        n = least(n, j->rows - r);
        for (size_t c = 0, w = cols; c < j->cols; c += w, w = WIDTH) {
            w = least(w, j->cols - c);
            struct job part = { .src = (const uint8_t *)j->src + r * j->src_pitch + c * m->src_bytes,
                                .src_pitch = j->src_pitch,
                                .dst = (uint8_t *)j->dst + c * j->dst_pitch + r * 2,
                                .dst_pitch = j->dst_pitch,
                                .rows = n,
                                .cols = w };

            struct job next = part;
            next.src = (const uint8_t *)part.src + w * m->src_bytes;
            next.cols = least(WIDTH, j->cols - c - w);
            transpose_block(m, &part, &next, stream, &sum);
        }
    }
    j->counters = sum;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* The two turns are the same: a vector takes 8 columns of one row in each of
 * its 128-bit lanes, lane l from row i + 8 l, and three rounds of unpacking
 * turn the 8 x 8 elements in all lanes at once. */

AVX512 static inline __m512i rows_avx512(const struct block *b, size_t r, size_t c)
{
    __m512i v = _mm512_castsi128_si512(_mm_load_si128((const __m128i *)&b->at[r][c]));

    v = _mm512_inserti32x4(v, _mm_load_si128((const __m128i *)&b->at[r + 8][c]), 1);
    v = _mm512_inserti32x4(v, _mm_load_si128((const __m128i *)&b->at[r + 16][c]), 2);
    return _mm512_inserti32x4(v, _mm_load_si128((const __m128i *)&b->at[r + 24][c]), 3);
}

AVX512 static void turn_avx512(const struct block *b, size_t r, size_t c, struct panel *p)
{
    for (size_t i8 = 0; i8 < TURN; i8 += 8) {
        __m512i v[8], t[8];

        for (size_t i = 0; i < 8; i++)
            v[i] = rows_avx512(b, r + i, c + i8);
        for (size_t i = 0; i < 8; i += 2) {
            t[i] = _mm512_unpacklo_epi16(v[i], v[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi16(v[i], v[i + 1]);
        }
        for (size_t i = 0; i < 8; i += 4) {
            v[i] = _mm512_unpacklo_epi32(t[i], t[i + 2]);
            v[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 2]);
            v[i + 2] = _mm512_unpacklo_epi32(t[i + 1], t[i + 3]);
            v[i + 3] = _mm512_unpackhi_epi32(t[i + 1], t[i + 3]);
        }
        for (size_t i = 0; i < 4; i++) {
            _mm512_store_si512(&p->at[i8 + 2 * i][r], _mm512_unpacklo_epi64(v[i], v[i + 4]));
            _mm512_store_si512(&p->at[i8 + 2 * i + 1][r], _mm512_unpackhi_epi64(v[i], v[i + 4]));
        }
    }
}

AVX512 static void stream_avx512(uint8_t *dst, const uint8_t *src, size_t lines)
{
    for (; lines; lines--, dst += LINE, src += LINE)
        _mm512_stream_si512((__m512i *)dst, _mm512_loadu_si512(src));
}

AVX2 static inline __m256i rows_avx2(const struct block *b, size_t r, size_t c)
{
    __m256i v = _mm256_castsi128_si256(_mm_load_si128((const __m128i *)&b->at[r][c]));

    return _mm256_inserti128_si256(v, _mm_load_si128((const __m128i *)&b->at[r + 8][c]), 1);
}

AVX2 static inline void turn_half_avx2(const struct block *b, size_t r, size_t c, size_t i8, struct panel *p)
{
    __m256i v[8], t[8];

    for (size_t i = 0; i < 8; i++)
        v[i] = rows_avx2(b, r + i, c + i8);
    for (size_t i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi16(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi16(v[i], v[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi32(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi32(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi32(t[i + 1], t[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        _mm256_store_si256((__m256i *)&p->at[i8 + 2 * i][r], _mm256_unpacklo_epi64(v[i], v[i + 4]));
        _mm256_store_si256((__m256i *)&p->at[i8 + 2 * i + 1][r], _mm256_unpackhi_epi64(v[i], v[i + 4]));
    }
}

AVX2 static void turn_avx2(const struct block *b, size_t r, size_t c, struct panel *p)
{
    for (size_t i8 = 0; i8 < TURN; i8 += 8)
        for (size_t i = 0; i < TURN; i += 16)
            turn_half_avx2(b, r + i, c, i8, p);
}

AVX2 static void stream_avx2(uint8_t *dst, const uint8_t *src, size_t lines)
{
    for (; lines; lines--, dst += LINE, src += LINE) {
        _mm256_stream_si256((__m256i *)dst, _mm256_loadu_si256((const __m256i *)src));
        _mm256_stream_si256((__m256i *)(dst + 32), _mm256_loadu_si256((const __m256i *)(src + 32)));
    }
}

#define TRANSPOSE(from, src_bytes, isa)                                                                                \
    void transpose_##from##_f16_##isa(struct job *j)                                                                   \
    {                                                                                                                  \
        static const struct machine m = { src_bytes, cast_##from##_f16_##isa, turn_##isa, stream_##isa };              \
                                                                                                                       \
        transpose(j, &m);                                                                                              \
        _mm_sfence();                                                                                                  \
    }

TRANSPOSE(bf16, 2, avx512)
TRANSPOSE(f32, 4, avx512)
TRANSPOSE(f16, 2, avx512)
TRANSPOSE(bf16, 2, avx2)
TRANSPOSE(f32, 4, avx2)
TRANSPOSE(f16, 2, avx2)

#elif defined(__AARCH64EL__)
#include <arm_neon.h>

static inline uint16x8_t zip_lo32(uint16x8_t a, uint16x8_t b)
{
    return vreinterpretq_u16_u32(vzip1q_u32(vreinterpretq_u32_u16(a), vreinterpretq_u32_u16(b)));
}

static inline uint16x8_t zip_hi32(uint16x8_t a, uint16x8_t b)
{
    return vreinterpretq_u16_u32(vzip2q_u32(vreinterpretq_u32_u16(a), vreinterpretq_u32_u16(b)));
}

static inline uint16x8_t zip_lo64(uint16x8_t a, uint16x8_t b)
{
    return vreinterpretq_u16_u64(vzip1q_u64(vreinterpretq_u64_u16(a), vreinterpretq_u64_u16(b)));
}

static inline uint16x8_t zip_hi64(uint16x8_t a, uint16x8_t b)
{
    return vreinterpretq_u16_u64(vzip2q_u64(vreinterpretq_u64_u16(a), vreinterpretq_u64_u16(b)));
}

/* 8 x 8 elements, from row r and column c of the block to row i8 of the panel, in three rounds of zipping. */
static inline void turn8_neon(const struct block *b, size_t r, size_t c, size_t i8, struct panel *p)
{
    uint16x8_t v[8], t[8];

    for (size_t i = 0; i < 8; i++)
        v[i] = vld1q_u16(&b->at[r + i][c]);
    for (size_t i = 0; i < 8; i += 2) {
        t[i] = vzip1q_u16(v[i], v[i + 1]);
        t[i + 1] = vzip2q_u16(v[i], v[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        v[i] = zip_lo32(t[i], t[i + 2]);
        v[i + 1] = zip_hi32(t[i], t[i + 2]);
        v[i + 2] = zip_lo32(t[i + 1], t[i + 3]);
        v[i + 3] = zip_hi32(t[i + 1], t[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        vst1q_u16(&p->at[i8 + 2 * i][r], zip_lo64(v[i], v[i + 4]));
        vst1q_u16(&p->at[i8 + 2 * i + 1][r], zip_hi64(v[i], v[i + 4]));
    }
}

static void turn_neon(const struct block *b, size_t r, size_t c, struct panel *p)
{
    for (size_t i8 = 0; i8 < TURN; i8 += 8)
        for (size_t i = 0; i < TURN; i += 8)
            turn8_neon(b, r + i, c + i8, i8, p);
}

#define TRANSPOSE(from, src_bytes)                                                                                     \
    void transpose_##from##_f16_neon(struct job *j)                                                                    \
    {                                                                                                                  \
        static const struct machine m = { src_bytes, cast_##from##_f16_neon, turn_neon, NULL };                        \
                                                                                                                       \
        transpose(j, &m);                                                                                              \
    }

TRANSPOSE(bf16, 2)
TRANSPOSE(f32, 4)
TRANSPOSE(f16, 2)
#endif
