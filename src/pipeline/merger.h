/* merger.h - a job whose matrix gets what a LoRA adapter adds to it, on its way through a worker.
 *
 * What is added is made in blocks of a fixed shape, at fixed places of the source
 * matrix: block (i, j) holds its rows MERGE_ROWS * i.. and columns MERGE_COLS * j..,
 * filled up with zeros at the edges.  For each, one GEMM of one shape multiplies
 * MERGE_ROWS rows of B by MERGE_COLS columns of A; a job that needs only part of a
 * block, or some rows of it, takes those.  For the order in which a kernel sums
 * depends on the shape and on the place in it; so every number comes out of the
 * same call at the same place, and with it the same bits, whatever the cut of the
 * tiles, the threads, the budget, and which rows a reduced vocabulary keeps.
 *
 * A and B are read from the adapter's file when they are needed: no memory grows
 * with the adapter but the room of a block, which the plan counts. */
#ifndef PIPELINE_MERGER_H
#define PIPELINE_MERGER_H
#include "base/err.h"
#include "pipeline/plan.h"
#include "transform/transform.h"

/* Multiples of what the kernels of all processors make at once, so that none comes to a remainder. */
enum { MERGE_ROWS = 32, MERGE_COLS = 512 };

struct merger {         /* of one worker */
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
/* Does the work of `j`, which is what `plan` says, with all of its counters. */
int merger_do(struct merger *m, const struct job_plan *plan, struct job *j, struct err *e);

#endif
