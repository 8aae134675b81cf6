#include "cli/cli.h"
#include "cli/export.h"
#include <stddef.h>

static int run(struct args *a)
{
    a->wb.model = a->operand[0];
    a->wb.out = a->operand[1];
    a->wb.draft = true;
    return export_run(a);
}

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row rows[] = {
    { "target", .kind = OPTION_TEXT, AT(wb.target), .value = "NAME", .initial = "edgellm-0.5",
      .help = "runtime and version that the export is for" },
    { "base-model", .kind = OPTION_TEXT, AT(wb.base_model), .value = "DIR", .initial = "none",
      .help =
          "checkpoint of the base model: its embedding must fit, and it gives the lm_head where the draft has none" },
    { "strict", .kind = OPTION_FLAG, AT(wb.strict), .help = "refuse what is otherwise a warning" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older export; the old one stays until the new one is complete" },
    OPTION_ROW_RESUME,
    { 0 },
};
static const struct option_group options_draft = { "What is written", rows };
static const struct option_group *const groups[] = { &options_draft,   &options_int4,
                                                     &options_run,     &options_report,
                                                     &options_measure, &options_messages,
                                                     &options_help,    NULL };

const struct command command_export_draft = {
    .name = "export-draft",
    .operands = "DRAFT OUT",
    .least = 2,
    .most = 2,
    .summary = "convert an EAGLE3 draft into an ONNX directory",
    .text = "Converts the directory DRAFT of an EAGLE3 draft into the ONNX directory OUT, as export does for the base\n"
            "model (which is exported with --eagle-base).",
    .example = "weighbridge export-draft EAGLE3-LLaMA3.1-Instruct-8B draft-exported --base-model Llama-3.1-8B-Instruct",
    .group = groups,
    .run = run,
};
