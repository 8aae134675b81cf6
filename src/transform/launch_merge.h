/* launch_merge.h - how a device does a job whose matrix gets what a LoRA adapter adds to it: kernels, one product,
 * kernels, all on one stream.
 *
 *     b32[rows, rank] and a32[rank, cols] in fp32   (before)
 *     sum = b32 x a32                               (product: gpu_product does it as it is)
 *     sum = fp16(weights) + sum * scale             (after)
 *     destination = sum, cast or transposed         (after)
 *
 * As the CPU does it (emit/merger.h) but for the order in which the product sums up: values may differ by one in the
 * last place of fp16.  All addresses are the device's. */
#ifndef TRANSFORM_LAUNCH_MERGE_H
#define TRANSFORM_LAUNCH_MERGE_H
#include "gpu/gpu.h"
#include "transform/launch.h"

struct merge_factor { /* as it is stored */
    const void *at;   /* of A: column 0 of the job; of B: row 0, or where `order` counts from */
    size_t pitch;     /* bytes from row to row */
    enum dtype dtype; /* F32, BF16, F16 */
};

struct merge_job {
    struct merge_factor a, b; /* [rank, in], [out, rank] */
    const uint32_t *order;    /* row r of the job takes row order[r] of b; NULL: r */
    size_t rank;
    float scale;
    void *room; /* launch_merge_room() bytes, aligned to 256 */
};

struct merge_launch {
    size_t before_n, after_n;
    struct launch before[2], after[2];
    struct gpu_product product;
};

size_t launch_merge_room(const struct job *j, size_t rank);
/* `t`: of the job as it would be without the merge; `m`: as of launch_job, counters and order (of the weights' rows).
 * false: a device cannot do it in one job, as it is too large or there is no kernel.  An empty job has nothing in it.
 */
bool launch_merge(const struct transform *t, const struct job *j, const struct launch_memory *m,
                  const struct merge_job *merge, struct merge_launch *out);

#endif
