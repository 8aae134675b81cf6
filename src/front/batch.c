/* batch.c - wb_batch: all jobs are looked at, then threads take them in turn; each is an export of its own.
 *
 * What they share is divided before: each of the exports that run at once gets
 * its part of memory and threads.  What was interrupted is gone on with; what the
 * state says is done, and still is, is left alone. */
#include "front/batch.h"
#include "base/clock.h"
#include "base/json.h"
#include "emit/outdir.h"
#include "front/document.h"
#include "front/export.h"
#include "front/front.h"
#include "front/manifest.h"
#include "front/pack.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum status { READY, DONE, SKIPPED, FAILED, INTERRUPTED, NOT_BEGUN, STATUSES };

static const char *const status_names[] = { "ready", "done", "skipped", "failed", "interrupted", "not begun" };

struct task {
    struct batch *batch;
    struct batch_job *job;
    enum status status;
    const char *message;  /* NULL: none */
    bool resumable, ours; /* there is a record of OUT */
    dev_t dev;            /* where OUT stands, */
    uint64_t need;        /* and what is needed there beyond what an older OUT, or an interrupted one, holds */
    double wall;
    struct wb_progress progress;
    json_t *warnings;
    json_t *report; /* of wb_export */
};

struct batch {
    const struct wb_batch *request;
    const struct wb_options *o; /* the request's */
    struct arena arena;
    struct batch_jobs jobs;
    struct batch_state state;
    struct task *task;
    uint64_t memory; /* of all that run at once */
    unsigned at_once;
    pthread_mutex_t lock; /* of all below, of the arena, the state, and around the caller's functions */
    size_t next;
    bool stop, cancelled;
    double begin;
};

/* ---- what the caller is told ---- */

static void put_member(json_t *o, const struct task *t, const char *key)
{
    json_t *v = json_object_get(t->report, key);

    if (v)
        json_object_set(o, key, v);
}

static json_t *line_of(const struct task *t)
{
    static const char *const rates[] = { "read", "written", "gb_per_s" };
    const json_t *totals = json_object_get(t->report, "totals");
    json_t *o = json_object();

    put_u64(o, "index", (uint64_t)(t - t->batch->task));
    put_text(o, "model", t->job->model);
    put_text(o, "out", t->job->name);
    put_text(o, "status", status_names[t->status]);
    put_text(o, "message", t->message);
    put(o, "resumable", json_boolean(t->resumable));
    put(o, "wall", json_real(t->wall));
    put(o, "warnings", json_incref(t->warnings));
    for (size_t i = 0; t->report && i < sizeof rates / sizeof *rates; i++)
        json_object_set(o, rates[i], json_object_get(totals, rates[i]));
    put_member(o, t, "resumed");
    put_member(o, t, "archive");
    return o;
}

static void tell(struct task *t)
{
    struct batch *b = t->batch;
    struct str s = { 0 };
    json_t *line;

    if (!b->request->ended)
        return;
    line = line_of(t);
    json_print(&s, line, false, false);
    json_decref(line);
    b->request->ended(b->o->user, str_text(&s));
    str_release(&s);
}

static void warn(struct task *t, const char *text)
{
    struct batch *b = t->batch;
    const char *full = arena_printf(&b->arena, "%s: %s", t->job->name, text);

    json_array_append_new(t->warnings, document_string(text));
    if (b->o->warning)
        b->o->warning(b->o->user, full);
}

static void relay_warning(void *user, const char *text)
{
    struct task *t = user;

    pthread_mutex_lock(&t->batch->lock);
    warn(t, text);
    pthread_mutex_unlock(&t->batch->lock);
}

/* The sum of all that are done, run, or will; where one export alone moves bytes, also what it waits for. */
static int show_progress(struct batch *b, const char *limit)
{
    struct wb_progress sum = { .seconds = clock_wall() - b->begin, .limit = limit };

    for (size_t i = 0; i < b->jobs.n; i++) {
        const struct task *t = &b->task[i];

        if (t->status != READY && t->status != DONE)
            continue;
        sum.read += t->progress.read;
        sum.written += t->progress.written;
        sum.to_read += t->progress.to_read;
        sum.to_write += t->progress.to_write;
    }
    if (!b->cancelled && b->o->progress && b->o->progress(b->o->user, &sum))
        b->cancelled = true;
    return b->cancelled;
}

