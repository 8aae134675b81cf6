/* device.c - the thread that takes the workers' place where devices do the work.
 *
 * One thread drives all devices.  A device gets work in turns: a turn is a tile, or a few small ones, or a drain.  It
 * takes one of the lanes of its device, memory for the tiles and their results, and has three parts, on the device's
 * three streams, each behind the one before it by an event:
 *
 *   GPU_IN       tiles, from their slots in the ring
 *   GPU_COMPUTE  the kernels of their jobs (transform/launch.h), into the lane or into a panel on the device
 *   GPU_OUT      results, straight into stream slabs; and what became of the counters
 *
 * So while one turn comes in another is worked on and a third goes out.  A drain has the last part only.  Turns of a
 * device end in the order in which they began.  When there is nothing to begin, the thread waits for the oldest turn,
 * or for the ring when no turn is on its way: it never asks again and again.
 *
 * Several devices.  A tile goes to the device that holds its panel, or else to the one with the fewest turns.  With
 * feed nccl all tiles come to device 0, and from there by gpu_send to the others.  This cannot come to a halt: what is
 * asked of streams, of all devices, is asked by one thread, one thing after the other.  Each stream does its part of
 * that sequence in its order; an event is recorded before it is waited for, and both halves of a send are asked for at
 * once.  So everything waits only for what stands before it in the sequence, and the first of all that is not done can
 * always be done.
 *
 * Counters of an item stand in the memory of each device, added up by its kernels; behind a job's kernels they are
 * copied, and what they are more than the time before is what this job has lost.  In the end the devices' counters are
 * added up (by NCCL where it connects them) and must be what the host has counted.
 *
 * A job for which there is no kernel is done by the host, where the tile stands.  Merges: device_merge.h. */
#include "pipeline/device.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "emit/merger.h"
#include "pipeline/device_merge.h"
#include "transform/launch.h"

enum {
    BATCH = 32, /* tiles of a turn */
    JOBS = PLAN_NOTES / sizeof(struct counters),
    DRAINS = 4 /* of a device at once */
};

struct piece { /* a job on a device */
    const struct job_plan *plan;
    unsigned char *src, *dst, *scratch; /* of the device */
};

struct turn {
    unsigned device;
    bool busy, begun;                     /* not free; all of it was asked for */
    uint64_t number;                      /* of all turns that have begun */
    struct gpu_event *begin[GPU_STREAMS]; /* traces only */
    struct gpu_event *end[GPU_STREAMS];   /* what it asked of this stream is done */
    uint64_t drain;                       /* slab, where it is one */
    struct tile_slot *tile[BATCH];
    unsigned tiles_n;
    struct piece job[JOBS];
    unsigned jobs_n;
    /* Its lane; NULL: it is for drains. */
    unsigned char *tiles, *results, *scratch;
    struct counters *copies, *notes; /* of the counters behind each job: on the device, on the host */
    size_t tiles_used, results_used, scratch_used;
};

struct device {
    unsigned char *panels;
    unsigned char *passing;    /* a tile that goes on to another device */
    struct counters *counters; /* of layout.item, in its memory */
    struct counters *seen;     /* what was last known of them */
    struct gpu_event *settled; /* for waits in between */
    struct gpu_event *zero;    /* traces only: when that was */
    double zero_at;
    struct turn *turn; /* lanes of the plan, then DRAINS */
    unsigned turns;    /* that have begun and not ended */
};

struct devices {
    struct run *run;
    struct gpu *gpu;
    const struct plan *plan;
    bool joins, passes_on; /* NCCL may be used; feed nccl */
    struct device *device;
    struct counters *counted; /* of layout.item: what devices have done */
    struct device_merges merges;
    struct merger merger; /* of the host */
    struct trace_buffer *trace;
    struct turn *open; /* that takes more tiles; NULL: none */
    uint64_t numbers;
    unsigned turns; /* that have begun and not ended, on all devices */
};

static unsigned turns_of(const struct devices *d) { return d->plan->lanes + DRAINS; }

/* ---- memory ---- */

static int alloc(struct devices *d, unsigned device, size_t bytes, void *at, struct err *e)
{
    return bytes ? gpu_alloc(d->gpu, device, bytes, at, e) : 0;
}

