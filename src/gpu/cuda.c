/* cuda.c - libweighbridge_cuda.so: gpu.h over CUDA's runtime. */
#include "gpu/cuda.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/str.h"
#include "gpu/kernels.h"

/* Of this thread, which is whose calls it applies to. */
static _Thread_local int current = -1;

/* ---- failures ---- */

/* They come from work that was queued before, and the device is of no use afterwards. */
static bool comes_late(cudaError_t r)
{
    switch (r) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
        return true;
    default:
        return false;
    }
}

static int say_failed(struct gpu *g, unsigned device, struct err *e, const char *why, const char *what, va_list ap)
{
    char doing[256];

    vsnprintf(doing, sizeof doing, what, ap);
    g->failed = device;
    cuda_of(g)->failed = true;
    return err_set(e, ERR_DEVICE, "device %u (%s): %s: %s", g->info[device].number, g->info[device].name, doing, why);
}

int cuda_failed(struct gpu *g, unsigned device, cudaError_t r, struct err *e, const char *what, ...)
{
    char why[512];
    va_list ap;

    snprintf(why, sizeof why, "%s (%s, %d)%s", cudaGetErrorString(r), cudaGetErrorName(r), (int)r,
             comes_late(r) ? ", of this or of something queued before" : "");
    cudaGetLastError(); /* it is said; the next call is not to find it */
    va_start(ap, what);
    say_failed(g, device, e, why, what, ap);
    va_end(ap);
    return -1;
}

int cuda_failed_as(struct gpu *g, unsigned device, const char *why, struct err *e, const char *what, ...)
{
    va_list ap;

    va_start(ap, what);
    say_failed(g, device, e, why, what, ap);
    va_end(ap);
    return -1;
}

int cuda_use(struct gpu *g, unsigned device, struct err *e)
{
    int number = cuda_device(g, device)->number;
    cudaError_t r;

    if (number == current)
        return 0;
    r = cudaSetDevice(number);
    current = r ? -1 : number;
    return r ? cuda_failed(g, device, r, e, "cannot be used") : 0;
}

int cuda_find(void *library, const struct library_call *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(*(void **)wanted[i].at = dlsym(library, wanted[i].name)))
            return -1;
    return 0;
}

/* ---- lists of what is held ---- */

static int hold(struct held **list, void *at)
{
    struct held *h = malloc(sizeof *h);

    if (!h)
        return -1;
    *h = (struct held){ .at = at, .next = *list };
    *list = h;
    return 0;
}

static void let_go(struct held **list, const void *at)
{
    while (*list && (*list)->at != at)
        list = &(*list)->next;
    if (*list) {
        struct held *h = *list;

        *list = h->next;
        free(h);
    }
}

static int no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "no memory for what a device holds"); }

/* ---- opening ---- */

static int no_devices(cudaError_t r, struct err *e)
{
    int driver = 0;

    cudaGetLastError();
    if (r == cudaErrorNoDevice || !r)
        return err_set(e, ERR_DEVICE,
                       "the NVIDIA driver finds none: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
                       "--device cpu");
    if (r != cudaErrorInsufficientDriver)
        return err_set(e, ERR_DEVICE, "%s (%s, %d): check nvidia-smi, or use --device cpu", cudaGetErrorString(r),
                       cudaGetErrorName(r), (int)r);
    if (!cudaDriverGetVersion(&driver) && driver)
        return err_set(e, ERR_DEVICE,
                       "the NVIDIA driver is for CUDA %d.%d, expected %d.%d or later: install a newer one, or use "
                       "--device cpu",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return err_set(e, ERR_DEVICE, "there is no NVIDIA driver: install it, or use --device cpu");
}

static bool listed(const unsigned *list, size_t n, unsigned x)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == x)
            return true;
    return false;
}