static int relay_progress(void *user, const struct wb_progress *p)
{
    struct task *t = user;
    int stop;

    pthread_mutex_lock(&t->batch->lock);
    if (p->to_write) /* packing tells what it reads only */
        t->progress = *p;
    stop = show_progress(t->batch, t->batch->request->at_once > 1 ? NULL : p->limit);
    pthread_mutex_unlock(&t->batch->lock);
    return stop;
}

/* ---- looking at the jobs ---- */

static struct job_hints hints_of(const struct task *t, int64_t now)
{
    return (struct job_hints){ .model_path = t->job->model, .now = now, .shares_gpus = t->batch->request->at_once > 1 };
}

static int share_too_small(const struct batch *b, uint64_t share, struct err *e)
{
    char all[24], each[24], least[24], enough[24];

    return err_set(e, ERR_USAGE,
                   "--memory %s is too little: each of %u jobs at once has %s of it, and an archive needs %s: give %s, "
                   "or fewer --jobs",
                   str_size(all, b->memory), b->at_once, str_size(each, share), str_size(least, PACK_MEMORY_MIN),
                   str_size(enough, (uint64_t)PACK_MEMORY_MIN * b->at_once));
}

/* The archive that a job writes may be another's, also where OUT is ours. */
static int check_archive(struct export_job *j, const struct task *t, const json_t *record, struct err *e)
{
    struct wb_options o = t->job->opt;
    bool exists;

    if (!o.archive)
        return 0;
    if (t->batch->at_once > 1 && j->budget.memory < PACK_MEMORY_MIN)
        return share_too_small(t->batch, j->budget.memory, e);
    o.overwrite = o.overwrite || batch_record_archive(record, t->job);
    return packing_check(&o, &j->budget, &exists, &j->arena, e);
}

/* Jobs that come before need room on the same file system. */
static int check_room(struct task *t, const struct export_job *j, struct err *e)
{
    uint64_t before = 0, left = outdir_left(t->job->opt.out, &t->batch->arena);
    char need[24], have[24];
    struct stat st;

    if (stat(file_parent(t->job->opt.out, &t->batch->arena), &st) || j->out_exists)
        return 0;
    t->dev = st.st_dev;
    t->need = j->need > left ? j->need - left : 0;
    for (struct task *p = t->batch->task; p < t; p++)
        if (p->status == READY && p->dev == t->dev)
            before += p->need;
    if (j->need + before <= j->disk_free)
        return 0;
    return err_set(e, ERR_SPACE,
                   "needs %s beside what the jobs before it need there, %s are free: make room or give "
                   "another place",
                   str_bytes(need, j->need + before), str_bytes(have, j->disk_free));
}

static void fail(struct task *t, enum status status, const char *message)
{
    t->status = status;
    t->message = arena_printf(&t->batch->arena, "%s: %s", t->job->name, batch_jobs_words(message, &t->batch->arena));
}

static void look_at(struct task *t)
{
    const json_t *record = batch_state_of(&t->batch->state, t->job);
    int64_t now = batch_record_now(record);
    struct wb_options *o = &t->job->opt;
    struct job_hints hints = hints_of(t, now ? now : (int64_t)time(NULL));
    json_t *manifest = NULL;
    struct export_job j;
    struct err e = { 0 };

    t->ours = record;
    if (!job_prepare(&j, o, &hints, &e)) {
        manifest = manifest_whole(&j);
        t->progress.to_read = j.plan.to_read;
        t->progress.to_write = j.layout.bytes;
        if (batch_record_holds(record, t->job, manifest)) {
            t->status = SKIPPED;
        } else if (!check_archive(&j, t, record, &e)) {
            o->overwrite |= t->ours;
            if (!job_may_write(&j, &e))
                check_room(t, &j, &e);
        }
    }
    if (e.kind)
        fail(t, FAILED, e.msg);
    json_decref(manifest);
    job_release(&j);
}

/* All of them, before the first byte is written. */
static size_t look_at_all(struct batch *b)
{
    size_t refused = 0;

    for (size_t i = 0; i < b->jobs.n && !b->cancelled; i++) {
        struct task *t = &b->task[i];

        look_at(t);
        if (b->o->progress && b->o->progress(b->o->user, &(struct wb_progress){ 0 }))
            b->cancelled = true;
        if (b->cancelled && t->status == FAILED) { /* a helper that died of the same signal is not the reason */
            t->status = READY;
            t->message = NULL;
        }
        if (t->status != READY)
            tell(t);
        refused += t->status == FAILED;
    }
    return refused;
}

/* ---- doing them ---- */

