/* recipe.h - how an initializer comes out of source tensors: a small expression.
 *
 * The graph says what it needs, the planner how to cut it.  Nothing here moves
 * a byte.  Every constructor checks shapes and returns NULL with a message
 * where they do not fit or a dtype cannot be converted. */
#ifndef GRAPH_RECIPE_H
#define GRAPH_RECIPE_H
#include "base/arena.h"
#include "base/str.h"
#include "checkpoint/adapter.h"
#include "checkpoint/checkpoint.h"
#include "transform/transform.h"

enum recipe_op {
    RECIPE_SOURCE,    /* a checkpoint tensor as it is */
    RECIPE_ROWS,      /* some rows of a source [r, c], in a given order */
    RECIPE_CAST,      /* to dtype, round to nearest even */
    RECIPE_TRANSPOSE, /* [r, c] -> [c, r] */
    RECIPE_MERGE,     /* a matrix in F16 plus what a LoRA adapter adds to it */
    RECIPE_CONSTANT,  /* a few values worked out from metadata or scalars; always inline */
};

struct recipe {
    enum recipe_op op;
    enum dtype dtype; /* of the result */
    unsigned rank;
    uint64_t shape[TENSOR_RANK_MAX];
    const struct tensor *source;      /* RECIPE_SOURCE */
    const void *bytes;                /* RECIPE_CONSTANT: recipe_bytes of them, little-endian */
    const int32_t *rows;              /* RECIPE_ROWS: which row of the source each one is, [shape[0]] */
    const struct adapter_pair *merge; /* RECIPE_MERGE */
    const struct recipe *in;          /* the others */
};

const struct recipe *recipe_source(struct arena *a, const struct tensor *t);
/* At most as many rows as there are. `rows` is kept, not copied. */
const struct recipe *recipe_rows(struct arena *a, const struct recipe *r, const int32_t *rows, uint64_t n,
                                 struct err *e);
const struct recipe *recipe_cast(struct arena *a, const struct recipe *r, enum dtype to, struct err *e);
const struct recipe *recipe_transpose(struct arena *a, const struct recipe *r, struct err *e);
/* Of a matrix that was cast to F16, all of its rows or some. */
const struct recipe *recipe_merge(struct arena *a, const struct recipe *r, const struct adapter_pair *pair,
                                  struct err *e);

/* Copies the values: [n] of dtype t. */
const struct recipe *recipe_constant(struct arena *a, enum dtype t, uint64_t n, const void *bytes);

uint64_t recipe_elements(const struct recipe *r);
uint64_t recipe_bytes(const struct recipe *r); /* of the result */
/* "transpose(cast(model.norm.weight: BF16 -> F16))" */
void recipe_describe(const struct recipe *r, struct str *out);

/* What all recipes but constants come down to: one source, or rows of it, and one row of transforms[]. */
struct recipe_plain {
    const struct tensor *source;
    const struct transform *transform;
    const int32_t *gather;            /* which row of the source each row is; NULL: all of them in their order */
    const struct adapter_pair *merge; /* is added to it; NULL: nothing */
    uint64_t rows, cols;              /* of what is taken; a whole source that is only cast counts as one row */
};
int recipe_plain(const struct recipe *r, struct recipe_plain *p, struct err *e);
uint64_t recipe_plain_bytes(const struct recipe_plain *p); /* of what is taken of the source */

#endif
