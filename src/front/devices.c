#include "front/devices.h"
#include <stdio.h>
#include <string.h>
#include "front/document.h"

bool job_device_is_gpu(const struct wb_options *o) { return o->device && strcmp(o->device, "cpu"); }

bool job_device_is_auto(const struct wb_options *o)
{
    return o->device && !strncmp(o->device, "auto", 4) && (!o->device[4] || o->device[4] == ':');
}

const char *job_device_list(const struct wb_options *o, char list[JOB_DEVICE_LIST])
{
    const char *numbers = strchr(o->device, ':');

    if (!job_device_is_auto(o))
        return o->device;
    snprintf(list, JOB_DEVICE_LIST, "cuda%s", numbers ? numbers : ":all");
    return list;
}

/* Of what is free, what is left to the driver and its libraries. */
static uint64_t usable(const struct gpu_info *i) { return i->free / 10 * 9; }

static void budget_set(const struct job_devices *d, const struct wb_options *o, struct plan_budget *b)
{
    b->devices = d->gpu.n;
    b->device_memory = UINT64_MAX;
    for (unsigned i = 0; i < d->gpu.n; i++) {
        uint64_t bytes = o->gpu_memory ? o->gpu_memory : usable(&d->gpu.info[i]);

        b->device_memory = bytes < b->device_memory ? bytes : b->device_memory;
    }
}

static struct job_device *seen(struct job_devices *d, const struct gpu_info *info)
{
    unsigned i = 0;

    while (i < d->seen_n && d->seen[i].info.number != info->number)
        i++;
    if (i == d->seen_n && d->seen_n < GPU_MOST)
        d->seen[d->seen_n++] = (struct job_device){ .info = *info };
    return i < GPU_MOST ? &d->seen[i] : NULL;
}

static void seen_all(struct job_devices *d)
{
    for (unsigned i = 0; i < d->gpu.n; i++)
        seen(d, &d->gpu.info[i]);
}

/* The device of the last message is not opened again; false: it was none in particular. */
static bool leave_out(struct job_devices *d, struct arena *a, const struct err *why)
{
    struct job_device *lost;

    if (d->gpu.failed >= GPU_MOST || d->without_n == GPU_MOST)
        return false;
    lost = seen(d, &d->gpu.info[d->gpu.failed]);
    if (lost)
        lost->failed = arena_printf(a, "%s", why->msg);
    d->without[d->without_n++] = d->gpu.info[d->gpu.failed].number;
    return true;
}

/* Where none is left, the first that could not be opened is the reason. */
static int none_left(const struct err *first, struct err *why, struct err *e)
{
    if (!first->kind || why->kind != ERR_DEVICE) {
        *e = *why;
        return -1;
    }
    return err_set(e, ERR_DEVICE, "no CUDA device: %s", first->msg);
}

/* All that can be opened.  Each one that can't is told of, unless there must be none such. */
static int open_those_left(struct job_devices *d, const struct wb_options *o, struct notes *n, struct arena *a,
                           struct err *e)
{
    struct err why = { 0 }, first = { 0 };
    char list[JOB_DEVICE_LIST];
    const char *which = job_device_list(o, list);

    for (;;) {
        d->gpu.failed = GPU_MOST;
        if (!gpu_open(&d->gpu, which, d->without, d->without_n, &why)) {
            seen_all(d);
            return 0;
        }
        if (why.kind != ERR_DEVICE || o->strict_device || !leave_out(d, a, &why))
            return none_left(&first, &why, e);
        notes_add(n, NOTE_WARNING, "%s; it is left out", why.msg);
        if (!first.kind)
            first = why;
        why = (struct err){ 0 };
    }
}

static void leave(struct job_devices *d, struct plan_budget *b, struct notes *n, enum note_kind kind, struct arena *a,
                  const struct err *why)
{
    gpu_close(&d->gpu);
    b->devices = 0;
    d->cpu = arena_printf(a, "%s", why->msg);
    notes_add(n, kind, "the CPU converts: %s", why->msg);
}

void job_devices_leave(struct job_devices *d, struct plan_budget *b, struct notes *n, struct arena *a,
                       const struct err *why)
{
    leave(d, b, n, NOTE_WARNING, a, why);
}

/* The device with the least memory free, and the least of the others; false: all have the same, or none may be left
 * out. */
static bool least_of(const struct job_devices *d, const struct wb_options *o, unsigned *least, unsigned *next)
{
    *least = 0;
    for (unsigned i = 1; i < d->gpu.n; i++)
        *least = d->gpu.info[i].free < d->gpu.info[*least].free ? i : *least;
    *next = !*least;
    for (unsigned i = 0; i < d->gpu.n; i++)
        *next = i != *least && d->gpu.info[i].free < d->gpu.info[*next].free ? i : *next;
    return d->gpu.n > 1 && !o->gpu_memory && !o->strict_device && d->gpu.info[*least].free < d->gpu.info[*next].free;
}

