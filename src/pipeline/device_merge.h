/* device_merge.h - inside the pipeline: jobs of devices whose matrix gets what a LoRA adapter adds to it.
 *
 * The factors of all items of a plan stand in the memory of each device for the whole run, as the adapter's file has
 * them, with the map of an item's rows where it takes only some.  They are read once; with NCCL they come to the first
 * device and are broadcast from there.  Where they would take too much (plan.factor_bytes is 0) the host merges.
 *
 * A merged value may differ from the CPU's by one in the last place of fp16; it does not depend on timing. */
#ifndef PIPELINE_DEVICE_MERGE_H
#define PIPELINE_DEVICE_MERGE_H
#include "pipeline/run.h"
#include "transform/launch_merge.h"

struct merge_place { /* of an item's factors, in bytes from the beginning */
    size_t a, b, order;
    bool any;
};

struct device_merges { /* a zeroed struct has none */
    const struct plan *plan;
    struct gpu *gpu;
    struct merge_place *place; /* of layout.item */
    unsigned char *at[GPU_MOST];
};

int device_merges_load(struct device_merges *m, struct run *r, struct gpu *g, struct err *e);
void device_merges_free(struct device_merges *m, struct err *e);
/* What starts a job that merges; `room`: of its lane. False: the host has to do it. */
bool device_merges_launch(const struct device_merges *m, unsigned device, const struct job_plan *plan,
                          const struct job *j, const struct launch_memory *memory, void *room,
                          struct merge_launch *out);

#endif