/* What is not there yet becomes ours before it is: a run that is killed may have published it. */
static int claim(struct task *t, struct err *e)
{
    int ret = 0;

    pthread_mutex_lock(&t->batch->lock);
    if (!t->ours)
        ret = batch_state_set(&t->batch->state, t->job, batch_record_begun(t->job), e);
    pthread_mutex_unlock(&t->batch->lock);
    return ret;
}

static void settle_done(struct task *t, struct export_way *way)
{
    struct err e = { 0 };
    json_t *record = batch_record_done(t->job, way->manifest, way->hints.now, &e);

    way->manifest = NULL;
    t->status = DONE;
    if (!e.kind)
        batch_state_set(&t->batch->state, t->job, json_incref(record), &e);
    json_decref(record);
    if (e.kind)
        warn(t, arena_printf(&t->batch->arena, "is complete, but will be done again: %s", e.msg));
    t->progress.read = t->progress.to_read;
    t->progress.written = t->progress.to_write;
}

static void settle_failed(struct task *t, const struct wb_error *error)
{
    struct err ignored = { 0 }; /* then OUT stays ours, though it is not there */

    show_progress(t->batch, NULL);
    t->resumable = error->resumable;
    if (t->batch->cancelled)
        fail(t, INTERRUPTED,
             error->resumable ? "interrupted; what is finished is kept, and the same batch goes on from there"
                              : "interrupted; nothing was published");
    else
        fail(t, FAILED, error->message);
    if (!t->ours)
        batch_state_set(&t->batch->state, t->job, NULL, &ignored);
    if (!t->batch->request->keep_going)
        t->batch->stop = true;
}

static void run(struct task *t)
{
    struct export_way way = { .hints = hints_of(t, (int64_t)time(NULL)), .anew = true };
    struct wb_options o = t->job->opt;
    struct wb_error error = { 0 };
    double begin = clock_wall();
    struct err e = { 0 };
    char *report = NULL;

    o.resume = true;
    o.no_hashes = true; /* lines of the batch's report do not name tensors */
    o.progress = relay_progress;
    o.warning = relay_warning;
    o.user = t;
    if (claim(t, &e))
        front_result(&e, &error);
    else
        export_by(&o, &way, &report, &error);
    pthread_mutex_lock(&t->batch->lock);
    t->wall = clock_wall() - begin;
    t->report = report ? json_loads(report, 0, NULL) : NULL;
    if (error.status == WB_OK)
        settle_done(t, &way);
    else
        settle_failed(t, &error);
    tell(t);
    pthread_mutex_unlock(&t->batch->lock);
    json_decref(way.manifest);
    free(report);
}

static struct task *take(struct batch *b)
{
    struct task *t = NULL;

    pthread_mutex_lock(&b->lock);
    while (!t && !b->stop && !b->cancelled && b->next < b->jobs.n)
        if (b->task[b->next++].status == READY)
            t = &b->task[b->next - 1];
    pthread_mutex_unlock(&b->lock);
    return t;
}

static void *runner(void *argument)
{
    struct task *t;

    while ((t = take(argument)))
        run(t);
    return NULL;
}

/* The calling thread is one of them; a thread that cannot be had is done without. */
static void run_all(struct batch *b)
{
    pthread_t *thread = arena_array(&b->arena, b->at_once, sizeof *thread);
    unsigned n = 0;

    b->begin = clock_wall();
    while (n + 1 < b->at_once && !pthread_create(&thread[n], NULL, runner, b))
        n++;
    runner(b);
    while (n)
        pthread_join(thread[--n], NULL);
}

/* ---- the whole ---- */

