#include "front/report.h"
#include "base/hash.h"
#include "front/document.h"
#include "front/merge.h"
#include <stdlib.h>
#include <string.h>

json_t *report_notes(const struct notes *n)
{
    json_t *list = json_array(), *o;

    for (size_t i = 0; i < n->n; i++) {
        o = json_object();
        put(o, "warning", json_boolean(n->v[i].warning));
        put(o, "strict", json_boolean(n->v[i].strict));
        put_text(o, "text", n->v[i].text);
        json_array_append_new(list, o);
    }
    return list;
}

json_t *report_merge(const struct adapter *ad)
{
    json_t *o = json_object();
    size_t merged = merge_modules(ad);

    put_text(o, "adapter", ad->dir);
    put_u64(o, "modules", ad->pairs_n);
    put_u64(o, "merged", merged);
    put_u64(o, "left_out", ad->pairs_n - merged);
    return o;
}

static json_t *file_entry(const char *name, uint64_t bytes, const char *origin)
{
    json_t *o = json_object();

    put_text(o, "name", name);
    put_u64(o, "bytes", bytes);
    put_text(o, "origin", origin);
    return o;
}

static json_t *files(const struct export_job *j)
{
    json_t *list = json_array();

    json_array_append_new(list, file_entry("model.onnx", j->model_onnx, "graph and small tensors"));
    for (size_t i = 0; i < j->layout.files_n; i++)
        json_array_append_new(list, file_entry(j->layout.file[i].name, j->layout.file[i].bytes, "weights"));
    for (size_t i = 0; i < j->side.n; i++)
        json_array_append_new(list, file_entry(j->side.v[i].name, j->side.v[i].size, j->side.v[i].origin));
    return list;
}

static json_t *tensor_entry(const struct export_job *j, const char *name, const struct recipe *r,
                            const struct placed *p)
{
    json_t *o = json_object();
    struct recipe_plain plain;
    struct err ignored = { 0 };

    put_text(o, "name", name);
    put_text(o, "file", p ? j->layout.file[p->file].name : "model.onnx");
    put(o, "offset", p ? document_u64(p->off) : json_null());
    put_u64(o, "bytes", recipe_bytes(r));
    put_text(o, "dtype", dtype_name(r->dtype));
    put(o, "shape", document_shape(r->shape, r->rank));
    if (!recipe_plain(r, &plain, &ignored)) {
        put_text(o, "source", plain.source->name);
        if (plain.gather)
            put_u64(o, "source_rows", plain.rows);
        put_text(o, "source_file", j->ckpt.file[plain.source->file].name);
        put_text(o, "source_dtype", plain.source->dtype_text);
        put_text(o, "transform", plain.transform->name);
        if (plain.merge)
            put_u64(o, "lora_rank", plain.merge->rank);
    }
    return o;
}

static void put_result(json_t *o, const struct counters *c, uint64_t hash, bool hashed)
{
    char hex[17];
    float worst;

    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash);
    put_text(o, "xxh3_4k", hashed ? hex : NULL);
    put_u64(o, "overflow", c->overflow);
    put_u64(o, "flushed", c->flushed);
    put_u64(o, "nan", c->nan);
    put_u64(o, "clamped", c->clamped);
    put_u64(o, "clamped_most", c->clamped_most);
    memcpy(&worst, &c->worst, sizeof worst);
    put(o, "worst", c->overflow ? json_real((double)worst) : json_null());
}

/* Inline and external initializers in their order, then what stands in other data files. */
static json_t *tensors(const struct export_job *j, const struct run_result *run)
{
    bool hashed = !job_nowhere(j->options) && !j->options->no_hashes;
    json_t *list = json_array(), *o;
    size_t item = 0;

    for (size_t i = 0; i < j->graph.init_n; i++) {
        const struct inline_tensor *t = &j->tensor[i];

        o = tensor_entry(j, j->graph.init[i].name, j->graph.init[i].recipe, t->bytes ? NULL : &j->layout.item[item]);
        if (run && t->bytes)
            put_result(o, &t->counters, hashed ? hash_tensor(t->bytes, t->n) : 0, hashed);
        else if (run)
            put_result(o, &run->item[item].counters, run->item[item].hash, hashed);
        item += !t->bytes;
        json_array_append_new(list, o);
    }
    for (; item < j->layout.items_n; item++) {
        o = tensor_entry(j, j->layout.item[item].name, j->layout.item[item].recipe, &j->layout.item[item]);
        if (run)
            put_result(o, &run->item[item].counters, run->item[item].hash, hashed);
        json_array_append_new(list, o);
    }
    return list;
}

