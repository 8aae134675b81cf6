/* lane.h - marks the arithmetic of one element, which the C and the CUDA build share. */
#ifndef TRANSFORM_LANE_H
#define TRANSFORM_LANE_H

#ifdef __CUDACC__
#define LANE static __host__ __device__ __forceinline__
#else
#define LANE static inline __attribute__((always_inline))
#endif

#endif