/* Which of them, in g->info[].number. */
static int choose(struct gpu *g, const struct gpu_choice *c, const unsigned *without, size_t without_n, struct err *e)
{
    int counted = 0;
    cudaError_t r = cudaGetDeviceCount(&counted);
    unsigned there = counted > 0 && !r ? (unsigned)counted : 0, n = c->all ? there : c->n;

    if (!there)
        return no_devices(r, e);
    for (unsigned i = 0; i < n && i < GPU_MOST; i++) {
        unsigned number = c->all ? i : c->number[i];

        if (number >= there)
            return err_set(e, ERR_DEVICE, "device %u was asked for, but there %s %u, numbered from 0", number,
                           there == 1 ? "is" : "are", there);
        if (!listed(without, without_n, number))
            g->info[g->n++].number = number;
    }
    return g->n ? 0 : err_set(e, ERR_DEVICE, "none is left");
}

static int open_device(struct gpu *g, unsigned device, struct err *e)
{
    struct gpu_info *info = &g->info[device];
    struct device *d = cuda_device(g, device);
    struct cudaDeviceProp prop;
    size_t free_bytes, all;
    cudaError_t r;

    snprintf(info->name, sizeof info->name, "?");
    d->number = (int)info->number;
    if ((r = cudaGetDeviceProperties(&prop, d->number)))
        return cuda_failed(g, device, r, e, "cannot be asked what it is");
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, prop.name);
    if (cuda_use(g, device, e))
        return -1;
    if ((r = cudaMemGetInfo(&free_bytes, &all)))
        return cuda_failed(g, device, r, e, "cannot be asked for its free memory");
    info->memory = all;
    info->free = free_bytes;
    for (int s = 0; s < GPU_STREAMS; s++)
        if ((r = cudaStreamCreateWithFlags(&d->stream[s], cudaStreamNonBlocking))) {
            d->stream[s] = NULL;
            return cuda_failed(g, device, r, e, "makes no stream");
        }
    return 0;
}

static void close_all(struct gpu *g);

static int open_all(struct gpu *g, const struct gpu_choice *c, const unsigned *without, size_t without_n, bool *nothing,
                    struct err *e)
{
    struct cuda *u;

    *nothing = true;
    if (choose(g, c, without, without_n, e))
        return -1;
    *nothing = false;
    if (!(g->self = u = calloc(1, sizeof *u)))
        return no_memory(e);
    u->library = calloc(kernel_files_n, sizeof(cudaLibrary_t));
    u->kernel = calloc(kernel_entries_n, sizeof(cudaKernel_t));
    if (!u->library || !u->kernel) {
        close_all(g);
        return no_memory(e);
    }
    for (unsigned i = 0; i < g->n; i++)
        if (open_device(g, i, e)) {
            close_all(g);
            return -1;
        }
    return 0;
}

/* ---- closing: what fails now is of no interest any more ---- */

static void free_held(struct held **list, cudaError_t (*give_back)(void *))
{
    while (*list) {
        if (give_back)
            give_back((*list)->at);
        let_go(list, (*list)->at);
    }
}

static void free_events(struct device *d)
{
    while (d->events) {
        struct gpu_event *v = d->events;

        d->events = v->next;
        if (!d->lost)
            cudaEventDestroy(v->event);
        free(v);
    }
}

static void close_device(struct gpu *g, unsigned device)
{
    struct device *d = cuda_device(g, device);
    struct err ignored = { 0 };

    if (!d->lost)
        cuda_use(g, device, &ignored);
    cublas_leave(g, device);
    free_events(d);
    free_held(&d->memory, d->lost ? NULL : cudaFree);
    for (int s = 0; s < GPU_STREAMS && !d->lost; s++)
        if (d->stream[s])
            cudaStreamDestroy(d->stream[s]);
}

static void settle(struct gpu *g)
{
    for (unsigned i = 0; i < g->n; i++)
        for (int s = 0; s < GPU_STREAMS; s++)
            if (!cuda_device(g, i)->lost && cuda_device(g, i)->stream[s])
                cudaStreamSynchronize(cuda_device(g, i)->stream[s]);
}

static void unload(struct cuda *u)
{
    for (size_t i = 0; u->library && i < kernel_files_n; i++)
        if (u->library[i])
            cudaLibraryUnload(u->library[i]);
    free(u->library);
    free(u->kernel);
}