static int events_make(struct devices *d, unsigned device, struct gpu_event **v, bool timed, struct err *e)
{
    for (enum gpu_stream s = 0; s < GPU_STREAMS; s++)
        if (gpu_event_make(d->gpu, device, timed, &v[s], e))
            return -1;
    return 0;
}

static int turn_make(struct devices *d, unsigned device, unsigned number, struct err *e)
{
    struct turn *t = &d->device[device].turn[number];
    bool traced = d->run->trace.sink != NULL;
    const struct plan *p = d->plan;

    t->device = device;
    if (events_make(d, device, t->end, traced, e) || (traced && events_make(d, device, t->begin, true, e)))
        return -1;
    if (number >= p->lanes)
        return 0;
    t->notes = (void *)(d->run->ring.notes + ((size_t)device * p->lanes + number) * PLAN_NOTES);
    return alloc(d, device, p->lane_tiles, &t->tiles, e) || alloc(d, device, p->lane_results, &t->results, e) ||
                   alloc(d, device, p->lane_scratch, &t->scratch, e) || alloc(d, device, PLAN_NOTES, &t->copies, e)
               ? -1
               : 0;
}

/* All that was asked of a stream is done. */
static int settle(struct devices *d, unsigned device, enum gpu_stream s, struct err *e)
{
    struct gpu_event *v = d->device[device].settled;

    return gpu_record(d->gpu, device, s, v, e) || gpu_wait(d->gpu, device, v, e) ? -1 : 0;
}

/* Times of events are told from one whose time by the clock is known. */
static int zero_make(struct devices *d, unsigned device, struct err *e)
{
    struct device *v = &d->device[device];

    if (!d->run->trace.sink)
        return 0;
    if (gpu_event_make(d->gpu, device, true, &v->zero, e) || gpu_record(d->gpu, device, GPU_COMPUTE, v->zero, e) ||
        gpu_wait(d->gpu, device, v->zero, e))
        return -1;
    v->zero_at = clock_wall();
    return 0;
}

static int device_make(struct devices *d, unsigned device, struct err *e)
{
    size_t items = d->plan->layout->items_n + 1;
    struct device *v = &d->device[device];

    v->turn = xmalloc(turns_of(d) * sizeof *v->turn);
    memset(v->turn, 0, turns_of(d) * sizeof *v->turn);
    v->seen = arena_array(d->plan->arena, items, sizeof *v->seen);
    if (gpu_event_make(d->gpu, device, false, &v->settled, e) ||
        alloc(d, device, d->plan->panel_bytes, &v->panels, e) ||
        alloc(d, device, items * sizeof *v->counters, &v->counters, e) ||
        (d->passes_on && !device && alloc(d, device, d->plan->lane_tiles, &v->passing, e)) ||
        gpu_clear(d->gpu, device, GPU_COMPUTE, v->counters, items * sizeof *v->counters, e) ||
        settle(d, device, GPU_COMPUTE, e))
        return -1;
    for (unsigned i = 0; i < turns_of(d); i++)
        if (turn_make(d, device, i, e))
            return -1;
    d->run->ring.area[device].at = v->panels;
    return zero_make(d, device, e);
}

/* NCCL adds up counters, too; but the host can do without. */
static int join(struct devices *d, struct err *e)
{
    struct err why = { 0 };

    if (d->gpu->n < 2 || d->gpu->joined || !d->joins)
        return 0;
    d->gpu->failed = GPU_MOST;
    if (!gpu_join(d->gpu, &why) || (!d->passes_on && d->gpu->failed == GPU_MOST)) {
        d->gpu->exchange_failed = false;
        return 0;
    }
    *e = why;
    return -1;
}

static int make(struct devices *d, struct err *e)
{
    if (join(d, e) || gpu_pin(d->gpu, d->run->ring.memory, d->plan->buffers, e))
        return -1;
    for (unsigned i = 0; i < d->gpu->n; i++)
        if (device_make(d, i, e))
            return -1;
    return device_merges_load(&d->merges, d->run, d->gpu, e);
}

struct devices *devices_open(struct run *r, const struct run_options *o, struct err *e)
{
    struct arena *a = r->plan->arena;
    struct devices *d = arena_alloc(a, sizeof *d);

