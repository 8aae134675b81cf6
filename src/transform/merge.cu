/* merge.cu - a LoRA merge on the device: the adapter's factors become fp32, and what they give is added to the weights.
 *
 * Threads of a block: x in a warp, y along a row, z from row to row.  Factors go one element a thread, since they are
 * small beside the weights; of weights a thread takes four side by side, so that each access of a warp is of whole
 * sectors: 8 or 16 bytes a thread of the weights, 16 of the product.  Where rows are not aligned to that, or end, it
 * takes them one by one. */
#include "transform/device.cuh"
#include "transform/merge_lane.h"

enum { QUAD = 4 };

DEVICE float wide(from_f32, uint32_t x) { return f32_of_bits(x); }
DEVICE float wide(from_bf16, uint16_t x) { return bf16_to_f32(x); }
DEVICE float wide(from_f16, uint16_t x) { return f16_to_f32(x); }

/* Row r is the source's row order[r]. */
template <typename F>
DEVICE void widen_rows(const uint8_t *src, uint64_t src_pitch, float *dst, const uint32_t *order, uint64_t rows,
                       uint64_t cols)
{
    typedef typename F::bits bits;

    for (uint64_t r = blockIdx.y * blockDim.z + threadIdx.z; r < rows; r += gridDim.y * blockDim.z) {
        const uint8_t *from = src + (order ? order[r] : r) * src_pitch;

        for (uint64_t c = (blockIdx.x * blockDim.y + threadIdx.y) * WARP + threadIdx.x; c < cols;
             c += gridDim.x * blockDim.y * WARP)
            dst[r * cols + c] = wide(F(), load<bits>(from + c * sizeof(bits)));
    }
}

template <typename F> DEVICE float sum_of(typename F::bits w, float product, float scale, lane_counters *c)
{
    return merge_element(F::half(w, c), product, scale);
}

template <typename F> struct quad { /* of 16 bits */
    DEVICE float4 sum(const uint8_t *src, float4 p, float scale, lane_counters *c)
    {
        uint2 w = __ldg((const uint2 *)src);

        return make_float4(sum_of<F>((uint16_t)w.x, p.x, scale, c), sum_of<F>((uint16_t)(w.x >> 16), p.y, scale, c),
                           sum_of<F>((uint16_t)w.y, p.z, scale, c), sum_of<F>((uint16_t)(w.y >> 16), p.w, scale, c));
    }
};

template <> struct quad<from_f32> {
    DEVICE float4 sum(const uint8_t *src, float4 p, float scale, lane_counters *c)
    {
        uint4 w = __ldg((const uint4 *)src);

        return make_float4(sum_of<from_f32>(w.x, p.x, scale, c), sum_of<from_f32>(w.y, p.y, scale, c),
                           sum_of<from_f32>(w.z, p.z, scale, c), sum_of<from_f32>(w.w, p.w, scale, c));
    }
};

template <typename F> DEVICE void merge_quad(const uint8_t *src, float *sum, uint64_t n, float scale, lane_counters *c)
{
    typedef typename F::bits bits;

    if (n >= QUAD && (uintptr_t)src % (QUAD * sizeof(bits)) == 0 && (uintptr_t)sum % sizeof(float4) == 0) {
        *(float4 *)sum = quad<F>::sum(src, *(const float4 *)sum, scale, c);
        return;
    }
    for (uint64_t i = 0; i < n && i < QUAD; i++)
        sum[i] = sum_of<F>(load<bits>(src + i * sizeof(bits)), sum[i], scale, c);
}

/* sum[rows, cols]: the product before, the sum behind.  What rounding the weights to fp16 flushes, and their NaNs, show
 * in the result, where they are counted; infinities are counted here. */
template <typename F>
DEVICE void merge(const uint8_t *src, uint64_t src_pitch, float *sum, const uint32_t *order, uint64_t rows,
                  uint64_t cols, float scale, struct counters *counters)
{
    lane_counters mine = {};

    for (uint64_t r = blockIdx.y * blockDim.z + threadIdx.z; r < rows; r += gridDim.y * blockDim.z) {
        const uint8_t *from = src + (order ? order[r] : r) * src_pitch;

        for (uint64_t c = ((uint64_t)(blockIdx.x * blockDim.y + threadIdx.y) * WARP + threadIdx.x) * QUAD; c < cols;
             c += (uint64_t)gridDim.x * blockDim.y * WARP * QUAD)
            merge_quad<F>(from + c * sizeof(typename F::bits), sum + r * cols + c, cols - c, scale, &mine);
    }
    add_sum(&counters->overflow, mine.overflow);
    add_most(&counters->worst, mine.worst);
}

#define MERGE(from)                                                                                                    \
    KERNEL gpu_widen_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, float *__restrict__ dst,              \
                            const uint32_t *__restrict__ order, uint64_t rows, uint64_t cols)                          \
    {                                                                                                                  \
        widen_rows<from_##from>(src, src_pitch, dst, order, rows, cols);                                               \
    }                                                                                                                  \
    KERNEL gpu_merge_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, float *__restrict__ sum,              \
                            const uint32_t *__restrict__ order, uint64_t rows, uint64_t cols, float scale,             \
                            struct counters *counters)                                                                 \
    {                                                                                                                  \
        merge<from_##from>(src, src_pitch, sum, order, rows, cols, scale, counters);                                   \
    }

MERGE(bf16)
MERGE(f32)
MERGE(f16)
