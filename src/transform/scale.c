#include "transform/scale.h"
#include "transform/cast_lane.h"
#include <string.h>

static float f32_of_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of_f32(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;

    if (exponent == 31)
        return f32_of_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent)
        return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f; /* subnormal: exact */
}

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
        h = t == DT_BF16 ? f32_to_bf16(f32_of_bits((uint32_t)h << 16) * scale)
                         : f32_to_f16(bits_of_f32(f16_to_f32(h) * scale), c);
        memcpy(at, &h, sizeof h);
    }
    return true;
}
