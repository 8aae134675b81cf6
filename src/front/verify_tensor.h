/* verify_tensor.h - one tensor of an export against its source, by the plain scalar path, a bounded piece at a time. */
#ifndef FRONT_VERIFY_TENSOR_H
#define FRONT_VERIFY_TENSOR_H
#include "checkpoint/adapter.h"
#include "front/differences.h"
#include "graph/recipe.h"

struct verify_piece {  /* where the bytes to be checked are */
    const char *name;  /* of the tensor in the export */
    const void *bytes; /* in memory, or NULL: */
    int fd;            /* an open file */
    const char *file;  /* its name */
    uint64_t off;
    const int32_t *rows; /* rows of the source that it holds, checked against its shape; NULL: all */
    uint64_t rows_n;
    const struct adapter_pair *merge; /* was added to the source; NULL: nothing */
};

/* fp16 cast of the source, transposed when it is a linear's matrix. Where an adapter was merged, a value may be the
 * next one in fp16: the order of a sum is the BLAS's. That is counted. Differences go to d; e is for what cannot be
 * read.
 */
int verify_tensor(struct differences *d, const struct checkpoint *c, const struct tensor *source, bool transposed,
                  const struct verify_piece *p, struct err *e);
/* The same of a recipe that has parts: 4-bit weights and what goes with them, byte by byte. */
int verify_units(struct differences *d, const struct checkpoint *c, const struct recipe_plain *r,
                 const struct verify_piece *p, struct err *e);

#endif
