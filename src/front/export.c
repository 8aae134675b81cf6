/* export.c - wb_plan and wb_export: decide, then move bytes, then publish. */
#include <weighbridge.h>
#include "base/clock.h"
#include "emit/outdir.h"
#include "front/along.h"
#include "front/document.h"
#include "front/export.h"
#include "front/front.h"
#include "front/manifest.h"
#include "front/pack.h"
#include "front/report.h"
#include "front/together.h"
#include "pipeline/journal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int wb_plan(const struct wb_options *o, char **plan, struct wb_error *error)
{
    struct export_job j;
    struct err e = { 0 };
    bool usage;

    if (!job_prepare(&j, o, &(struct job_hints){ 0 }, &e))
        job_may_write(&j, &e);
    usage = e.kind == ERR_USAGE;
    if (!usage)
        *plan = document_text(report_plan(&j, e.kind ? e.msg : NULL));
    job_release(&j);
    return usage ? front_result(&e, error) : 0;
}

static int write_model(struct export_job *j, const struct outdir *out, struct err *e)
{
    struct str bytes = { 0 };
    const char *shown = arena_printf(&j->arena, "%s/model.onnx", out->partial);
    int ret = -1;

    if (inline_tensors(&j->graph, j->dialect, &j->ckpt, true, &j->tensor, &j->arena, e) ||
        onnx_file(&j->graph, j->dialect, &j->layout, j->tensor, j->meta, j->meta_n, &bytes, e))
        goto out;
    ret = file_create_whole(out->fd, "model.onnx", shown, bytes.s, bytes.n, e);
out:
    str_release(&bytes);
    return ret;
}

/* What the casts lost, known only now. */
static void note_losses(struct export_job *j, const struct run_result *run)
{
    size_t lossy = 0;

    for (size_t i = 0; i < j->graph.init_n; i++)
        front_note_losses(&j->notes, j->graph.init[i].name, recipe_elements(j->graph.init[i].recipe),
                          &j->tensor[i].counters, &lossy);
    for (size_t i = 0; i < j->layout.items_n; i++)
        front_note_losses(&j->notes, j->layout.item[i].name, recipe_elements(j->layout.item[i].recipe),
                          &run->item[i].counters, &lossy);
    front_note_more_losses(&j->notes, lossy);
}

/* Where this run goes on from, in OUT.partial and in the plan; or a new beginning. `anew`: that, too, where what is
 * left is of another export. */
static int set_out(struct export_job *j, struct outdir *out, struct journal *journal, bool anew, struct err *e)
{
    const char *shown = arena_printf(&j->arena, "%s/%s", out->partial, OUTDIR_MARK);
    const char *manifest = manifest_make(j), *before = NULL, *keep[OUTDIR_KEEP_MOST + 1] = { NULL };
    struct err differs = { 0 };

    if (journal_open(journal, &j->layout, out->fd, OUTDIR_MARK, shown, &j->arena, e) ||
        (out->resumed && journal_head(journal, &before, &j->arena, e)))
        return -1;
    if (before && manifest_check(j, before, out->partial, anew ? &differs : e)) {
        if (!anew)
            return -1;
        before = NULL;
    }
    if (before && (journal_resume(journal, e) || together_take_over(j, out, journal, manifest, e)))
        return -1;
    if (!journal->finished_n)
        return outdir_clear(out, keep, e) || journal_begin(journal, manifest, e) ? -1 : 0;
    for (size_t i = 0; i < j->layout.files_n && i < OUTDIR_KEEP_MOST; i++)
        keep[i] = j->layout.file[i].name;
    for (size_t i = 0; i < journal->finished_n; i++)
        j->layout.item[journal->finished[i].item].done = true;
    return outdir_clear(out, keep, e) || job_plan_rest(j, e) ? -1 : 0;
}

/* The pipeline looks at a file while it reads it; what comes later counts too. */
static int check_sources(const struct checkpoint *c, struct err *e)
{
    for (size_t i = 0; i < c->files_n; i++) {
        int fd = ckpt_open_source(&c->file[i], e);

        if (fd < 0)
            return -1;
        file_close(fd);
    }
    return 0;
}

static void relay_trace(void *user, const char *text, size_t n)
{
    const struct along *a = user;
    const struct wb_options *o = a->job->options;

    o->trace(o->user, text, n);
}

/* What the runs before have moved, too. */
static void add_moved(struct run_result *r, const struct run_result *before)
{
    r->read += before->read;
    r->written += before->written;
    r->wall += before->wall;
    for (enum stage i = 0; i < STAGES; i++) {
        r->busy[i] += before->busy[i];
        r->waiting[i] += before->waiting[i];
    }
    r->made |= before->made;
}

