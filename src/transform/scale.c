#include "transform/scale.h"
#include "transform/cast_lane.h"
#include "transform/widen_lane.h"
#include <string.h>

static uint16_t f32_to_bf16(float x)
{
    uint32_t bits = bits_of_f32(x);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* stays a NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

bool scale_elements(void *p, enum dtype t, size_t n, float scale, struct counters *c)
{
    unsigned char *at = p;
    uint32_t w;
    uint16_t h;

    if (t != DT_F32 && t != DT_BF16 && t != DT_F16)
        return false;
    for (size_t i = 0; i < n; i++, at += dtype_bytes(t)) {
        if (t == DT_F32) {
            memcpy(&w, at, sizeof w);
            w = bits_of_f32(f32_of_bits(w) * scale);
            memcpy(at, &w, sizeof w);
            continue;
        }
        memcpy(&h, at, sizeof h);
        h = t == DT_BF16 ? f32_to_bf16(bf16_to_f32(h) * scale) : f32_to_f16(bits_of_f32(f16_to_f32(h) * scale), c);
        memcpy(at, &h, sizeof h);
    }
    return true;
}
