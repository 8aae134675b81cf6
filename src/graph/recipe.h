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
#include "model/int4.h"
#include "transform/transform.h"

enum recipe_op {
    RECIPE_SOURCE,    /* a checkpoint tensor as it is */
    RECIPE_ROWS,      /* some rows of a source [r, c], in a given order */
    RECIPE_CAST,      /* to dtype, round to nearest even */
    RECIPE_TRANSPOSE, /* [r, c] -> [c, r] */
    RECIPE_MERGE,     /* a matrix in F16 plus what a LoRA adapter adds to it */
    RECIPE_PACK4,     /* 4-bit weights, with their zero points where these are folded, in the runtime's layout */
    RECIPE_ZEROS,     /* (8 - zero) * scale of every group and output */
    RECIPE_ORDER,     /* which input comes at each place when groups come in order */
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
    const struct int4 *int4;          /* RECIPE_PACK4, RECIPE_ZEROS, RECIPE_ORDER */
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

/* Of a linear that model_linear found fit: I8 [out/2, in]; F16 [in/group, out]; I64 [in]. */
const struct recipe *recipe_pack4(struct arena *a, const struct int4 *q);
const struct recipe *recipe_zeros(struct arena *a, const struct int4 *q);
const struct recipe *recipe_order(struct arena *a, const struct int4 *q);

/* Copies the values: [n] of dtype t. */
const struct recipe *recipe_constant(struct arena *a, enum dtype t, uint64_t n, const void *bytes);

uint64_t recipe_elements(const struct recipe *r);
uint64_t recipe_bytes(const struct recipe *r); /* of the result */
/* "transpose(cast(model.norm.weight: BF16 -> F16))" */
void recipe_describe(const struct recipe *r, struct str *out);

/* What some units of a recipe with several sources need of one of them. */
struct recipe_part {
    const struct tensor *tensor;
    enum part_how {
        PART_UNITS,   /* `bytes` for each unit, one behind the other */
        PART_COLUMNS, /* of each row, `bytes` for each unit */
        PART_GROUPS,  /* rows of `bytes`: those of the groups that the units' inputs belong to */
        PART_WHOLE,   /* `bytes`: all of it, for any units */
    } how;
    uint64_t bytes;
};

/* Where a part of n units from `first` on lies: runs of run_bytes, pitch apart in the tensor. */
struct recipe_span {
    uint64_t off; /* in the tensor */
    uint64_t runs, run_bytes, pitch;
    size_t row; /* bytes from one row of it to the next, when the runs stand one behind the other in memory */
};

enum { RECIPE_PARTS = 3 /* weights or scales, zero points, g_idx */ };

/* What all recipes but constants come down to: one source, or rows of it, and one row of transforms[]. */
struct recipe_plain {
    const struct tensor *source;
    const struct transform *transform;
    const int32_t *gather;            /* which row of the source each row is; NULL: all of them in their order */
    const struct adapter_pair *merge; /* is added to it; NULL: nothing */
    uint64_t rows, cols;              /* of what is taken; a whole source that is only cast counts as one row */
    unsigned dst;                     /* bytes of an element of the result */
    /* Recipes of 4-bit weights.  Their elements are units, of so many bytes of the result.  Those of a transform that
     * is CUT_ROWS are rows, all columns of them; the others are columns of one row. */
    struct recipe_part part[RECIPE_PARTS]; /* [0]: of source */
    unsigned parts;                        /* 0: not of that kind */
    struct pack4 pack;
};
int recipe_plain(const struct recipe *r, struct recipe_plain *p, struct err *e);
uint64_t recipe_plain_bytes(const struct recipe_plain *p); /* of what is taken of its sources */

/* The rest is for recipes that have parts. */
uint64_t recipe_units(const struct recipe_plain *p);
struct recipe_span recipe_span(const struct recipe_plain *p, unsigned part, uint64_t first, uint64_t n);
/* No more than this is needed for any n units, each part aligned. */
uint64_t recipe_parts_bytes(const struct recipe_plain *p, uint64_t n);
/* Where a part begins, when those before it stand before it: the parts of n units from `first` on. */
uint64_t recipe_part_at(const struct recipe_plain *p, unsigned part, uint64_t first, uint64_t n);
/* Sets what a job has of these units beside src, dst, dst_pitch; `src`: all parts. */
void recipe_job(const struct recipe_plain *p, uint64_t first, uint64_t n, const void *src, struct job *j);
/* Inside the graph folder: recipe_plain of such a recipe. */
int recipe_int4(const struct recipe *r, struct recipe_plain *p, struct err *e);

#endif
