/* groups.c - the options that several commands share. */
#include "cli/cli.h"
#include "cli/export.h"
#include <limits.h>

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row content_rows[] = {
    { "target", .kind = OPTION_TEXT, AT(wb.target), .value = "NAME", .initial = "edgellm-0.5",
      .help = "runtime and version that the export is for" },
    { "eagle-base", .kind = OPTION_FLAG, AT(wb.eagle_base),
      .help =
          "export the model as the base of an EAGLE3 draft: tree attention, and the hidden states of three layers as "
          "an output" },
    { "eagle-draft", .kind = OPTION_TEXT, AT(wb.eagle_draft), .value = "DRAFT", .initial = "none",
      .help = "with --eagle-base: the draft's directory, whose config.json may say which layers' states it reads" },
    { "reduced-vocab", .kind = OPTION_TEXT, AT(wb.reduced_vocab), .value = "DIR", .initial = "none",
      .help = "keep only the rows of lm_head that DIR/vocab_map.safetensors lists, in its order; the embedding stays "
              "whole" },
    { "merge-lora", .kind = OPTION_TEXT, AT(wb.merge_lora), .value = "ADAPTER", .initial = "none",
      .help = "merge a PEFT LoRA adapter into the weights on the way: its directory, or the name of one inside MODEL "
              "(vision-lora)" },
    { "fp8-kv-cache", .kind = OPTION_FLAG, AT(wb.fp8_kv_cache),
      .help = "keep keys and values in FP8, with the scales that ModelOpt's calibration left in the checkpoint" },
    { "chat-template", .kind = OPTION_TEXT, AT(wb.chat_template), .value = "FILE",
      .initial = "rendered from the model's own template", .excludes = "no-chat-template",
      .help = "processed chat template (JSON) to check and copy" },
    { "no-chat-template", .kind = OPTION_FLAG, AT(wb.no_chat_template),
      .help = "write no processed_chat_template.json" },
    { "strict", .kind = OPTION_FLAG, AT(wb.strict),
      .help = "refuse what is otherwise a warning: values that overflow, vanish or are no numbers, settings that the "
              "target cannot express" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older export; the old one stays until the new one is complete" },
    OPTION_ROW_RESUME,
    { 0 },
};
const struct option_group options_content = { "What is written", content_rows };

static const struct option_row int4_rows[] = {
    { "zero-points", .kind = OPTION_CHOICE, AT(wb.zero_points), .value = "exact|clamp|refuse", .initial = "exact",
      .help = "what to do where zero points do not fold into the weights. exact: the graph adds what they are worth; "
              "clamp: fold them and clamp the weights that leave 0 to 15; refuse: stop" },
    { 0 },
};
const struct option_group options_int4 = { "4-bit weights", int4_rows };

static const struct option_row run_rows[] = {
    { OPTION_MEMORY(16),
      .help =
          "all buffers together, whatever the size of the model. Bytes, or a number with K, M, G, T (powers of 1024; "
          "KB, MB, GB, TB: powers of 1000); at least 16M" },
    { OPTION_THREADS, .help = "threads that convert; reading and writing have one each besides" },
    { OPTION_IO,
      .help = "how files are read and written; the output is the same. auto: by io_uring, or pread where that is "
              "forbidden, "
              "and what the page cache holds is mapped; mmap: all sources are mapped; fault: with short and broken "
              "transfers, for tests" },
    OPTION_ROWS_DEVICE,
    { 0 },
};
const struct option_group options_run = { "How it runs", run_rows };

static const struct option_row pack_run_rows[] = {
    { OPTION_MEMORY(32),
      .help = "all buffers together: some 18M for each thread, so it may mean fewer of them; at least 32M" },
    { OPTION_THREADS, .help = "threads that read, work and write; the bytes are the same for any number" },
    { 0 },
};
const struct option_group options_pack_run = { "How it runs", pack_run_rows };

static const struct option_row report_rows[] = {
    { "report", .kind = OPTION_TEXT, AT(report), .value = "FILE", .initial = "none",
      .help = "also write the result as JSON (docs/json.md), whole or not at all; '-' is the standard output, in place "
              "of the text" },
    { 0 },
};
const struct option_group options_report = { "Report", report_rows };

static const struct option_row measure_rows[] = {
    { "trace", .kind = OPTION_TEXT, AT(trace), .value = "FILE", .initial = "none",
      .help = "also write what each thread did when, as JSON that Perfetto (ui.perfetto.dev) opens, whole or not at "
              "all" },
    { "sink", .kind = OPTION_CHOICE, AT(wb.sink), .value = "files|null", .initial = "files",
      .help = "for benches. null: read and convert everything, count what would be written, and write nothing; OUT is "
              "not touched" },
    { 0 },
};
const struct option_group options_measure = { "Measuring", measure_rows };

static const struct option_row message_rows[] = {
    { "quiet", 'q', OPTION_FLAG, AT(quiet), .excludes = "verbose",
      .help = "errors and results only: no warnings, no progress, no summary" },
    { "verbose", 'v', OPTION_FLAG, AT(verbose),
      .help = "more: notes on choices made, buffers, the time of each stage" },
    { "progress", .kind = OPTION_CHOICE, AT(progress), .value = "auto|always|never", .initial = "auto",
      .help = "a bar with bytes, GB/s, the time left and the stage of an export that the others wait for. auto: where "
              "the standard error is a terminal" },
    { 0 },
};
const struct option_group options_messages = { "Messages", message_rows };

static const struct option_row json_rows[] = {
    { "json", .kind = OPTION_FLAG, AT(json), .help = "print JSON (docs/json.md) in place of the text" },
    { 0 },
};
const struct option_group options_json = { "Output", json_rows };

static const struct option_row help_rows[] = {
    { "help", 'h', OPTION_FLAG, AT(help), .help = "show this help" },
    { 0 },
};
const struct option_group options_help = { "Help", help_rows };
