#include "cli/export.h"
#include "cli/cli.h"
#include "cli/report_file.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/view.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct export_files {
    struct report_file report, trace;
};

static void show_notes(const json_t *report)
{
    const json_t *note;
    size_t i;

    json_array_foreach(json_object_get(report, "notes"), i, note) if (!json_is_true(json_object_get(note, "warning")))
        say_note("%s", view_text(note, "text", ""));
}

/* "3 shards mapped (cached)" */
static void show_shards(const json_t *io)
{
    static const char *const ways[][2] = { { "mapped", "mapped" },
                                           { "direct", "read with O_DIRECT" },
                                           { "buffered", "read through the page cache" } };
    const json_t *row;
    char n[64];
    size_t i;

    json_array_foreach(json_object_get(io, "shards"), i, row)
    {
        const char *way = view_text(row, "way", "?");

        for (size_t k = 0; k < sizeof ways / sizeof *ways; k++)
            if (!strcmp(way, ways[k][0]))
                way = ways[k][1];
        say_note("%s %s (%s)", say_count(n, view_count(row, "shards"), "shard"), way, view_text(row, "why", "?"));
    }
    if (json_is_string(json_object_get(io, "refused")))
        say_note("%s", view_text(io, "refused", ""));
}

static void show_stages(const json_t *report)
{
    static const char *const stages[] = { "read", "transform", "write" };
    const json_t *all = json_object_get(report, "stages"), *io = json_object_get(report, "io");

    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        const json_t *stage = json_object_get(all, stages[i]);
        char bytes[24];

        say_note("%s: %s in %.2f s of work, %.2f GB/s; waited %.2f s for the others", stages[i],
                 say_bytes(bytes, view_count(stage, "bytes")), view_real(stage, "busy"), view_real(stage, "gb_per_s"),
                 view_real(stage, "waiting"));
    }
    if (json_is_string(json_object_get(report, "limit")))
        say_note("the others waited for %s", view_text(report, "limit", "?"));
    say_note("%" PRIu64 " workers, engine %s, writes %s the page cache", view_count(report, "threads"),
             view_text(io, "engine", "?"), json_is_true(json_object_get(io, "direct_write")) ? "past" : "through");
    show_shards(io);
}

static void show_archive(const json_t *archive)
{
    char packed[24], bytes[24];

    if (archive)
        say(stdout, "%s: %s packed into %s in %.2f s, %.2f s of them after the files were complete\n",
            view_text(archive, "path", "?"), say_bytes(bytes, view_count(archive, "bytes")),
            say_bytes(packed, view_count(archive, "archive_bytes")), view_real(archive, "wall"),
            view_real(archive, "after"));
}

/* Names say it when a device is none. */
static void show_devices(const json_t *device)
{
    const json_t *gpu;
    char bytes[24];
    size_t i;

    json_array_foreach(json_object_get(device, "devices"), i, gpu) if (view_count(gpu, "tiles"))
        say(stdout, "GPU %" PRIu64 " (%s) %s %s\n", view_count(gpu, "number"), view_text(gpu, "name", "?"),
            view_text(gpu, "failed", NULL) ? "failed after it had" : "converted",
            say_bytes(bytes, view_count(gpu, "bytes")));
    if (view_text(device, "why", NULL))
        say(stdout, "the CPU converted%s: %s\n", json_array_size(json_object_get(device, "devices")) ? " the rest" : "",
            view_text(device, "why", ""));
}

