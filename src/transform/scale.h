/* scale.h - elements times a number, in their own dtype.
 * The product is made in fp32 and rounded to nearest even in the element's dtype, as PyTorch does it. */
#ifndef TRANSFORM_SCALE_H
#define TRANSFORM_SCALE_H
#include <stdbool.h>
#include "transform/transform.h"

/* F32, BF16, F16; of others it knows nothing and returns false. In place, at any address; what fp16 products lose is
 * counted. */
bool scale_elements(void *p, enum dtype t, size_t n, float scale, struct counters *c);

#endif
