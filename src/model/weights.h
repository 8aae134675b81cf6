/* weights.h - inside the model folder: finding the decoder in the names of the file. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H
#include "model/model.h"

/* Sets prefix, head_name and used. */
int weights_probe(struct model *m, struct err *e);

#endif
