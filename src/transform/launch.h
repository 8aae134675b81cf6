/* launch.h - how a device does a job: the kernels to start one behind the other, with their grid and their arguments.
 *
 * Plain C without CUDA, so that whatever starts kernels (a driver, a test) has one table to ask.  All addresses are the
 * device's, those in the job too, but not that of `pack`. */
#ifndef TRANSFORM_LAUNCH_H
#define TRANSFORM_LAUNCH_H
#include "transform/transform.h"

enum { LAUNCH_ARGS = 12, LAUNCH_MOST = 2 /* kernels of a job */ };

struct launch {
    const char *kernel;
    uint32_t grid[3], block[3];
    uint32_t args_n;
    uint64_t arg[LAUNCH_ARGS]; /* an argument of 32 bits is the lower half */
};

/* What a job needs on the device besides its own fields. */
struct launch_memory {
    void *counters;        /* a struct counters, to which the kernels add */
    void *scratch;         /* launch_scratch() bytes, aligned to 4 */
    const uint32_t *order; /* casts and transposes: source row r is row order[r]; NULL: r */
};

size_t launch_scratch(const struct transform *t, const struct job *j);
/* How many of `out` there are: 0 when there is nothing to do.  SIZE_MAX: a device can't do it in one job, as it is too
 * large or there is no kernel. */
size_t launch_job(const struct transform *t, const struct job *j, const struct launch_memory *m,
                  struct launch out[LAUNCH_MOST]);

#endif
