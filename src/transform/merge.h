/* merge.h - the sum in a LoRA merge: a weight, rounded to fp16, plus a scaled product of the adapter's matrices
 * (merge_lane.h). */
#ifndef TRANSFORM_MERGE_H
#define TRANSFORM_MERGE_H
#include <stddef.h>
#include <stdint.h>
#include "base/dtype.h"

/* sum[i] = w[i] + product[i] * scale; w in fp16. */
void merge_add(float *sum, const uint16_t *w, const float *product, size_t n, float scale);

/* sum[i] = b[0] * a[0][i] + b[1] * a[1][i] + ..., rank terms one after the other, each rounded once (fused); the rows
 * of a stand `pitch` floats apart. What a matrix product by a BLAS is held against. */
void merge_row(float *sum, const float *b, uint64_t rank, const float *a, size_t pitch, size_t n);

/* Elements of F32, BF16 or F16 at any address as fp32, which holds them exactly. */
void widen(float *to, const void *from, enum dtype t, size_t n);

#endif
