/* is_export.h - which directories may be replaced.
 * Apart from outdir.c because dirent.h and base/dtype.h both have a DT_UNKNOWN. */
#ifndef EMIT_IS_EXPORT_H
#define EMIT_IS_EXPORT_H
#include <stdbool.h>
#include "base/arena.h"

/* In the __metadata__ of the safetensors files of a merged checkpoint, behind "format". */
#define MERGED_KEY "weighbridge.merged"

/* Holds a model.onnx with weighbridge.* metadata, or beside a config.json with "edgellm_version", which the exporter
 * that we replace writes too; or a processed LoRA adapter or a vocabulary map and nothing else; or weights
 * into which we merged an adapter. */
bool is_export(const char *path, struct arena *a);

#endif
