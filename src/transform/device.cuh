/* device.cuh - what the kernels share: memory at any address, source elements, and counters.
 *
 * Kernels take device addresses that may be unaligned, as those of jobs may.  Where they are aligned to 16, as a
 * device's buffers are, memory is touched 16 bytes a thread and whole sectors a warp; elsewhere by what the alignment
 * allows. Kernels have no state and take plain pointers and scalars only; all are started with whole warps. */
#ifndef TRANSFORM_DEVICE_CUH
#define TRANSFORM_DEVICE_CUH
#include "transform/cast_lane.h"

#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void

enum { WARP = 32 };

/* The intrinsics keep the wide access apart from the bytes: of two plain branches compilers make one, by bytes. */
template <typename T> DEVICE T load(const uint8_t *p)
{
    T v;

    if ((uintptr_t)p % sizeof v == 0)
        return __ldg((const T *)p);
    memcpy(&v, p, sizeof v);
    return v;
}

DEVICE uint4 load16(const uint8_t *p)
{
    if ((uintptr_t)p % 16 == 0)
        return __ldg((const uint4 *)p);
    return make_uint4(load<uint32_t>(p), load<uint32_t>(p + 4), load<uint32_t>(p + 8), load<uint32_t>(p + 12));
}

/* Nobody reads results soon: stores are marked as streaming. */
DEVICE void store(uint8_t *p, uint16_t v)
{
    if ((uintptr_t)p % sizeof v == 0)
        __stcs((unsigned short *)p, v);
    else
        memcpy(p, &v, sizeof v);
}

DEVICE void store(uint8_t *p, uint32_t v)
{
    if ((uintptr_t)p % sizeof v == 0) {
        __stcs((unsigned *)p, v);
    } else {
        store(p, (uint16_t)v);
        store(p + 2, (uint16_t)(v >> 16));
    }
}

DEVICE void store16(uint8_t *p, uint4 v)
{
    if ((uintptr_t)p % 16 == 0) {
        __stcs((uint4 *)p, v);
    } else {
        store(p, v.x);
        store(p + 4, v.y);
        store(p + 8, v.z);
        store(p + 12, v.w);
    }
}

/* Source elements: the type of their bits, and the lane that makes fp16 of them. */
struct from_f32 {
    typedef uint32_t bits;
    DEVICE uint16_t half(bits x, lane_counters *c) { return f32_to_f16(x, c); }
};

struct from_bf16 {
    typedef uint16_t bits;
    DEVICE uint16_t half(bits x, lane_counters *c) { return bf16_to_f16(x, c); }
};

struct from_f16 {
    typedef uint16_t bits;
    DEVICE uint16_t half(bits x, lane_counters *c) { return f16_to_f16(x, c); }
};

template <typename F> DEVICE uint16_t half_at(const uint8_t *p, lane_counters *c)
{
    return F::half(load<typename F::bits>(p), c);
}

DEVICE uint32_t pair(uint16_t low, uint16_t high) { return low | (uint32_t)high << 16; }

/* ---- counters: of a warp's threads together, then of all ---- */

DEVICE uint32_t warp_sum(uint32_t x)
{
    for (unsigned i = WARP / 2; i; i /= 2)
        x += __shfl_xor_sync(~0u, x, i);
    return x;
}

DEVICE uint32_t warp_most(uint32_t x)
{
    for (unsigned i = WARP / 2; i; i /= 2)
        x = max(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

DEVICE void add_sum(uint64_t *to, uint32_t mine)
{
    uint32_t sum = warp_sum(mine);

    if (threadIdx.x % WARP == 0 && sum)
        atomicAdd((unsigned long long *)to, (unsigned long long)sum);
}

DEVICE void add_most(uint32_t *to, uint32_t mine)
{
    uint32_t most = warp_most(mine);

    if (threadIdx.x % WARP == 0 && most)
        atomicMax(to, most);
}

DEVICE void count_casts(struct counters *to, const lane_counters *c)
{
    add_sum(&to->overflow, c->overflow);
    add_sum(&to->flushed, c->flushed);
    add_sum(&to->nan, c->nan);
    add_most(&to->worst, c->worst);
}

DEVICE void count_clamps(struct counters *to, const lane_counters *c)
{
    add_sum(&to->clamped, c->clamped);
    add_most(&to->clamped_most, c->clamped_most);
}

#endif
