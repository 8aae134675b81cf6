/* units_read.h - the sources of some units of a recipe that has parts, read plainly: for inline tensors and verify. */
#ifndef EMIT_UNITS_READ_H
#define EMIT_UNITS_READ_H
#include "graph/recipe.h"

/* Parts of n units from `first` on, each where recipe_job looks for it in `buf` of recipe_parts_bytes(p, n). */
int units_read(const struct checkpoint *c, const struct recipe_plain *p, uint64_t first, uint64_t n, void *buf,
               struct err *e);

#endif
