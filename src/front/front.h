/* front.h - inside the front folder: from our errors and notes to the caller's. */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H
#include <weighbridge.h>
#include "base/err.h"
#include "base/notes.h"
#include "pipeline/pipeline.h"
#include "transform/transform.h"

/* 0 or -1, and *out from e (a NULL `out` is allowed). */
int front_result(const struct err *e, struct wb_error *out);

/* Warnings from the `from`th note on, to the caller's function. */
void front_warn(const struct wb_options *o, const struct notes *n, size_t from);

/* What a tensor lost in a cast to fp16. `lossy` counts tensors; beyond ERR_LINES they are only counted ... */
void front_note_losses(struct notes *n, const char *tensor, uint64_t elements, const struct counters *c, size_t *lossy);
/* ... and this says how many there are. */
void front_note_more_losses(struct notes *n, size_t lossy);

/* The pipeline's progress to the caller's function, and from another rank that fails: it stops this one too; `user` is
 * a const struct wb_options. */
int front_progress(void *user, const struct run_progress *p);

#endif
