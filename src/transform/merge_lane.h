/* merge_lane.h - one element of a LoRA merge: a weight in fp16 plus a product times a scale, as PyTorch does it:
 * product and sum are rounded to fp32 each. */
#ifndef TRANSFORM_MERGE_LANE_H
#define TRANSFORM_MERGE_LANE_H
#include "transform/widen_lane.h"

#ifdef __CUDA_ARCH__
/* By intrinsics that are never made one, and with the NaNs that processors give: the weight's own, else that of the
 * product, else (infinities that cancel out) the negative one.  A device has one NaN for all. */
LANE float merge_element(uint16_t w, float product, float scale)
{
    float wide = f16_to_f32(w), scaled = __fmul_rn(product, scale), sum = __fadd_rn(wide, scaled);

    if (sum == sum)
        return sum;
    if ((w & 0x7fff) > 0x7c00)
        return wide;
    return f32_of_bits(product != product ? bits_of_f32(product) | 0x400000 : 0xffc00000u);
}
#else
/* Compilers must not make one instruction of the two: the build forbids contraction. */
LANE float merge_element(uint16_t w, float product, float scale) { return f16_to_f32(w) + product * scale; }
#endif

#endif
