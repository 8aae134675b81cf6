/* trace.h - what each thread was at, and when: a Chrome trace, JSON that Perfetto opens.
 *
 * A thread collects its events in a buffer of its own, without a lock.  A full buffer
 * becomes text, which goes to the caller in one piece, under a lock: nothing is lost,
 * memory is bounded, and threads meet once in a thousand events.  Events of a track
 * do not overlap, as Perfetto wants it; so what is in flight has a track of its own.
 * Where no trace is wanted, a thread's buffer is NULL, and that is all it looks at. */
#ifndef PIPELINE_TRACE_H
#define PIPELINE_TRACE_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"

enum trace_track { /* in the order in which Perfetto shows them */
                   TRACK_READER = 1,
                   TRACK_READS, /* a tile in flight each */
                   TRACK_WORKERS = 1000,
                   TRACK_DEVICES = 1500, /* three of each device */
                   TRACK_WRITER = 2000,
                   TRACK_WRITES, /* a slab in flight each */
                   TRACK_RECORDER = 3000
};

struct trace {
    void (*sink)(void *user, const char *text, size_t n); /* NULL: none is wanted */
    void *user;
    double begin;
    pthread_mutex_t lock;
};

struct trace_event {
    unsigned track;
    const char *name, *kind; /* kind: "read", "transform", of devices "copy in", "kernel" or "copy out"; "write", or
                                "wait" for another stage */
    double begin, end;       /* clock_wall() */
    const char *tensor;      /* NULL: of none, nor of a tile */
    uint64_t tile, bytes;    /* tile: UINT64_MAX: of none */
};

struct trace_buffer;

/* `goes_on`: the sink has the trace of another run already, and time went from `begin`, else from now. */
void trace_begin(struct trace *t, void (*sink)(void *user, const char *text, size_t n), void *user, bool goes_on,
                 double begin);
void trace_end(struct trace *t, bool goes_on); /* when all buffers are released; `goes_on`: another run follows */

/* NULL where no trace is wanted. */
struct trace_buffer *trace_buffer(struct trace *t);
void trace_release(struct trace_buffer *b);
/* "reader", or with a number from 1 on: "worker 2"; 0: none. */
void trace_name(struct trace_buffer *b, unsigned track, const char *name, unsigned number);
void trace_put(struct trace_buffer *b, const struct trace_event *e);

static inline double trace_now(const struct trace_buffer *b) { return b ? clock_wall() : 0; }

/* Something that began at `begin` and ends now. */
static inline void trace_event(struct trace_buffer *b, unsigned track, const char *kind, const char *name, double begin)
{
    if (b)
        trace_put(
            b,
            &(struct trace_event){
                .track = track, .name = name, .kind = kind, .begin = begin, .end = clock_wall(), .tile = UINT64_MAX });
}

#endif
