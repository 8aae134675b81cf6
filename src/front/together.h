/* together.h - one export by several processes on a shared file system.
 *
 * Every rank decides the same plan from the same metadata; rank 0 makes OUT.partial
 * and the data files, each rank fills in its share of the tensors, rank 0 collects
 * what became of them, writes the small files and publishes.  A share is a run of
 * tensors in the order of the source files, as large in bytes as any other.  Each rank keeps a journal
 * of its own; rank 0 takes over what it finds, so that a run may be gone on with by
 * another number of ranks, and at the end what the others have, before they remove theirs.
 * So a tensor that is finished stands in some journal at each moment, until it is published.
 * Functions that take ranks are collective; with NULL they do what one process needs, which
 * is mostly nothing. */
#ifndef FRONT_TOGETHER_H
#define FRONT_TOGETHER_H
#include "emit/outdir.h"
#include "front/job.h"
#include "io/ranks.h"
#include "pipeline/journal.h"

struct together {
    struct wb_ranks *ranks; /* NULL: alone */
    int *owner;             /* of layout.item: its rank; -1: finished before. Only with ranks */
    bool told;              /* another rank has the message of a failure */
};

/* Records that other ranks of an interrupted run left in OUT.partial, into the journal. */
int together_take_over(struct export_job *j, const struct outdir *out, struct journal *journal, const char *manifest,
                       struct err *e);
/* After rank 0 has set out: all look whether they mean the same export, open what rank 0 has made, and plan their
 * shares. */
int together_begin(struct together *t, struct export_job *j, struct outdir *out, struct journal *journal,
                   struct err *e);
/* After the bytes were moved, or not: what became of all tensors, to rank 0 and its journal. */
int together_end(struct together *t, struct export_job *j, const struct outdir *out, struct journal *journal,
                 struct run_result *r, struct err *e);

#endif