/* One run, or another for each device that fails meanwhile. */
static int run_pipeline(struct export_job *j, const struct outdir *out, struct journal *journal,
                        struct run_options *run, struct run_result *r, struct err *e)
{
    const struct wb_options *o = j->options;
    const char *dir = job_nowhere(o) ? o->out : out->partial;
    struct run_result before = { 0 };
    size_t told = j->notes.n;
    int ret;

    for (;;) {
        run->gpu = j->budget.devices ? &j->devices.gpu : NULL;
        run->followed = run->gpu && !o->strict_device;
        run->feed_nccl = j->devices.feed_nccl;
        run->no_nccl = j->devices.no_nccl;
        ret = pipeline_run(&j->plan, out->fd, dir, run, r, e);
        if (!ret)
            job_devices_count(&j->devices, r);
        add_moved(r, &before);
        if (!ret)
            return 0;
        for (size_t i = 0; !job_nowhere(o) && i < journal->finished_n; i++)
            j->layout.item[journal->finished[i].item].done = true;
        if (!job_go_on(j, r, e))
            return -1;
        front_warn(o, &j->notes, told);
        told = j->notes.n;
        before = *r;
        run->follows = true;
        run->again = r->made;
    }
}

/* model.onnx and all that is small. */
static int write_small(struct export_job *j, const struct outdir *out, struct err *e)
{
    return write_model(j, out, e) || sidefiles_write(&j->side, out->fd, out->partial, e) ? -1 : 0;
}

static int move_bytes(struct export_job *j, struct outdir *out, struct journal *journal, struct together *t,
                      struct packing *p, struct along *along, struct export_result *r, struct err *e)
{
    const struct wb_options *o = j->options;
    struct run_options run = { .io = o->io ? o->io : "auto",
                               .threads = j->budget.threads,
                               .journal = job_nowhere(o) ? NULL : journal,
                               .record_last = o->archive != NULL,
                               .no_hashes = o->no_hashes,
                               .nowhere = job_nowhere(o),
                               .joint = o->ranks != NULL,
                               .filled = j->along ? &along->filled : NULL,
                               .trace = o->trace ? relay_trace : NULL,
                               .trace_begin = clock_wall(),
                               .progress = along_progress,
                               .user = along };

    for (size_t i = 0; i < journal->finished_n; i++)
        r->resumed_bytes += j->layout.item[journal->finished[i].item].bytes;
    r->resumed = journal->finished_n;
    if ((ranks_first(o->ranks) && !job_nowhere(o) && write_small(j, out, e)) ||
        (j->along && along_begin(along, p, out->partial, e)) || run_pipeline(j, out, journal, &run, &r->run, e) ||
        check_sources(&j->ckpt, e))
        ranks_alarm(o->ranks);
    return together_end(t, j, out, journal, &r->run, e);
}

static int judge_losses(struct export_job *j, const struct run_result *run, struct err *e)
{
    size_t told = j->notes.n;

    note_losses(j, run);
    front_warn(j->options, &j->notes, told);
    return j->options->strict ? notes_strict(&j->notes, e) : 0;
}

/* All tensors are written and flushed, but what is next has failed: whoever goes on need not make them again. */
static void record_all(struct journal *journal, const struct export_job *j, const struct run_result *run)
{
    struct err ignored = { 0 }; /* then some are made again */

    journal_add_rest(journal, run->item, !j->options->no_hashes, &ignored);
}

/* What forbids the archive, before anything is written; and its FILE.partial. */
static int begin_archive(struct export_job *j, struct packing *p, struct err *e)
{
    bool exists;

    if (!j->options->archive)
        return 0;
    if (packing_check(j->options, &j->budget, &exists, &j->arena, e))
        return -1;
    return outfile_create(&p->file, j->options->archive, exists, &j->arena, e);
}

/* The files of OUT.partial, complete and not yet published. The archive takes its place first: of the two renames it is
 * the one that may be without the other. */
static int write_archive(struct export_job *j, struct packing *p, struct along *along, struct outdir *out,
                         struct export_result *r, struct err *e)
{
    json_t *doc;

    if (!j->options->archive)
        return 0;
    if ((j->along ? along_end(along, e) : packing_write(p, out->partial, j->options, &j->budget, &j->arena, e)) ||
        outdir_still_there(out, e) || outfile_publish(&p->file, &j->arena, e))
        return -1;
    doc = packing_document(&p->result, j->options->archive);
    json_object_set_new(doc, "wall", json_real(p->wall));
    json_object_set_new(doc, "after", json_real(p->after));
    r->archive = doc;
    return 0;
}

static int publish(const struct wb_options *o, struct outdir *out, struct err *e)
{
    if (!outdir_publish(out, e))
        return 0;
    return o->archive ? err_at(e, "%s is complete, the directory is not", o->archive) : -1;
}

