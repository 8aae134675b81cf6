/* dropin.c - the programs of TensorRT Edge-LLM 0.5.0 that weighbridge stands in for, under their names and with their
 * options.
 *
 * Two things are as there and not as in `weighbridge export`: an older export
 * in the output directory is replaced without asking, and the device is cuda
 * unless told, and where there is none, the CPU, which is said. */
#include "cli/cli.h"
#include "cli/export.h"
#include "cli/lora.h"
#include "cli/reduce_vocab.h"
#include "cli/say.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define AT(member) .place = offsetof(struct args, member)

static bool is_cuda(const char *device)
{
    return !strcmp(device, "cuda") ||
           (!strncmp(device, "cuda:", 5) && device[5] && !device[5 + strspn(device + 5, "0123456789")]);
}

/* cuda is the first GPU there, and the CPU here where there is none. */
static int choose_device(struct args *a)
{
    const char *device = a->wb.device ? a->wb.device : "cuda";

    if ((!is_cuda(device) && strcmp(device, "cpu")) || strlen(device) >= sizeof a->device) {
        say_error("--device '%s' is neither cpu nor cuda", device);
        return STATUS_USAGE;
    }
    if (is_cuda(device)) {
        a->asked = device;
        snprintf(a->device, sizeof a->device, "auto%s", device[4] ? device + 4 : ":0");
        device = a->device;
    }
    a->wb.device = device;
    return STATUS_DONE;
}

static int run_export_llm(struct args *a)
{
    int status = choose_device(a);

    a->wb.overwrite = true;
    return status ? status : export_run(a);
}

static int run_export_draft(struct args *a)
{
    int status = choose_device(a);

    a->wb.draft = true;
    a->wb.overwrite = true;
    return status ? status : export_run(a);
}

static const struct option_row device_rows[] = {
    { "device", .kind = OPTION_TEXT, AT(wb.device), .value = "DEVICE", .initial = "cuda",
      .help = "cpu, cuda or cuda:N; where there is no GPU cuda means the CPU, with a notice" },
    { 0 },
};
static const struct option_group options_device = { "How it runs", device_rows };

static const struct option_row llm_rows[] = {
    { "model_dir", .kind = OPTION_TEXT, AT(wb.model), .value = "DIR", .required = true,
      .help = "directory of the checkpoint" },
    { "output_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory to write; an older export in it is replaced" },
    { "is_eagle_base", .kind = OPTION_FLAG, AT(wb.eagle_base),
      .help = "export the model as the base of an EAGLE3 draft" },
    { "reduced_vocab_dir", .kind = OPTION_TEXT, AT(wb.reduced_vocab), .value = "DIR", .initial = "none",
      .help = "directory of a vocab_map.safetensors: the rows of lm_head to keep" },
    { "chat_template", .kind = OPTION_TEXT, AT(wb.chat_template), .value = "FILE",
      .initial = "rendered from the model's own template", .help = "processed chat template (JSON) to check and copy" },
    { "fp8_kv_cache", .kind = OPTION_FLAG, AT(wb.fp8_kv_cache),
      .help = "keep keys and values in FP8, with the checkpoint's calibrated scales" },
    { 0 },
};
static const struct option_group options_llm = { "What is written", llm_rows };
static const struct option_group *const llm_groups[] = { &options_llm, &options_device, &options_help, NULL };

const struct command program_export_llm = {
    .name = "tensorrt-edgellm-export-llm",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge export, for target edgellm-0.5",
    .text = "Exports a language model as the program of this name in TensorRT Edge-LLM 0.5.0 does, by weighbridge.\n"
            "Names of options may be cut short.",
    .example = "tensorrt-edgellm-export-llm --model_dir Llama-3.2-1B-Instruct --output_dir exported",
    .group = llm_groups,
    .run = run_export_llm,
};

static const struct option_row draft_rows[] = {
    { "draft_model_dir", .kind = OPTION_TEXT, AT(wb.model), .value = "DIR", .required = true,
      .help = "directory of the draft's checkpoint" },
    { "output_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory to write; an older export in it is replaced" },
    { "base_model_dir", .kind = OPTION_TEXT, AT(wb.base_model), .value = "DIR", .initial = "none",
      .help = "checkpoint of the base model, for an embedding that the draft lacks" },
    { 0 },
};
static const struct option_group options_draft = { "What is written", draft_rows };
static const struct option_group *const draft_groups[] = { &options_draft, &options_device, &options_help, NULL };

const struct command program_export_draft = {
    .name = "tensorrt-edgellm-export-draft",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge export-draft, for target edgellm-0.5",
    .text = "Exports an EAGLE3 draft as the program of this name in TensorRT Edge-LLM 0.5.0 does, by weighbridge.\n"
            "Names of options may be cut short.",
    .example = "tensorrt-edgellm-export-draft --draft_model_dir draft --output_dir exported --base_model_dir base",
    .group = draft_groups,
    .run = run_export_draft,
};

static int run_process_lora(struct args *a)
{
    a->wb.overwrite = true;
    return lora_process_run(a);
}

static const struct option_row insert_rows[] = {
    { "onnx_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory of the export; lora_model.onnx is written into it" },
    { 0 },
};
static const struct option_group options_insert = { "What is written", insert_rows };
static const struct option_group *const insert_groups[] = { &options_insert, &options_help, NULL };

