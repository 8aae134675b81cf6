/* main.c - from argv to a command.
 *
 * argv[0] may be a name of programs[]; else the first operand is the command,
 * or the first two are ("lora insert"), wherever they stand among the options. */
#include "cli/cli.h"
#include "cli/help.h"
#include "cli/say.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct option_row *any_option(const char *argument)
{
    const struct option_row *r = NULL;

    for (const struct command *const *c = commands; *c && !r; c++)
        r = option_find(*c, argument);
    return r;
}

/* Index of the first operand; argc: there is none. */
static int first_operand(int argc, char *const *argv)
{
    for (int i = 1; i < argc; i++) {
        const struct option_row *r;

        if (!strcmp(argv[i], "--"))
            return i + 1;
        if (argv[i][0] != '-')
            return i;
        r = any_option(argv[i]);
        i += r && r->kind != OPTION_FLAG && !strchr(argv[i], '=');
    }
    return argc;
}

static bool has(int argc, char *const *argv, const char *word)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], word))
            return true;
    return false;
}

static int without_command(int argc, char *const *argv)
{
    if (has(argc, argv, "--version"))
        return command_version.run(NULL);
    if (has(argc, argv, "--help") || has(argc, argv, "-h")) {
        help_program(stdout);
        return STATUS_DONE;
    }
    if (argc > 1 && argv[1][0] == '-' && !any_option(argv[1]))
        say_error("unknown option '%s' and no command: weighbridge --help lists them", argv[1]);
    else
        say_error("no command: weighbridge --help lists them");
    return STATUS_USAGE;
}

static int run_command(const struct command *c, int argc, char *const *argv)
{
    struct args a = { 0 };
    char why[OPTION_WHY], hint[128];

    if (options_parse(c, argc, argv, &a, why)) {
        say_error("%s (%s shows the usage)", why, help_hint(hint, c));
        return STATUS_USAGE;
    }
    if (a.help) {
        help_command(stdout, c);
        return STATUS_DONE;
    }
    return c->run(&a);
}

static void take_off(int *argc, char **argv, int at)
{
    memmove(argv + at, argv + at + 1, (size_t)(*argc - at) * sizeof *argv);
    (*argc)--;
}

static int run_named(int argc, char **argv)
{
    int at = first_operand(argc, argv), second;
    const struct command *c;
    char words[64];

    if (at >= argc)
        return without_command(argc, argv);
    second = at + first_operand(argc - at, argv + at);
    c = command_named(argv[at]);
    if (command_begins(argv[at])) {
        snprintf(words, sizeof words, "%s %s", argv[at], second < argc ? argv[second] : "");
        c = command_named(words);
        if (!c)
            return help_unknown_command(second < argc ? words : argv[at]);
        take_off(&argc, argv, second);
    }
    if (!c || c->argparse)
        return help_unknown_command(argv[at]);
    take_off(&argc, argv, at);
    return run_command(c, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    const char *slash = argc ? strrchr(argv[0], '/') : NULL, *name = slash ? slash + 1 : argc ? argv[0] : "";
    const struct command *program = command_named(name);
    int status;

    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of the write, which says what it was about */
    if (program && program->argparse) {
        say_as(name);
        status = run_command(program, argc - 1, argv + 1);
    } else {
        status = run_named(argc, argv);
    }
    if (fflush(stdout) || ferror(stdout))
        status = say_error("standard output: %s", strerror(errno));
    return status;
}
