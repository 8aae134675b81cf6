/* cmd_batch.c - many exports, one process: what a job says is said as it ends, and all of it once more as a table. */
#include "cli/cli.h"
#include "cli/export.h"
#include "cli/report_file.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/table.h"
#include "cli/view.h"
#include <inttypes.h>
#include <string.h>

/* What the library's functions are given; `run` stands first, for those that run_begin has set. */
struct batch_run {
    struct run run;
    const struct args *args;
    struct report_file lines;
};

static void show_end(struct batch_run *b, const json_t *job)
{
    const char *status = view_text(job, "status", "?");

    if (!strcmp(status, "failed"))
        say_error("%s", view_text(job, "message", "?"));
    else if (b->args->verbose)
        say_note("%s: %s", view_text(job, "out", "?"), status);
}

static void on_end(void *user, const char *line)
{
    struct batch_run *b = user;
    json_t *job = view_parse(line);

    report_add(&b->lines, line, strlen(line));
    report_add(&b->lines, "\n", 1);
    report_show(&b->lines);
    run_clear(&b->run);
    show_end(b, job);
    json_decref(job);
}

static void put_moved(struct table *t, const json_t *job)
{
    char bytes[24];

    if (json_object_get(job, "written")) {
        table_cell(t, "%s", say_bytes(bytes, view_count(job, "written")));
        table_cell(t, "%.2f", view_real(job, "wall"));
        table_cell(t, "%.2f", view_real(job, "gb_per_s"));
        return;
    }
    for (int i = 0; i < 3; i++)
        table_cell(t, "-");
}

static void show_table(const json_t *report)
{
    struct table t = { "jobs", .head = "out|status|>bytes|>seconds|>GB/s|>warnings|model" };
    const json_t *job;
    size_t i;

    json_array_foreach(json_object_get(report, "jobs"), i, job)
    {
        table_cell(&t, "%s", view_text(job, "out", "?"));
        table_cell(&t, "%s", view_text(job, "status", "?"));
        put_moved(&t, job);
        table_cell(&t, "%zu", json_array_size(json_object_get(job, "warnings")));
        table_cell(&t, "%s", view_text(job, "model", "?"));
    }
    table_print(&t, stdout);
}

static void show_summary(const json_t *report, const struct args *a)
{
    char jobs[64];

    show_table(report);
    say(stdout,
        "%s: %s: %" PRIu64 " done, %" PRIu64 " skipped, %" PRIu64 " failed, %" PRIu64 " interrupted, %" PRIu64
        " not begun in %.2f s\n",
        a->operand[0], say_count(jobs, json_array_size(json_object_get(report, "jobs")), "job"),
        view_count(report, "done"), view_count(report, "skipped"), view_count(report, "failed"),
        view_count(report, "interrupted"), view_count(report, "not_begun"), view_real(report, "wall"));
}

static int show(struct batch_run *b, const char *text)
{
    const struct args *a = b->args;
    json_t *report = view_parse(text);

    if (!report)
        return STATUS_FAILED;
    if (!a->quiet && !(a->report && !strcmp(a->report, "-")))
        show_summary(report, a);
    json_decref(report);
    if (report_publish(&b->lines))
        return say_error("the jobs were done as said, only their report could not be written");
    return STATUS_DONE;
}

static int run(struct args *a)
{
    bool to_file = a->report && strcmp(a->report, "-");
    struct wb_batch request = { .jobs = a->operand[0],
                                .at_once = a->jobs,
                                .keep_going = a->keep_going,
                                .report = to_file ? a->report : NULL,
                                .options = &a->wb,
                                .ended = on_end };
    struct wb_error e = { 0 };
    struct batch_run b = { .args = a };
    char *text = NULL;
    int status, bad;

    if (report_open(&b.lines, "--report", a->report, a))
        return STATUS_FAILED;
    run_begin(&b.run, a);
    bad = wb_batch(&request, &text, &e);
    run_end(&b.run);
    status = text ? show(&b, text) : STATUS_DONE;
    if (bad)
        status = run_refused(&e);
    report_close(&b.lines);
    wb_free(text);
    return status;
}

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row jobs_rows[] = {
    { "jobs", .kind = OPTION_COUNT, AT(jobs), .value = "N", .initial = "1", .least = 1, .most = 256,
      .help = "exports that run at the same time" },
    { "keep-going", .kind = OPTION_FLAG, AT(keep_going),
      .help = "do the others where some cannot begin, or fail. Without it one that cannot begin stops all before the "
              "first byte, and after one that fails none is begun" },
    { 0 },
};
static const struct option_group options_jobs = { "Which jobs", jobs_rows };

static const struct option_row run_rows[] = {
    { OPTION_MEMORY(16),
      .help = "all buffers of all exports that run at the same time, in equal parts; at least 16M for each, 32M where "
              "one has \"pack\"" },
    { OPTION_THREADS, .help = "threads that convert, of all exports that run at the same time" },
    { OPTION_IO, .help = "as of export" },
    OPTION_ROWS_DEVICE,
    { 0 },
};
static const struct option_group options_batch_run = { "How they run", run_rows };

static const struct option_row report_rows[] = {
    { "report", .kind = OPTION_TEXT, AT(report), .value = "FILE", .initial = "none",
      .help = "also write a line of JSON (docs/json.md) for each job, as it ends; '-' is the standard output, in place "
              "of the text" },
    { 0 },
};
static const struct option_group options_lines = { "Report", report_rows };

static const struct option_group *const groups[] = { &options_jobs,     &options_batch_run, &options_lines,
                                                     &options_messages, &options_help,      NULL };

const struct command command_batch = {
    .name = "batch",
    .operands = "JOBS.json",
    .least = 1,
    .most = 1,
    .summary = "do many exports in one process",
    .text =
        "Does the exports that JOBS.json lists, each as export (or, with \"draft\": true, export-draft) does it:\n"
        "\n"
        "  {\"defaults\": {\"no-chat-template\": true},\n"
        "   \"jobs\": [{\"model\": \"Llama-3.2-1B-Instruct\", \"out\": \"llama\"},\n"
        "            {\"model\": \"Qwen3-4B\", \"out\": \"qwen\", \"eagle-base\": true, \"strict\": true}]}\n"
        "\n"
        "or the list of jobs alone. A job has export's options by their names, but for those on how it runs; paths "
        "are\n"
        "relative to the directory of JOBS.json. All jobs are looked at before the first begins.\n"
        "\n"
        "A job is skipped where its OUT is complete and its source and options are the same as then, and is gone on\n"
        "with where it was interrupted; so the same command again does what is left. JOBS.json.state, beside\n"
        "JOBS.json, remembers for that what each OUT was made of; an OUT that it names is replaced where it is done\n"
        "again, any other only with \"overwrite\": true.\n"
        "\n"
        "Exit status: 0 all done or skipped, 1 some not, 2 wrong usage or a JOBS.json that is wrong.",
    .example = "weighbridge batch JOBS.json --jobs 2 --memory 1G --keep-going --report jobs.jsonl",
    .group = groups,
    .run = run,
};
