/* help.h - help texts, made from the tables that the parser reads. */
#ifndef CLI_HELP_H
#define CLI_HELP_H
#include <stdio.h>
#include "cli/cli.h"

void help_program(FILE *f);
void help_command(FILE *f, const struct command *c);
/* Says that there is no such command, and which one was probably meant. Returns STATUS_USAGE. */
int help_unknown_command(const char *word);
/* "weighbridge export --help", or of a program in its own name. */
const char *help_hint(char out[128], const struct command *c);

#endif
