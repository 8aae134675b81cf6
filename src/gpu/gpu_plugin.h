/* gpu_plugin.h - what libweighbridge_cuda.so gives to gpu.c: gpu.h's functions, by which gpu.h's are done. */
#ifndef GPU_GPU_PLUGIN_H
#define GPU_GPU_PLUGIN_H
#include "gpu/gpu.h"

/* Changes with this struct and with every struct of gpu.h and err.h. */
enum { GPU_PLUGIN_ABI = 1 };
#define GPU_PLUGIN_ENTRY "weighbridge_gpu_calls" /* const struct gpu_calls *(void) */

struct gpu_calls {
    uint32_t abi; /* first, whatever else changes */
    /* Reasons without "no CUDA device: "; `nothing`: there is none to open, as against one that does not open. */
    int (*open)(struct gpu *g, const struct gpu_choice *c, const unsigned *without, size_t without_n, bool *nothing,
                struct err *e);
    void (*close)(struct gpu *g);
    int (*alloc)(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e);
    int (*free)(struct gpu *g, unsigned device, void *at, struct err *e);
    int (*pin)(struct gpu *g, void *at, size_t bytes, struct err *e);
    int (*unpin)(struct gpu *g, void *at, struct err *e);
    int (*copy_in)(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                   struct err *e);
    int (*copy_out)(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                    struct err *e);
    int (*copy_within)(struct gpu *g, unsigned device, void *dst, const void *src, size_t bytes, struct err *e);
    int (*clear)(struct gpu *g, unsigned device, enum gpu_stream s, void *at, size_t bytes, struct err *e);
    int (*launch)(struct gpu *g, unsigned device, const struct gpu_kernel *k, struct err *e);
    int (*product)(struct gpu *g, unsigned device, const struct gpu_product *p, struct err *e);
    int (*event_make)(struct gpu *g, unsigned device, bool timed, struct gpu_event **v, struct err *e);
    int (*event_free)(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e);
    int (*record)(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e);
    int (*after)(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e);
    int (*done)(struct gpu *g, unsigned device, struct gpu_event *v, bool *done, struct err *e);
    int (*wait)(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e);
    int (*elapsed)(struct gpu *g, unsigned device, struct gpu_event *from, struct gpu_event *to, double *seconds,
                   struct err *e);
    int (*join)(struct gpu *g, struct err *e);
    int (*send)(struct gpu *g, unsigned from, const void *src, unsigned to, void *dst, size_t bytes, struct err *e);
    int (*broadcast)(struct gpu *g, unsigned from, void *const *at, size_t bytes, struct err *e);
    int (*reduce)(struct gpu *g, void *const *at, size_t n, size_t pitch, enum gpu_sum how, struct err *e);
};

#endif
