/* cudart_stream.c - streams and events, and operations that come from elsewhere. */
#include "state.h"
#include <stdlib.h>

enum { EVENT = 0x45564e54, DEAD_EVENT = 0x64656164 };

struct event { /* its memory is kept, so that late uses are seen */
    int magic, device;
    bool timed;
    struct sim_op *op; /* NULL: never recorded */
    struct event *next;
};
static struct event *events;

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    int e = call_begin("cudaStreamCreateWithFlags", call_device());

    if (!e) {
        if (!(flags & cudaStreamNonBlocking))
            sim_report("INVALID cudaStreamCreateWithFlags: a stream that the default stream waits for");
        *s = (cudaStream_t)queue_open(call_device());
        if (!*s) {
            sim_report("too many streams for the simulation: more than %d at a time", STREAMS);
            e = cudaErrorMemoryAllocation;
        }
    }
    return call_end((cudaError_t)e);
}

/* What it has queued goes on. */
cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    int e = call_begin("cudaStreamDestroy", HOST);
    struct stream *s = queue_of(handle, "cudaStreamDestroy");

    if (!s)
        return call_end(cudaErrorInvalidResourceHandle);
    s->dead = true;
    return call_end(e ? (cudaError_t)e : sim_broken(s->device));
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    int e = call_begin("cudaStreamSynchronize", HOST);
    struct stream *s = queue_of(handle, "cudaStreamSynchronize");

    if (e || !s)
        return call_end(e ? (cudaError_t)e : cudaErrorInvalidResourceHandle);
    return call_end(queue_wait_stream(s));
}

/* ---- events ---- */

static struct event *event_of(cudaEvent_t handle, const char *call)
{
    struct event *v = (struct event *)handle;

    if (v && v->magic == EVENT)
        return v;
    sim_report("INVALID %s: %p is no event, or one that was destroyed", call, (void *)handle);
    return NULL;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    int e = call_begin("cudaEventCreateWithFlags", call_device());
    struct event *v;

    if (e)
        return call_end((cudaError_t)e);
    v = calloc(1, sizeof *v);
    if (!v)
        abort();
    *v = (struct event){ EVENT, call_device(), !(flags & cudaEventDisableTiming), NULL, events };
    events = v;
    sim_live("events were not destroyed", 1);
    *out = (cudaEvent_t)v;
    return call_end(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    int e = call_begin("cudaEventDestroy", HOST);
    struct event *v = event_of(handle, "cudaEventDestroy");

    if (!v)
        return call_end(cudaErrorInvalidResourceHandle);
    v->magic = DEAD_EVENT;
    op_drop(v->op);
    v->op = NULL;
    sim_live("events were not destroyed", -1);
    return call_end(e ? (cudaError_t)e : sim_broken(v->device));
}

static cudaError_t record(struct event *v, struct stream *s)
{
    static const struct sim_work nothing = { 0 };

    if (!v || !s)
        return cudaErrorInvalidResourceHandle;
    if (sim_broken(s->device))
        return sim_broken(s->device);
    if (v->device != s->device) {
        sim_report("INVALID cudaEventRecord: the event is of device %d, the stream of device %d", v->device, s->device);
        return cudaErrorInvalidResourceHandle;
    }
    op_drop(v->op);
    v->op = op_hold(queue_push(s, "event", &nothing, NULL, 0, NULL));
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t s)
{
    int e = call_begin("cudaEventRecord", HOST);
    struct event *v = event_of(handle, "cudaEventRecord");

    return call_end(e ? (cudaError_t)e : record(v, queue_of(s, "cudaEventRecord")));
}

static cudaError_t wait_event(struct stream *s, struct event *v)
{
    static const struct sim_work nothing = { 0 };

    if (!v || !s)
        return cudaErrorInvalidResourceHandle;
    if (sim_broken(s->device))
        return sim_broken(s->device);
    if (v->op)
        queue_push(s, "wait for an event", &nothing, NULL, 0, v->op);
    else
        sim_report("INVALID cudaStreamWaitEvent: the event was never recorded, nothing is waited for");
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t handle, unsigned flags)
{
    int e = call_begin("cudaStreamWaitEvent", HOST);
    struct event *v = event_of(handle, "cudaStreamWaitEvent");

    (void)flags;
    return call_end(e ? (cudaError_t)e : wait_event(queue_of(s, "cudaStreamWaitEvent"), v));
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    int e = call_begin("cudaEventSynchronize", HOST);
    struct event *v = event_of(handle, "cudaEventSynchronize");

    if (e || !v)
        return call_end(e ? (cudaError_t)e : cudaErrorInvalidResourceHandle);
    if (!v->op) {
        sim_report("INVALID cudaEventSynchronize: the event was never recorded, nothing is waited for");
        return call_end(sim_broken(v->device));
    }
    return call_end(queue_wait(v->op));
}

cudaError_t cudaEventQuery(cudaEvent_t handle)
{
    int e = call_begin("cudaEventQuery", HOST);
    struct event *v = event_of(handle, "cudaEventQuery");

    if (e || !v)
        return call_end(e ? (cudaError_t)e : cudaErrorInvalidResourceHandle);
    if (v->op)
        queue_progress(v->op);
    if (sim_broken(v->device))
        return call_end(sim_broken(v->device));
    return call_end(v->op && !v->op->done ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    int e = call_begin("cudaEventElapsedTime", HOST);
    struct event *a = event_of(from, "cudaEventElapsedTime"), *b = event_of(to, "cudaEventElapsedTime");

    if (e)
        return call_end((cudaError_t)e);
    if (!a || !b || !a->timed || !b->timed || !a->op || !b->op || a->device != b->device) {
        sim_report("INVALID cudaEventElapsedTime: events without times, never recorded, or of two devices");
        return call_end(cudaErrorInvalidResourceHandle);
    }
    if (!a->op->done || !b->op->done)
        return call_end(cudaErrorNotReady);
    *ms = (float)(b->op->time - a->op->time);
    return call_end(sim_broken(a->device));
}

/* ---- operations from elsewhere ---- */

static bool check_range(const char *name, int device, const struct sim_range *r)
{
    struct block *b = memory_at(r->at);

    if (!b || b->device != device)
        sim_report("INVALID %s on device %d: %p is in no live block of this device%s", name, device, r->at,
                   !b                  ? ""
                   : b->device == HOST ? ", but pinned memory"
                                       : ", but another device's");
    else if (!memory_has(b, r))
        sim_report("INVALID %s: %zu rows of %zu bytes, %zu apart, at offset %zu overrun a block of %zu bytes", name,
                   r->rows, r->bytes, r->pitch, (size_t)((uintptr_t)r->at - b->at), b->bytes);
    else
        return true;
    return false;
}

cudaError_t sim_queue(cudaStream_t handle, int device, const char *name, const struct sim_work *w,
                      const struct sim_range *r, size_t n, struct sim_op **out)
{
    struct stream *s = queue_of(handle, name);
    struct sim_op *o;

    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (s->device != device) {
        sim_report("INVALID %s: for device %d on a stream of device %d", name, device, s->device);
        return cudaErrorInvalidResourceHandle;
    }
    if (sim_broken(device))
        return sim_broken(device);
    for (size_t i = 0; i < n; i++)
        if (!check_range(name, device, &r[i]))
            return cudaErrorInvalidValue;
    o = queue_push(s, name, w, r, n, NULL);
    if (out)
        *out = o;
    return cudaSuccess;
}
