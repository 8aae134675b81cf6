/* avx512_emulated.h - the AVX-512 intrinsics that the transforms use, in plain C.
 *
 * Not every machine that runs the tests has AVX-512, and a variant that was
 * never run must not ship.  Included before a transform's source, this replaces
 * the type, the target attribute and the intrinsics, each written from Intel's
 * description of it, so that the source's own logic runs anywhere.  What it
 * cannot show is that the compiler and the processor do the same. */
#ifndef AVX512_EMULATED_H
#define AVX512_EMULATED_H
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The emulation claims every instruction set; asked before it does: is there AVX2 (and so F16C) to run it on? */
__attribute__((constructor)) static void emu_needs_avx2(void)
{
    if (!__builtin_cpu_supports("avx2"))
        exit(77);
}

typedef union {
    uint16_t w[32];
    uint32_t d[16];
    uint64_t q[8];
    __m128i x[4];
    __m256i y[2];
} __attribute__((aligned(64), may_alias)) emu512;

#define EMU static inline __attribute__((unused))

EMU emu512 emu_loadu(const void *p)
{
    emu512 v;

    memcpy(&v, p, sizeof v);
    return v;
}

EMU void emu_storeu(void *p, emu512 v) { memcpy(p, &v, sizeof v); }

/* Aligned stores fault on other addresses; so must these. */
EMU void emu_store(void *p, emu512 v)
{
    if ((uintptr_t)p % 64)
        __builtin_trap();
    memcpy(p, &v, sizeof v);
}

#define EMU_LANES(name, lane, n, expression)                                                                           \
    EMU emu512 name(emu512 a, emu512 b)                                                                                \
    {                                                                                                                  \
        emu512 r;                                                                                                      \
        for (int i = 0; i < n; i++)                                                                                    \
            r.lane[i] = (__typeof__(r.lane[0]))(expression);                                                           \
        return r;                                                                                                      \
    }
EMU_LANES(emu_and, q, 8, a.q[i] & b.q[i])
EMU_LANES(emu_sub16, w, 32, a.w[i] - b.w[i])
EMU_LANES(emu_sub32, d, 16, a.d[i] - b.d[i])
EMU_LANES(emu_max32, d, 16, a.d[i] > b.d[i] ? a.d[i] : b.d[i])
EMU_LANES(emu_rotate32, d, 16, a.d[i] << b.d[i] % 32 | (uint64_t)a.d[i] >> (32 - b.d[i] % 32))
EMU_LANES(emu_min32, d, 16, a.d[i] < b.d[i] ? a.d[i] : b.d[i])
/* Unpacking interleaves within each 128 bits. */
EMU_LANES(emu_lo16, w, 32, (i & 1 ? b : a).w[(i & 24) + (i & 7) / 2])
EMU_LANES(emu_hi16, w, 32, (i & 1 ? b : a).w[(i & 24) + 4 + (i & 7) / 2])
EMU_LANES(emu_lo32, d, 16, (i & 1 ? b : a).d[(i & 12) + (i & 3) / 2])
EMU_LANES(emu_hi32, d, 16, (i & 1 ? b : a).d[(i & 12) + 2 + (i & 3) / 2])
EMU_LANES(emu_lo64, q, 8, (i & 1 ? b : a).q[i & 6])
EMU_LANES(emu_hi64, q, 8, (i & 1 ? b : a).q[(i & 6) + 1])

#define EMU_MASK(name, type, lane, n, op)                                                                              \
    EMU type name(emu512 a, emu512 b)                                                                                  \
    {                                                                                                                  \
        type m = 0;                                                                                                    \
        for (int i = 0; i < n; i++)                                                                                    \
            if (a.lane[i] op b.lane[i])                                                                                \
                m |= (type)((type)1 << i);                                                                             \
        return m;                                                                                                      \
    }
EMU_MASK(emu_ge16, uint32_t, w, 32, >=)
EMU_MASK(emu_gt16, uint32_t, w, 32, >)
EMU_MASK(emu_lt16, uint32_t, w, 32, <)
EMU_MASK(emu_ge32, uint16_t, d, 16, >=)
EMU_MASK(emu_lt32, uint16_t, d, 16, <)

EMU emu512 emu_set16(int v)
{
    emu512 r;

    for (int i = 0; i < 32; i++)
        r.w[i] = (uint16_t)v;
    return r;
}

EMU emu512 emu_set32(int v)
{
    emu512 r;

    for (int i = 0; i < 16; i++)
        r.d[i] = (uint32_t)v;
    return r;
}

EMU emu512 emu_set64(int64_t h, int64_t g, int64_t f, int64_t e, int64_t d, int64_t c, int64_t b, int64_t a)
{
    return (emu512){ .q = { (uint64_t)a, (uint64_t)b, (uint64_t)c, (uint64_t)d, (uint64_t)e, (uint64_t)f, (uint64_t)g,
                            (uint64_t)h } };
}

/* The upper part of a widened value is undefined; garbage shows who uses it. */
EMU emu512 emu_widen128(__m128i v)
{
    emu512 r;

    memset(&r, 0xa5, sizeof r);
    r.x[0] = v;
    return r;
}