/* An exchange that has failed is broken off first, since streams wait for it. */
static void close_all(struct gpu *g)
{
    struct cuda *u = cuda_of(g);
    bool lost = false;
    unsigned failed = g->failed;

    if (u->failed)
        nccl_leave(g);
    settle(g);
    nccl_leave(g);
    for (unsigned i = 0; i < g->n; i++) {
        close_device(g, i);
        lost |= u->device[i].lost;
    }
    free_held(&u->pinned, lost ? NULL : cudaHostUnregister);
    if (!lost)
        unload(u);
    cublas_unload(g);
    cudaGetLastError();
    free(u);
    g->self = NULL;
    g->n = 0;
    g->failed = failed;
}

/* ---- memory ---- */

static int say_no_memory(struct gpu *g, unsigned device, size_t bytes, struct err *e)
{
    size_t left = 0, all = 0;
    char asked[24], free_text[24], all_text[24], why[128];

    cudaGetLastError();
    if (cudaMemGetInfo(&left, &all))
        left = all = 0;
    snprintf(why, sizeof why, "%s asked for, %s of %s free: give less by --gpu-memory", str_bytes(asked, bytes),
             str_bytes(free_text, left), str_bytes(all_text, all));
    return cuda_failed_as(g, device, why, e, "has no room");
}

int cuda_alloc(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e)
{
    cudaError_t r;

    *at = NULL;
    if (cuda_use(g, device, e))
        return -1;
    r = cudaMalloc(at, bytes);
    if (r == cudaErrorMemoryAllocation)
        return say_no_memory(g, device, bytes, e);
    if (r)
        return cuda_failed(g, device, r, e, "gives no memory");
    if (!hold(&cuda_device(g, device)->memory, *at))
        return 0;
    cudaFree(*at);
    return no_memory(e);
}

int cuda_free(struct gpu *g, unsigned device, void *at, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    let_go(&cuda_device(g, device)->memory, at);
    r = cudaFree(at);
    return r ? cuda_failed(g, device, r, e, "takes no memory back") : 0;
}

/* Pages are pinned for all devices, so the fault is no device's in particular. */
static int pin_failed(struct gpu *g, cudaError_t r, size_t bytes, struct err *e)
{
    char text[24];

    cudaGetLastError();
    g->failed = GPU_MOST;
    cuda_of(g)->failed = true;
    return err_set(e, ERR_DEVICE, "CUDA cannot pin %s of the host's memory: %s (%s, %d): give less by --memory",
                   str_bytes(text, bytes), cudaGetErrorString(r), cudaGetErrorName(r), (int)r);
}

static int cuda_pin(struct gpu *g, void *at, size_t bytes, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, 0, e))
        return -1;
    if ((r = cudaHostRegister(at, bytes, cudaHostRegisterPortable)))
        return pin_failed(g, r, bytes, e);
    if (!hold(&cuda_of(g)->pinned, at))
        return 0;
    cudaHostUnregister(at);
    return no_memory(e);
}

static int cuda_unpin(struct gpu *g, void *at, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, 0, e))
        return -1;
    let_go(&cuda_of(g)->pinned, at);
    r = cudaHostUnregister(at);
    return r ? cuda_failed(g, 0, r, e, "does not release pinned memory") : 0;
}

/* ---- copies ---- */

static int copy_failed(struct gpu *g, unsigned device, cudaError_t r, size_t bytes, const char *way, struct err *e)
{
    char text[24];

    return cuda_failed(g, device, r, e, "copying %s %s it", str_bytes(text, bytes), way);
}

/* Rows that stand one behind another are one. */
static int copy(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                enum cudaMemcpyKind way, struct err *e)
{
    bool in = way == cudaMemcpyHostToDevice;
    bool whole = p->rows == 1 || (p->src_pitch == p->row_bytes && p->dst_pitch == p->row_bytes);
    cudaStream_t s = cuda_device(g, device)->stream[in ? GPU_IN : GPU_OUT];
    size_t bytes = p->rows * p->row_bytes;
    cudaError_t r;

    if (!bytes)
        return 0;
    if (cuda_use(g, device, e))
        return -1;
    if (whole)
        r = cudaMemcpyAsync(dst, src, bytes, way, s);
    else
        r = cudaMemcpy2DAsync(dst, p->dst_pitch, src, p->src_pitch, p->row_bytes, p->rows, way, s);
    return r ? copy_failed(g, device, r, bytes, in ? "to" : "from", e) : 0;
}

