#include "cli/cli.h"
#include <string.h>

const struct command *const commands[] = { &command_export,       &command_export_draft, &command_batch,
                                           &command_plan,         &command_inspect,      &command_verify,
                                           &command_lora_insert,  &command_lora_process, &command_lora_merge,
                                           &command_reduce_vocab, &command_pack,         &command_unpack,
                                           &command_help,         &command_version,      NULL };

const struct command *const programs[] = { &program_export_llm,
                                           &program_export_draft,
                                           &program_insert_lora,
                                           &program_process_lora,
                                           &program_merge_lora,
                                           &program_reduce_vocab,
                                           NULL };

static const struct command *named(const struct command *const *row, const char *name)
{
    while (*row && strcmp((*row)->name, name))
        row++;
    return *row;
}

const struct command *command_named(const char *name)
{
    const struct command *c = named(commands, name);

    return c ? c : named(programs, name);
}

bool command_begins(const char *word)
{
    size_t n = strlen(word);

    for (const struct command *const *c = commands; *c; c++)
        if (!strncmp((*c)->name, word, n) && (*c)->name[n] == ' ')
            return true;
    return false;
}

const char *command_nearest(const char *word)
{
    const char *names[sizeof commands / sizeof *commands];
    size_t n = 0;

    for (; commands[n]; n++)
        names[n] = commands[n]->name;
    return option_nearest(word, names, n);
}
