/* cli.h - the program weighbridge: commands and options on top of weighbridge.h, and the only place that prints.
 *
 *   results           stdout
 *   all else          stderr, each line beginning with the program's name
 *   exit status       0 done, 1 refused or failed, 2 usage
 *
 * A command is one file, cmd_x.c, and one row in commands[].  Names under which
 * the program stands in for another one are rows of programs[]. */
#ifndef CLI_CLI_H
#define CLI_CLI_H
#include "cli/options.h"

enum { STATUS_DONE, STATUS_FAILED, STATUS_USAGE };

extern const struct command command_export, command_export_draft, command_plan, command_inspect, command_verify,
    command_lora_insert, command_lora_process, command_lora_merge, command_reduce_vocab, command_pack, command_unpack,
    command_batch, command_help, command_version;
extern const struct command program_export_llm, program_export_draft, program_insert_lora, program_process_lora,
    program_merge_lora, program_reduce_vocab;

extern const struct command *const commands[]; /* end with NULL */
extern const struct command *const programs[];

/* Groups of options that several commands share (groups.c). */
extern const struct option_group options_content, options_int4, options_run, options_pack_run, options_report,
    options_measure, options_messages, options_json, options_help;

/* By name, among commands[] and programs[]; NULL: there is none. */
const struct command *command_named(const char *name);
/* There are commands of two words whose first is `word`. */
bool command_begins(const char *word);
/* The command's name that `word` was probably meant to be, or NULL. */
const char *command_nearest(const char *word);

#endif
