/* lora.h - the LoRA calls with all that surrounds them, for the commands and for the names that stand in for
 * others. */
#ifndef CLI_LORA_H
#define CLI_LORA_H
#include "cli/options.h"

/* a->wb holds what to do. Return the exit status. */
int lora_insert_run(struct args *a);
int lora_process_run(struct args *a);
int lora_merge_run(struct args *a);

#endif
