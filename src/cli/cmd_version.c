#include "cli/cli.h"
#include "cli/say.h"

static int run(struct args *a)
{
    (void)a;
    say(stdout, "weighbridge %s\n", wb_version());
    return STATUS_DONE;
}

static const struct option_group *const groups[] = { &options_help, NULL };

const struct command command_version = {
    .name = "version",
    .operands = "",
    .summary = "show the version",
    .text = "Prints the program's version.",
    .example = "weighbridge version",
    .group = groups,
    .run = run,
};
