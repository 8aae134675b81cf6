#include "cli/cli.h"
#include "cli/help.h"
#include "cli/say.h"

static int run(struct args *a)
{
    const struct command *c;

    if (!a->operands_n) {
        help_program(stdout);
        return STATUS_DONE;
    }
    c = command_named(a->operand[0]);
    if (!c)
        return help_unknown_command(a->operand[0]);
    help_command(stdout, c);
    return STATUS_DONE;
}

static const struct option_group *const groups[] = { &options_help, NULL };

const struct command command_help = {
    .name = "help",
    .operands = "[COMMAND]",
    .most = 1,
    .summary = "show the help of a command",
    .text = "Shows all commands, or all options of one.",
    .example = "weighbridge help export",
    .group = groups,
    .run = run,
};
