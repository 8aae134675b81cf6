/* device.h - inside the pipeline: devices that do the workers' work, see device.c. */
#ifndef PIPELINE_DEVICE_H
#define PIPELINE_DEVICE_H
#include "pipeline/run.h"

struct devices;

/* Takes all memory of the plan on the devices of `o->gpu`, and lets them reach the ring's, before anything is written
 * and before the ring hands out tiles.  NULL: failed, and the devices are closed. */
struct devices *devices_open(struct run *r, const struct run_options *o, struct err *e);
/* The run is over, and so is its thread.  Gives everything back; where it failed, closes the devices, so that nothing
 * moves from or to the ring's memory any more.  NULL: does nothing. */
void devices_close(struct devices *d, bool failed);

#endif