static double cpu_seconds(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1e-6;
}

/* ru_maxrss outlives exec: it may be the peak of whoever started us, so it is only the second choice. */
static uint64_t peak_rss(const struct rusage *usage)
{
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long long kib = (unsigned long long)usage->ru_maxrss;
    char line[256];

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

/* Whether OUT.partial is worth keeping: something is finished, and what went wrong may be another day's luck; or all
 * is, and was refused for something that can be changed: --strict, or what stands in its place. */
static bool may_go_on(const struct journal *journal, bool complete, const struct wb_ranks *ranks, const struct err *e)
{
    return (ranks || journal->finished_n) && /* other ranks have journals too */
           (e->kind == ERR_CANCELLED || e->kind == ERR_IO || e->kind == ERR_SPACE || e->kind == ERR_NOMEM ||
            e->kind == ERR_DEVICE || (complete && e->kind == ERR_REFUSED));
}

/* A run that must not be gone on with by this one is for others to decide about. */
static bool put_away(struct outdir *out, bool begun, bool complete, const struct journal *journal,
                     const struct wb_ranks *ranks, const struct err *e)
{
    struct err ignored = { 0 };
    bool there = out->fd >= 0 && !outdir_still_there(out, &ignored);
    bool resumable = e->kind && begun && there && may_go_on(journal, complete, ranks, e);

    if (!ranks_first(ranks) || resumable || (!begun && out->resumed))
        outdir_leave(out);
    else
        outdir_discard(out);
    return resumable;
}

/* All that one process alone may do before the first weight moves. */
static int begin(struct export_job *j, struct outdir *out, struct packing *packing, struct journal *journal, bool anew,
                 struct err *e)
{
    const struct wb_options *o = j->options;

    front_warn(o, &j->notes, 0);
    if (job_nowhere(o))
        return o->strict ? notes_strict(&j->notes, e) : 0;
    return outdir_recover(o->out, &j->arena, e) || job_may_write(j, e) || begin_archive(j, packing, e) ||
                   (o->resume ? outdir_go_on : outdir_create)(out, o->out, j->out_exists, &j->arena, e) ||
                   set_out(j, out, journal, anew, e)
               ? -1
               : 0;
}

int export_by(const struct wb_options *o, struct export_way *way, char **report, struct wb_error *error)
{
    struct export_job j = { 0 };
    struct journal journal = { .fd = -1 };
    bool begun = false, complete = false, resumable;
    struct export_result r = { .wall = clock_wall() };
    struct packing packing = { .file = { .fd = -1 } };
    struct along along = { .job = &j };
    struct together t = { .ranks = o->ranks };
    struct outdir out = { .fd = -1 };
    struct rusage before, after;
    struct err e = { 0 };

    getrusage(RUSAGE_SELF, &before);
    if (!o->out || !*o->out) {
        err_set(&e, ERR_USAGE, "no output directory was given");
        return front_result(&e, error);
    }
    if (!job_prepare(&j, o, way ? &way->hints : &(struct job_hints){ 0 }, &e) && way)
        way->manifest = manifest_whole(&j);
    if (ranks_agree(o->ranks, &e, &t.told))
        goto out;
    if (ranks_first(o->ranks))
        begin(&j, &out, &packing, &journal, way && way->anew, &e);
    if (together_begin(&t, &j, &out, &journal, &e))
        goto out;
    begun = true;
    if (move_bytes(&j, &out, &journal, &t, &packing, &along, &r, &e))
        goto out;
    complete = ranks_first(o->ranks) && !job_nowhere(o);
    if (ranks_first(o->ranks) && judge_losses(&j, &r.run, &e))
        goto out;
    if (complete && (write_archive(&j, &packing, &along, &out, &r, &e) || publish(o, &out, &e)))
        goto out;
    getrusage(RUSAGE_SELF, &after);
    r.wall = clock_wall() - r.wall;
    r.cpu = cpu_seconds(&after) - cpu_seconds(&before);
    r.peak_rss = peak_rss(&after);
    if (report && ranks_first(o->ranks)) {
        *report = document_text(report_export(&j, &r));
        r.archive = NULL;
    }
out:
    along_release(&along, &e);
    json_decref(r.archive);
    outfile_discard(&packing.file);
    if (complete && e.kind)
        record_all(&journal, &j, &r.run);
    journal_close(&journal);
    resumable = put_away(&out, begun, complete, &journal, o->ranks, &e);
    job_release(&j);
    front_result(&e, error);
    if (error)
        error->resumable = resumable, error->told = t.told;
    return e.kind ? -1 : 0;
}

int wb_export(const struct wb_options *o, char **report, struct wb_error *error)
{
    return export_by(o, NULL, report, error);
}
