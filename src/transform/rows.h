/* rows.h - what stands behind transforms[]: for each row the definition, and one
 * variant for each instruction set of the processors we build for. */
#ifndef TRANSFORM_ROWS_H
#define TRANSFORM_ROWS_H
#include "transform/transform.h"

#if defined(__x86_64__)
#define AVX512              __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")))
#define AVX2                __attribute__((target("avx2,f16c")))
#define ROW_VARIANTS(f)     void f##_avx2(struct job *j), f##_avx512(struct job *j)
#define ROW_VARIANTS_128(f) void f##_avx2(struct job *j)
#define ROW_FAST(f)                                                                                                    \
    {                                                                                                                  \
        [ISA_AVX2] = f##_avx2, [ISA_AVX512] = f##_avx512                                                               \
    }
#define ROW_FAST_128(f)                                                                                                \
    {                                                                                                                  \
        [ISA_AVX2] = f##_avx2                                                                                          \
    }
#elif defined(__AARCH64EL__)
#define ROW_VARIANTS(f)  void f##_neon(struct job *j)
#define ROW_VARIANTS_128 ROW_VARIANTS
#define ROW_FAST(f)                                                                                                    \
    {                                                                                                                  \
        [ISA_NEON] = f##_neon                                                                                          \
    }
#define ROW_FAST_128 ROW_FAST
#else
#define ROW_VARIANTS(f)  void f##_ref(struct job *j)
#define ROW_VARIANTS_128 ROW_VARIANTS
#define ROW_FAST(f)                                                                                                    \
    {                                                                                                                  \
        NULL                                                                                                           \
    }
#define ROW_FAST_128 ROW_FAST
#endif
#define ROW_FUNCTIONS(f)                                                                                               \
    void f##_ref(struct job *j);                                                                                       \
    ROW_VARIANTS(f)
/* Of what works in lanes of 128 bits: wider vectors are no quicker. */
#define ROW_FUNCTIONS_128(f)                                                                                           \
    void f##_ref(struct job *j);                                                                                       \
    ROW_VARIANTS_128(f)

ROW_FUNCTIONS(cast_bf16_f16);
ROW_FUNCTIONS(cast_f32_f16);
ROW_FUNCTIONS(cast_f16_f16);
ROW_FUNCTIONS(transpose_bf16_f16);
ROW_FUNCTIONS(transpose_f32_f16);
ROW_FUNCTIONS(transpose_f16_f16);

ROW_FUNCTIONS_128(pack4_in);
ROW_FUNCTIONS(pack4_in_act);
ROW_FUNCTIONS_128(pack4_awq);
ROW_FUNCTIONS_128(pack4_out);
void zeros_in_f16_ref(struct job *j), zeros_in_bf16_ref(struct job *j), zeros_in_f32_ref(struct job *j);
void zeros_awq_f16_ref(struct job *j), zeros_awq_bf16_ref(struct job *j), zeros_awq_f32_ref(struct job *j);
void zeros_out_f16_ref(struct job *j), zeros_out_bf16_ref(struct job *j), zeros_out_f32_ref(struct job *j);
void group_order_ref(struct job *j);

/* Results from this size on bypass the cache: nobody reads them soon, and a
 * store that first fetches its line costs half as much again. */
enum { LINE = 64 /* bytes of a cache line */, STREAM_MIN = 256 << 10 /* bytes */ };

#endif