    *d = (struct devices){ .run = r, .gpu = o->gpu, .plan = r->plan, .joins = !o->no_nccl };
    d->passes_on = o->feed_nccl && d->joins && o->gpu->n > 1;
    d->device = arena_array(a, o->gpu->n, sizeof *d->device);
    d->counted = arena_array(a, r->plan->layout->items_n + 1, sizeof *d->counted);
    r->result->device = arena_array(a, o->gpu->n, sizeof *r->result->device);
    r->result->devices_n = o->gpu->n;
    if (!make(d, e))
        return d;
    devices_close(d, true);
    return NULL;
}

static void turn_free(struct devices *d, struct turn *t, struct err *e)
{
    void *const memory[] = { t->tiles, t->results, t->scratch, t->copies };

    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            gpu_free(d->gpu, t->device, memory[i], e);
    for (enum gpu_stream s = 0; s < GPU_STREAMS; s++) {
        if (t->begin[s])
            gpu_event_free(d->gpu, t->device, t->begin[s], e);
        gpu_event_free(d->gpu, t->device, t->end[s], e);
    }
}

static void device_free(struct devices *d, unsigned device, struct err *e)
{
    struct device *v = &d->device[device];
    void *const memory[] = { v->panels, v->counters, v->passing };

    for (unsigned i = 0; i < turns_of(d); i++)
        turn_free(d, &v->turn[i], e);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            gpu_free(d->gpu, device, memory[i], e);
    gpu_event_free(d->gpu, device, v->settled, e);
    if (v->zero)
        gpu_event_free(d->gpu, device, v->zero, e);
}

/* What cannot be given back is no reason any more for a run to fail that has done all: gpu_close is still to come. */
void devices_close(struct devices *d, bool failed)
{
    struct err ignored = { 0 };

    if (!d)
        return;
    for (unsigned i = 0; !failed && i < d->gpu->n; i++)
        device_free(d, i, &ignored);
    if (!failed) {
        device_merges_free(&d->merges, &ignored);
        gpu_unpin(d->gpu, d->run->ring.memory, &ignored);
    }
    for (unsigned i = 0; i < d->plan->devices; i++)
        free(d->device[i].turn);
}

/* ---- jobs ---- */

static struct counters *item_counters(const struct devices *d, unsigned device, const struct job_plan *j)
{
    return &d->device[device].counters[d->plan->slab[j->slab].item];
}

static bool to_panel(const struct devices *d, const struct job_plan *j)
{
    return d->plan->slab[j->slab].pool == SLAB_PANEL;
}

/* As it is on the device. */
static struct job job_of(const struct piece *p)
{
    const struct job_plan *plan = p->plan;
    struct job j = { .src = p->src,
                     .src_pitch = plan->src_pitch,
                     .dst = p->dst,
                     .dst_pitch = plan->dst_pitch,
                     .rows = plan->rows,
                     .cols = plan->cols };

    if (plan->parts)
        recipe_job(plan->parts, plan->first, plan->units, p->src, &j);
    return j;
}

/* Its kernels, with a product in between where it merges; false: no device does it. */
static bool launches_of(const struct devices *d, unsigned device, const struct piece *p, struct merge_launch *out)
{
    struct launch_memory m = { item_counters(d, device, p->plan), p->scratch, NULL };
    struct job j = job_of(p);

    *out = (struct merge_launch){ 0 };
    if (p->plan->merge)
        return device_merges_launch(&d->merges, device, p->plan, &j, &m, p->scratch, out);
    out->after_n = launch_job(p->plan->transform, &j, &m, out->after);
    return out->after_n != SIZE_MAX;
}

static size_t scratch_bytes(const struct devices *d, const struct job_plan *j)
{
    if (j->merge && d->plan->factor_bytes)
        return plan_merge_room(j->rows, j->cols, j->merge->rank);
    return j->parts ? plan_device_aligned(j->parts->pack.in * sizeof(uint32_t)) : 0;
}

static size_t result_bytes(const struct devices *d, const struct job_plan *j)
{
    return to_panel(d, j) ? 0 : plan_device_aligned((size_t)d->plan->slab[j->slab].payload);
}

static int launch(struct devices *d, unsigned device, const struct launch *l, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (gpu_launch(d->gpu, device,
                       &(struct gpu_kernel){ .name = l[i].kernel,
                                             .grid = { l[i].grid[0], l[i].grid[1], l[i].grid[2] },
                                             .block = { l[i].block[0], l[i].block[1], l[i].block[2] },
                                             .args_n = l[i].args_n,
                                             .arg = l[i].arg },
                       e))
            return -1;
    return 0;
}

