/* gpu.h - devices that convert: opening them, their memory, streams, events, copies and kernels; several of them by
 * NCCL, matrix products by cuBLAS.  Knows no tensors and no files.
 *
 * CUDA is reached through a plugin, libweighbridge_cuda.so, which gpu_open loads when a device is asked for; nothing
 * else of the program needs a CUDA library, and the plugin loads libnccl.so.2 only for two devices or more,
 * libcublas.so.13 only for the first product.
 *
 * All calls of one struct gpu are made by one thread at a time.  Those that take a stream queue work and return; work
 * on one stream is done in order, work on two has no order but by events.  A device is named by its place in `info`,
 * its memory by plain addresses of its own.  Each call returns 0, or -1 with a message that names the device; then
 * `failed` is its place, and nothing more can be expected of this device. */
#ifndef GPU_GPU_H
#define GPU_GPU_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { GPU_MOST = 64 /* devices */, GPU_ARGS = 12 /* of a kernel */ };

enum gpu_stream { GPU_IN, GPU_COMPUTE, GPU_OUT, GPU_STREAMS };

struct gpu_info {
    unsigned number; /* the driver's */
    char name[96];
    uint64_t memory, free; /* bytes; free: when it was opened */
};

struct gpu_kernel {
    const char *name; /* of a kernel in src/transform/ *.cu */
    uint32_t grid[3], block[3];
    uint32_t args_n;
    const uint64_t *arg; /* an argument of 32 bits is the lower half */
};

struct gpu_piece { /* rows of `row_bytes`, which stand this far apart */
    size_t rows, row_bytes, src_pitch, dst_pitch;
};

struct gpu_product { /* c[rows, cols] = b[rows, rank] x a[rank, cols], row-major fp32, rows one behind another */
    const float *a, *b;
    float *c;
    size_t rows, cols, rank;
};

struct gpu_choice { /* of devices, by the driver's numbers */
    bool all;
    unsigned n, number[GPU_MOST];
};

struct gpu {
    unsigned n; /* devices */
    struct gpu_info info[GPU_MOST];
    unsigned failed;              /* place of the one of the last message; GPU_MOST: none in particular */
    bool exchange_failed;         /* it was what they exchange that failed, not one of them */
    bool joined;                  /* NCCL connects them */
    const struct gpu_calls *call; /* the plugin's; see gpu_plugin.h */
    void *self;                   /* the plugin's own */
};

/* Reads "cuda" (the first), "cuda:0,2", "cuda:all"; says what is wrong with it (ERR_USAGE). */
int gpu_choose(const char *which, struct gpu_choice *c, struct err *e);
bool gpu_known(const char *which); /* that it is spelled right */

/* Opens those that `which` names; `without`: numbers of the driver's that are left out.  Where there is nothing to
 * open, the message begins "no CUDA device: " and gives the reason (ERR_DEVICE).  Where one that is there cannot be
 * opened, `failed` is its place, and info[failed].number may go into `without` of another try.  On failure nothing is
 * open; `info` and `failed` stay readable. */
int gpu_open(struct gpu *g, const char *which, const unsigned *without, size_t without_n, struct err *e);
/* Waits for what is queued, but for nothing that has failed; frees all that is left; safe on a zeroed struct. */
void gpu_close(struct gpu *g);

/* Memory.  Of the device: aligned to 256, contents undefined.  Pinned: pages that the host mapped, for all devices. */
int gpu_alloc(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e);
int gpu_free(struct gpu *g, unsigned device, void *at, struct err *e);
int gpu_pin(struct gpu *g, void *at, size_t bytes, struct err *e);
int gpu_unpin(struct gpu *g, void *at, struct err *e);

/* Copies from and to pinned memory, zeros, kernels; queued. */
int gpu_copy_in(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                struct err *e); /* on GPU_IN */
int gpu_copy_out(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                 struct err *e); /* on GPU_OUT */
int gpu_copy_within(struct gpu *g, unsigned device, void *dst, const void *src, size_t bytes,
                    struct err *e); /* of the device's memory; on GPU_COMPUTE */
int gpu_clear(struct gpu *g, unsigned device, enum gpu_stream s, void *at, size_t bytes, struct err *e);
int gpu_launch(struct gpu *g, unsigned device, const struct gpu_kernel *k, struct err *e);   /* on GPU_COMPUTE */
int gpu_product(struct gpu *g, unsigned device, const struct gpu_product *p, struct err *e); /* on GPU_COMPUTE */

/* Events: what was queued on a stream so far. `timed`: gpu_elapsed may be asked. */
struct gpu_event;
int gpu_event_make(struct gpu *g, unsigned device, bool timed, struct gpu_event **v, struct err *e);
int gpu_event_free(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e);
int gpu_record(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e);
int gpu_after(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e); /* s goes on after
    v; v may be another device's */
int gpu_done(struct gpu *g, unsigned device, struct gpu_event *v, bool *done, struct err *e);
int gpu_wait(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e); /* blocks the thread */
int gpu_elapsed(struct gpu *g, unsigned device, struct gpu_event *from, struct gpu_event *to, double *seconds,
                struct err *e); /* both are done */

/* Several devices. Everything is queued on the GPU_IN streams of the devices that take part. */
/* A device that does not come up, or does not end its part while the host waits or asks (gpu_wait, gpu_done) and
 * nothing else ends either, for WEIGHBRIDGE_NCCL_TIMEOUT seconds (60), is named; then nothing is connected any more. */
int gpu_join(struct gpu *g, struct err *e); /* connects all of them by NCCL; once; blocks */
int gpu_send(struct gpu *g, unsigned from, const void *src, unsigned to, void *dst, size_t bytes, struct err *e);
int gpu_broadcast(struct gpu *g, unsigned from, void *const *at, size_t bytes, struct err *e); /* at[device], all */
/* at[device]: `n` rows, `pitch` bytes apart, each with a value at its beginning that becomes the sum (64 bits) or the
 * largest (32 bits) of this value on all devices, on all devices. */
enum gpu_sum { GPU_SUM_64, GPU_MOST_32 };
int gpu_reduce(struct gpu *g, void *const *at, size_t n, size_t pitch, enum gpu_sum how, struct err *e);

#endif
