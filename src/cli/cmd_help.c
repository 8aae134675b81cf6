#include "cli/cli.h"
#include "cli/help.h"
#include "cli/say.h"

static int run(struct args *a)
{
    const struct command *c;
    char name[64];

    if (!a->operands_n) {
        help_program(stdout);
        return STATUS_DONE;
    }
    snprintf(name, sizeof name, "%s%s%s", a->operand[0], a->operands_n > 1 ? " " : "",
             a->operands_n > 1 ? a->operand[1] : "");
    c = command_named(name);
    if (!c)
        return help_unknown_command(name);
    help_command(stdout, c);
    return STATUS_DONE;
}

static const struct option_group *const groups[] = { &options_help, NULL };

const struct command command_help = {
    .name = "help",
    .operands = "[COMMAND]",
    .most = 2,
    .summary = "show the help of a command",
    .text = "Shows all commands, or all options of one.",
    .example = "weighbridge help export",
    .group = groups,
    .run = run,
};
