#include "pipeline/pipeline.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/thread.h"
#include "io/file.h"
#include "pipeline/device.h"
#include "pipeline/journal.h"
#include "pipeline/run.h"

enum { PROGRESS_NS = 200000000 };

void run_leave(struct run *r)
{
    pthread_mutex_lock(&r->lock);
    r->running--;
    pthread_cond_signal(&r->left);
    pthread_mutex_unlock(&r->lock);
}

const char *run_slab_tensor(const struct run *r, uint64_t slab)
{
    return r->plan->layout->item[r->plan->slab[slab].item].name;
}

const char *run_tile_tensor(const struct run *r, uint64_t tile)
{
    return run_slab_tensor(r, r->plan->job[r->plan->tile[tile].job].slab);
}

static void locks_init(struct run *r)
{
    pthread_mutex_init(&r->lock, NULL);
    cond_init_timed(&r->left);
    cond_init_timed(&r->wrote);
}

static void locks_release(struct run *r)
{
    pthread_cond_destroy(&r->left);
    pthread_cond_destroy(&r->wrote);
    pthread_mutex_destroy(&r->lock);
}

static unsigned workers_of(const struct run_options *o) { return o->threads && !o->gpu ? o->threads : 1; }

static unsigned threads_n(const struct run *r, const struct run_options *o)
{
    return workers_of(o) + 2 + (r->journal != NULL);
}

static int threads_start(struct run *r, pthread_t *thread, unsigned *started, unsigned n, struct err *e)
{
    void *(*const worker)(void *) = r->devices ? device_main : worker_main;
    void *(*const first[])(void *) = { reader_main, writer_main, r->journal ? recorder_main : worker };
    int ret = 0;

    for (*started = 0; !ret && *started < n;) {
        void *(*role)(void *) = *started < 3 ? first[*started] : worker;

        pthread_mutex_lock(&r->lock);
        r->running++;
        pthread_mutex_unlock(&r->lock);
        ret = thread_start(&thread[*started], role, r);
        if (ret)
            run_leave(r);
        else
            ++*started;
    }
    return ret ? err_errno(e, ret, "no thread number %u could be started: use fewer --threads", *started + 1) : 0;
}

static struct sample measure(struct run *r, double begin)
{
    struct sample s = { .read = atomic_load(&r->read), .written = atomic_load(&r->written) };

    ring_waited(&r->ring, s.waited);
    s.seconds = clock_wall() - begin;
    return s;
}

static int report(struct run *r, const struct run_options *o, double begin)
{
    struct sample s = measure(r, begin);
    struct run_progress p = { .read = s.read,
                              .written = s.written,
                              .to_read = r->plan->to_read,
                              .to_write = r->plan->to_write,
                              .seconds = s.seconds,
                              .limit = meter_limit(&r->meter.before, &s, workers_of(o)) };

    meter_add(&r->meter, &s, false);
    return o->progress ? o->progress(o->user, &p) : 0;
}

/* False: the time is over and threads are running. */
static bool all_left(struct run *r)
{
    struct timespec until = clock_in(PROGRESS_NS);
    bool left;

    pthread_mutex_lock(&r->lock);
    while (r->running && pthread_cond_timedwait(&r->left, &r->lock, &until) != ETIMEDOUT)
        ;
    left = !r->running;
    pthread_mutex_unlock(&r->lock);
    return left;
}

static void watch(struct run *r, const struct run_options *o, double begin)
{
    bool asked = true;

    do {
        if (asked && report(r, o, begin)) {
            struct err e = { 0 };

            err_set(&e, ERR_CANCELLED, "stopped on request before all weights were written");
            ring_fail(&r->ring, &e);
            asked = false;
        }
    } while (!all_left(r));
    if (asked && !ring_stopped(&r->ring))
        report(r, o, begin); /* 100 % */
}

/* What became of it, as the meter has it. */
static void settle(struct run *r, unsigned workers, double begin)
{
    struct run_result *result = r->result;
    struct sample s = measure(r, begin);

    meter_add(&r->meter, &s, true);
    for (enum stage i = 0; i < STAGES; i++) {
        result->waiting[i] = s.waited[i];
        result->busy[i] = s.seconds * (i == STAGE_TRANSFORM ? workers : 1) - s.waited[i];
    }
    result->limit = meter_limit(&(struct sample){ 0 }, &s, workers);
    result->series_n = r->meter.n;
    result->series = arena_array(r->plan->arena, r->meter.n, sizeof *result->series);
    memcpy(result->series, r->meter.sample, r->meter.n * sizeof *result->series);
}

