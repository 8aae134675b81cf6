#include "transform/merge.h"
#include "transform/widen_lane.h"

void merge_add(float *sum, const uint16_t *w, const float *product, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = f16_to_f32(w[i]) + product[i] * scale;
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
