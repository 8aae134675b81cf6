/* stored_plain.c - a linear as a matrix [out, in] of F32, BF16 or F16. */
#include "model/stored.h"

void stored_plain_load(struct model *m, struct linear *l)
{
    l->weight = model_weight(m, stored_part(m, l, "weight"), l->out, l->in);
}