static int launch_all(struct devices *d, const struct turn *t, struct err *e)
{
    for (unsigned i = 0; i < t->jobs_n; i++) {
        const struct piece *p = &t->job[i];
        struct merge_launch l;

        launches_of(d, t->device, p, &l);
        if (launch(d, t->device, l.before, l.before_n, e) ||
            (l.before_n && gpu_product(d->gpu, t->device, &l.product, e)) ||
            launch(d, t->device, l.after, l.after_n, e) ||
            gpu_copy_within(d->gpu, t->device, &t->copies[i], item_counters(d, t->device, p->plan), sizeof *t->copies,
                            e))
            return -1;
    }
    return 0;
}

static int results_out(struct devices *d, const struct turn *t, struct err *e)
{
    struct gpu_piece notes = { .rows = 1 };

    for (unsigned i = 0; i < t->jobs_n; i++) {
        const struct job_plan *j = t->job[i].plan;
        struct gpu_piece all = { .rows = 1, .row_bytes = (size_t)d->plan->slab[j->slab].payload };

        if (!to_panel(d, j) &&
            gpu_copy_out(d->gpu, t->device, d->run->ring.slab[j->slab].buf + j->dst_off, t->job[i].dst, &all, e))
            return -1;
    }
    notes.row_bytes = t->jobs_n * sizeof *t->notes;
    return t->jobs_n ? gpu_copy_out(d->gpu, t->device, t->notes, t->copies, &notes, e) : 0;
}

/* ---- jobs that the host does ---- */

/* Its result for a panel comes to the spare tile first, the rows of the result one behind the other. */
static int to_panel_by_host(struct devices *d, unsigned device, const struct job_plan *j, const unsigned char *src,
                            struct counters *c, struct err *e)
{
    unsigned char *spare = d->run->ring.spare, *panel = d->run->ring.slab[j->slab].buf + j->dst_off;
    size_t row = j->parts ? (size_t)j->units * j->parts->dst : j->rows * dtype_bytes(j->transform->dst);
    struct gpu_piece p = { .rows = j->parts ? (size_t)j->parts->cols : j->cols,
                           .row_bytes = row,
                           .src_pitch = row,
                           .dst_pitch = j->dst_pitch };

    return run_job_on_host(&d->merger, j, src, spare, row, c, e) || gpu_copy_in(d->gpu, device, panel, spare, &p, e) ||
                   settle(d, device, GPU_IN, e)
               ? -1
               : 0;
}

static int job_by_host(struct devices *d, unsigned device, const struct job_plan *j, const unsigned char *src,
                       struct err *e)
{
    struct counters c = { 0 };

    d->run->result->host_jobs++;
    if (to_panel(d, j)
            ? to_panel_by_host(d, device, j, src, &c, e)
            : run_job_on_host(&d->merger, j, src, d->run->ring.slab[j->slab].buf + j->dst_off, j->dst_pitch, &c, e))
        return -1;
    run_count(d->run, j, &c);
    return 0;
}

/* ---- the beginning of a turn ---- */

static size_t results_of(const struct devices *d, const struct tile_plan *tile)
{
    size_t n = 0;

    for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++)
        n += result_bytes(d, &d->plan->job[j]);
    return n;
}

static size_t scratch_of(const struct devices *d, const struct tile_plan *tile)
{
    size_t n = 0;

    for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++)
        n += scratch_bytes(d, &d->plan->job[j]);
    return n;
}

static bool fits(const struct devices *d, const struct turn *t, const struct tile_plan *tile)
{
    return t->tiles_n < BATCH && t->jobs_n + tile->jobs <= JOBS &&
           t->tiles_used + plan_device_aligned(tile->bytes) <= d->plan->lane_tiles &&
           t->results_used + results_of(d, tile) <= d->plan->lane_results &&
           t->scratch_used + scratch_of(d, tile) <= d->plan->lane_scratch;
}

static struct turn *turn_free_of(const struct devices *d, unsigned device, bool lane)
{
    unsigned from = lane ? 0 : d->plan->lanes, end = lane ? d->plan->lanes : turns_of(d);

    for (unsigned i = from; i < end; i++)
        if (!d->device[device].turn[i].busy)
            return &d->device[device].turn[i];
    return NULL;
}

