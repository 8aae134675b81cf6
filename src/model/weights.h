/* weights.h - inside the model folder: finding the decoder in the names of the file. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H
#include "model/model.h"

/* Sets prefix, head_name and used. */
int weights_probe(struct model *m, struct err *e);
/* Sets prefix, used and layers; refuses tensors that no draft has. */
int weights_probe_draft(struct model *m, struct notes *notes, struct err *e);

/* A tensor of a linear by its canonical name ("layers.0.mlp.up_proj.qweight"), if it is there; it counts as used. */
const struct tensor *weights_part(struct model *m, const char *name);
/* As model_weight, of 32-bit words. */
const struct tensor *weights_words(struct model *m, const char *name, uint64_t d0, uint64_t d1);
/* model_check will say that this tensor of the file has this problem ("has ..., expected ..."). */
void weights_wrong(struct model *m, const char *name, const char *problem);

#endif
