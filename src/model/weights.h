/* weights.h - inside the model folder: finding the decoder in the names of the file. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H
#include "model/model.h"

/* Sets prefix, head_name and used. */
int weights_probe(struct model *m, struct err *e);
/* Sets prefix, used and layers; refuses tensors that no draft has. */
int weights_probe_draft(struct model *m, struct notes *notes, struct err *e);

#endif
