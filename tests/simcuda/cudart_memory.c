/* cudart_memory.c - memory, copies, fills. */
#include "state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    int e = call_begin("cudaMalloc", call_device());

    return call_end(e ? (cudaError_t)e : memory_alloc(call_device(), bytes, at));
}

/* What gives something back does so even where it fails: then the failure is that of earlier work. */
static cudaError_t either(int e, cudaError_t other) { return e ? (cudaError_t)e : other; }

cudaError_t cudaFree(void *at)
{
    int device = memory_device(at), e = call_begin("cudaFree", device == HOST ? call_device() : device);

    return call_end(either(e, at ? memory_free(at) : cudaSuccess));
}

cudaError_t cudaHostRegister(void *at, size_t bytes, unsigned flags)
{
    int e = call_begin("cudaHostRegister", call_device());

    if (!e && !(flags & cudaHostRegisterPortable))
        sim_report(
            "INVALID cudaHostRegister: without cudaHostRegisterPortable, the memory is pinned for one device only");
    return call_end(e ? (cudaError_t)e : pinned_add(at, bytes));
}

cudaError_t cudaHostUnregister(void *at)
{
    int e = call_begin("cudaHostUnregister", call_device());

    return call_end(either(e, pinned_remove(at)));
}

/* ---- copies ---- */

struct copy {
    unsigned char *dst;
    const unsigned char *src;
    size_t bytes, dst_pitch, src_pitch, rows;
};

static bool copy_step(void *arg, bool *done)
{
    const struct copy *c = arg;

    for (size_t i = 0; i < c->rows; i++)
        memcpy(c->dst + i * c->dst_pitch, c->src + i * c->src_pitch, c->bytes);
    return *done = true;
}

static bool fits(enum cudaMemcpyKind kind, bool to_device, bool from_device)
{
    switch (kind) {
    case cudaMemcpyHostToDevice:
        return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
        return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
        return to_device && from_device;
    case cudaMemcpyDefault:
        return to_device || from_device;
    default:
        return false;
    }
}

/* One side: false if it is not what a copy on a stream of this device may touch. */
static bool check_side(const char *call, int device, const struct sim_range *r)
{
    int whose = memory_device(r->at);
    struct block *b = memory_at(r->at);

    if (!b && whose == HOST) {
        sim_report("PAGEABLE %s: the memory at %p is not registered", call, r->at);
        return true;
    }
    if (!b)
        sim_report("INVALID %s: %p is in no live block of device %d", call, r->at, whose);
    else if (!memory_has(b, r))
        sim_report("INVALID %s: %zu rows of %zu bytes, %zu apart, at offset %zu overrun a block of %zu bytes", call,
                   r->rows, r->bytes, r->pitch, (size_t)((uintptr_t)r->at - b->at), b->bytes);
    else if (whose != HOST && whose != device)
        sim_report("INVALID %s: the stream is of device %d, the address %p of device %d", call, device, r->at, whose);
    else
        return true;
    return false;
}

static cudaError_t copy(const char *call, struct copy c, enum cudaMemcpyKind kind, cudaStream_t handle)
{
    struct stream *s = queue_of(handle, call);
    struct sim_range r[2] = { { c.src, c.bytes, c.src_pitch, c.rows, SIM_READ },
                              { c.dst, c.bytes, c.dst_pitch, c.rows, SIM_WRITE } };
    struct sim_work w = { .kind = "exec:copy", .step = copy_step, .end = free };

    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (sim_broken(s->device))
        return sim_broken(s->device);
    if (c.bytes > c.dst_pitch || c.bytes > c.src_pitch)
        return cudaErrorInvalidPitchValue;
    if (!c.bytes || !c.rows)
        return cudaSuccess;
    if (!fits(kind, memory_device(c.dst) != HOST, memory_device(c.src) != HOST)) {
        sim_report("INVALID %s: its direction does not fit its addresses", call);
        return cudaErrorInvalidValue;
    }
    if (!check_side(call, s->device, &r[0]) || !check_side(call, s->device, &r[1]))
        return cudaErrorInvalidValue;
    w.arg = malloc(sizeof c);
    if (!w.arg)
        abort();
    c.dst = memory_host(c.dst);
    c.src = memory_host(c.src);
    memcpy(w.arg, &c, sizeof c);
    queue_push(s, call, &w, r, 2, NULL);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    int e = call_begin("cudaMemcpyAsync", call_device());
    struct copy c = { dst, src, bytes, bytes, bytes, 1 };

    return call_end(e ? (cudaError_t)e : copy("cudaMemcpyAsync", c, kind, s));
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes, size_t rows,
                              enum cudaMemcpyKind kind, cudaStream_t s)
{
    int e = call_begin("cudaMemcpy2DAsync", call_device());
    struct copy c = { dst, src, bytes, dst_pitch, src_pitch, rows };

    return call_end(e ? (cudaError_t)e : copy("cudaMemcpy2DAsync", c, kind, s));
}

/* ---- fills ---- */

struct fill {
    unsigned char *at;
    size_t bytes;
    int value;
};

static bool fill_step(void *arg, bool *done)
{
    const struct fill *f = arg;

    memset(f->at, f->value, f->bytes);
    return *done = true;
}

static cudaError_t fill(void *at, int value, size_t bytes, cudaStream_t handle)
{
    struct fill *f = malloc(sizeof *f);
    struct sim_range r = { at, bytes, bytes, 1, SIM_WRITE };
    struct sim_work w = { .kind = "exec:set", .arg = f, .step = fill_step, .end = free };
    cudaError_t e;

    if (!f)
        abort();
    *f = (struct fill){ memory_host(at), bytes, value };
    e = sim_queue(handle, call_device(), "cudaMemsetAsync", &w, &r, 1, NULL);
    if (e)
        free(f);
    return e;
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t s)
{
    int e = call_begin("cudaMemsetAsync", call_device());

    if (!bytes)
        return call_end((cudaError_t)e);
    return call_end(e ? (cudaError_t)e : fill(at, value, bytes, s));
}
