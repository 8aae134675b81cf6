/* safetensors_text.h - safetensors files that are made in memory. */
#ifndef EMIT_SAFETENSORS_TEXT_H
#define EMIT_SAFETENSORS_TEXT_H
#include <stdint.h>
#include "base/str.h"

/* What stands before the data: the length of the JSON text, and that, padded with spaces so that the data begins at a
 * multiple of `align`, itself one of 8. */
void safetensors_head(struct str *out, const char *json, size_t align);
/* A whole file of one list, as the safetensors library writes it. */
void safetensors_i32(struct str *out, const char *name, const int32_t *v, uint64_t n);

#endif
