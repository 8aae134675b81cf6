#include "cli/cli.h"
#include "cli/export.h"
#include "cli/report_file.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/table.h"
#include "cli/view.h"
#include <inttypes.h>
#include <string.h>

static void show_tensors(const json_t *plan)
{
    struct table t = { "tensors", .head = "tensor|shape|dtype|transform|>bytes|file|source file" };
    const json_t *v;
    char shape[128];
    size_t i;

    json_array_foreach(json_object_get(plan, "tensors"), i, v)
    {
        table_cell(&t, "%s", view_text(v, "name", ""));
        table_cell(&t, "%s", view_shape(shape, v));
        table_cell(&t, "%s -> %s", view_text(v, "source_dtype", "?"), view_text(v, "dtype", "?"));
        table_cell(&t, "%s%s", view_text(v, "transform", "-"), view_count(v, "lora_rank") ? " + lora" : "");
        table_cell(&t, "%" PRIu64, view_count(v, "bytes"));
        table_cell(&t, "%s", view_text(v, "file", "-"));
        table_cell(&t, "%s", view_text(v, "source_file", "-"));
    }
    table_print(&t, stdout);
}

/* A section of "name, number of tensors, bytes". */
static void show_groups(const json_t *plan, const char *key, const char *title, const char *name)
{
    struct table t = { title, .head = "||>" };
    const json_t *v;
    char text[64];
    size_t i;

    json_array_foreach(json_object_get(plan, key), i, v)
    {
        table_cell(&t, "%s", view_text(v, name, ""));
        table_cell(&t, "%s", say_count(text, view_count(v, "tensors"), "tensor"));
        table_cell(&t, "%s", say_bytes(text, view_count(v, "bytes")));
    }
    table_print(&t, stdout);
}

static void show_files(const json_t *plan)
{
    struct table t = { "files to be written", .head = "|>|" };
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(plan, "files"), i, v)
    {
        table_cell(&t, "%s", view_text(v, "name", ""));
        table_cell(&t, "%" PRIu64 " bytes", view_count(v, "bytes"));
        table_cell(&t, "%s", view_text(v, "origin", ""));
    }
    table_print(&t, stdout);
}

/* What each GPU will hold. */
static void show_devices(const json_t *plan)
{
    const json_t *d = json_object_get(plan, "device"), *m = json_object_get(plan, "memory"), *gpu;
    char a[24], b[24], c[24];
    size_t i;

    if (view_text(d, "why", NULL))
        say(stdout, "device   the CPU: %s\n", view_text(d, "why", ""));
    if (!json_object_get(m, "device_bytes"))
        return;
    json_array_foreach(json_object_get(d, "devices"), i, gpu)
    {
        say(stdout, "GPU %-4" PRIu64 " %s: ", view_count(gpu, "number"), view_text(gpu, "name", "?"));
        if (view_text(gpu, "failed", NULL))
            say(stdout, "is left out\n");
        else
            say(stdout,
                "%s of %s that are free: %s for tensors to transpose, %" PRIu64 " lanes for what goes through\n",
                say_memory(a, view_count(m, "device_bytes")), say_memory(b, view_count(gpu, "free")),
                say_memory(c, view_count(m, "panel_bytes")), view_count(m, "lanes"));
    }
}

static void show_room(const json_t *plan, bool verbose)
{
    const json_t *bytes = json_object_get(plan, "bytes"), *m = json_object_get(plan, "memory");
    char a[24], b[24], c[24], d[24];

    if (bytes) {
        say(stdout, "weights  %s in the source, %s to read\n", say_bytes(a, view_count(bytes, "source")),
            say_bytes(b, view_count(bytes, "read")));
        say(stdout, "disk     %s needed", say_bytes(a, view_count(bytes, "write")));
        if (json_is_integer(json_object_get(bytes, "disk_free")))
            say(stdout, ", %s free", say_bytes(b, view_count(bytes, "disk_free")));
        say(stdout, "\n");
    }
    if (!m)
        return;
    say(stdout, "memory   %s of buffers in a budget of %s: %" PRIu64 " x %s to read, %" PRIu64 " x %s to write",
        say_memory(a, view_count(m, "buffers")), say_memory(b, view_count(m, "budget")), view_count(m, "tile_slots"),
        say_memory(c, view_count(m, "tile_bytes")), view_count(m, "stream_slots"),
        say_memory(d, view_count(m, "stream_bytes")));
    if (!json_object_get(m, "device_bytes"))
        say(stdout, ", %s to transpose", say_memory(a, view_count(m, "panel_bytes")));
    if (view_count(m, "edges_bytes"))
        say(stdout, ", %s for the ends of runs", say_memory(a, view_count(m, "edges_bytes")));
    say(stdout, "\n");
    show_devices(plan);
    if (verbose)
        say(stdout,
            "work     %" PRIu64 " reads, %" PRIu64 " pieces to write, %" PRIu64 " of the tensors transposed in "
            "several panels\n",
            view_count(m, "tiles"), view_count(m, "slabs"), view_count(m, "paneled"));
}

static void show_text(const json_t *plan, const struct args *a)
{
    const char *refused = view_text(plan, "refused", NULL);

    if (!a->quiet) {
        say(stdout, "%s -> %s, target %s, family %s\n", view_text(plan, "model", "?"),
            view_text(plan, "out", "(no OUT given)"), view_text(plan, "target", "?"), view_text(plan, "family", "?"));
        show_tensors(plan);
        show_groups(plan, "transforms", "transforms, by source bytes", "transform");
        show_files(plan);
        show_room(plan, a->verbose);
        show_groups(plan, "unused", "tensors that are not needed", "pattern");
        view_print_notes(plan, stdout);
    }
    if (refused)
        say(stdout, "would be refused: %s\n", refused);
}

static int show(const char *text, struct report_file *file, const struct args *a)
{
    json_t *plan = view_parse(text);
    int status = STATUS_DONE;

    if (!plan)
        return STATUS_FAILED;
    if (!json_is_null(json_object_get(plan, "refused")) && json_object_get(plan, "refused"))
        status = STATUS_FAILED;
    if (a->json)
        fputs(text, stdout);
    else if (!a->report || strcmp(a->report, "-"))
        show_text(plan, a);
    json_decref(plan);
    return report_write(file, text) ? STATUS_FAILED : status;
}

static int run(struct args *a)
{
    struct report_file file;
    struct wb_error e = { 0 };
    char *text = NULL;
    int status;

    a->wb.model = a->operand[0];
    a->wb.out = a->operand[1];
    if (report_open(&file, "--report", a->report, a))
        return STATUS_FAILED;
    status = wb_plan(&a->wb, &text, &e) ? run_refused(&e) : show(text, &file, a);
    report_close(&file);
    wb_free(text);
    return status;
}

static const struct option_group *const groups[] = { &options_content, &options_int4, &options_run,
                                                     &options_report,  &options_json, &options_messages,
                                                     &options_help,    NULL };

const struct command command_plan = {
    .name = "plan",
    .operands = "MODEL [OUT]",
    .least = 1,
    .most = 2,
    .summary = "show what export would do, from metadata alone",
    .text =
        "Shows every tensor and how it would be transformed, the files to be written, the disk space and the\n"
        "memory needed, and what would be refused; then the exit status is 1. Reads no weights and writes nothing.\n"
        "Takes all options of export, so that a command line is tried by changing one word; --progress changes\n"
        "nothing here, and -q shows only what would be refused.",
    .example = "weighbridge plan Llama-3.2-1B-Instruct exported --memory 256M",
    .group = groups,
    .run = run,
};