const struct command program_insert_lora = {
    .name = "tensorrt-edgellm-insert-lora",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge lora insert",
    .text =
        "Makes room for LoRA adapters as the program of this name in TensorRT Edge-LLM 0.5.0 does, by weighbridge.\n"
        "Names of options may be cut short.",
    .example = "tensorrt-edgellm-insert-lora --onnx_dir exported",
    .group = insert_groups,
    .run = lora_insert_run,
};

static const struct option_row process_rows[] = {
    { "input_dir", .kind = OPTION_TEXT, AT(wb.model), .value = "DIR", .required = true,
      .help = "directory of the PEFT adapter" },
    { "output_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory to write; an older processed adapter in it is replaced" },
    { 0 },
};
static const struct option_group options_process = { "What is written", process_rows };
static const struct option_group *const process_groups[] = { &options_process, &options_help, NULL };

const struct command program_process_lora = {
    .name = "tensorrt-edgellm-process-lora",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge lora process",
    .text = "Converts a LoRA adapter as the program of this name in TensorRT Edge-LLM 0.5.0 does, by weighbridge.\n"
            "Names of options may be cut short.",
    .example = "tensorrt-edgellm-process-lora --input_dir my-adapter --output_dir my-adapter-processed",
    .group = process_groups,
    .run = run_process_lora,
};

enum { REFERENCE_SAMPLES = 50000 };

static int run_reduce_vocab(struct args *a)
{
    if (!a->wb.corpus) {
        say_error(
            "--corpus FILE is needed: the program of this name in TensorRT Edge-LLM downloads CNN/DailyMail to count "
            "tokens in, and weighbridge downloads nothing; give texts like those that the model will read and "
            "write");
        return STATUS_USAGE;
    }
    if (!a->wb.max_samples)
        a->wb.max_samples = REFERENCE_SAMPLES;
    a->wb.overwrite = true;
    return reduce_vocab_run(a);
}

static const struct option_row reduce_rows[] = {
    { "model_dir", .kind = OPTION_TEXT, AT(wb.model), .value = "DIR", .required = true,
      .help = "directory of the checkpoint" },
    { "output_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory to write; an older map in it is replaced" },
    { "reduced_vocab_size", .kind = OPTION_COUNT, AT(wb.vocab_size), .value = "N", .least = 1, .most = INT_MAX,
      .required = true, .help = "tokens to keep" },
    { "method", .kind = OPTION_CHOICE, AT(wb.method), .value = "input_aware|frequency", .initial = "input_aware",
      .help = "how they are chosen; see weighbridge help reduce-vocab" },
    { "max_samples", .kind = OPTION_COUNT, AT(wb.max_samples), .value = "N", .initial = "50000", .least = 1,
      .most = INT_MAX, .help = "records of the corpus to read" },
    { "d2t_path", .kind = OPTION_TEXT, AT(wb.d2t), .value = "FILE", .initial = "none",
      .help = "safetensors file with the d2t of an EAGLE3 draft, whose tokens are kept, too" },
    { "corpus", .kind = OPTION_TEXT, AT(wb.corpus), .value = "FILE", .initial = "none, and it is needed",
      .help =
          "not there in TensorRT Edge-LLM, which downloads CNN/DailyMail: a JSON array, or JSON lines, of texts like "
          "those that the model will read and write" },
    { 0 },
};
static const struct option_group options_reduce = { "What is written", reduce_rows };
static const struct option_group *const reduce_groups[] = { &options_reduce, &options_help, NULL };

const struct command program_reduce_vocab = {
    .name = "tensorrt-edgellm-reduce-vocab",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge reduce-vocab",
    .text =
        "Chooses the tokens of a reduced vocabulary as the program of this name in TensorRT Edge-LLM 0.5.0 does, by\n"
        "weighbridge, from texts that you give. Names of options may be cut short.",
    .example = "tensorrt-edgellm-reduce-vocab --model_dir model --output_dir map --reduced_vocab_size 32000 --corpus "
               "texts.jsonl",
    .group = reduce_groups,
    .run = run_reduce_vocab,
};

static int run_merge_lora(struct args *a)
{
    int status = choose_device(a);

    if (a->asked)
        say_note("device %s: checkpoints are merged by the CPU; the output is the same", a->asked);
    a->wb.device = "cpu";
    a->wb.overwrite = true;
    return status ? status : lora_merge_run(a);
}

static const struct option_row merge_rows[] = {
    { "model_dir", .kind = OPTION_TEXT, AT(wb.model), .value = "DIR", .required = true,
      .help = "directory of the checkpoint" },
    { "lora_dir", .kind = OPTION_TEXT, AT(wb.merge_lora), .value = "DIR", .required = true,
      .help = "directory of the PEFT adapter" },
    { "output_dir", .kind = OPTION_TEXT, AT(wb.out), .value = "DIR", .required = true,
      .help = "directory to write; an older merged checkpoint in it is replaced" },
    { 0 },
};
static const struct option_group options_merge = { "What is written", merge_rows };
static const struct option_group *const merge_groups[] = { &options_merge, &options_device, &options_help, NULL };

const struct command program_merge_lora = {
    .name = "tensorrt-edgellm-merge-lora",
    .operands = "",
    .argparse = true,
    .summary = "weighbridge lora merge",
    .text = "Merges a LoRA adapter into a checkpoint as the program of this name in TensorRT Edge-LLM 0.5.0 does, by\n"
            "weighbridge. Names of options may be cut short.",
    .example = "tensorrt-edgellm-merge-lora --model_dir Llama-3.2-1B --lora_dir my-adapter --output_dir merged",
    .group = merge_groups,
    .run = run_merge_lora,
};
