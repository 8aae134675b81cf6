/* devices.h - inside the front folder: the devices of an export, from the options to the report.
 *
 * They are opened before anything is planned, since the plan depends on their memory.  One that fails while weights
 * move is left out, and the export goes on without it, on the CPU in the end. */
#ifndef FRONT_DEVICES_H
#define FRONT_DEVICES_H
#include <jansson.h>
#include <weighbridge.h>
#include "base/arena.h"
#include "base/notes.h"
#include "gpu/gpu.h"
#include "pipeline/pipeline.h"

struct job_device {
    struct gpu_info info;
    uint64_t tiles, bytes; /* of sources, that it was given */
    const char *failed;    /* why it was left out; NULL: it was not */
};

struct job_devices {
    struct gpu gpu;                   /* gpu.n 0: the CPU converts */
    struct job_device seen[GPU_MOST]; /* all that were opened or failed to */
    unsigned seen_n;
    unsigned without[GPU_MOST], without_n; /* the driver's numbers */
    bool feed_nccl, no_nccl;               /* no_nccl: it has failed */
    uint64_t host_jobs;
    const char *cpu; /* why the CPU converts although a device was asked for; NULL: it does not, or none was */
};

/* What --device says: that a GPU may do the work; that the CPU will do as well (auto, auto:LIST); which GPUs, in the
 * words of gpu_choose, for which `list` may be needed. */
enum { JOB_DEVICE_LIST = 256 };
bool job_device_is_gpu(const struct wb_options *o);
bool job_device_is_auto(const struct wb_options *o);
const char *job_device_list(const struct wb_options *o, char list[JOB_DEVICE_LIST]);

/* Opens what the options ask for, if anything; and what a plan may count on. */
int job_devices_open(struct job_devices *d, const struct wb_options *o, struct plan_budget *b, struct notes *n,
                     struct arena *a, struct err *e);
/* The CPU instead, as `why` says. */
void job_devices_leave(struct job_devices *d, struct plan_budget *b, struct notes *n, struct arena *a,
                       const struct err *why);
/* The devices are too small, as `why` says: without the one that has the least, or false where that cannot help. */
bool job_devices_drop_least(struct job_devices *d, const struct wb_options *o, struct plan_budget *b, struct notes *n,
                            struct arena *a, const struct err *why);
/* What a plan without that one may count on, and why it would be left out: with it there are row panels only; false:
 * none can be left out. */
bool job_devices_without_least(const struct job_devices *d, const struct wb_options *o, struct plan_budget *b,
                               struct err *why);
/* After a run whose error is `e`: what its devices have done. True: a device was the reason, and another run, by a new
 * plan, may go on without it; `e` is clear then. */
bool job_devices_go_on(struct job_devices *d, const struct wb_options *o, const struct run_result *r,
                       struct plan_budget *b, struct notes *n, struct arena *a, struct err *e);
void job_devices_count(struct job_devices *d, const struct run_result *r); /* the same of a run that went well */
void job_devices_close(struct job_devices *d);

json_t *job_devices_report(const struct job_devices *d);

#endif