bool job_devices_without_least(const struct job_devices *d, const struct wb_options *o, struct plan_budget *b,
                               struct err *why)
{
    unsigned least, next;
    char has[24], others[24];

    if (!b->devices || !least_of(d, o, &least, &next))
        return false;
    b->devices--;
    b->device_memory = usable(&d->gpu.info[next]);
    err_set(why, ERR_DEVICE,
            "%s of its memory are free, with which no device could hold whole tensors; the others have %s",
            str_bytes(has, d->gpu.info[least].free), str_bytes(others, d->gpu.info[next].free));
    return true;
}

bool job_devices_drop_least(struct job_devices *d, const struct wb_options *o, struct plan_budget *b, struct notes *n,
                            struct arena *a, const struct err *why)
{
    struct err none = { 0 };
    unsigned least, next;

    if (!b->devices || !least_of(d, o, &least, &next))
        return false;
    notes_add(n, NOTE_WARNING, "device %u (%s) is left out: %s", d->gpu.info[least].number, d->gpu.info[least].name,
              why->msg);
    d->gpu.failed = least;
    leave_out(d, a, why);
    gpu_close(&d->gpu);
    if (open_those_left(d, o, n, a, &none))
        return false;
    budget_set(d, o, b);
    return true;
}

int job_devices_open(struct job_devices *d, const struct wb_options *o, struct plan_budget *b, struct notes *n,
                     struct arena *a, struct err *e)
{
    struct err why = { 0 };

    if (!job_device_is_gpu(o))
        return 0;
    d->feed_nccl = o->gpu_feed && !strcmp(o->gpu_feed, "nccl");
    if (!open_those_left(d, o, n, a, &why))
        budget_set(d, o, b);
    else if (why.kind == ERR_DEVICE && job_device_is_auto(o))
        leave(d, b, n, NOTE_INFO, a, &why); /* as it was agreed to */
    else
        *e = why;
    return e->kind ? -1 : 0;
}

void job_devices_count(struct job_devices *d, const struct run_result *r)
{
    for (unsigned i = 0; r->device && i < GPU_MOST && i < r->devices_n; i++) {
        struct job_device *s = seen(d, &d->gpu.info[i]);

        if (s) {
            s->tiles += r->device[i].tiles;
            s->bytes += r->device[i].bytes;
        }
    }
    d->host_jobs += r->host_jobs;
}

static const char *plural(unsigned n) { return n == 1 ? "" : "s"; }

bool job_devices_go_on(struct job_devices *d, const struct wb_options *o, const struct run_result *r,
                       struct plan_budget *b, struct notes *n, struct arena *a, struct err *e)
{
    struct err why = *e, none = { 0 };
    unsigned failed = d->gpu.failed; /* pipeline_run has closed them */
    bool exchange = d->gpu.exchange_failed;

    if (!b->devices)
        return false;
    job_devices_count(d, r);
    if (e->kind != ERR_DEVICE || o->strict_device)
        return false;
    *e = (struct err){ 0 };
    if (!leave_out(d, a, &why) && exchange && !d->no_nccl) {
        d->no_nccl = true; /* of several devices none in particular: what connects them */
        d->feed_nccl = false;
    } else if (failed >= GPU_MOST) {
        job_devices_leave(d, b, n, a, &why);
        return true;
    }
    if (open_those_left(d, o, n, a, &none)) {
        job_devices_leave(d, b, n, a, &why);
        return true;
    }
    budget_set(d, o, b);
    notes_add(n, NOTE_WARNING, "%s; the export goes on with %u device%s%s", why.msg, d->gpu.n, plural(d->gpu.n),
              failed >= GPU_MOST ? ", without NCCL" : "");
    return true;
}

void job_devices_close(struct job_devices *d) { gpu_close(&d->gpu); }

json_t *job_devices_report(const struct job_devices *d)
{
    json_t *o = json_object(), *list = json_array();

    put_text(o, "converts", d->gpu.n ? "cuda" : "cpu");
    put_text(o, "why", d->cpu);
    put_text(o, "feed", d->gpu.n < 2 ? NULL : d->feed_nccl ? "nccl" : "direct");
    put_u64(o, "host_jobs", d->host_jobs);
    for (unsigned i = 0; i < d->seen_n; i++) {
        const struct job_device *s = &d->seen[i];
        json_t *v = json_object();

        put_u64(v, "number", s->info.number);
        put_text(v, "name", s->info.name);
        put_u64(v, "memory", s->info.memory);
        put_u64(v, "free", s->info.free);
        put_u64(v, "tiles", s->tiles);
        put_u64(v, "bytes", s->bytes);
        put_text(v, "failed", s->failed);
        json_array_append_new(list, v);
    }
    put(o, "devices", list);
    return o;
}
