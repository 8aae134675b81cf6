/* merge_lane.h - one element of a LoRA merge: a weight in fp16 plus a product times a scale, as PyTorch does it:
 * product and sum are rounded to fp32 each. */
#ifndef TRANSFORM_MERGE_LANE_H
#define TRANSFORM_MERGE_LANE_H
#include "transform/widen_lane.h"

/* Never one instruction of the two: by intrinsics on a device; the build forbids contraction elsewhere.  Which NaN a
 * NaN becomes is the processor's choice. */
LANE float merge_element(uint16_t w, float product, float scale)
{
#ifdef __CUDA_ARCH__
    return __fadd_rn(f16_to_f32(w), __fmul_rn(product, scale));
#else
    return f16_to_f32(w) + product * scale;
#endif
}

#endif
