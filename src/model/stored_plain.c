/* stored_plain.c - a linear as a matrix [out, in] of F32, BF16 or F16, with a bias [out] or without. */
#include "model/stored.h"

void stored_plain_load(struct model *m, struct linear *l, bool bias)
{
    l->weight = model_weight(m, arena_printf(m->arena, "%s.weight", l->module), l->out, l->in);
    l->bias = bias ? model_weight(m, arena_printf(m->arena, "%s.bias", l->module), l->out, 0) : NULL;
}
