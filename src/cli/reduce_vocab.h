/* reduce_vocab.h - the call with all that surrounds it, for the command and for the name that stands in for another. */
#ifndef CLI_REDUCE_VOCAB_H
#define CLI_REDUCE_VOCAB_H
#include "cli/options.h"

/* a->wb holds what to do. Returns the exit status. */
int reduce_vocab_run(struct args *a);

#endif
