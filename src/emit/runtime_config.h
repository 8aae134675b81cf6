/* runtime_config.h - config.json of the output: what the runtime wants to know (contract of TensorRT Edge-LLM 0.5.0,
 * section "config.json"): keys in a fixed order, numbers spelled as in the source. */
#ifndef EMIT_RUNTIME_CONFIG_H
#define EMIT_RUNTIME_CONFIG_H
#include "base/str.h"
#include "graph/dialect.h"
#include "model/model.h"

/* Appends the text. Fails when a key that the target requires cannot be had. `model_type`: "llm" or "eagle3_base";
 * `reduced`: the size of a reduced vocabulary, 0: none. */
int runtime_config(const struct model *m, const struct dialect *d, const char *model_type, uint64_t reduced,
                   struct str *out, struct err *e);

/* Of an EAGLE3 draft: other keys. */
void runtime_config_draft(const struct model *m, const struct dialect *d, struct str *out);

#endif