static int cuda_copy_in(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                        struct err *e)
{
    return copy(g, device, dst, src, p, cudaMemcpyHostToDevice, e);
}

static int cuda_copy_out(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p,
                         struct err *e)
{
    return copy(g, device, dst, src, p, cudaMemcpyDeviceToHost, e);
}

int cuda_copy_on(struct gpu *g, unsigned device, enum gpu_stream s, void *dst, const void *src, size_t bytes,
                 struct err *e)
{
    cudaError_t r;

    if (!bytes || dst == src)
        return 0;
    if (cuda_use(g, device, e))
        return -1;
    r = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda_device(g, device)->stream[s]);
    return r ? copy_failed(g, device, r, bytes, "within", e) : 0;
}

static int cuda_copy_within(struct gpu *g, unsigned device, void *dst, const void *src, size_t bytes, struct err *e)
{
    return cuda_copy_on(g, device, GPU_COMPUTE, dst, src, bytes, e);
}

static int cuda_clear(struct gpu *g, unsigned device, enum gpu_stream s, void *at, size_t bytes, struct err *e)
{
    char text[24];
    cudaError_t r;

    if (!bytes)
        return 0;
    if (cuda_use(g, device, e))
        return -1;
    r = cudaMemsetAsync(at, 0, bytes, cuda_device(g, device)->stream[s]);
    return r ? cuda_failed(g, device, r, e, "clearing %s of its memory", str_bytes(text, bytes)) : 0;
}

/* ---- kernels ---- */

/* Loads a file of kernels when the first of them is asked for. */
static cudaKernel_t find_kernel(struct gpu *g, unsigned device, const char *name, struct err *e)
{
    struct cuda *u = cuda_of(g);
    cudaError_t r = cudaSuccess;
    cudaLibrary_t *l;
    size_t i = 0;

    while (i < kernel_entries_n && strcmp(kernel_entries[i].name, name))
        i++;
    if (i == kernel_entries_n) {
        err_set(e, ERR_INTERNAL, "there is no kernel %s in this build", name);
        return NULL;
    }
    l = &u->library[kernel_entries[i].file];
    if (!*l)
        r = cudaLibraryLoadData(l, kernel_files[kernel_entries[i].file], NULL, NULL, 0, NULL, NULL, 0);
    if (r) {
        *l = NULL;
        cuda_failed(g, device, r, e, "loading the kernels");
    } else if (!u->kernel[i] && (r = cudaLibraryGetKernel(&u->kernel[i], *l, name))) {
        u->kernel[i] = NULL;
        cuda_failed(g, device, r, e, "finding kernel %s", name);
    }
    return r ? NULL : u->kernel[i];
}

static int cuda_launch(struct gpu *g, unsigned device, const struct gpu_kernel *k, struct err *e)
{
    cudaLaunchConfig_t how = { .gridDim = { k->grid[0], k->grid[1], k->grid[2] },
                               .blockDim = { k->block[0], k->block[1], k->block[2] },
                               .stream = cuda_device(g, device)->stream[GPU_COMPUTE] };
    uint64_t value[GPU_ARGS];
    void *arg[GPU_ARGS];
    cudaKernel_t kernel;
    cudaError_t r;

    if (k->args_n > GPU_ARGS)
        return err_set(e, ERR_INTERNAL, "kernel %s is given %u arguments", k->name, k->args_n);
    if (cuda_use(g, device, e) || !(kernel = find_kernel(g, device, k->name, e)))
        return -1;
    for (uint32_t i = 0; i < k->args_n; i++) {
        value[i] = k->arg[i];
        arg[i] = &value[i];
    }
    r = cudaLaunchKernelExC(&how, (const void *)kernel, arg);
    return r ? cuda_failed(g, device, r, e, "starting kernel %s", k->name) : 0;
}