/* Each of those that run at once gets its part. */
static int share_out(struct batch *b, struct err *e)
{
    unsigned at_once = b->request->at_once ? b->request->at_once : 1;
    char given[24], least[24], each[24];
    struct plan_budget all;

    if (at_once > b->jobs.n)
        at_once = (unsigned)b->jobs.n;
    if (job_budget(b->o, &all, e))
        return -1;
    b->at_once = at_once;
    b->memory = all.memory;
    if (all.memory / at_once < PLAN_MEMORY_MIN)
        return err_set(e, ERR_USAGE, "--memory %s is too little for %u jobs at once: expected at least %s, %s for each",
                       str_size(given, all.memory), at_once, str_size(least, PLAN_MEMORY_MIN * at_once),
                       str_size(each, PLAN_MEMORY_MIN));
    if (at_once > 1 && job_device_is_gpu(b->o) && !b->o->gpu_memory)
        return err_set(e, ERR_USAGE,
                       "%u jobs at once share the memory of a GPU: give --gpu-memory, or leave --jobs out", at_once);
    if (at_once > 1 && job_device_is_gpu(b->o) && b->o->gpu_feed && !strcmp(b->o->gpu_feed, "nccl"))
        return err_set(e, ERR_USAGE,
                       "--gpu-feed nccl is for one job at a time, as %u could wait for each other: leave it or --jobs "
                       "out",
                       at_once);
    for (size_t i = 0; i < b->jobs.n; i++) {
        struct wb_options *o = &b->jobs.v[i].opt;

        o->memory = all.memory / at_once;
        o->threads = all.threads > at_once ? all.threads / at_once : 1;
        o->io = b->o->io;
        o->device = b->o->device;
        o->gpu_feed = b->o->gpu_feed;
        o->strict_device = b->o->strict_device;
        o->gpu_memory = b->o->gpu_memory / at_once;
    }
    return 0;
}

static void make_tasks(struct batch *b)
{
    b->task = arena_array(&b->arena, b->jobs.n, sizeof *b->task);
    for (size_t i = 0; i < b->jobs.n; i++)
        b->task[i] = (struct task){ .batch = b, .job = &b->jobs.v[i], .warnings = json_array() };
}

/* Those that had no turn are told of, too. */
static void count(struct batch *b, size_t counts[STATUSES])
{
    for (size_t i = 0; i < b->jobs.n; i++) {
        struct task *t = &b->task[i];

        if (t->status == READY) {
            t->status = NOT_BEGUN;
            tell(t);
        }
        counts[t->status]++;
    }
}

static char *report_text(const struct batch *b, const size_t counts[STATUSES], double wall)
{
    json_t *o = json_object(), *list = json_array();

    for (size_t i = 0; i < b->jobs.n; i++)
        json_array_append_new(list, line_of(&b->task[i]));
    put(o, "jobs", list);
    for (size_t i = DONE; i < STATUSES; i++)
        put_u64(o, i == NOT_BEGUN ? "not_begun" : status_names[i], counts[i]);
    put(o, "wall", json_real(wall));
    return document_text(o);
}

static int outcome(const struct batch *b, size_t refused, const size_t counts[STATUSES], struct err *e)
{
    if (b->cancelled)
        return err_set(e, ERR_CANCELLED, "interrupted; the same batch goes on from there");
    if (refused && !b->request->keep_going)
        return err_set(e, ERR_REFUSED,
                       "%s: %zu of %zu jobs cannot be done, so none was begun: put them right, or let the others go on "
                       "without them (--keep-going)",
                       b->request->jobs, refused, b->jobs.n);
    if (counts[FAILED])
        return err_set(e, ERR_REFUSED, "%s: %zu of %zu jobs failed", b->request->jobs, counts[FAILED], b->jobs.n);
    return 0;
}

static void release(struct batch *b)
{
    for (size_t i = 0; b->task && i < b->jobs.n; i++) {
        json_decref(b->task[i].warnings);
        json_decref(b->task[i].report);
    }
    batch_state_close(&b->state);
    batch_jobs_release(&b->jobs);
    pthread_mutex_destroy(&b->lock);
    arena_release(&b->arena);
}

int wb_batch(const struct wb_batch *request, char **report, struct wb_error *error)
{
    static const struct wb_options none;
    struct batch b = { .request = request,
                       .o = request->options ? request->options : &none,
                       .state = { .lock = -1 },
                       .lock = PTHREAD_MUTEX_INITIALIZER };
    size_t refused, counts[STATUSES] = { 0 };
    double begin = clock_wall();
    struct err e = { 0 };

    if (!request->jobs || !*request->jobs) {
        err_set(&e, ERR_USAGE, "no file of jobs was given");
        goto out;
    }
    if (batch_jobs_read(&b.jobs, request->jobs, request->report, &b.arena, &e) || share_out(&b, &e) ||
        batch_state_open(&b.state, request->jobs, &b.arena, &e))
        goto out;
    make_tasks(&b);
    refused = look_at_all(&b);
    if (!b.cancelled && (!refused || request->keep_going))
        run_all(&b);
    count(&b, counts);
    if (report)
        *report = report_text(&b, counts, clock_wall() - begin);
    outcome(&b, refused, counts, &e);
out:
    release(&b);
    return front_result(&e, error);
}
