/* merge.h - a LoRA adapter that is merged into the weights of a checkpoint: what can be, and what is refused.
 *
 * Which modules an adapter changes is matched by canonical names, so that the
 * wrappers around a decoder may differ.  Nothing of an adapter is dropped in
 * silence: a module that the checkpoint does not have is an error, one that lies
 * outside of what is exported (a vision tower's) a warning. */
#ifndef FRONT_MERGE_H
#define FRONT_MERGE_H
#include "checkpoint/adapter.h"
#include "front/job.h"

#define META_MERGE "weighbridge.merge_lora" /* in the metadata of an export: merge_describe */

/* `given`: a directory, or the name of one inside the checkpoint. */
int merge_open(struct adapter *ad, const struct model *m, const char *given, struct arena *a, struct notes *notes,
               struct err *e);
/* The module that a weight belongs to: canonical, without ".weight" or ".base_layer.weight". NULL: it is no weight. */
const char *merge_module(const char *tensor, struct arena *a);
/* When the graph is built: which of the adapter's modules are in it. */
int merge_check(struct export_job *j, struct err *e);
/* Refuses an adapter of whose modules the checkpoint `model` lacks `n`, `first` and others. */
int merge_refuse(const struct adapter *ad, const char *model, size_t n, const char *first, struct err *e);
/* How many modules are merged. */
size_t merge_modules(const struct adapter *ad);
/* "14 modules, xxh3:0123456789abcdef", the hash of their names, ranks and scales: not of their values, which are read
 * only when they are merged. */
const char *merge_describe(const struct adapter *ad, struct arena *a);

#endif
