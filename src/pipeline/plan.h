/* plan.h - the layout cut into slabs and tiles that fit a memory budget.
 *
 * A slab is a piece of an output file that is written as one: `runs` runs of
 * `run_bytes`, `file_pitch` apart in the file and `buf_pitch` apart in its buffer
 * (a contiguous piece is one run).  A tile is one bounded read; its jobs
 * transform it into one or more slabs: where several items come from one source
 * tensor (tied weights), it is read once.  An item that takes only some rows of its
 * source (a reduced vocabulary) has tiles of its own, which hold those rows one
 * behind the other, so that jobs are the same as ever; where the whole source is
 * used too, the rows are read twice.  So has an item of 4-bit weights, whose tiles may
 * hold pieces of several tensors, one part behind the other.  Two kinds of slab, by the memory that holds
 * them:
 *   stream  contiguous pieces that one tile fills whole: fixed slots
 *   panel   a transposed tensor, or as many of its source rows as fit (row panel):
 *           an area of its own, where each stands at the lowest place that has room
 * Where devices do the work, the panel area is memory of theirs, one on each device,
 * so that whole tensors are transposed there and row panels are for devices that are
 * too small.  A panel then leaves by a third kind:
 *   drain   a piece of a panel that is filled, in the order of the file, or some runs of
 *           a row panel; copied from the device into a stream slot.  Its job is no tile's
 * Tiles come in the order of source files and offsets; where somebody waits for the
 * outputs, the tensors of a source file come in the order in which he wants them.
 * Slabs come in the order in which tiles open them, drains behind all others in the
 * order of their panels; so the slabs of an item come in the order of the file.
 *
 * Row panels leave in whole blocks, where their runs are long enough for that
 * (edges.h); else their runs begin and end anywhere, and go through the page cache.
 *
 * What stands between two items in a file is zeros: the contiguous slab that ends
 * an item is padded to LAYOUT_ALIGN, and behind row panels a new file is zeros
 * anyway.  The padded end of a file's last slab is cut off when all is written.
 * In a packed file nothing stands between, and nothing is padded. */
#ifndef PIPELINE_PLAN_H
#define PIPELINE_PLAN_H
#include <stdbool.h>
#include "checkpoint/checkpoint.h"
#include "emit/layout.h"

enum slab_pool { SLAB_STREAM, SLAB_PANEL, SLAB_DRAIN, SLAB_POOLS };

struct slab_plan {
    enum slab_pool pool;
    bool direct;              /* aligned at both ends, or edged: fit for direct I/O */
    bool strewn;              /* other slabs of the item have bytes between its runs */
    bool edged;               /* strewn, and its runs are completed to whole blocks; */
    bool first, last;         /* then: of the item's row panels */
    unsigned item;            /* index into layout.item */
    unsigned file;            /* index into layout.file */
    uint64_t off;             /* of the first run in the file */
    uint64_t runs, run_bytes; /* what is written, padding included */
    uint64_t buf_pitch, file_pitch;
    uint64_t buf_bytes; /* its room in the pool */
    uint64_t buf_off;   /* of the first run in its buffer */
    uint64_t row;       /* of the output, that the first run is in, */
    uint64_t in_row;    /* and where in it: bytes */
    uint64_t edges;     /* of an edged one: where in plan.edges_bytes the item's edges_room() begins */
    uint64_t payload;   /* bytes of the item in it, padding aside */
    unsigned jobs;      /* that fill it */
    /* of devices only: */
    unsigned drains;    /* of a panel: by which it leaves */
    uint64_t panel;     /* of a drain: the slab that it is a piece of, */
    uint64_t panel_off; /* and where in its buffer */
};

struct job_plan {
    const struct transform *transform;
    uint64_t slab;                           /* index */
    uint64_t dst_off;                        /* in the slab's buffer */
    size_t src_pitch, dst_pitch, rows, cols; /* see struct job; its source is the tile's first byte */
    const struct adapter_pair *merge;        /* is added on the way; NULL: nothing. Then: */
    uint64_t row, col;                       /* where in the item it begins */
    const int32_t *gather;                   /* row i of the item is row gather[i] of the source; NULL: row i */
    const struct recipe_plain *parts;        /* of 4-bit weights: recipe_job says all but dst_pitch, of these units: */
    uint64_t first, units;
};

