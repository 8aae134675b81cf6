#include "cli/cli.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/view.h"
#include <inttypes.h>

static void show_text(const json_t *report, bool ok, bool quiet)
{
    const json_t *differences = json_object_get(report, "differences"), *v;
    char tensors[64], files[64], bytes[24];
    size_t i;

    json_array_foreach(differences, i, v) say(stdout, "%s %s\n", view_text(v, "what", "?"),
                                              view_text(v, "text", "?")); /* the text begins with the name */
    if (quiet)
        return;
    say_count(tensors, view_count(report, "tensors"), "tensor");
    say_count(files, view_count(report, "files"), "file");
    say_bytes(bytes, view_count(report, "bytes"));
    if (json_object_get(report, "merged"))
        say(stdout, "merged: %" PRIu64 " values, %" PRIu64 " of them off by one in the last place\n",
            view_count(report, "merged"), view_count(report, "neighbours"));
    if (ok)
        say(stdout, "ok: %s, %s, %s compared\n", tensors, files, bytes);
    else
        say(stdout, "not ok: %s in %s, %s, %s compared\n",
            say_count((char[64]){ 0 }, json_array_size(differences), "difference"), tensors, files, bytes);
}

static int show(const char *text, const struct args *a)
{
    json_t *report = view_parse(text);
    bool ok;

    if (!report)
        return STATUS_FAILED;
    ok = json_is_true(json_object_get(report, "ok"));
    if (a->json)
        fputs(text, stdout);
    else
        show_text(report, ok, a->quiet);
    json_decref(report);
    return ok ? STATUS_DONE : STATUS_FAILED;
}

static int run(struct args *a)
{
    struct wb_error e = { 0 };
    struct run r;
    char *text = NULL;
    int status, bad;

    a->wb.out = a->operand[0];
    a->wb.model = a->operand[1];
    run_begin(&r, a);
    bad = wb_verify(&a->wb, &text, &e);
    run_end(&r);
    status = bad && !text ? run_failed(&e, "nothing was found out") : show(text, a);
    wb_free(text);
    return status;
}

static const struct option_row template_rows[] = {
    { "chat-template", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.chat_template), .value = "FILE",
      .initial = "rendered from the model's own template",
      .help = "the file that the export was made with, where it was made with one" },
    { "reduced-vocab", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.reduced_vocab), .value = "DIR",
      .initial = "the copy in OUT", .help = "directory of the vocabulary map that the export was made with" },
    { "eagle-draft", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.eagle_draft), .value = "DRAFT",
      .initial = "the layers that OUT names",
      .help = "of an EAGLE base: the draft whose layers it must give, or that it was made for" },
    { "merge-lora", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.merge_lora), .value = "ADAPTER",
      .initial = "none", .help = "the LoRA adapter that was merged, where one was" },
    { "base-model", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.base_model), .value = "DIR",
      .initial = "none", .help = "of a draft that has no lm_head: where it was taken from" },
    { 0 },
};
static const struct option_group options_template = { "What is compared", template_rows };

static const struct option_group *const groups[] = { &options_template, &options_json, &options_messages, &options_help,
                                                     NULL };

const struct command command_verify = {
    .name = "verify",
    .operands = "OUT MODEL",
    .least = 2,
    .most = 2,
    .summary = "recompute an export from its checkpoint and compare",
    .text =
        "Works out from the graph of the export OUT what each tensor must be, recomputes it from the checkpoint MODEL\n"
        "by the plainest code there is, and compares every byte, side files and padding too, and lora_model.onnx with\n"
        "what an insertion into model.onnx gives. Lists what differs; then the exit status is 1. -q leaves out the "
        "last\n"
        "line.",
    .example = "weighbridge verify exported Llama-3.2-1B-Instruct",
    .group = groups,
    .run = run,
};
