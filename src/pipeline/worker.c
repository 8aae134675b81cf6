/* worker.c - loaded tiles through their transforms into slabs. */
#include "emit/merger.h"
#include "pipeline/run.h"

int run_job_on_host(struct merger *m, const struct job_plan *plan, const unsigned char *src, void *dst,
                    size_t dst_pitch, struct counters *c, struct err *e)
{
    struct job j = { .src = src,
                     .src_pitch = plan->src_pitch,
                     .dst = dst,
                     .dst_pitch = dst_pitch,
                     .rows = plan->rows,
                     .cols = plan->cols };

    if (plan->parts)
        recipe_job(plan->parts, plan->first, plan->units, src, &j);
    if (plan->merge) {
        struct merge what = { plan->merge, plan->transform, plan->gather, plan->row, plan->col };

        if (merger_do(m, &what, &j, e))
            return -1;
    } else {
        transform_best(plan->transform)(&j);
    }
    *c = j.counters;
    return 0;
}

void run_count(struct run *r, const struct job_plan *plan, const struct counters *c)
{
    pthread_mutex_lock(&r->lock);
    counters_add(&r->result->item[r->plan->slab[plan->slab].item].counters, c);
    pthread_mutex_unlock(&r->lock);
}

struct worker {
    struct run *run;
    struct merger merger;
    struct trace_buffer *trace;
    unsigned track;
};

static void job_trace(const struct worker *w, uint64_t tile, const struct job_plan *j, double begin)
{
    if (w->trace)
        trace_put(w->trace, &(struct trace_event){ .track = w->track,
                                                   .name = j->transform->name,
                                                   .kind = "transform",
                                                   .begin = begin,
                                                   .end = clock_wall(),
                                                   .tensor = run_slab_tensor(w->run, j->slab),
                                                   .tile = tile,
                                                   .bytes = w->run->plan->tile[tile].bytes });
}

static int tile_do(struct worker *w, const struct tile_slot *t, struct err *e)
{
    struct run *r = w->run;
    const struct tile_plan *tile = &r->plan->tile[t->tile];

    for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++) {
        const struct job_plan *job = &r->plan->job[j];
        double begin = trace_now(w->trace);
        struct counters c = { 0 };

        if (run_job_on_host(&w->merger, job, t->src, r->ring.slab[job->slab].buf + job->dst_off, job->dst_pitch, &c, e))
            return -1;
        job_trace(w, t->tile, job, begin);
        run_count(r, job, &c);
    }
    return t->map.base ? io_map_check(&t->map, r->plan->ckpt->file[tile->file].path, e) : 0;
}

static struct tile_slot *tile_next(const struct worker *w)
{
    double begin = trace_now(w->trace);
    struct tile_slot *t = ring_to_transform(&w->run->ring);

    trace_event(w->trace, w->track, "wait", "wait for a tile", begin);
    return t;
}

static struct worker worker_make(struct run *r)
{
    unsigned number = atomic_fetch_add(&r->worker, 1);
    struct worker w = { .run = r, .trace = trace_buffer(&r->trace), .track = TRACK_WORKERS + number };

    trace_name(w.trace, w.track, "worker", number + 1);
    if (r->plan->adapter)
        merger_init(&w.merger, r->ring.merge + number * r->plan->merge_bytes, r->plan->merge_rank, r->adapter_fd,
                    r->plan->adapter->path);
    return w;
}

void *worker_main(void *arg)
{
    struct run *r = arg;
    struct worker w = worker_make(r);
    struct tile_slot *t;
    struct err e = { 0 };

    while (!e.kind && (t = tile_next(&w))) {
        if (tile_do(&w, t, &e))
            ring_fail(&r->ring, &e);
        ring_transformed(&r->ring, t);
    }
    trace_release(w.trace);
    run_leave(r);
    return NULL;
}
