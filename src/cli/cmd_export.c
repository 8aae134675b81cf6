#include "cli/cli.h"
#include "cli/export.h"

static int run(struct args *a)
{
    a->wb.model = a->operand[0];
    a->wb.out = a->operand[1];
    return export_run(a);
}

static const struct option_row pack_rows[] = {
    { "pack", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.archive), .value = "FILE.wbz", .initial = "none",
      .help = "also pack OUT into this archive (see pack), while its files are written: as many threads as convert, "
              "half of the memory (under 40M, with several ranks, and on GPUs afterwards); --memory is at least 32M "
              "then. The archive is published first" },
    { 0 },
};
static const struct option_group options_pack = { "Shipping", pack_rows };

static const struct option_group *const groups[] = { &options_content,  &options_int4,   &options_pack,
                                                     &options_run,      &options_report, &options_measure,
                                                     &options_messages, &options_help,   NULL };

const struct command command_export = {
    .name = "export",
    .operands = "MODEL OUT",
    .least = 2,
    .most = 2,
    .summary = "convert a checkpoint into an ONNX directory",
    .text = "Converts the checkpoint directory MODEL into the ONNX directory OUT. All that can be decided from names\n"
            "and shapes is decided first; then the weights stream through a bounded memory. OUT appears whole or not\n"
            "at all. Options may stand anywhere.",
    .example = "weighbridge export Llama-3.2-1B-Instruct exported --memory 256M --report report.json",
    .group = groups,
    .run = run,
};
