/* device.h - inside the pipeline: devices that do the workers' work, see device.c. */
#ifndef PIPELINE_DEVICE_H
#define PIPELINE_DEVICE_H
#include "pipeline/run.h"

struct devices;

/* Takes all memory of the plan on the devices of `o->gpu`, and lets them reach the ring's, before anything is written
 * and before the ring hands out tiles.  NULL: failed; what was taken goes with gpu_close, as below. */
struct devices *devices_open(struct run *r, const struct run_options *o, struct err *e);
/* The run is over, and so is its thread.  Gives everything back; where it failed, what is on the devices is left to
 * gpu_close, which comes next.  NULL: does nothing. */
void devices_close(struct devices *d, bool failed);

#endif