static void show_summary(const json_t *report, const struct args *a, unsigned warnings)
{
    const json_t *totals = json_object_get(report, "totals"), *files = json_object_get(report, "files"), *v;
    const json_t *merge = json_object_get(report, "merge_lora");
    const json_t *tensors = json_object_get(report, "tensors");
    bool hashed = json_is_string(json_object_get(json_array_get(tensors, 0), "xxh3_4k"));
    uint64_t written = 0;
    char bytes[24], peak[24], files_text[64], tensors_text[64], warnings_text[64], merged_text[64];
    size_t i;

    json_array_foreach(files, i, v) written += view_count(v, "bytes");
    if (!strcmp(view_text(json_object_get(report, "io"), "sink", "files"), "null"))
        say(stdout, "nothing was written, for --sink null; it would have been:\n");
    say(stdout, "%s: %s, %s in %.2f s (%.2f GB/s), peak memory %s\n", a->wb.out,
        say_count(files_text, json_array_size(files), "file"), say_bytes(bytes, written), view_real(totals, "wall"),
        view_real(totals, "gb_per_s"), say_memory(peak, view_count(totals, "peak_rss")));
    show_archive(json_object_get(report, "archive"));
    show_devices(json_object_get(report, "device"));
    if (merge)
        say(stdout, "%s of %s merged into the weights\n", say_count(merged_text, view_count(merge, "merged"), "module"),
            view_text(merge, "adapter", "?"));
    say(stdout, "%s%s, %s\n", say_count(tensors_text, json_array_size(tensors), "tensor"), hashed ? " hashed" : "",
        say_count(warnings_text, warnings, "warning"));
}

static void show_device(const json_t *report, const struct args *a)
{
    const json_t *why = json_object_get(json_object_get(report, "device"), "why");

    if (a->asked && json_is_string(why))
        say_note("device %s: %s. The CPU did the work; the output is the same", a->asked, json_string_value(why));
}

/* The export is published; what is left is to say so. */
static int show(const char *text, struct export_files *files, const struct args *a, unsigned warnings)
{
    json_t *report = view_parse(text);

    if (!report)
        return STATUS_FAILED;
    if (a->verbose) {
        show_notes(report);
        show_stages(report);
    }
    show_device(report, a);
    if (!a->quiet && !(a->report && !strcmp(a->report, "-")))
        show_summary(report, a, warnings);
    json_decref(report);
    if (report_write(&files->report, text))
        return say_error("the export itself is complete, only its report could not be written");
    if (report_publish(&files->trace))
        return say_error("the export itself is complete, only its trace could not be written");
    return STATUS_DONE;
}

static int failed(const struct wb_error *e, const struct args *a)
{
    int status = run_failed(e, "nothing was published");

    if (e->resumable)
        say_note("%s.partial keeps what is finished: the same export with --resume goes on from there", a->wb.out);
    return status;
}

static int files_open(struct export_files *f, const struct args *a)
{
    if (a->trace && !strcmp(a->trace, "-"))
        return say_error("--trace -: the standard output has more to say than a trace: name a file"), -1;
    if (report_open(&f->report, "--report", a->report, a))
        return -1;
    if (!report_open(&f->trace, "--trace", a->trace, a)) {
        if (!f->report.path || !f->trace.path || strcmp(f->report.path, f->trace.path))
            return 0;
        say_error("--trace %s: is the file of --report, too: name another file", a->trace);
        report_close(&f->trace);
    }
    report_close(&f->report);
    return -1;
}

/* Of several processes that do one export the first reports; the others speak when they fail. */
static int join_ranks(struct args *a)
{
    struct wb_error e = { 0 };

    if (wb_ranks_join(&a->wb.ranks, &e))
        return run_refused(&e);
    if (!wb_ranks_first(a->wb.ranks)) {
        a->quiet = true;
        a->report = NULL;
        a->trace = NULL;
        a->progress = "never";
    }
    return STATUS_DONE;
}

static int export_joined(struct args *a)
{
    struct export_files files;
    struct wb_error e = { 0 };
    struct run r;
    char *text = NULL;
    int status, bad;

    if (files_open(&files, a))
        return STATUS_FAILED;
    run_begin(&r, a);
    if (a->trace)
        run_trace(&r, a, &files.trace);
    bad = wb_export(&a->wb, &text, &e);
    run_end(&r);
    if (bad)
        status = e.told ? STATUS_FAILED : failed(&e, a);
    else
        status = text ? show(text, &files, a, r.warnings) : STATUS_DONE;
    report_close(&files.report);
    report_close(&files.trace);
    wb_free(text);
    return status;
}

int export_run(struct args *a)
{
    int status;

    a->wb.no_hashes = !a->report; /* of all ranks, though one of them reports */
    status = join_ranks(a);
    if (status == STATUS_DONE)
        status = export_joined(a);
    wb_ranks_leave(a->wb.ranks);
    return status;
}
