/* lane.h - marks the arithmetic of one element, which the C and the CUDA build share. */
#ifndef TRANSFORM_LANE_H
#define TRANSFORM_LANE_H
#include <stdint.h>

#ifdef __CUDACC__
#define LANE static __host__ __device__ __forceinline__
/* What one thread of a device counts: its share of a tensor fits in 32 bits. */
struct lane_counters {
    uint32_t overflow, flushed, nan, worst, clamped, clamped_most;
};
#else
#define LANE static inline __attribute__((always_inline))
typedef struct counters lane_counters;
#endif

#endif
