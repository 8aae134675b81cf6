/* cast.c - rows of elements become rows of fp16.
 *
 * All fast loops are one loop: a row goes through `step`, which converts 32
 * elements with the instructions of one processor family and says whether
 * they may hold something to count.  That is rare, so counting is a second,
 * plain look at those 32.  What is left of a row at either end goes through
 * the same step by way of a small buffer, padded with zeros. */
#include <stdbool.h>
#include "transform/cast_lane.h"
#include "transform/rows.h"

#define INLINE static inline __attribute__((always_inline, unused))

enum {
    STEP = 32,               /* elements: their results fill a LINE */
    STREAM_COLS = 16 * STEP, /* shorter rows do not bypass the cache */
    AHEAD = 2048,            /* bytes from what is read to what is fetched, in the order of reading */
};

/* The definition */

LANE void cast_ref(struct job *j, size_t src_bytes, element_fn *element)
{
    struct counters sum = { 0 };

    for (size_t r = 0; r < j->rows; r++) {
        const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch;
        uint8_t *dst = (uint8_t *)j->dst + r * j->dst_pitch;

        for (size_t c = 0; c < j->cols; c++) {
            uint16_t h = element(src + c * src_bytes, &sum);

            memcpy(dst + c * sizeof h, &h, sizeof h);
        }
    }
    j->counters = sum;
}

void cast_bf16_f16_ref(struct job *j) { cast_ref(j, 2, bf16_at); }
void cast_f32_f16_ref(struct job *j) { cast_ref(j, 4, f32_at); }
void cast_f16_f16_ref(struct job *j) { cast_ref(j, 2, f16_at); }

/* Counting: plain loops that compilers turn into vector code */

typedef void count_fn(const uint8_t *src, struct counters *c);

/* Signed, as compilers have vector compares for those; no |x| has the upper bit. */
LANE void count_step(const int32_t abs[STEP], struct counters *c)
{
    const int32_t overflows = F32_OVERFLOWS, infinity = F32_INFINITY, flushes = F32_FLUSHES;
    int32_t overflow = 0, flushed = 0, nan = 0, worst = (int32_t)c->worst;

    for (int i = 0; i < STEP; i++) {
        overflow += (abs[i] >= overflows) & (abs[i] < infinity);
        flushed += (abs[i] > 0) & (abs[i] <= flushes);
        nan += abs[i] > infinity;
    }
    for (int i = 0; overflow && i < STEP; i++)
        worst = abs[i] < infinity && abs[i] > worst ? abs[i] : worst;
    c->overflow += (uint32_t)overflow;
    c->flushed += (uint32_t)flushed;
    c->nan += (uint32_t)nan;
    c->worst = (uint32_t)worst;
}

static void count_f32(const uint8_t *src, struct counters *c)
{
    int32_t x[STEP];

    memcpy(x, src, sizeof x);
    for (int i = 0; i < STEP; i++)
        x[i] &= 0x7fffffff;
    count_step(x, c);
}

static void count_bf16(const uint8_t *src, struct counters *c)
{
    uint16_t x[STEP];
    int32_t abs[STEP];

    memcpy(x, src, sizeof x);
    for (int i = 0; i < STEP; i++)
        abs[i] = (x[i] & 0x7fff) << 16;
    count_step(abs, c);
}

static void count_f16(const uint8_t *src, struct counters *c)
{
    uint16_t x[STEP];

    memcpy(x, src, sizeof x);
    for (int i = 0; i < STEP; i++)
        c->nan += (x[i] & 0x7fff) > F16_INFINITY;
}

/* The loop */

/* Converts STEP elements; true when some may have to be counted.  With `stream`, dst is aligned to LINE. */
typedef bool step_fn(const uint8_t *src, uint8_t *dst, bool stream);

struct source {
    size_t bytes; /* of an element */
    step_fn *step;
    count_fn *count;
};

INLINE void cast_piece(const struct source *s, const uint8_t *src, uint8_t *dst, size_t n, struct counters *sum)
{
    uint8_t in[STEP * 4] = { 0 }, out[LINE];

    memcpy(in, src, n * s->bytes);
    if (s->step(in, out, false))
        s->count(in, sum);
    memcpy(dst, out, n * 2);
}

