/* cast_lane.h - one element becomes fp16, and what that lost is counted.
 *
 * Round to nearest, ties to even; subnormals and the sign of zero are kept;
 * what does not fit becomes infinity.  A NaN becomes quiet and keeps its sign
 * and the top of its payload, as conversion instructions do.  Integers only,
 * so that every compiler and device gives the same bits.  fp16 to fp16 is a
 * copy: its NaNs are counted and left as they are. */
#ifndef TRANSFORM_CAST_LANE_H
#define TRANSFORM_CAST_LANE_H
#include <stdint.h>
#include <string.h>
#include "transform/lane.h"
#include "transform/transform.h"

/* Bits of |x| as a float, for loops that ask only whether they have something to count. */
#define F32_INFINITY  0x7f800000u /* above: NaN */
#define F32_OVERFLOWS 0x477ff000u /* 65520, the least that becomes infinite */
#define F32_FLUSHES   0x33000000u /* 2^-25, the greatest that becomes zero: a tie */
#define F16_INFINITY  0x7c00u

/* A finite |x| != 0 in fp16.  Below 2^-14 (exponent 113) the result is subnormal and keeps fewer bits;
 * a carry out of the mantissa raises the exponent, up to infinity. */
LANE uint32_t f32_round_f16(uint32_t abs)
{
    uint32_t exponent = abs >> 23, shift = exponent < 113 ? 126 - exponent : 13, mantissa, half, rest, h;

    if (exponent < 102)
        return 0;
    if (exponent > 142)
        return F16_INFINITY;
    mantissa = (abs & 0x7fffff) | 0x800000;
    half = 1u << (shift - 1);
    rest = mantissa & ((1u << shift) - 1);
    h = (mantissa >> shift) + (exponent < 113 ? 0 : (exponent - 113) << 10);
    return h + (rest > half || (rest == half && (h & 1)));
}

LANE uint16_t f32_to_f16(uint32_t x, lane_counters *c)
{
    uint32_t sign = x >> 16 & 0x8000, abs = x & 0x7fffffff, h;

    if (abs > F32_INFINITY) {
        c->nan++;
        return (uint16_t)(sign | 0x7e00 | (abs >> 13 & 0x3ff));
    }
    if (abs == F32_INFINITY)
        return (uint16_t)(sign | F16_INFINITY);
    h = f32_round_f16(abs);
    if (h == F16_INFINITY) {
        c->overflow++;
        c->worst = abs > c->worst ? abs : c->worst;
    }
    c->flushed += !h && abs;
    return (uint16_t)(sign | h);
}

LANE uint16_t bf16_to_f16(uint16_t x, lane_counters *c) { return f32_to_f16((uint32_t)x << 16, c); }

LANE uint16_t f16_to_f16(uint16_t x, lane_counters *c)
{
    c->nan += (x & 0x7fff) > F16_INFINITY;
    return x;
}

/* The same for an element in memory, at any address. */
LANE uint16_t f32_at(const uint8_t *src, lane_counters *c)
{
    uint32_t x;

    memcpy(&x, src, sizeof x);
    return f32_to_f16(x, c);
}

LANE uint16_t bf16_at(const uint8_t *src, lane_counters *c)
{
    uint16_t x;

    memcpy(&x, src, sizeof x);
    return bf16_to_f16(x, c);
}

LANE uint16_t f16_at(const uint8_t *src, lane_counters *c)
{
    uint16_t x;

    memcpy(&x, src, sizeof x);
    return f16_to_f16(x, c);
}

typedef uint16_t element_fn(const uint8_t *src, lane_counters *c);

#endif
