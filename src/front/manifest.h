/* manifest.h - what a run is made of: the head of its journal, and what decides whether another run may go on with it.
 *
 * Version and options as model.onnx names them, the graph's own hash, and of each
 * weight file name, size, time of the last change and inode. Not threads, memory
 * or engine: they may change from run to run.  Small files are no part of it: each
 * run writes them anew. */
#ifndef FRONT_MANIFEST_H
#define FRONT_MANIFEST_H
#include <jansson.h>
#include "front/job.h"

const char *manifest_make(struct export_job *j);
/* Refuses a run that differs from the one that `recorded` is of, in one sentence that names what differs; `partial` is
 * where that is. */
int manifest_check(const struct export_job *j, const char *recorded, const char *partial, struct err *e);
/* The same with what the small files are made of: two exports that agree in it are the same. */
json_t *manifest_whole(const struct export_job *j);

#endif
