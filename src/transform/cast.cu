/* cast.cu - rows of elements become fp16; with `order`, row r is the source's row order[r] (a gather).
 *
 * A warp takes STEP elements of a row at a time, from where the result is aligned to 16 bytes, and stores 16 bytes a
 * thread.  Elements before that, behind the last whole step, and all of a row whose two sides are not aligned to each
 * other, go one a thread.  Threads of a block: x in a warp, y along a row, z from row to row. */
#include "transform/device.cuh"

enum { STEP = WARP * 8 /* elements of a warp */ };

template <typename F> DEVICE uint32_t two(uint32_t x, lane_counters *c)
{
    uint16_t low = F::half((uint16_t)x, c);

    return pair(low, F::half((uint16_t)(x >> 16), c));
}

template <typename F> struct step {
    DEVICE uint4 run(const uint8_t *src, lane_counters *c)
    {
        uint4 x = __ldg((const uint4 *)src + threadIdx.x);

        return make_uint4(two<F>(x.x, c), two<F>(x.y, c), two<F>(x.z, c), two<F>(x.w, c));
    }
};

/* Eight floats are two loads.  So that each load of a warp takes whole sectors of 32 bytes, two neighbours share them:
 * both read halves of the even one's floats, then of the odd one's, and exchange what belongs to the other. */
template <> struct step<from_f32> {
    DEVICE uint2 four(uint4 x, lane_counters *c)
    {
        uint16_t a = f32_to_f16(x.x, c), b = f32_to_f16(x.y, c), d = f32_to_f16(x.z, c), e = f32_to_f16(x.w, c);

        return make_uint2(pair(a, b), pair(d, e));
    }

    DEVICE uint4 run(const uint8_t *src, lane_counters *c)
    {
        const uint4 *v = (const uint4 *)src;
        unsigned odd = threadIdx.x & 1, even_at = 2 * (threadIdx.x - odd) + odd;
        uint4 x = __ldg(v + even_at), y = __ldg(v + even_at + 2);
        uint2 of_even = four(x, c), of_odd = four(y, c), mine = odd ? of_odd : of_even, other = odd ? of_even : of_odd;

        other.x = __shfl_xor_sync(~0u, other.x, 1);
        other.y = __shfl_xor_sync(~0u, other.y, 1);
        return odd ? make_uint4(other.x, other.y, mine.x, mine.y) : make_uint4(mine.x, mine.y, other.x, other.y);
    }
};

template <typename F>
DEVICE void elements(const uint8_t *src, uint8_t *dst, uint64_t from, uint64_t to, lane_counters *c)
{
    for (uint64_t i = from + threadIdx.x; i < to; i += WARP)
        store(dst + i * 2, half_at<F>(src + i * sizeof(typename F::bits), c));
}

/* Step u of a row; the first one takes what stands before it, too. */
template <typename F>
DEVICE void cast_step(const uint8_t *src, uint8_t *dst, uint64_t cols, uint64_t u, lane_counters *c)
{
    enum { BYTES = sizeof(typename F::bits) };
    uint32_t head = -(uintptr_t)dst % 16 / 2;
    bool wide = (uintptr_t)dst % 2 == 0 && (uintptr_t)(src + head * BYTES) % 16 == 0;
    uint64_t from = head + u * STEP, to = from + STEP;

    if (u == 0)
        elements<F>(src, dst, 0, head < cols ? head : cols, c);
    if (wide && to <= cols)
        __stcs((uint4 *)(dst + from * 2) + threadIdx.x, step<F>::run(src + from * BYTES, c));
    else
        elements<F>(src, dst, from, to < cols ? to : cols, c);
}

template <typename F>
DEVICE void cast(const uint8_t *src, uint64_t src_pitch, uint8_t *dst, uint64_t dst_pitch, const uint32_t *order,
                 uint64_t rows, uint64_t cols, struct counters *counters)
{
    lane_counters mine = {};

    for (uint64_t r = blockIdx.y * blockDim.z + threadIdx.z; r < rows; r += gridDim.y * blockDim.z) {
        const uint8_t *from = src + (order ? order[r] : r) * src_pitch;

        for (uint64_t u = blockIdx.x * blockDim.y + threadIdx.y; u * STEP < cols; u += gridDim.x * blockDim.y)
            cast_step<F>(from, dst + r * dst_pitch, cols, u, &mine);
    }
    count_casts(counters, &mine);
}

#define CAST(from)                                                                                                     \
    KERNEL gpu_cast_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst,             \
                           uint64_t dst_pitch, const uint32_t *__restrict__ order, uint64_t rows, uint64_t cols,       \
                           struct counters *counters)                                                                  \
    {                                                                                                                  \
        cast<from_##from>(src, src_pitch, dst, dst_pitch, order, rows, cols, counters);                                \
    }

CAST(bf16)
CAST(f32)
CAST(f16)
