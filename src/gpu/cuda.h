/* cuda.h - what the parts of the plugin share: devices and what is open on them, and how a failure becomes a sentence.
 * cuda.c does all that the runtime alone can do, nccl.c what several devices do together, cublas.c the products. */
#ifndef GPU_CUDA_H
#define GPU_CUDA_H
#include <cuda_runtime_api.h>
#include "gpu/gpu_plugin.h"

struct blas; /* cublas.c's, nccl.c's: what they have loaded */
struct nccl;

struct held { /* memory of a device, or pinned pages: what closing gives back */
    void *at;
    struct held *next;
};

struct gpu_event {
    cudaEvent_t event;
    struct gpu_event *next; /* of the same device */
};

struct device {
    int number;
    cudaStream_t stream[GPU_STREAMS];
    struct held *memory;
    struct gpu_event *events;
    void *blas; /* its handle */
    bool lost;  /* does not answer: it is left as it is */
};

struct cuda {
    struct device device[GPU_MOST];
    struct held *pinned;
    cudaLibrary_t *library; /* [kernel_files_n] */
    cudaKernel_t *kernel;   /* [kernel_entries_n] */
    struct blas *blas;
    struct nccl *nccl;
    bool failed; /* some call did: what is queued may never end */
};

static inline struct cuda *cuda_of(struct gpu *g) { return g->self; }
static inline struct device *cuda_device(struct gpu *g, unsigned device) { return &cuda_of(g)->device[device]; }

/* The calls that follow are for this device. */
int cuda_use(struct gpu *g, unsigned device, struct err *e);

/* -1, with "device 0 (NAME): WHAT: " and CUDA's own words for r. */
int cuda_failed(struct gpu *g, unsigned device, cudaError_t r, struct err *e, const char *what, ...)
    __attribute__((format(printf, 5, 6)));
/* The same for a reason in words.  */
int cuda_failed_as(struct gpu *g, unsigned device, const char *why, struct err *e, const char *what, ...)
    __attribute__((format(printf, 5, 6)));

struct library_call {
    const char *name;
    void *at; /* of a pointer to a function, that is set */
};
/* The calls of a library that was opened; -1: it lacks one, and dlerror says which. */
int cuda_find(void *library, const struct library_call *wanted, size_t n);

int cuda_alloc(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e);
int cuda_free(struct gpu *g, unsigned device, void *at, struct err *e);
int cuda_copy_on(struct gpu *g, unsigned device, enum gpu_stream s, void *dst, const void *src, size_t bytes,
                 struct err *e); /* within it */
int cuda_event_make(struct gpu *g, unsigned device, bool timed, struct gpu_event **v, struct err *e);

/* nccl.c */
int nccl_join(struct gpu *g, struct err *e);
int nccl_send(struct gpu *g, unsigned from, const void *src, unsigned to, void *dst, size_t bytes, struct err *e);
int nccl_broadcast(struct gpu *g, unsigned from, void *const *at, size_t bytes, struct err *e);
int nccl_reduce(struct gpu *g, void *const *at, size_t n, size_t pitch, enum gpu_sum how, struct err *e);
/* Devices still exchange something, so that a wait may have no end: nccl_watch must be asked again and again.  It fails
 * where an exchange has failed, or where nothing has ended for too long; nccl_moved: something has. */
bool nccl_pending(struct gpu *g);
int nccl_watch(struct gpu *g, struct err *e);
void nccl_moved(struct gpu *g);
void nccl_leave(struct gpu *g); /* disconnects: at once where something has failed */

/* cublas.c */
int cublas_product(struct gpu *g, unsigned device, const struct gpu_product *p, struct err *e);
void cublas_leave(struct gpu *g, unsigned device); /* its handle */
void cublas_unload(struct gpu *g);

#endif