/* ---- events ---- */

/* The host sleeps while it waits for one: its processors have reading and writing to do. */
int cuda_event_make(struct gpu *g, unsigned device, bool timed, struct gpu_event **v, struct err *e)
{
    struct device *d = cuda_device(g, device);
    cudaError_t r;

    *v = NULL;
    if (cuda_use(g, device, e))
        return -1;
    if (!(*v = calloc(1, sizeof **v)))
        return no_memory(e);
    r = cudaEventCreateWithFlags(&(*v)->event, cudaEventBlockingSync | (timed ? 0u : cudaEventDisableTiming));
    if (r) {
        free(*v);
        *v = NULL;
        return cuda_failed(g, device, r, e, "makes no event");
    }
    (*v)->next = d->events;
    d->events = *v;
    return 0;
}

static int cuda_event_free(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e)
{
    struct gpu_event **at = &cuda_device(g, device)->events;
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    r = cudaEventDestroy(v->event);
    free(v);
    return r ? cuda_failed(g, device, r, e, "takes no event back") : 0;
}

static int cuda_record(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    r = cudaEventRecord(v->event, cuda_device(g, device)->stream[s]);
    return r ? cuda_failed(g, device, r, e, "recording an event") : 0;
}

static int cuda_after(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    r = cudaStreamWaitEvent(cuda_device(g, device)->stream[s], v->event, 0);
    return r ? cuda_failed(g, device, r, e, "waiting for an event") : 0;
}

static int cuda_done(struct gpu *g, unsigned device, struct gpu_event *v, bool *done, struct err *e)
{
    cudaError_t r;

    *done = false;
    if (cuda_use(g, device, e))
        return -1;
    r = cudaEventQuery(v->event);
    if (r == cudaErrorNotReady)
        return nccl_pending(g) ? nccl_watch(g, e) : 0;
    *done = !r;
    nccl_moved(g);
    return r ? cuda_failed(g, device, r, e, "its work failed") : 0;
}

static int cuda_wait(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e)
{
    struct timespec nap = { .tv_nsec = 20000 };
    bool done = false;
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    while (nccl_pending(g)) {
        if (cuda_done(g, device, v, &done, e))
            return -1;
        if (done)
            return 0;
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < 1000000)
            nap.tv_nsec *= 2;
    }
    r = cudaEventSynchronize(v->event);
    return r ? cuda_failed(g, device, r, e, "its work failed") : 0;
}

static int cuda_elapsed(struct gpu *g, unsigned device, struct gpu_event *from, struct gpu_event *to, double *seconds,
                        struct err *e)
{
    float ms = 0;
    cudaError_t r;

    *seconds = 0;
    if (cuda_use(g, device, e))
        return -1;
    r = cudaEventElapsedTime(&ms, from->event, to->event);
    *seconds = (double)ms / 1000;
    return r ? cuda_failed(g, device, r, e, "tells no time") : 0;
}

/* ---- the entry ---- */

__attribute__((visibility("default"))) const struct gpu_calls *weighbridge_gpu_calls(void);

const struct gpu_calls *weighbridge_gpu_calls(void)
{
    static const struct gpu_calls calls = {
        .abi = GPU_PLUGIN_ABI,
        .open = open_all,
        .close = close_all,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .pin = cuda_pin,
        .unpin = cuda_unpin,
        .copy_in = cuda_copy_in,
        .copy_out = cuda_copy_out,
        .copy_within = cuda_copy_within,
        .clear = cuda_clear,
        .launch = cuda_launch,
        .product = cublas_product,
        .event_make = cuda_event_make,
        .event_free = cuda_event_free,
        .record = cuda_record,
        .after = cuda_after,
        .done = cuda_done,
        .wait = cuda_wait,
        .elapsed = cuda_elapsed,
        .join = nccl_join,
        .send = nccl_send,
        .broadcast = nccl_broadcast,
        .reduce = nccl_reduce,
    };

    return &calls;
}
