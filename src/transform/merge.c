#include "transform/merge.h"
#include <math.h>
#include "transform/merge_lane.h"

void merge_add(float *sum, const uint16_t *w, const float *product, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = merge_element(w[i], product[i], scale);
}

LANE void sum_terms(float *sum, const float *b, uint64_t rank, const float *a, size_t pitch, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = 0;
    for (uint64_t k = 0; k < rank; k++)
        for (size_t i = 0; i < n; i++)
            sum[i] = fmaf(b[k], a[k * pitch + i], sum[i]);
}

#if defined(__x86_64__)
/* The same with an instruction in place of each call: baseline processors have none. */
__attribute__((target("avx2,fma"))) static void sum_terms_fma(float *sum, const float *b, uint64_t rank, const float *a,
                                                              size_t pitch, size_t n)
{
    sum_terms(sum, b, rank, a, pitch, n);
}
#endif

void merge_row(float *sum, const float *b, uint64_t rank, const float *a, size_t pitch, size_t n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        sum_terms_fma(sum, b, rank, a, pitch, n);
        return;
    }
#endif
    sum_terms(sum, b, rank, a, pitch, n);
}

void widen(float *to, const void *from, enum dtype t, size_t n)
{
    const unsigned char *at = from;
    uint16_t h;

    if (t == DT_F32) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(&h, at + i * sizeof h, sizeof h);
        to[i] = t == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
}
