#include "cli/help.h"
#include "cli/say.h"
#include <string.h>

enum { COLUMNS = 100, OPTION_COLUMN = 28 };

/* Words from column `indent` on; the cursor stands at column `at`. */
static void put_wrapped(FILE *f, const char *text, int indent, int at)
{
    if (at > indent - 2) {
        fputc('\n', f);
        at = 0;
    }
    fprintf(f, "%*s", indent - at, "");
    at = indent;
    while (*text) {
        int n = (int)strcspn(text, " ");

        if (at > indent && at + 1 + n > COLUMNS) {
            fprintf(f, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', f);
            at++;
        }
        fprintf(f, "%.*s", n, text);
        at += n;
        text += n + (text[n] == ' ');
    }
    fputc('\n', f);
}

static void put_option(FILE *f, const struct option_row *r)
{
    char text[512];
    int at = r->letter ? fprintf(f, "  -%c, --%s", r->letter, r->name) : fprintf(f, "      --%s", r->name);

    if (r->value)
        at += fprintf(f, " %s", r->value);
    snprintf(text, sizeof text, "%s%s%s%s%s", r->help, r->initial ? " (default: " : "", r->initial ? r->initial : "",
             r->initial ? ")" : "", r->required ? " (required)" : "");
    put_wrapped(f, text, OPTION_COLUMN, at);
}

static void put_usage(FILE *f, const struct command *c)
{
    fprintf(f, "Usage: %s%s%s%s", c->argparse ? "" : "weighbridge ", c->name, *c->operands ? " " : "", c->operands);
    for (const struct option_group *const *g = c->group; *g; g++)
        for (const struct option_row *r = (*g)->row; r->name; r++)
            if (r->required)
                fprintf(f, " --%s %s", r->name, r->value);
    fputs(" [OPTIONS]\n\n", f);
}

void help_command(FILE *f, const struct command *c)
{
    put_usage(f, c);
    fprintf(f, "%s\n", c->text);
    for (const struct option_group *const *g = c->group; *g; g++) {
        fprintf(f, "\n%s:\n", (*g)->title);
        for (const struct option_row *r = (*g)->row; r->name; r++)
            put_option(f, r);
    }
    fprintf(f, "\nExample:\n  %s\n", c->example);
}

void help_program(FILE *f)
{
    fputs("Usage: weighbridge COMMAND [OPERANDS] [OPTIONS]\n\n"
          "Converts Hugging Face checkpoints of language models into ONNX directories.\n\nCommands:\n",
          f);
    for (const struct command *const *c = commands; *c; c++)
        put_wrapped(f, (*c)->summary, OPTION_COLUMN,
                    fprintf(f, "  %s%s%s", (*c)->name, *(*c)->operands ? " " : "", (*c)->operands));
    fputs("\nUnder these names it takes the options of the programs that it stands in for:\n", f);
    for (const struct command *const *c = programs; *c; c++)
        put_wrapped(f, (*c)->summary, OPTION_COLUMN + 6, fprintf(f, "  %s", (*c)->name));
    fputs("\nweighbridge help COMMAND, or COMMAND --help, shows a command's options; --version the version.\n"
          "Results go to the standard output, all else to the standard error.\n"
          "Exit status: 0 done, 1 refused or failed, 2 wrong usage.\n\n"
          "Example:\n  weighbridge export Llama-3.2-1B-Instruct exported\n",
          f);
}

const char *help_hint(char out[128], const struct command *c)
{
    snprintf(out, 128, "%s%s --help", c->argparse ? "" : "weighbridge ", c->name);
    return out;
}

int help_unknown_command(const char *word)
{
    const char *nearest = command_nearest(word);

    if (nearest)
        say_error("unknown command '%s': did you mean %s?", word, nearest);
    else
        say_error("unknown command '%s': weighbridge --help lists them", word);
    return STATUS_USAGE;
}