INLINE void cast_row(const struct source *s, const uint8_t *src, uint8_t *dst, size_t n, size_t ahead, bool stream,
                     struct counters *sum)
{
    for (; n >= STEP; n -= STEP, src += STEP * s->bytes, dst += LINE) {
        for (size_t line = 0; line < STEP * s->bytes; line += LINE)
            __builtin_prefetch((const void *)((uintptr_t)src + ahead + line));
        if (s->step(src, dst, stream))
            s->count(src, sum);
    }
    if (n)
        cast_piece(s, src, dst, n, sum);
}

/* What stands before the first full line of the result, then the row from there on. */
INLINE void cast_row_streamed(const struct source *s, const uint8_t *src, uint8_t *dst, size_t n, size_t ahead,
                              struct counters *sum)
{
    size_t head = -(uintptr_t)dst % LINE / 2;

    if (head)
        cast_piece(s, src, dst, head, sum);
    cast_row(s, src + head * s->bytes, dst + head * 2, n - head, ahead, true, sum);
}

/* Returns whether stores bypassed the cache, so that the caller must fence them. */
INLINE bool cast_rows(struct job *j, const struct source *s)
{
    bool whole = j->src_pitch == j->cols * s->bytes && j->dst_pitch == j->cols * 2; /* then it is one row */
    size_t rows = whole ? 1 : j->rows, cols = whole ? j->rows * j->cols : j->cols, row_bytes = cols * s->bytes;
    bool stream = rows * cols * 2 >= STREAM_MIN && cols >= STREAM_COLS;
    struct counters sum = { 0 };
    size_t ahead = row_bytes >= AHEAD || !row_bytes ? AHEAD : AHEAD / row_bytes * j->src_pitch;

    for (size_t r = 0; r < rows; r++) {
        const uint8_t *src = (const uint8_t *)j->src + r * j->src_pitch;
        uint8_t *dst = (uint8_t *)j->dst + r * j->dst_pitch;

        if (stream && (uintptr_t)dst % 2 == 0)
            cast_row_streamed(s, src, dst, cols, ahead, &sum);
        else
            cast_row(s, src, dst, cols, ahead, false, &sum);
    }
    j->counters = sum;
    return stream;
}

/* One step for each instruction set.  Something to count has |x| - 1 < FLUSHES, where zero wraps around to the
 * greatest number, or |x| >= OVERFLOWS, infinities included. */

/* |x| of a bf16 is the upper half of |x| of the same float. */
#define BF16_OVERFLOWS ((F32_OVERFLOWS + 0xffff) >> 16)
#define BF16_FLUSHES   (F32_FLUSHES >> 16)

#if defined(__x86_64__)
#include <immintrin.h>

#define NEAREST _MM_FROUND_TO_NEAREST_INT /* ties to even, whatever the mode of the thread */

AVX512 INLINE void store_avx512(uint8_t *dst, __m512i h, bool stream)
{
    if (stream)
        _mm512_stream_si512((__m512i *)dst, h);
    else
        _mm512_storeu_si512(dst, h);
}

AVX512 INLINE __m256i half_avx512(__m512i f32)
{
    return _mm512_maskz_cvtps_ph(0xffff, _mm512_castsi512_ps(f32), NEAREST);
}

AVX512 INLINE bool step_bf16_avx512(const uint8_t *src, uint8_t *dst, bool stream)
{
    const __m512i order = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    __m512i x = _mm512_loadu_si512(src), abs = _mm512_and_si512(x, _mm512_set1_epi16(0x7fff));
    __mmask32 high = _mm512_cmpge_epu16_mask(abs, _mm512_set1_epi16(BF16_OVERFLOWS));
    __mmask32 low =
        _mm512_cmplt_epu16_mask(_mm512_sub_epi16(abs, _mm512_set1_epi16(1)), _mm512_set1_epi16(BF16_FLUSHES));
    __m256i a = half_avx512(_mm512_unpacklo_epi16(_mm512_setzero_si512(), x));
    __m256i b = half_avx512(_mm512_unpackhi_epi16(_mm512_setzero_si512(), x));

    store_avx512(dst, _mm512_permutex2var_epi64(_mm512_castsi256_si512(a), order, _mm512_castsi256_si512(b)), stream);
    return high | low;
}

