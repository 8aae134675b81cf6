/* stored.h - the load functions of stored_formats[], one file each. */
#ifndef MODEL_STORED_H
#define MODEL_STORED_H
#include "model/model.h"

void stored_plain_load(struct model *m, struct linear *l, bool bias);

#endif
