/* worker.c - loaded tiles through their transforms into slabs. */
#include "base/clock.h"
#include "pipeline/run.h"

static void job_do(const struct run *r, const struct job_plan *plan, const unsigned char *src, struct counters *c)
{
    struct job j = { .src = src,
                     .src_pitch = plan->src_pitch,
                     .dst = r->ring.slab[plan->slab].buf + plan->dst_off,
                     .dst_pitch = plan->dst_pitch,
                     .rows = plan->rows,
                     .cols = plan->cols };

    transform_best(plan->transform)(&j);
    *c = j.counters;
}

static void count(struct run *r, const struct job_plan *plan, const struct counters *c)
{
    pthread_mutex_lock(&r->lock);
    counters_add(&r->result->item[r->plan->slab[plan->slab].item].counters, c);
    pthread_mutex_unlock(&r->lock);
}

void *worker_main(void *arg)
{
    struct run *r = arg;
    struct tile_slot *t;
    double busy = 0;

    while ((t = ring_to_transform(&r->ring))) {
        const struct tile_plan *tile = &r->plan->tile[t->tile];
        double begin = clock_wall();

        for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++) {
            struct counters c = { 0 };

            job_do(r, &r->plan->job[j], t->src, &c);
            count(r, &r->plan->job[j], &c);
        }
        busy += clock_wall() - begin;
        ring_transformed(&r->ring, t);
    }
    pthread_mutex_lock(&r->lock);
    r->result->transform_busy += busy;
    pthread_mutex_unlock(&r->lock);
    run_leave(r);
    return NULL;
}