AVX512 INLINE bool step_f32_avx512(const uint8_t *src, uint8_t *dst, bool stream)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512i x = _mm512_loadu_si512(src), y = _mm512_loadu_si512(src + LINE);
    __m512i ax = _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff));
    __m512i ay = _mm512_and_si512(y, _mm512_set1_epi32(0x7fffffff));
    __m512i most = _mm512_max_epu32(ax, ay);
    __m512i least = _mm512_min_epu32(_mm512_sub_epi32(ax, one), _mm512_sub_epi32(ay, one));
    __mmask16 high = _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(F32_OVERFLOWS));
    __mmask16 low = _mm512_cmplt_epu32_mask(least, _mm512_set1_epi32(F32_FLUSHES));

    store_avx512(dst, _mm512_inserti64x4(_mm512_castsi256_si512(half_avx512(x)), half_avx512(y), 1), stream);
    return high | low;
}

AVX512 INLINE bool step_f16_avx512(const uint8_t *src, uint8_t *dst, bool stream)
{
    __m512i x = _mm512_loadu_si512(src), abs = _mm512_and_si512(x, _mm512_set1_epi16(0x7fff));

    store_avx512(dst, x, stream);
    return _mm512_cmpgt_epu16_mask(abs, _mm512_set1_epi16(F16_INFINITY));
}

AVX2 INLINE void store_avx2(uint8_t *dst, __m256i h, bool stream)
{
    if (stream)
        _mm256_stream_si256((__m256i *)dst, h);
    else
        _mm256_storeu_si256((__m256i *)dst, h);
}

AVX2 INLINE __m256i half_avx2(__m256i x, __m256i y)
{
    __m128i a = _mm256_cvtps_ph(_mm256_castsi256_ps(x), NEAREST);
    __m128i b = _mm256_cvtps_ph(_mm256_castsi256_ps(y), NEAREST);

    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}

AVX2 INLINE bool special_bf16_avx2(__m256i x, __m256i y)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff), one = _mm256_set1_epi16(1);
    __m256i ax = _mm256_and_si256(x, magnitude), ay = _mm256_and_si256(y, magnitude);
    __m256i least = _mm256_min_epu16(_mm256_sub_epi16(ax, one), _mm256_sub_epi16(ay, one));
    __m256i high = _mm256_subs_epu16(_mm256_max_epu16(ax, ay), _mm256_set1_epi16(BF16_OVERFLOWS - 1));
    __m256i low = _mm256_subs_epu16(_mm256_set1_epi16(BF16_FLUSHES), least);
    __m256i any = _mm256_or_si256(high, low);

    return !_mm256_testz_si256(any, any);
}

AVX2 INLINE __m256i half_bf16_avx2(__m256i x)
{
    __m256i zero = _mm256_setzero_si256();

    return _mm256_permute4x64_epi64(half_avx2(_mm256_unpacklo_epi16(zero, x), _mm256_unpackhi_epi16(zero, x)), 0xd8);
}

AVX2 INLINE bool step_bf16_avx2(const uint8_t *src, uint8_t *dst, bool stream)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)src), y = _mm256_loadu_si256((const __m256i *)(src + 32));

    store_avx2(dst, half_bf16_avx2(x), stream);
    store_avx2(dst + 32, half_bf16_avx2(y), stream);
    return special_bf16_avx2(x, y);
}

AVX2 INLINE bool step_f32_avx2(const uint8_t *src, uint8_t *dst, bool stream)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), one = _mm256_set1_epi32(1);
    __m256i x[4], most = _mm256_setzero_si256(), least = _mm256_set1_epi32(-1), high, low;

    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_loadu_si256((const __m256i *)(src + 32 * i));
        __m256i abs = _mm256_and_si256(x[i], magnitude);

        most = _mm256_max_epu32(most, abs);
        least = _mm256_min_epu32(least, _mm256_sub_epi32(abs, one));
    }
    store_avx2(dst, half_avx2(x[0], x[1]), stream);
    store_avx2(dst + 32, half_avx2(x[2], x[3]), stream);
    high = _mm256_cmpgt_epi32(most, _mm256_set1_epi32(F32_OVERFLOWS - 1));
    low = _mm256_cmpeq_epi32(_mm256_min_epu32(least, _mm256_set1_epi32(F32_FLUSHES - 1)), least);
    high = _mm256_or_si256(high, low);
    return !_mm256_testz_si256(high, high);
}