struct part_plan { /* of a tile whose bytes lie in several places: runs, pitch apart */
    unsigned file; /* of the checkpoint */
    uint64_t off, pitch, runs, run_bytes;
    uint64_t ahead; /* bytes from `off` on that this tile and those after it will read; 0: that was said before */
    size_t at;      /* in the tile's buffer, the runs one behind the other */
};

struct tile_plan {
    unsigned file; /* of the checkpoint */
    unsigned jobs;
    uint64_t off; /* in the file */
    size_t bytes;
    uint64_t job;          /* its first job */
    const int32_t *gather; /* bytes / row_bytes rows; row i lies at off + gather[i] * row_bytes. NULL: one piece */
    size_t row_bytes;
    const struct part_plan *part; /* `parts` of them; 0: one piece, or gathered rows */
    unsigned parts;
};

struct plan_budget {
    uint64_t memory;        /* bytes for all buffers of the run */
    unsigned threads;       /* workers, at least 1 */
    unsigned devices;       /* that work in place of threads; 0: none. Then: */
    uint64_t device_memory; /* bytes of each for all that it holds */
};

/* Of a lane of a device: results of a turn's jobs besides their bytes (counters), on the device and, in a page of its
 * own, on the host. */
enum { PLAN_NOTES = 4096, PLAN_DEVICE_ALIGN = 256 /* of what stands in the memory of devices */ };

static inline uint64_t plan_device_aligned(uint64_t n)
{
    return (n + PLAN_DEVICE_ALIGN - 1) / PLAN_DEVICE_ALIGN * PLAN_DEVICE_ALIGN;
}

struct plan {
    const struct checkpoint *ckpt;
    const struct layout *layout;
    struct slab_plan *slab;
    struct job_plan *job;
    struct tile_plan *tile;
    uint64_t slabs_n, jobs_n, tiles_n;
    /* buffers */
    unsigned tile_slots, stream_slots;
    size_t tile_bytes;   /* of a tile at most */
    size_t stream_bytes; /* of a stream slot */
    size_t panel_bytes;  /* of the panel area, or of each device's */
    size_t edges_bytes;  /* for what row panels keep at their edges */
    unsigned workers;    /* that have room for merging an adapter; 0: there is none */
    size_t merge_bytes;  /* of that room, each */
    uint64_t merge_rank; /* of the adapter at most */
    const struct ckpt_file *adapter;
    uint64_t buffers; /* all of them: at most budget.memory */
    /* of devices only: */
    unsigned devices; /* 0: threads do the work, and the panel area is the host's */
    unsigned lanes;   /* of each device: memory for what is done at once on its three ways: in, work, out */
    size_t lane_tiles, lane_results, lane_scratch; /* bytes of a lane */
    uint64_t device_bytes;                         /* of a device, panel area included: at most budget.device_memory */
    uint64_t factor_bytes; /* of it, for the adapter's factors of all items; 0: none, or too many: the host merges */
    uint64_t drains_from;  /* the first slab that is a drain */
    uint64_t to_read, to_write; /* bytes; rounding out to blocks aside */
    uint64_t paneled;           /* items that need more than one row panel, */
    uint64_t edged;             /* and those of them whose runs are completed to whole blocks */
    struct arena *arena;
};

/* Room of a tile in memory: a direct read is rounded out to blocks at both ends. */
size_t plan_tile_room(const struct plan *p);

/* Room of an item's factors on a device: A, B, and which rows it takes, if not all. */
uint64_t plan_factors(const struct recipe_plain *p);
/* Room for the work of a job that merges there, at least. */
size_t plan_merge_room(uint64_t rows, uint64_t cols, uint64_t rank);

/* The least budget that the command line accepts, and its default. */
#define PLAN_MEMORY_MIN     (16ull << 20)
#define PLAN_MEMORY_DEFAULT (512ull << 20)

/* Fails when not even one row of a tensor fits the budget, saying what would; ERR_DEVICE: devices have too little
 * memory, threads might do. */
int plan_make(struct plan *p, const struct checkpoint *c, const struct layout *l, const struct plan_budget *b,
              struct arena *a, struct err *e);

#endif
