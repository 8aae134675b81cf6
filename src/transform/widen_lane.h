/* widen_lane.h - one element of fp16 or bf16 as fp32, which holds it exactly: NaNs with their payload too. */
#ifndef TRANSFORM_WIDEN_LANE_H
#define TRANSFORM_WIDEN_LANE_H
#include <stdint.h>
#include <string.h>
#include "transform/lane.h"

LANE float f32_of_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

LANE uint32_t bits_of_f32(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

LANE float bf16_to_f32(uint16_t h) { return f32_of_bits((uint32_t)h << 16); }

/* Without branches, for compilers that make vectors of it.  A subnormal is built with the exponent of 2^-14, which is
 * then taken off: numbers that processors are slow with never come up. */
LANE float f16_to_f32(uint16_t h)
{
    uint32_t abs = (uint32_t)(h & 0x7fff) << 13, exponent = abs & 0x0f800000;
    uint32_t normal = abs + (112u << 23) + (exponent == 0x0f800000 ? 112u << 23 : 0);
    uint32_t subnormal = bits_of_f32(f32_of_bits(abs + (113u << 23)) - 0x1p-14f);

    return f32_of_bits((uint32_t)(h & 0x8000) << 16 | (exponent ? normal : subnormal));
}

#endif
