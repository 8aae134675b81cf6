/* cmd_pack.c - an export as one file, and back. */
#include "cli/archive.h"
#include "cli/cli.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/table.h"
#include "cli/view.h"
#include <inttypes.h>

static double percent(uint64_t part, uint64_t whole) { return whole ? 100.0 * (double)part / (double)whole : 100; }

void archive_show(const json_t *description)
{
    struct table t = { "files", .head = "file|mode|>bytes|>packed|>%|>chunks|>in planes|xxh3" };
    uint64_t bytes = view_count(description, "bytes"), packed = view_count(description, "archive_bytes");
    char before[24], after[24];
    const json_t *v;
    size_t i;

    say(stdout, "%s: archive, %s, %s of files in %s (%.1f %%)\n", view_text(description, "path", "?"),
        view_text(description, "container", "?"), say_bytes(before, bytes), say_bytes(after, packed),
        percent(packed, bytes));
    json_array_foreach(json_object_get(description, "files"), i, v)
    {
        bool dir = json_is_true(json_object_get(v, "directory"));

        table_cell(&t, "%s%s", view_text(v, "name", ""), dir ? "/" : "");
        table_cell(&t, "%s", view_text(v, "mode", "?"));
        table_cell(&t, "%" PRIu64, view_count(v, "bytes"));
        table_cell(&t, "%" PRIu64, view_count(v, "packed"));
        table_cell(&t, "%.1f", percent(view_count(v, "packed"), view_count(v, "bytes")));
        table_cell(&t, "%" PRIu64, view_count(v, "chunks"));
        table_cell(&t, "%" PRIu64, view_count(v, "split"));
        table_cell(&t, "%s", view_text(v, "xxh3", "-"));
    }
    table_print(&t, stdout);
}

/* "A: 5 files, 2.20 GB in 1.46 GB (66.4 %), packed in 3.2 s (0.69 GB/s)" */
static void show_text(const json_t *report, const struct args *a, const char *name, const char *done)
{
    const json_t *archive = json_object_get(report, "archive");
    uint64_t bytes = view_count(archive, "bytes"), packed = view_count(archive, "archive_bytes");
    char files[64], before[24], after[24];

    if (a->verbose)
        say_note("%" PRIu64 " chunks, %" PRIu64 " of them in byte planes, %" PRIu64 " threads",
                 view_count(archive, "chunks"), view_count(archive, "split"), view_count(archive, "threads"));
    if (!a->quiet)
        say(stdout, "%s: %s, %s in an archive of %s (%.1f %%), %s in %.2f s (%.2f GB/s)\n", name,
            say_count(files, view_count(archive, "files"), "file"), say_bytes(before, bytes), say_bytes(after, packed),
            percent(packed, bytes), done, view_real(report, "wall"), view_real(report, "gb_per_s"));
}

static void show_packed(const json_t *report, const struct args *a) { show_text(report, a, a->wb.archive, "packed"); }
static void show_tested(const json_t *report, const struct args *a) { show_text(report, a, a->wb.archive, "tested"); }
static void show_unpacked(const json_t *report, const struct args *a) { show_text(report, a, a->wb.out, "unpacked"); }

static int run_pack(struct args *a)
{
    a->wb.out = a->operand[0];
    a->wb.archive = a->operand[1];
    return run_call(a, wb_pack, show_packed);
}

static int list(const struct args *a)
{
    struct wb_error e = { 0 };
    char *text = NULL;
    json_t *description;

    if (wb_list(a->wb.archive, &text, &e))
        return run_refused(&e);
    if ((description = view_parse(text))) {
        if (a->json)
            fputs(text, stdout);
        else
            archive_show(description);
    }
    json_decref(description);
    wb_free(text);
    return description ? STATUS_DONE : STATUS_FAILED;
}

static int run_unpack(struct args *a)
{
    bool only_looks = a->list || a->test;

    a->wb.archive = a->operand[0];
    a->wb.out = a->operand[1];
    if (only_looks != (a->operands_n == 1)) {
        say_error("unpack needs FILE.wbz and %s (weighbridge unpack --help shows the usage)",
                  only_looks ? "no OUT: --list and --test write nothing" : "OUT, or one of --list and --test");
        return STATUS_USAGE;
    }
    return a->list ? list(a) : run_call(a, wb_unpack, a->test ? show_tested : show_unpacked);
}

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row overwrite_rows[] = {
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace FILE.wbz where it is an older archive; the old one stays until the new one is complete" },
    { 0 },
};
static const struct option_group options_overwrite = { "What is written", overwrite_rows };

static const struct option_row unpack_rows[] = {
    { "list", 'l', OPTION_FLAG, AT(list), .excludes = "test", .help = "only list what is in FILE.wbz" },
    { "test", 't', OPTION_FLAG, AT(test),
      .help = "only read FILE.wbz and compare every checksum; all damaged chunks are named" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older export; the old one stays until the new one is complete" },
    { 0 },
};
static const struct option_group options_unpack = { "What is done", unpack_rows };

static const struct option_group *const pack_groups[] = { &options_overwrite, &options_pack_run, &options_json,
                                                          &options_messages,  &options_help,     NULL };
static const struct option_group *const unpack_groups[] = { &options_unpack,   &options_pack_run, &options_json,
                                                            &options_messages, &options_help,     NULL };

const struct command command_pack = {
    .name = "pack",
    .operands = "OUT FILE.wbz",
    .least = 2,
    .most = 2,
    .summary = "pack an export into one compressed file",
    .text =
        "Packs every file of the directory OUT into FILE.wbz: zstd frames of at most 8 MiB, 16-bit floats as two byte\n"
        "planes where that makes them smaller, a checksum of every chunk and file, and an index (docs/archive.md). "
        "The\n"
        "same files give the same bytes. FILE.wbz appears whole or not at all.",
    .example = "weighbridge pack exported exported.wbz",
    .group = pack_groups,
    .run = run_pack,
};

const struct command command_unpack = {
    .name = "unpack",
    .operands = "FILE.wbz [OUT]",
    .least = 1,
    .most = 2,
    .summary = "unpack, list or test such a file",
    .text =
        "Unpacks FILE.wbz into the directory OUT, which appears whole or not at all. Every chunk and every file is\n"
        "compared with its checksum; of a damaged archive the file, the chunk and its place are named.",
    .example = "weighbridge unpack exported.wbz exported",
    .group = unpack_groups,
    .run = run_unpack,
};