AVX2 INLINE bool step_f16_avx2(const uint8_t *src, uint8_t *dst, bool stream)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i x = _mm256_loadu_si256((const __m256i *)src), y = _mm256_loadu_si256((const __m256i *)(src + 32)), nan;

    store_avx2(dst, x, stream);
    store_avx2(dst + 32, y, stream);
    nan = _mm256_cmpgt_epi16(_mm256_max_epi16(_mm256_and_si256(x, magnitude), _mm256_and_si256(y, magnitude)),
                             _mm256_set1_epi16(F16_INFINITY));
    return !_mm256_testz_si256(nan, nan);
}

/* Streamed stores are ordered by a fence only. */
#define CAST(TARGET, from, src_bytes, isa)                                                                             \
    TARGET void cast_##from##_f16_##isa(struct job *j)                                                                 \
    {                                                                                                                  \
        static const struct source s = { src_bytes, step_##from##_##isa, count_##from };                               \
                                                                                                                       \
        if (cast_rows(j, &s))                                                                                          \
            _mm_sfence();                                                                                              \
    }

CAST(AVX512, bf16, 2, avx512)
CAST(AVX512, f32, 4, avx512)
CAST(AVX512, f16, 2, avx512)
CAST(AVX2, bf16, 2, avx2)
CAST(AVX2, f32, 4, avx2)
CAST(AVX2, f16, 2, avx2)

#elif defined(__AARCH64EL__)
#include <arm_neon.h>

/* There is no store that bypasses the cache: `stream` changes nothing. */

INLINE void store_neon(uint8_t *dst, float32x4_t a, float32x4_t b)
{
    vst1q_u8(dst, vreinterpretq_u8_f16(vcvt_high_f16_f32(vcvt_f16_f32(a), b)));
}

INLINE bool step_bf16_neon(const uint8_t *src, uint8_t *dst, bool stream)
{
    const uint16x8_t zero = vdupq_n_u16(0);
    uint16x8_t most = zero, least = vdupq_n_u16(0xffff);

    (void)stream;
    for (int i = 0; i < LINE; i += 16) {
        uint16x8_t x = vreinterpretq_u16_u8(vld1q_u8(src + i)), abs = vandq_u16(x, vdupq_n_u16(0x7fff));

        store_neon(dst + i, vreinterpretq_f32_u16(vzip1q_u16(zero, x)), vreinterpretq_f32_u16(vzip2q_u16(zero, x)));
        most = vmaxq_u16(most, abs);
        least = vminq_u16(least, vsubq_u16(abs, vdupq_n_u16(1)));
    }
    return vmaxvq_u16(most) >= BF16_OVERFLOWS || vminvq_u16(least) < BF16_FLUSHES;
}

INLINE bool step_f32_neon(const uint8_t *src, uint8_t *dst, bool stream)
{
    uint32x4_t most = vdupq_n_u32(0), least = vdupq_n_u32(0xffffffff);

    (void)stream;
    for (int i = 0; i < LINE; i += 16) {
        uint32x4_t x[2];

        for (int k = 0; k < 2; k++) {
            uint32x4_t abs;

            x[k] = vreinterpretq_u32_u8(vld1q_u8(src + 2 * i + 16 * k));
            abs = vandq_u32(x[k], vdupq_n_u32(0x7fffffff));
            most = vmaxq_u32(most, abs);
            least = vminq_u32(least, vsubq_u32(abs, vdupq_n_u32(1)));
        }
        store_neon(dst + i, vreinterpretq_f32_u32(x[0]), vreinterpretq_f32_u32(x[1]));
    }
    return vmaxvq_u32(most) >= F32_OVERFLOWS || vminvq_u32(least) < F32_FLUSHES;
}

INLINE bool step_f16_neon(const uint8_t *src, uint8_t *dst, bool stream)
{
    uint16x8_t most = vdupq_n_u16(0);

    (void)stream;
    for (int i = 0; i < LINE; i += 16) {
        uint8x16_t x = vld1q_u8(src + i);

        vst1q_u8(dst + i, x);
        most = vmaxq_u16(most, vandq_u16(vreinterpretq_u16_u8(x), vdupq_n_u16(0x7fff)));
    }
    return vmaxvq_u16(most) > F16_INFINITY;
}

#define CAST(from, src_bytes)                                                                                          \
    void cast_##from##_f16_neon(struct job *j)                                                                         \
    {                                                                                                                  \
        static const struct source s = { src_bytes, step_##from##_neon, count_##from };                                \
                                                                                                                       \
        (void)cast_rows(j, &s);                                                                                        \
    }

CAST(bf16, 2)
CAST(f32, 4)
CAST(f16, 2)
#endif
