/* merger.h - a job whose matrix gets what a LoRA adapter adds to it, on its way.
 *
 * What is added is made in blocks of a fixed shape, at fixed places of the source
 * matrix: block (i, j) holds its rows MERGE_ROWS * i.. and columns MERGE_COLS * j..,
 * filled up with zeros at the edges.  A job that needs only part of a block, or
 * some rows of it, takes those.  For the order in which a kernel sums depends on
 * the shape of its call and on the place in it; so every number comes out of the
 * same call at the same place, and with it the same bits, whatever the cut of the
 * tiles, the threads, the budget, and which rows a reduced vocabulary keeps.
 *
 * A and B are read from the adapter's file when they are needed: no memory grows
 * with the adapter but the room of a block. */
#ifndef EMIT_MERGER_H
#define EMIT_MERGER_H
#include "base/err.h"
#include "checkpoint/adapter.h"
#include "transform/transform.h"

/* Of a block. */
enum { MERGE_ROWS = 48, MERGE_COLS = 512 };

struct merger {         /* of one thread */
    float *a, *b;       /* [rank, MERGE_COLS], [MERGE_ROWS, rank] */
    float *product;     /* [MERGE_ROWS, MERGE_COLS], and like it: */
    float *sum;         /* with the weights */
    uint16_t *w;        /* the weights in fp16 */
    unsigned char *raw; /* rows of A or B as they are stored */
    int fd;             /* of the adapter */
    const char *name;
};

/* Room for adapters of this rank at most. */
size_t merger_bytes(uint64_t rank);
void merger_init(struct merger *m, void *room, uint64_t rank, int fd, const char *name);
struct merge {
    const struct adapter_pair *pair;
    const struct transform *transform; /* that the job would be without it */
    const int32_t *gather;             /* row i of the item is row gather[i] of the source; NULL: row i */
    uint64_t row, col;                 /* where in the item the job begins */
};
/* Does the whole of `j`, its counters too. */
int merger_do(struct merger *m, const struct merge *what, struct job *j, struct err *e);

/* The same for an item in memory: makes and gives back all that it needs. */
int merger_once(const struct merge *what, struct job *j, struct err *e);

#endif