/* That may do a tile: the one that has to, or of those with a free lane the one with the fewest turns. */
static struct turn *lane_for(const struct devices *d, int device)
{
    struct turn *best = NULL;

    for (unsigned i = 0; i < d->gpu->n; i++) {
        struct turn *t = device == ANY_DEVICE || device == (int)i ? turn_free_of(d, i, true) : NULL;

        if (t && (!best || d->device[i].turns < d->device[best->device].turns))
            best = t;
    }
    return best;
}

static bool open_takes(const struct devices *d, const struct tile_plan *tile, int device)
{
    return d->open && (device == ANY_DEVICE || device == (int)d->open->device) && fits(d, d->open, tile);
}

static bool room_for_tile(void *user, uint64_t tile, int device)
{
    const struct devices *d = user;

    return open_takes(d, &d->plan->tile[tile], device) || lane_for(d, device);
}

static bool room_for_drain(void *user, int device) { return turn_free_of(user, (unsigned)device, false); }

static int begins(struct devices *d, const struct turn *t, enum gpu_stream s, struct err *e)
{
    return t->begin[s] ? gpu_record(d->gpu, t->device, s, t->begin[s], e) : 0;
}

static int ends(struct devices *d, const struct turn *t, enum gpu_stream s, struct err *e)
{
    return gpu_record(d->gpu, t->device, s, t->end[s], e);
}

static int goes_on_after(struct devices *d, const struct turn *t, enum gpu_stream s, enum gpu_stream before,
                         struct err *e)
{
    return gpu_after(d->gpu, t->device, s, t->end[before], e) || begins(d, t, s, e) ? -1 : 0;
}

static void turn_begun(struct devices *d, struct turn *t)
{
    t->begun = true;
    t->number = d->numbers++;
    d->device[t->device].turns++;
    d->turns++;
}

/* All of its tiles are on their way in. */
static int turn_begin(struct devices *d, struct turn *t, struct err *e)
{
    d->open = NULL;
    if (ends(d, t, GPU_IN, e) || goes_on_after(d, t, GPU_COMPUTE, GPU_IN, e) || launch_all(d, t, e) ||
        ends(d, t, GPU_COMPUTE, e) || goes_on_after(d, t, GPU_OUT, GPU_COMPUTE, e) || results_out(d, t, e) ||
        ends(d, t, GPU_OUT, e))
        return -1;
    turn_begun(d, t);
    return 0;
}

static int tile_in(struct devices *d, const struct turn *t, const struct tile_slot *s, unsigned char *to, struct err *e)
{
    struct gpu_piece all = { .rows = 1, .row_bytes = d->plan->tile[s->tile].bytes };
    unsigned char *passing = d->device[0].passing;

    if (!d->passes_on || !t->device)
        return gpu_copy_in(d->gpu, t->device, to, s->src, &all, e);
    return gpu_copy_in(d->gpu, 0, passing, s->src, &all, e) ||
                   gpu_send(d->gpu, 0, passing, t->device, to, all.row_bytes, e)
               ? -1
               : 0;
}

/* Its place in the turn's lane; false: the host does it. */
static bool job_place(const struct devices *d, const struct turn *t, const struct job_plan *j, unsigned char *src,
                      struct piece *p)
{
    struct merge_launch ignored;

    *p = (struct piece){ .plan = j,
                         .src = src,
                         .dst = to_panel(d, j) ? d->run->ring.slab[j->slab].buf + j->dst_off
                                               : t->results + t->results_used,
                         .scratch = scratch_bytes(d, j) ? t->scratch + t->scratch_used : NULL };
    return launches_of(d, t->device, p, &ignored);
}

static int tile_add(struct devices *d, struct turn *t, struct tile_slot *s, struct err *e)
{
    const struct tile_plan *tile = &d->plan->tile[s->tile];
    struct device_result *result = &d->run->result->device[t->device];
    unsigned char *to = t->tiles + t->tiles_used;
    unsigned before = t->jobs_n;

    t->tile[t->tiles_n++] = s;
    if (t->tiles_n == 1 && begins(d, t, GPU_IN, e))
        return -1;
    for (uint64_t i = tile->job; i < tile->job + tile->jobs; i++) {
        const struct job_plan *j = &d->plan->job[i];
        struct piece p;

        if (tile->jobs > JOBS || !job_place(d, t, j, to, &p)) {
            if (job_by_host(d, t->device, j, s->src, e))
                return -1;
            continue;
        }
        t->job[t->jobs_n++] = p;
        t->results_used += result_bytes(d, j);
        t->scratch_used += scratch_bytes(d, j);
    }
    result->tiles++;
    if (t->jobs_n == before)
        return 0; /* all by the host */
    result->bytes += tile->bytes;
    t->tiles_used += plan_device_aligned(tile->bytes);
    return tile_in(d, t, s, to, e);
}