static int move(struct run *r, const struct run_options *o, struct err *e)
{
    unsigned n = threads_n(r, o), started;
    double begin = clock_wall();
    pthread_t *thread = calloc(n, sizeof *thread);

    if (!thread)
        return err_set(e, ERR_NOMEM, "no memory for %u threads", n);
    if (threads_start(r, thread, &started, n, e))
        ring_fail(&r->ring, e);
    watch(r, o, begin);
    for (unsigned i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    free(thread);
    settle(r, workers_of(o), begin);
    if (!r->ring.stop)
        return 0;
    *e = r->ring.err;
    return -1;
}

static void result_init(struct run_result *r, const struct plan *p, const struct journal *j)
{
    *r = (struct run_result){ .item = arena_array(p->arena, p->layout->items_n, sizeof *r->item),
                              .buffers = p->buffers };
    for (size_t i = 0; i < p->layout->items_n; i++)
        r->item[i].hash = hash_tensor("", 0); /* of an empty one; the others get theirs */
    for (size_t i = 0; j && i < j->finished_n; i++)
        r->item[j->finished[i].item] = j->finished[i].result;
}

static int adapter_open_file(struct run *r, struct err *e)
{
    if (r->plan->adapter)
        r->adapter_fd = source_open(r->plan->adapter, e);
    return r->plan->adapter && r->adapter_fd < 0 ? -1 : 0;
}

/* Workers read it all the time; whether it stayed the same is asked once, at the end. */
static int adapter_close_file(struct run *r, int ret, struct err *e)
{
    if (r->adapter_fd < 0)
        return ret;
    if (!ret)
        ret = source_check(r->adapter_fd, r->plan->adapter, "while it was being read", e);
    file_close(r->adapter_fd);
    return ret;
}

int pipeline_run(const struct plan *p, int dir_fd, const char *dir, const struct run_options *o, struct run_result *r,
                 struct err *e)
{
    struct run run = { .plan = p,
                       .result = r,
                       .journal = o->journal,
                       .nowhere = o->nowhere,
                       .joint = o->joint,
                       .again = o->again,
                       .record_last = o->record_last,
                       .hashes = !o->no_hashes && !o->nowhere,
                       .filled = o->filled,
                       .adapter_fd = -1 };
    double begin = clock_wall();
    int ret = -1;

    result_init(r, p, o->journal);
    locks_init(&run);
    trace_begin(&run.trace, o->trace, o->user, o->follows, o->trace_begin);
    run.pending = arena_array(p->arena, p->layout->items_n + 1, sizeof *run.pending);
    /* Whatever may be refused comes before the first file: memory, engines. */
    if (adapter_open_file(&run, e) || ring_init(&run.ring, p, e) || io_open(&run.in, o->io, READ_DEPTH, e) ||
        (o->nowhere ? io_open_null(&run.out, WRITE_DEPTH, e) : io_open(&run.out, o->io, WRITE_DEPTH, e)) ||
        (o->gpu && !(run.devices = devices_open(&run, o, e))) || outputs_create(&run, dir_fd, dir, e))
        goto out;
    r->made = true;
    if (o->filled)
        filled_reach(o->filled, FILLED_OPEN);
    r->engine = run.in.engine->name;
    r->refused = run.in.refused;
    run.guarded = !o->gpu && io_maps(o->io) && io_guard();
    run.only_map = !strcmp(o->io, "mmap");
    ret = move(&run, o, e);
out:
    ret = adapter_close_file(&run, ret, e);
    outputs_close(&run);
    io_close(&run.in);
    io_close(&run.out);
    if (run.guarded)
        io_unguard();
    devices_close(run.devices, ret);
    if (ret && o->gpu) /* so that nothing moves from or to the ring's memory any more */
        gpu_close(o->gpu);
    ring_release(&run.ring);
    trace_end(&run.trace, o->followed && ret && e->kind == ERR_DEVICE);
    locks_release(&run);
    r->wall = clock_wall() - begin;
    return ret;
}
