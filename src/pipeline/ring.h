/* ring.h - the one queue of the pipeline, and all of its memory.
 *
 *   reader -> tile slots -> workers -> slabs -> writer
 *
 * Tiles are handed to the reader in plan order, to workers the oldest loaded one
 * first, and a slab to the writer when its last job is done.  Threads never talk
 * to each other, only to the ring.  Memory is mapped once, before anything is
 * written, and bounded: tile slots, stream slots, and the panel area, in which each
 * slab gets the lowest place that has room for it.  Of slots, too, the lowest one that
 * is free is taken: what was used before is touched already, and may be in a cache.
 * Where devices do the work, one thread takes the workers' place for all of them; each
 * device has a panel area of its own, in its memory, and a panel leaves it in pieces
 * (drains), which that thread copies to stream slots.
 *
 * Why it cannot come to a halt.  A tile is handed out only when everything that it
 * needs is free at once: a tile slot, a stream slot for each stream slab, room in
 * one panel area for each panel that it opens.  So a tile on its way waits for
 * nothing but its turn, and
 *   - tile slots are freed by workers, which wait for nobody;
 *   - a stream slab is filled by one tile; the writer takes stream slabs whatever
 *     the state of panels, so stream slots are freed too;
 *   - the tiles of an open panel need no more room there: it gets filled, then
 *     written, in the order of opening; and when all that are open are written, the
 *     area is empty, and has room for whatever a tile opens.
 * With devices, moreover:
 *   - a drain is handed out only when its panel is filled and a stream slot is free
 *     for it, which is all that it needs: a drain on its way waits for nothing but
 *     its turn.  The writer takes drains whatever the state of other slabs, so that
 *     slot is freed, too;
 *   - drains are handed out in one order, that of their panels, which is the order in
 *     which panels are opened, whatever the device.  The panel of the next drain is
 *     open, or will be before any panel behind it: so it gets filled as above, and
 *     drained, and its room is free again;
 *   - the thread of the devices gives back what a device is done with whenever it
 *     waits, and what a device does waits only for what was asked of it before.
 * Whoever has I/O in flight asks without waiting (`wait` false): the room that it
 * would wait for may come only from what it has not reaped. */
#ifndef PIPELINE_RING_H
#define PIPELINE_RING_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "io/map.h"
#include "pipeline/meter.h"
#include "pipeline/plan.h"

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_LOADED, SLOT_BUSY };

struct tile_slot {
    uint64_t tile; /* index into plan.tile */
    enum slot_state state;
    unsigned char *buf;       /* plan_tile_room() bytes, aligned for direct I/O */
    const unsigned char *src; /* the tile's first byte: set by the reader */
    size_t left;              /* bytes that are not read yet: the reader's, as is */
    double begin;             /* when it began, for the trace */
    struct io_map map;        /* where src is no part of buf: the reader's, who takes it away when the slot is free */
    unsigned map_file;        /* of the checkpoint */
};

struct slab_state {
    unsigned char *buf; /* NULL: not opened, or its room is free again */
    unsigned left;      /* jobs that are not done */
    unsigned drains;    /* of a device's panel: that are not done */
    /* Of a panel: */
    unsigned area;
    uint64_t above; /* the next one there, by address; slabs_n: none */
};

struct panel_area {    /* on the host, or on a device */
    unsigned char *at; /* of a device: set by whoever owns its memory, before tiles are handed out */
    uint64_t lowest;   /* panel whose room is not free, by address; slabs_n: none */
    uint64_t used;     /* bytes of these panels */
};

struct waits {        /* of a stage */
    unsigned waiting; /* threads that wait now, or have ended */
    double seconds;   /* of the waits that are over, less the beginnings of those that are not */
};

struct ring {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const struct plan *plan;
    unsigned char *memory, *streams; /* one mapping; in it the stream slots, the panel area of the host, */
    unsigned char *merge;            /* the workers' room for merging an adapter, */
    unsigned char *notes, *spare;    /* with devices PLAN_NOTES of each lane and a tile's results, */
    unsigned char *edges;            /* and what row panels keep at their edges: the writer's */
    struct panel_area *area;         /* one, or of each device */
    unsigned areas;
    struct tile_slot *slot;         /* plan.tile_slots of them */
    bool *stream_used;              /* plan.stream_slots of them */
    struct slab_state *slab;        /* plan.slabs_n of them */
    uint64_t next_tile;             /* to read */
    uint64_t opened;                /* slabs so far */
    uint64_t next_slab[SLAB_POOLS]; /* to write, of each pool */
    uint64_t next_drain;            /* to hand out */
    struct waits waits[STAGES];
    bool stop;
    struct err err; /* the first failure of any thread */
};

int ring_init(struct ring *r, const struct plan *p, struct err *e);
void ring_release(struct ring *r); /* safe on a zeroed struct */

/* The next piece for each stage; NULL or false: no more, or stopped, or (not waiting) none now. */
struct tile_slot *ring_to_read(struct ring *r, bool wait);
struct tile_slot *ring_to_transform(struct ring *r);
bool ring_to_write(struct ring *r, bool wait, uint64_t *slab);

enum { ANY_DEVICE = -1 };

struct device_work { /* a tile, or a drain */
    struct tile_slot *tile;
    int device;     /* that has to do it: it holds the panel */
    uint64_t drain; /* slab, where tile is NULL */
};

/* What the thread of the devices can take now; called with the ring locked. */
struct device_room {
    bool (*tile)(void *user, uint64_t tile, int device);
    bool (*drain)(void *user, int device);
    void *user;
};

/* The next drain, or else the oldest loaded tile, that there is room for; as ring_to_transform otherwise. */
bool ring_to_device(struct ring *r, bool wait, const struct device_room *room, struct device_work *w);

/* The stage is done with it and must not touch it again. */
void ring_loaded(struct ring *r, struct tile_slot *t);
void ring_transformed(struct ring *r, struct tile_slot *t);
void ring_drained(struct ring *r, uint64_t slab);
void ring_written(struct ring *r, uint64_t slab);

void ring_fail(struct ring *r, const struct err *e); /* ends all stages */
bool ring_stopped(struct ring *r);
void ring_settle(struct ring *r); /* waits until no loaded tile is in use, or will be */

/* Seconds that each stage has waited for the others so far, over all its threads; a reader or worker that has ended
 * waits on. */
void ring_waited(struct ring *r, double waited[STAGES]);

/* Memory of all slots and panels, for whoever is alone with the ring: nothing is on its way any more. */
unsigned char *ring_scratch(struct ring *r, size_t *bytes);

#endif