static void turn_take(struct turn *t)
{
    t->busy = true;
    t->begun = false;
    t->drain = UINT64_MAX;
    t->tiles_n = t->jobs_n = 0;
    t->tiles_used = t->results_used = t->scratch_used = 0;
}

static int tile_begin(struct devices *d, const struct device_work *w, struct err *e)
{
    const struct tile_plan *tile = &d->plan->tile[w->tile->tile];
    struct turn *lane;

    if (open_takes(d, tile, w->device))
        return tile_add(d, d->open, w->tile, e);
    lane = lane_for(d, w->device); /* room_for_tile has found it */
    turn_take(lane);
    if (d->open && turn_begin(d, d->open, e)) {
        lane->tile[lane->tiles_n++] = w->tile; /* to be given back */
        return -1;
    }
    d->open = lane;
    if (tile->jobs <= JOBS && !fits(d, lane, tile)) {
        lane->tile[lane->tiles_n++] = w->tile;
        return err_set(e, ERR_INTERNAL, "%s: a tile of it does not fit a lane of its device",
                       run_tile_tensor(d->run, w->tile->tile));
    }
    return tile_add(d, lane, w->tile, e);
}

static int drain_begin(struct devices *d, const struct device_work *w, struct err *e)
{
    const struct slab_plan *s = &d->plan->slab[w->drain];
    struct turn *t = turn_free_of(d, (unsigned)w->device, false);
    struct gpu_piece piece = { .rows = 1, .row_bytes = (size_t)s->payload };

    if (s->strewn)
        piece = (struct gpu_piece){ .rows = (size_t)s->runs,
                                    .row_bytes = (size_t)s->run_bytes,
                                    .src_pitch = (size_t)s->buf_pitch,
                                    .dst_pitch = (size_t)s->buf_pitch };
    turn_take(t);
    t->drain = w->drain;
    if (begins(d, t, GPU_OUT, e) ||
        gpu_copy_out(d->gpu, t->device, d->run->ring.slab[w->drain].buf + s->buf_off,
                     d->run->ring.slab[s->panel].buf + s->panel_off, &piece, e) ||
        ends(d, t, GPU_OUT, e))
        return -1;
    turn_begun(d, t);
    return 0;
}

/* ---- the end of a turn ---- */

/* What the sums are more than before; what is largest is so for good. */
static struct counters more_than(const struct counters *now, const struct counters *before)
{
    struct counters c = *now;

    c.overflow -= before->overflow;
    c.flushed -= before->flushed;
    c.nan -= before->nan;
    c.clamped -= before->clamped;
    return c;
}

static void job_count(struct devices *d, const struct turn *t, unsigned i)
{
    const struct job_plan *j = t->job[i].plan;
    unsigned item = d->plan->slab[j->slab].item;
    struct counters *seen = &d->device[t->device].seen[item], c = more_than(&t->notes[i], seen);

    *seen = t->notes[i];
    counters_add(&d->counted[item], &c);
    run_count(d->run, j, &c);
}

static int part_trace(struct devices *d, const struct turn *t, enum gpu_stream s, uint64_t bytes, struct err *e)
{
    static const char *const names[] = { "copy in", "kernel", "copy out" };
    const struct device *v = &d->device[t->device];
    bool drain = t->drain != UINT64_MAX;
    double begin, end;

    if (gpu_elapsed(d->gpu, t->device, v->zero, t->begin[s], &begin, e) ||
        gpu_elapsed(d->gpu, t->device, v->zero, t->end[s], &end, e))
        return -1;
    trace_put(d->trace, &(struct trace_event){ .track = TRACK_DEVICES + t->device * GPU_STREAMS + s,
                                               .name = drain ? "drain" : names[s],
                                               .kind = names[s],
                                               .begin = v->zero_at + begin,
                                               .end = v->zero_at + end,
                                               .tensor = drain ? run_slab_tensor(d->run, t->drain)
                                                               : run_tile_tensor(d->run, t->tile[0]->tile),
                                               .tile = drain ? UINT64_MAX : t->tile[0]->tile,
                                               .bytes = bytes });
    return 0;
}