/* Source bytes by transform, from the tensor list. */
static json_t *transforms_used(const struct export_job *j)
{
    json_t *list = json_array();

    for (size_t t = 0; t < transforms_n; t++) {
        uint64_t n = 0, bytes = 0;
        struct recipe_plain p;
        struct err ignored = { 0 };
        json_t *o;

        for (size_t i = 0; i < j->graph.init_n + (j->embedding != NULL); i++) {
            const struct recipe *r = i < j->graph.init_n ? j->graph.init[i].recipe : j->embedding;

            if (!recipe_plain(r, &p, &ignored) && p.transform == &transforms[t]) {
                n++;
                bytes += recipe_plain_bytes(&p);
            }
        }
        if (!n)
            continue;
        o = json_object();
        put_text(o, "transform", transforms[t].name);
        put_u64(o, "tensors", n);
        put_u64(o, "bytes", bytes);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *unused(const struct export_job *j)
{
    struct arena a = { 0 };
    struct unused_group *group;
    json_t *list = json_array(), *o;
    size_t n;

    model_unused(&j->model, &a, &group, &n);
    for (size_t i = 0; i < n; i++) {
        o = json_object();
        put_text(o, "pattern", group[i].pattern);
        put_u64(o, "tensors", group[i].tensors);
        put_u64(o, "bytes", group[i].bytes);
        json_array_append_new(list, o);
    }
    arena_release(&a);
    return list;
}

static json_t *memory(const struct plan *p, const struct plan_budget *b)
{
    json_t *o = json_object();

    put_u64(o, "budget", b->memory);
    put_u64(o, "buffers", p->buffers);
    put_u64(o, "tile_slots", p->tile_slots);
    put_u64(o, "tile_bytes", p->tile_bytes);
    put_u64(o, "stream_slots", p->stream_slots);
    put_u64(o, "stream_bytes", p->stream_bytes);
    put_u64(o, "panel_bytes", p->panel_bytes);
    put_u64(o, "edges_bytes", p->edges_bytes);
    put_u64(o, "slabs", p->slabs_n);
    put_u64(o, "tiles", p->tiles_n);
    put_u64(o, "paneled", p->paneled);
    put_u64(o, "edged", p->edged);
    if (p->devices) {
        put_u64(o, "device_bytes", p->device_bytes);
        put_u64(o, "device_budget", b->device_memory);
        put_u64(o, "lanes", p->lanes);
    }
    return o;
}

static json_t *bytes(const struct export_job *j)
{
    json_t *o = json_object();

    put_u64(o, "source", j->ckpt.bytes);
    if (j->stage >= JOB_PLAN) {
        put_u64(o, "read", j->plan.to_read);
        put_u64(o, "write", j->need ? j->need : j->layout.bytes + j->model_onnx);
    }
    put(o, "disk_free", j->need ? document_u64(j->disk_free) : json_null());
    return o;
}

static json_t *document(const struct export_job *j, const struct run_result *run)
{
    json_t *o = json_object();

    put_text(o, "weighbridge", wb_version());
    put_text(o, "model", j->options->model);
    put_text(o, "out", j->options->out);
    put_text(o, "target", j->dialect ? j->dialect->target : j->options->target);
    if (j->stage >= JOB_MODEL)
        put_text(o, "family", j->model.family->model_type);
    if (j->stage >= JOB_FILES) {
        put(o, "files", files(j));
        put(o, "tensors", tensors(j, run));
    }
    if (j->stage >= JOB_GRAPH && j->mode.merge)
        put(o, "merge_lora", report_merge(&j->adapter));
    if (j->stage >= JOB_GRAPH) {
        put(o, "transforms", transforms_used(j));
        put(o, "unused", unused(j));
    }
    put(o, "notes", report_notes(&j->notes));
    if (j->stage >= JOB_CHECKPOINT)
        put(o, "bytes", bytes(j));
    if (j->stage >= JOB_PLAN)
        put(o, "memory", memory(&j->plan, &j->budget));
    if (j->stage >= JOB_PLAN)
        put(o, "device", job_devices_report(&j->devices));
    return o;
}

json_t *report_plan(const struct export_job *j, const char *refused)
{
    json_t *o = document(j, NULL);

    put_text(o, "refused", refused);
    return o;
}

static json_t *stage(const struct run_result *run, enum stage s, uint64_t moved)
{
    double busy = run->busy[s];
    json_t *o = json_object();

    put(o, "busy", json_real(busy));
    put(o, "waiting", json_real(run->waiting[s]));
    put_u64(o, "bytes", moved);
    put(o, "gb_per_s", busy > 0 ? json_real((double)moved / busy / 1e9) : json_null());
    return o;
}

static json_t *series(const struct run_result *run)
{
    json_t *list = json_array();

    for (size_t i = 0; i < run->series_n; i++) {
        const struct sample *s = &run->series[i];
        json_t *o = json_object(), *waiting = json_object();

        put(o, "seconds", json_real(s->seconds));
        put_u64(o, "read", s->read);
        put_u64(o, "written", s->written);
        for (enum stage k = 0; k < STAGES; k++)
            put(waiting, stage_names[k], json_real(s->waited[k]));
        put(o, "waiting", waiting);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *totals(const struct export_job *j, const struct export_result *r)
{
    struct counters sum = { 0 };
    json_t *o = json_object();

    for (size_t i = 0; i < j->layout.items_n; i++)
        counters_add(&sum, &r->run.item[i].counters);
    for (size_t i = 0; i < j->graph.init_n; i++)
        counters_add(&sum, &j->tensor[i].counters);
    put(o, "wall", json_real(r->wall));
    put(o, "cpu", json_real(r->cpu));
    put_u64(o, "peak_rss", r->peak_rss);
    put_u64(o, "read", r->run.read);
    put_u64(o, "written", r->run.written);
    put(o, "gb_per_s", r->wall > 0 ? json_real((double)j->plan.to_read / r->wall / 1e9) : json_null());
    put_u64(o, "overflow", sum.overflow);
    put_u64(o, "flushed", sum.flushed);
    put_u64(o, "nan", sum.nan);
    put_u64(o, "clamped", sum.clamped);
    put_u64(o, "clamped_most", sum.clamped_most);
    return o;
}

/* How many shards were come by in which way, and why. */
static json_t *shards(const struct run_result *r)
{
    json_t *a = json_array();

    for (unsigned way = 0; way < IO_WAYS; way++)
        for (unsigned why = 0; why < IO_WHYS; why++) {
            json_t *o;

            if (!r->shards[way][why])
                continue;
            o = json_object();
            put_u64(o, "shards", r->shards[way][why]);
            put_text(o, "way", io_way_names[way]);
            put_text(o, "why", io_why_names[why]);
            json_array_append_new(a, o);
        }
    return a;
}

json_t *report_export(const struct export_job *j, const struct export_result *r)
{
    json_t *o = document(j, &r->run), *stages = json_object(), *io = json_object(), *resumed = json_object();

    put(o, "totals", totals(j, r));
    put(stages, "read", stage(&r->run, STAGE_READ, r->run.read));
    put(stages, "transform", stage(&r->run, STAGE_TRANSFORM, j->plan.to_read));
    put(stages, "write", stage(&r->run, STAGE_WRITE, r->run.written));
    put(o, "stages", stages);
    put_text(o, "limit", r->run.limit < STAGES ? stage_names[r->run.limit] : NULL);
    put(o, "series", series(&r->run));
    put_text(io, "engine", r->run.engine);
    put_text(io, "sink", job_nowhere(j->options) ? "null" : "files");
    put(io, "direct_read", json_boolean(r->run.direct_read));
    put(io, "direct_write", json_boolean(r->run.direct_write));
    put(io, "shards", shards(&r->run));
    put_text(io, "refused", r->run.refused.kind ? r->run.refused.msg : NULL);
    put(o, "io", io);
    put_u64(o, "threads", j->budget.threads);
    if (r->archive)
        put(o, "archive", r->archive);
    put_u64(resumed, "tensors", r->resumed);
    put_u64(resumed, "bytes", r->resumed_bytes);
    put(o, "resumed", resumed);
    return o;
}
