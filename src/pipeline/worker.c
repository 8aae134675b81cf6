/* worker.c - loaded tiles through their transforms into slabs. */
#include "emit/merger.h"
#include "pipeline/run.h"

static int job_do(const struct run *r, struct merger *m, const struct job_plan *plan, const unsigned char *src,
                  struct counters *c, struct err *e)
{
    struct job j = { .src = src,
                     .src_pitch = plan->src_pitch,
                     .dst = r->ring.slab[plan->slab].buf + plan->dst_off,
                     .dst_pitch = plan->dst_pitch,
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

static void count(struct run *r, const struct job_plan *plan, const struct counters *c)
{
    pthread_mutex_lock(&r->lock);
    counters_add(&r->result->item[r->plan->slab[plan->slab].item].counters, c);
    pthread_mutex_unlock(&r->lock);
}

static int tile_do(struct run *r, struct merger *m, const struct tile_slot *t, struct err *e)
{
    const struct tile_plan *tile = &r->plan->tile[t->tile];

    for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++) {
        struct counters c = { 0 };

        if (job_do(r, m, &r->plan->job[j], t->src, &c, e))
            return -1;
        count(r, &r->plan->job[j], &c);
    }
    return 0;
}

static void merger_of_worker(struct merger *m, struct run *r)
{
    size_t number = atomic_fetch_add(&r->worker, 1);

    if (r->plan->adapter)
        merger_init(m, r->ring.merge + number * r->plan->merge_bytes, r->plan->merge_rank, r->adapter_fd,
                    r->plan->adapter->path);
}

void *worker_main(void *arg)
{
    struct run *r = arg;
    struct merger merger = { 0 };
    struct tile_slot *t;
    struct err e = { 0 };

    merger_of_worker(&merger, r);
    while (!e.kind && (t = ring_to_transform(&r->ring))) {
        if (tile_do(r, &merger, t, &e))
            ring_fail(&r->ring, &e);
        ring_transformed(&r->ring, t);
    }
    run_leave(r);
    return NULL;
}
