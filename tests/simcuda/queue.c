/* queue.c - streams, and the scheduler that runs their operations. */
#include "state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *queue_running = "";

static struct stream *streams;
static uint64_t seqs[STREAMS]; /* of the last operation queued, by id */
static uint64_t operations, searches, noise;
static cudaError_t broken[SIM_DEVICES];
static bool to_drain;

/* ---- streams ---- */

struct stream *queue_streams(void) { return streams; }

/* Of a stream that is gone, with all its operations, or new. */
static unsigned free_id(void)
{
    bool used[STREAMS] = { false };
    unsigned id = 0;

    for (const struct stream *s = streams; s; s = s->next)
        used[s->id] |= !s->dead || s->head;
    while (id < STREAMS && used[id])
        id++;
    return id;
}

struct stream *queue_open(int device)
{
    unsigned id = free_id();
    struct stream *s = id < STREAMS ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return NULL;
    *s = (struct stream){ .device = device, .id = id, .next = streams };
    s->clock[id] = seqs[id];
    return streams = s;
}

void queue_init(void) { noise = settings.seed; }

struct stream *queue_of(cudaStream_t handle, const char *call)
{
    struct stream *s = streams;

    while (s && (s != (struct stream *)handle || s->dead))
        s = s->next;
    if (!handle)
        sim_report("INVALID %s: on the default stream, which waits for others and is not simulated", call);
    else if (!s)
        sim_report("INVALID %s: %p is no stream, or one that was destroyed", call, (void *)handle);
    return s;
}

/* ---- operations ---- */

struct sim_op *op_hold(struct sim_op *o)
{
    if (o)
        o->refs++;
    return o;
}

void op_drop(struct sim_op *o)
{
    if (!o || --o->refs)
        return;
    op_drop(o->after);
    free(o->range);
    free(o);
}

static void *need(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        abort();
    return p;
}

struct sim_op *queue_push(struct stream *s, const char *name, const struct sim_work *w, const struct sim_range *r,
                          size_t n, struct sim_op *after)
{
    struct sim_op *o = need(1, sizeof *o);

    *o = (struct sim_op){
        .name = name, .number = ++operations, .seq = ++seqs[s->id], .stream = s, .refs = 1, .work = *w
    };
    memcpy(o->clock, order_queues(), sizeof o->clock);
    o->range = need(n, sizeof *r);
    o->range_n = n;
    o->after = op_hold(after);
    for (size_t i = 0; i < n; i++) {
        o->range[i] = r[i];
        pinned_copies(&r[i], 1);
    }
    if (s->tail)
        s->tail->next = o;
    else
        s->head = o;
    s->tail = o;
    call_wake();
    return o;
}

void sim_after(struct sim_op *o, const struct sim_op *other) { order_join(o->clock, other->clock); }
bool sim_started(const struct sim_op *o) { return o->started; }
cudaError_t sim_broken(int device) { return broken[device]; }

/* ---- running them ---- */

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void start(struct sim_op *o)
{
    int code = o->work.kind ? fault_now(o->work.kind, o->stream->device) : 0;

    if (code)
        queue_break(o->stream->device, code);
    o->started = true;
    order_join(o->clock, o->stream->clock);
    if (o->after)
        order_join(o->clock, o->after->clock);
    o->clock[o->stream->id] = o->seq;
}

/* It is the first of its stream. */
static void finish(struct sim_op *o)
{
    struct stream *s = o->stream;

    if (!o->started)
        start(o);
    order_ran(o);
    for (size_t i = 0; i < o->range_n; i++)
        pinned_copies(&o->range[i], -1);
    if (o->work.end)
        o->work.end(o->work.arg);
    memcpy(s->clock, o->clock, sizeof s->clock);
    o->done = true;
    o->time = now_ms();
    s->head = o->next;
    if (!s->head)
        s->tail = NULL;
    call_wake();
    op_drop(o);
}

/* False: it can't go on now. */
static bool run(struct sim_op *o)
{
    bool done = true, moved = !o->started;

    if (moved)
        start(o);
    queue_running = o->name;
    if (!broken[o->stream->device] && o->work.step)
        moved |= o->work.step(o->work.arg, &done);
    queue_running = "";
    if (done)
        finish(o);
    return moved || done;
}