EMU __attribute__((target("avx"))) emu512 emu_widen256(__m256i v)
{
    emu512 r;

    memset(&r, 0xa5, sizeof r);
    r.y[0] = v;
    return r;
}

EMU emu512 emu_insert128(emu512 v, __m128i part, int at)
{
    v.x[at] = part;
    return v;
}

EMU __attribute__((target("avx"))) __m256i emu_low256(emu512 v) { return v.y[0]; }
EMU __attribute__((target("avx"))) __m256i emu_extract256(emu512 v, int at) { return v.y[at]; }

/* Bit i of the result is bit 4 a + 2 b + c of the table, a, b, c being bits i. */
EMU emu512 emu_ternary(emu512 a, emu512 b, emu512 c, int table)
{
    emu512 r;

    for (int i = 0; i < 8; i++) {
        r.q[i] = 0;
        for (int t = 0; t < 8; t++)
            if (table >> t & 1)
                r.q[i] |= (t & 4 ? a.q[i] : ~a.q[i]) & (t & 2 ? b.q[i] : ~b.q[i]) & (t & 1 ? c.q[i] : ~c.q[i]);
    }
    return r;
}

EMU __attribute__((target("avx"))) emu512 emu_insert256(emu512 v, __m256i part, int at)
{
    v.y[at] = part;
    return v;
}

EMU emu512 emu_permute64(emu512 a, emu512 order, emu512 b)
{
    emu512 r;

    for (int i = 0; i < 8; i++)
        r.q[i] = (order.q[i] & 8 ? b : a).q[order.q[i] & 7];
    return r;
}

EMU __attribute__((target("avx,f16c"))) __m256i emu_half(emu512 v)
{
    union {
        __m256i y;
        __m128i x[2];
    } r;

    r.x[0] = _mm256_cvtps_ph(_mm256_castsi256_ps(v.y[0]), _MM_FROUND_TO_NEAREST_INT);
    r.x[1] = _mm256_cvtps_ph(_mm256_castsi256_ps(v.y[1]), _MM_FROUND_TO_NEAREST_INT);
    return r.y;
}

/* Some of them are macros in clang's header. */
#undef _mm512_cmpge_epu16_mask
#undef _mm512_cmpgt_epu16_mask
#undef _mm512_cmplt_epu16_mask
#undef _mm512_cmpge_epu32_mask
#undef _mm512_cmplt_epu32_mask
#undef _mm512_inserti32x4
#undef _mm512_inserti64x4
#undef _mm512_maskz_cvtps_ph
#undef _mm512_extracti64x4_epi64
#undef _mm512_ternarylogic_epi32
#define __m512i                               emu512
#define _mm512_loadu_si512(p)                 emu_loadu(p)
#define _mm512_storeu_si512(p, v)             emu_storeu(p, v)
#define _mm512_store_si512(p, v)              emu_store(p, v)
#define _mm512_stream_si512(p, v)             emu_store(p, v)
#define _mm512_setzero_si512()                emu_set32(0)
#define _mm512_set1_epi16(v)                  emu_set16(v)
#define _mm512_set1_epi32(v)                  emu_set32((int)(v))
#define _mm512_set_epi64                      emu_set64
#define _mm512_and_si512                      emu_and
#define _mm512_sub_epi16                      emu_sub16
#define _mm512_sub_epi32                      emu_sub32
#define _mm512_max_epu32                      emu_max32
#define _mm512_min_epu32                      emu_min32
#define _mm512_unpacklo_epi16                 emu_lo16
#define _mm512_unpackhi_epi16                 emu_hi16
#define _mm512_unpacklo_epi32                 emu_lo32
#define _mm512_unpackhi_epi32                 emu_hi32
#define _mm512_unpacklo_epi64                 emu_lo64
#define _mm512_unpackhi_epi64                 emu_hi64
#define _mm512_cmpge_epu16_mask               emu_ge16
#define _mm512_cmpgt_epu16_mask               emu_gt16
#define _mm512_cmplt_epu16_mask               emu_lt16
#define _mm512_cmpge_epu32_mask               emu_ge32
#define _mm512_cmplt_epu32_mask               emu_lt32
#define _mm512_castsi128_si512                emu_widen128
#define _mm512_castsi256_si512                emu_widen256
#define _mm512_castsi512_ps(v)                (v)
#define _mm512_inserti32x4                    emu_insert128
#define _mm512_inserti64x4                    emu_insert256
#define _mm512_castsi512_si256                emu_low256
#define _mm512_extracti64x4_epi64             emu_extract256
#define _mm512_rolv_epi32                     emu_rotate32
#define _mm512_ternarylogic_epi32             emu_ternary
#define _mm512_permutex2var_epi64             emu_permute64
#define _mm512_maskz_cvtps_ph(mask, v, round) ((void)(mask), (void)(round), emu_half(v))
#define __m512                                emu512

/* The tests are to run what the processor lacks. */
#define __builtin_cpu_supports(what) 1
#endif
