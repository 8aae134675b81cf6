/* inspect.h - inside the front folder: what the descriptions of all kinds of directories share. */
#ifndef FRONT_INSPECT_H
#define FRONT_INSPECT_H
#include <jansson.h>
#include "checkpoint/checkpoint.h"

/* "files", "tensors", "dtypes" and "bytes". */
void inspect_tensors(json_t *doc, const struct checkpoint *c);
/* Adds the fault, where there is one, and clears it. */
void inspect_problem(json_t *problems, struct err *e);

/* Of a LoRA adapter's directory. NULL: nothing can be said. */
json_t *inspect_adapter(const char *path, struct arena *a, struct err *e);

#endif
