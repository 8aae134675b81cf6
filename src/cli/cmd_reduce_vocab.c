/* cmd_reduce_vocab.c - the tokens that a model needs, from the user's own text. */
#include "cli/cli.h"
#include "cli/reduce_vocab.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/view.h"
#include <inttypes.h>
#include <limits.h>

static void show(const json_t *report, const struct args *a)
{
    uint64_t tokens = view_count(report, "tokens"), kept = view_count(report, "tokens_kept");
    char records[64], different[64];

    if (a->quiet)
        return;
    say(stdout, "%s/%s: %" PRIu64 " of %" PRIu64 " tokens kept, %.2f %% of what was counted (%s, %s)\n", a->wb.out,
        view_text(report, "file", "?"), view_count(report, "reduced_vocab_size"), view_count(report, "vocab_size"),
        tokens ? 100.0 * (double)kept / (double)tokens : 100.0,
        say_count(records, view_count(report, "records"), "record"),
        say_count(different, view_count(report, "different_tokens"), "different token"));
}

int reduce_vocab_run(struct args *a) { return run_call(a, wb_reduce_vocab, show); }

static int run(struct args *a)
{
    a->wb.model = a->operand[0];
    a->wb.out = a->operand[1];
    return reduce_vocab_run(a);
}

#define AT(member) .place = offsetof(struct args, member)

static const struct option_row rows[] = {
    { "size", .kind = OPTION_COUNT, AT(wb.vocab_size), .value = "N", .least = 1, .most = INT_MAX, .required = true,
      .help = "tokens to keep" },
    { "corpus", .kind = OPTION_TEXT, AT(wb.corpus), .value = "FILE", .required = true,
      .help = "texts like those that the model will read and write: a JSON array, or JSON lines" },
    { "method", .kind = OPTION_CHOICE, AT(wb.method), .value = "input-aware|frequency", .initial = "input-aware",
      .help =
          "frequency: the most common tokens of all texts. input-aware: the most common tokens of the answers, those "
          "that also occur in some input first; one in ten is a neighbour (by id) of those" },
    { "max-samples", .kind = OPTION_COUNT, AT(wb.max_samples), .value = "N", .initial = "all", .least = 1,
      .most = INT_MAX, .help = "records of the corpus to read, from its beginning" },
    { "d2t", .kind = OPTION_TEXT, AT(wb.d2t), .value = "FILE", .initial = "none",
      .help = "safetensors file with the d2t of an EAGLE3 draft, whose tokens are kept, too" },
    { "overwrite", .kind = OPTION_FLAG, AT(wb.overwrite),
      .help = "replace OUT where it is an older map; the old one stays until the new one is complete" },
    { 0 },
};
static const struct option_group options_reduce = { "What is written", rows };

static const struct option_row message_rows[] = {
    { "quiet", 'q', OPTION_FLAG, AT(quiet), .help = "errors only: no warnings, no progress, no summary" },
    { "progress", .kind = OPTION_CHOICE, AT(progress), .value = "auto|always|never", .initial = "auto",
      .help = "a bar with bytes of the corpus and the time left. auto: where the standard error is a terminal" },
    { 0 },
};
static const struct option_group options_reduce_messages = { "Messages", message_rows };

static const struct option_group *const groups[] = { &options_reduce, &options_json, &options_reduce_messages,
                                                     &options_help, NULL };

const struct command command_reduce_vocab = {
    .name = "reduce-vocab",
    .operands = "MODEL OUT",
    .least = 2,
    .most = 2,
    .summary = "choose the tokens that a smaller lm_head keeps",
    .text =
        "Counts the tokens of the texts in FILE with MODEL's own tokenizer, and writes into the directory OUT which N\n"
        "of them are kept: OUT is what export --reduced-vocab takes. MODEL needs no weights here, only config.json "
        "and\n"
        "the tokenizer's files. OUT appears whole or not at all. Needs Python with the package tokenizers.\n"
        "\n"
        "A record of FILE has \"article\" and \"highlights\" (input and answer), or \"text\" (both at once), or "
        "\"messages\"\n"
        "(what the assistant says is the answer, all else the input). frequency counts the article, the text, all\n"
        "messages.",
    .example = "weighbridge reduce-vocab Llama-3.2-1B-Instruct map --size 32000 --corpus chats.jsonl",
    .group = groups,
    .run = run,
};
