/* edges.h - row panels that are written in whole blocks.
 *
 * A row panel is one run in every row of the output, and a row ends anywhere within a
 * block of the file: so does every run that ends a row, and so begins every one that
 * begins the next.  Direct I/O takes whole blocks only.  So
 *   - a panel has so many rows of the source that its runs are whole blocks long, the
 *     last panel of an item aside: then all runs of a row begin and end at the same
 *     place within a block, as the row does;
 *   - what a run has of the block that it ends in is kept until the row's next run
 *     begins with it; what the row's first run has of the block that it begins in is
 *     kept until the last run of the row before it ends there.  The two fill one block
 *     exactly: a store of one block for each row of the output;
 *   - in a panel's buffer rows stand as in the file: from one to the next it is as far,
 *     but for whole blocks.  So what is kept is put in front of a run or behind it,
 *     and the run leaves from where it stands.  A last run needs a block behind it, the
 *     others nothing: what they end with is kept before the next row's is put there.
 * Panels of an item come in order, and the runs of each, too.  Every block of the file
 * is written once, and is hashed then (base/hash.h): a table of the blocks' hashes
 * stands behind the store.  Where rows are whole blocks there is only the table. */
#ifndef PIPELINE_EDGES_H
#define PIPELINE_EDGES_H
#include <stddef.h>
#include <stdint.h>
#include "pipeline/plan.h"

struct edges_item {       /* an item that leaves in row panels; all in bytes */
    uint64_t row, rows;   /* of the output: the length of one, and how many there are */
    unsigned char *store; /* edges_room() bytes, aligned for direct I/O */
};

/* Of an item: its store and its table. */
uint64_t edges_room(uint64_t row, uint64_t rows);
/* The longest run of a panel whose buffer has at most `pitch` bytes for each row of the output: whole blocks. 0: none
 * fits. */
uint64_t edges_run(uint64_t row, uint64_t pitch);
/* From row to row in the buffer of a panel with such runs; `last`: of the item. */
uint64_t edges_pitch(uint64_t row, uint64_t run, bool last);

struct edges_piece { /* whole blocks */
    unsigned char *buf;
    uint64_t off, bytes; /* in the item */
};

/* Completes run number i of a slab, from what is kept and from the buffer in which the slab stands, and keeps what the
 * next ones will need. Each run once, in order. */
struct edges_piece edges_take(const struct edges_item *it, const struct slab_plan *s, uint64_t i, unsigned char *buf);

/* Into the table; the last block of the item without what is behind the item. Returns how many bytes of the item. */
uint64_t edges_hash(const struct edges_item *it, const struct edges_piece *p);
uint64_t edges_hash_end(const struct edges_item *it); /* of the item, when all its blocks are in the table */

#endif