static int turn_trace(struct devices *d, const struct turn *t, struct err *e)
{
    uint64_t in = 0, out = 0;

    if (!d->trace)
        return 0;
    if (t->drain != UINT64_MAX)
        return part_trace(d, t, GPU_OUT, d->plan->slab[t->drain].payload, e);
    for (unsigned i = 0; i < t->tiles_n; i++)
        in += d->plan->tile[t->tile[i]->tile].bytes;
    for (unsigned i = 0; i < t->jobs_n; i++)
        out += to_panel(d, t->job[i].plan) ? 0 : d->plan->slab[t->job[i].plan->slab].payload;
    return part_trace(d, t, GPU_IN, in, e) || part_trace(d, t, GPU_COMPUTE, in, e) || part_trace(d, t, GPU_OUT, out, e)
               ? -1
               : 0;
}

static void tiles_give(struct devices *d, struct turn *t)
{
    for (unsigned i = 0; i < t->tiles_n; i++)
        ring_transformed(&d->run->ring, t->tile[i]);
    t->tiles_n = 0;
    t->busy = false;
}

/* Waits for it. */
static int turn_end(struct devices *d, struct turn *t, struct err *e)
{
    if (gpu_wait(d->gpu, t->device, t->end[GPU_OUT], e) || turn_trace(d, t, e))
        return -1;
    for (unsigned i = 0; i < t->jobs_n; i++)
        job_count(d, t, i);
    if (t->drain != UINT64_MAX)
        ring_drained(&d->run->ring, t->drain);
    d->device[t->device].turns--;
    d->turns--;
    tiles_give(d, t);
    return 0;
}

static struct turn *oldest_of(const struct devices *d, unsigned device)
{
    struct turn *oldest = NULL, *t = d->device[device].turn;

    for (unsigned i = 0; i < turns_of(d); i++)
        if (t[i].busy && t[i].begun && (!oldest || t[i].number < oldest->number))
            oldest = &t[i];
    return oldest;
}

/* Ends the oldest turn of all and whatever else is done by then. */
static int reap(struct devices *d, struct err *e)
{
    struct turn *oldest = NULL, *t;
    bool done;

    for (unsigned i = 0; i < d->gpu->n; i++) {
        t = oldest_of(d, i);
        if (t && (!oldest || t->number < oldest->number))
            oldest = t;
    }
    if (turn_end(d, oldest, e))
        return -1;
    for (unsigned i = 0; i < d->gpu->n; i++)
        while ((t = oldest_of(d, i))) {
            if (gpu_done(d->gpu, i, t->end[GPU_OUT], &done, e))
                return -1;
            if (!done)
                break;
            if (turn_end(d, t, e))
                return -1;
        }
    return 0;
}

/* ---- the whole ---- */

static int work(struct devices *d, struct err *e)
{
    struct device_room room = { room_for_tile, room_for_drain, d };
    struct device_work w;

    for (;;) {
        bool idle = !d->turns && !d->open;
        double begin = trace_now(d->trace);
        bool any = ring_to_device(&d->run->ring, idle, &room, &w);

        if (idle)
            trace_event(d->trace, TRACK_WORKERS, "wait", "wait for a tile", begin);
        if (any) {
            if (w.tile ? tile_begin(d, &w, e) : drain_begin(d, &w, e))
                return -1;
        } else if (idle) {
            return 0; /* no more, or stopped */
        } else if ((d->open && turn_begin(d, d->open, e)) || reap(d, e)) {
            return -1;
        }
    }
}

static bool same(const struct counters *a, const struct counters *b)
{
    return a->overflow == b->overflow && a->flushed == b->flushed && a->nan == b->nan && a->worst == b->worst &&
           a->clamped == b->clamped && a->clamped_most == b->clamped_most;
}