/* One step towards the end of o; `deep`: of what it waits for, too. */
static bool advance(struct sim_op *o, uint64_t search, bool deep)
{
    struct sim_op *other;

    if (o->done || o->mark == search)
        return false;
    o->mark = search;
    if (o->stream->head != o)
        return deep && advance(o->stream->head, search, deep);
    if (o->after && !o->after->done)
        return deep && advance(o->after, search, deep);
    if (run(o))
        return true;
    for (unsigned i = 0; deep && o->work.needs && (other = o->work.needs(o->work.arg, i)); i++)
        if (advance(other, search, deep))
            return true;
    return false;
}

static uint64_t random_number(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

static bool run_any(void)
{
    for (struct stream *s = streams; s; s = s->next)
        if (s->head && advance(s->head, ++searches, false))
            return true;
    return false;
}

static void run_random(void)
{
    size_t n = 0, pick;
    struct stream *s = streams;

    for (const struct stream *t = streams; t; t = t->next)
        n += t->head != NULL;
    if (!n)
        return;
    pick = random_number() % n;
    while (!s->head || pick--)
        s = s->next;
    if (s->device != settings.slow || random_number() % 16 == 0)
        advance(s->head, ++searches, false);
}

/* Operations after a call, at most: at times the devices are far behind the program, at times as fast. */
static unsigned pace(void)
{
    static const unsigned paces[] = { 0, 0, 1, 2, 4, 16 };
    static unsigned now = 2;

    if (random_number() % 16 == 0)
        now = paces[random_number() % (sizeof paces / sizeof *paces)];
    return now;
}

void queue_some(void)
{
    if (settings.schedule == EAGER)
        while (run_any())
            ;
    if (settings.schedule == RANDOM)
        for (uint64_t n = random_number() % (pace() + 1); n; n--)
            run_random();
}

/* ---- waiting ---- */

static void print_stuck(const struct sim_op *o)
{
    fprintf(stderr, "simcuda:   device %d, stream %u: operation %llu (%s)%s", o->stream->device, o->stream->id,
            (unsigned long long)o->number, o->name, o->started ? ", begun" : "");
    if (o->after && !o->after->done)
        fprintf(stderr, ", waits for operation %llu (%s)", (unsigned long long)o->after->number, o->after->name);
    if (o->work.print)
        o->work.print(o->work.arg);
    fputc('\n', stderr);
}

/* Another thread may bring what is lacking. */
static void stuck(struct sim_op *o)
{
    if (call_wait(settings.deadlock_ms) || o->done || advance(o, ++searches, true))
        return;
    sim_report("DEADLOCK: operation %llu (%s) is waited for and will never be done; the first of each stream:",
               (unsigned long long)o->number, o->name);
    for (const struct stream *s = streams; s; s = s->next)
        if (s->head)
            print_stuck(s->head);
    report_end(98);
}

void queue_progress(struct sim_op *o)
{
    advance(o, ++searches, true);
    if (o->done)
        order_join(order_host(), o->clock);
}

cudaError_t queue_wait(struct sim_op *o)
{
    cudaError_t e;

    op_hold(o);
    while (!o->done)
        if (!advance(o, ++searches, true))
            stuck(o);
    order_join(order_host(), o->clock);
    e = broken[o->stream->device];
    op_drop(o);
    return e;
}

cudaError_t queue_wait_stream(struct stream *s)
{
    if (s->tail)
        return queue_wait(s->tail);
    order_join(order_host(), s->clock);
    return broken[s->device];
}

cudaError_t queue_wait_device(int device)
{
    for (struct stream *s = streams; s; s = s->next)
        if (s->device == device)
            queue_wait_stream(s);
    return broken[device];
}

/* ---- broken devices ---- */

void queue_break(int device, int code)
{
    if (!broken[device])
        broken[device] = (cudaError_t)code;
    to_drain = true;
}

/* What a broken device has done and not done is over for all threads, as they learn of it. */
void queue_drain(void)
{
    if (!to_drain)
        return;
    to_drain = false;
    for (struct stream *s = streams; s; s = s->next) {
        while (broken[s->device] && s->head)
            finish(s->head);
        if (broken[s->device])
            order_join_all(s->clock);
    }
}

void queue_leaks(void)
{
    for (const struct stream *s = streams; s; s = s->next) {
        if (s->head)
            sim_report("EXIT with operation %llu (%s) of device %d, and maybe more, never waited for",
                       (unsigned long long)s->head->number, s->head->name, s->device);
        if (!s->dead)
            sim_report("LEAK: stream %u of device %d was not destroyed", s->id, s->device);
    }
}
