/* cmd_lora.c - LoRA adapters that the runtime loads: room for them in an export, and their conversion. */
#include "cli/cli.h"
#include "cli/lora.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/view.h"
#include <inttypes.h>

static void show_inserted(const json_t *report, const struct args *a)
{
    const json_t *modules = json_object_get(report, "modules"), *v;
    char count[64], bytes[24], shape[128];
    size_t i;

    if (a->verbose)
        json_array_foreach(modules, i, v) say_note("%s %s%s", view_text(v, "name", "?"), view_shape(shape, v),
                                                   json_is_true(json_object_get(v, "int4")) ? ", INT4" : "");
    if (!a->quiet)
        say(stdout, "%s/%s: %s, LoRA inputs for %s\n", a->wb.out, view_text(report, "file", "?"),
            say_bytes(bytes, view_count(report, "bytes")), say_count(count, json_array_size(modules), "module"));
}

static void show_processed(const json_t *report, const struct args *a)
{
    const json_t *modules = json_object_get(report, "modules"), *v;
    char count[64], bytes[24];
    size_t i;

    if (a->verbose)
        json_array_foreach(modules, i, v) say_note("%s rank %" PRIu64 ", scaled by %g", view_text(v, "name", "?"),
                                                   view_count(v, "rank"), view_real(v, "scale"));
    if (!a->quiet)
        say(stdout, "%s: %s, an adapter of %s\n", a->wb.out, say_bytes(bytes, view_count(report, "bytes")),
            say_count(count, json_array_size(modules), "module"));
}

static void show_merged(const json_t *report, const struct args *a)
{
    const json_t *merge = json_object_get(report, "merge_lora"), *v;
    char count[64], files[64], bytes[24];
    size_t i;

    if (a->verbose)
        json_array_foreach(json_object_get(report, "files"), i, v)
            say_note("%s: %s", view_text(v, "name", "?"), say_bytes(bytes, view_count(v, "bytes")));
    if (!a->quiet)
        say(stdout, "%s: %s of weights in %s, %s merged into them\n", a->wb.out,
            say_bytes(bytes, view_count(report, "bytes")),
            say_count(files, json_array_size(json_object_get(report, "files")), "file"),
            say_count(count, view_count(merge, "merged"), "module"));
}

int lora_insert_run(struct args *a) { return run_call(a, wb_lora_insert, show_inserted); }

int lora_process_run(struct args *a) { return run_call(a, wb_lora_process, show_processed); }

int lora_merge_run(struct args *a) { return run_call(a, wb_lora_merge, show_merged); }

static int run_insert(struct args *a)
{
    a->wb.out = a->operand[0];
    return lora_insert_run(a);
}

static int run_process(struct args *a)
{
    a->wb.model = a->operand[0];
    a->wb.out = a->operand[1];
    return lora_process_run(a);
}

static int run_merge(struct args *a)
{
    a->wb.model = a->operand[0];
    a->wb.merge_lora = a->operand[1];
    a->wb.out = a->operand[2];
    return lora_merge_run(a);
}

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row message_rows[] = {
    { "quiet", 'q', OPTION_FLAG, AT(quiet), .excludes = "verbose", .help = "errors only: no warnings, no summary" },
    { "verbose", 'v', OPTION_FLAG, AT(verbose), .help = "more: a line for each module" },
    { 0 },
};
static const struct option_group options_lora_messages = { "Messages", message_rows };

static const struct option_row process_rows[] = {
    { "strict", .kind = OPTION_FLAG, AT(wb.strict),
      .help = "refuse what is otherwise a warning: parts that cannot be applied at run time, values that overflow or "
              "vanish" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older processed adapter; the old one stays until the new one is complete" },
    { 0 },
};
static const struct option_group options_process = { "What is written", process_rows };

static const struct option_group *const insert_groups[] = { &options_lora_messages, &options_help, NULL };
static const struct option_group *const process_groups[] = { &options_process, &options_lora_messages, &options_help,
                                                             NULL };

const struct command command_lora_insert = {
    .name = "lora insert",
    .operands = "OUT",
    .least = 1,
    .most = 1,
    .summary = "make room for LoRA adapters in an export",
    .text =
        "Writes OUT/lora_model.onnx beside OUT/model.onnx, on the same data file: the graph with two inputs more for\n"
        "each linear, the matrices of an adapter that is chosen at run time. An older lora_model.onnx is replaced in\n"
        "one step.",
    .example = "weighbridge lora insert exported",
    .group = insert_groups,
    .run = run_insert,
};

const struct command command_lora_process = {
    .name = "lora process",
    .operands = "ADAPTER OUT",
    .least = 2,
    .most = 2,
    .summary = "convert a PEFT LoRA adapter for the runtime",
    .text =
        "Converts the PEFT adapter ADAPTER (adapter_config.json, adapter_model.safetensors) into the directory OUT\n"
        "that the runtime loads into an engine built from lora_model.onnx: fp16, transposed, scaled. OUT appears\n"
        "whole or not at all.",
    .example = "weighbridge lora process my-adapter my-adapter-processed",
    .group = process_groups,
    .run = run_process,
};

static const struct option_row merge_rows[] = {
    { "strict", .kind = OPTION_FLAG, AT(wb.strict),
      .help = "refuse what is otherwise a warning: values that overflow or vanish in fp16" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older merged checkpoint; the old one stays until the new one is complete" },
    { 0 },
};
static const struct option_group options_merge = { "What is written", merge_rows };

static const struct option_row merge_run_rows[] = {
    { OPTION_MEMORY(16), .help = "all buffers together, whatever the size of the model; at least 16M" },
    { OPTION_THREADS, .help = "threads that merge; reading and writing have one each besides" },
    { 0 },
};
static const struct option_group options_merge_run = { "How it runs", merge_run_rows };
static const struct option_group *const merge_groups[] = { &options_merge, &options_merge_run, &options_messages,
                                                           &options_help, NULL };

const struct command command_lora_merge = {
    .name = "lora merge",
    .operands = "MODEL ADAPTER OUT",
    .least = 3,
    .most = 3,
    .summary = "merge a PEFT LoRA adapter into a checkpoint",
    .text =
        "Writes the checkpoint MODEL with the PEFT adapter ADAPTER merged into its weights to the directory OUT: "
        "fp16,\n"
        "the same shards, streamed through a bounded memory. ADAPTER may be the name of a directory inside MODEL. To\n"
        "export what is merged, export --merge-lora needs no such copy. OUT appears whole or not at all.",
    .example = "weighbridge lora merge Llama-3.2-1B-Instruct my-adapter merged",
    .group = merge_groups,
    .run = run_merge,
};