/* A device's counters to the host, through the ring's pages for notes. */
static int counters_out(struct devices *d, unsigned device, struct counters *to, struct err *e)
{
    size_t items = d->plan->layout->items_n, room = JOBS; /* of the first page */

    for (size_t i = 0, n; i < items; i += n) {
        struct gpu_piece p = { .rows = 1 };

        n = items - i < room ? items - i : room;
        p.row_bytes = n * sizeof *to;
        if (gpu_copy_out(d->gpu, device, d->run->ring.notes, d->device[device].counters + i, &p, e) ||
            settle(d, device, GPU_OUT, e))
            return -1;
        for (size_t k = 0; k < n; k++)
            counters_add(&to[i + k], (const struct counters *)(const void *)d->run->ring.notes + k);
    }
    return 0;
}

static int counters_reduce(struct devices *d, struct err *e)
{
    static const struct {
        size_t at;
        enum gpu_sum how;
    } field[] = {
        { offsetof(struct counters, overflow), GPU_SUM_64 }, { offsetof(struct counters, flushed), GPU_SUM_64 },
        { offsetof(struct counters, nan), GPU_SUM_64 },      { offsetof(struct counters, worst), GPU_MOST_32 },
        { offsetof(struct counters, clamped), GPU_SUM_64 },  { offsetof(struct counters, clamped_most), GPU_MOST_32 },
    };

    for (size_t f = 0; f < sizeof field / sizeof *field; f++) {
        void *at[GPU_MOST];

        for (unsigned i = 0; i < d->gpu->n; i++)
            at[i] = (unsigned char *)d->device[i].counters + field[f].at;
        if (gpu_reduce(d->gpu, at, d->plan->layout->items_n, sizeof(struct counters), field[f].how, e))
            return -1;
    }
    for (unsigned i = 0; i < d->gpu->n; i++)
        if (settle(d, i, GPU_IN, e))
            return -1;
    return 0;
}

/* All is done, and nothing is asked for any more. */
static int counters_check(struct devices *d, struct err *e)
{
    const struct layout *l = d->plan->layout;
    struct counters *sum = arena_array(d->plan->arena, l->items_n + 1, sizeof *sum);

    if (d->gpu->joined && l->items_n && counters_reduce(d, e))
        return -1;
    for (unsigned i = 0; i < (d->gpu->joined ? 1 : d->gpu->n); i++)
        if (counters_out(d, i, sum, e))
            return -1;
    for (size_t i = 0; i < l->items_n; i++)
        if (!same(&sum[i], &d->counted[i]))
            return err_set(e, ERR_INTERNAL,
                           "%s: devices have counted %llu, %llu, %llu and %llu values that overflowed, became zero, "
                           "are NaN and were clamped, the host %llu, %llu, %llu and %llu: please report it",
                           l->item[i].name, (unsigned long long)sum[i].overflow, (unsigned long long)sum[i].flushed,
                           (unsigned long long)sum[i].nan, (unsigned long long)sum[i].clamped,
                           (unsigned long long)d->counted[i].overflow, (unsigned long long)d->counted[i].flushed,
                           (unsigned long long)d->counted[i].nan, (unsigned long long)d->counted[i].clamped);
    return 0;
}

static void tracks_name(struct devices *d)
{
    static const char *const names[] = { "copies in of device", "kernels of device", "copies out of device" };

    trace_name(d->trace, TRACK_WORKERS, "devices' thread", 0);
    for (unsigned i = 0; i < d->gpu->n; i++)
        for (enum gpu_stream s = 0; s < GPU_STREAMS; s++) {
            char name[64];

            snprintf(name, sizeof name, "%s %u", names[s], d->gpu->info[i].number);
            trace_name(d->trace, TRACK_DEVICES + i * GPU_STREAMS + s, name, 0);
        }
}

void *device_main(void *arg)
{
    struct run *r = arg;
    struct devices *d = r->devices;
    struct err e = { 0 };

    d->trace = trace_buffer(&r->trace);
    tracks_name(d);
    if (r->plan->adapter)
        merger_init(&d->merger, r->ring.merge, r->plan->merge_rank, r->adapter_fd, r->plan->adapter->path);
    if (work(d, &e) || (!ring_stopped(&r->ring) && counters_check(d, &e)))
        ring_fail(&r->ring, &e);
    for (unsigned i = 0; i < d->gpu->n; i++) /* of turns that did not end: the reader waits for it */
        for (unsigned k = 0; k < turns_of(d); k++)
            tiles_give(d, &d->device[i].turn[k]);
    trace_release(d->trace);
    run_leave(r);
    return NULL;
}
