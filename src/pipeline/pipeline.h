/* pipeline.h - moves the bytes that a plan describes. Decides nothing.
 *
 *   reader thread -> tiles -> workers -> slabs -> writer thread
 *
 * between the bounded buffers of ring.h; or with one thread for some devices in place
 * of workers (device.c).  Output bytes depend on the layout
 * alone: not on engine, threads, budget or timing. */
#ifndef PIPELINE_PIPELINE_H
#define PIPELINE_PIPELINE_H
#include "gpu/gpu.h"
#include "io/way.h"
#include "pipeline/meter.h"
#include "pipeline/plan.h"

struct run_progress {
    uint64_t read, written; /* bytes so far */
    uint64_t to_read, to_write;
    double seconds;   /* since the start */
    enum stage limit; /* that the others wait for lately; STAGES: none */
};

struct journal;
struct filled;

struct run_options {
    const char *io;   /* as io_open takes it */
    unsigned threads; /* workers, at least 1 */
    bool nowhere;     /* what would be written is counted only, and no file is made */
    struct gpu *gpu;  /* open devices that work in place of threads, as many as the plan is made for; NULL: none.
                       * Closed where the run fails */
    bool no_nccl;     /* several devices are not connected */
    bool feed_nccl;   /* tiles come to the first device, and from there to the others; else to each from the host */
    /* Another run follows where devices fail; this is such a one; and the data files are there, that the one before has
     * made. A trace goes on through all of them. */
    bool followed, follows, again;
    double trace_begin;      /* of the first of them, by clock_wall; 0: now */
    bool joint;              /* the data files are there: several processes fill them, each by a plan of its own */
    struct journal *journal; /* where to record what is finished, and what was before; NULL: nowhere */
    bool record_last;        /* down to the last of it, as publishing does not follow at once */
    bool no_hashes;          /* items' hashes are not known in the end, unless the journal knows them */
    struct filled *filled;   /* of the layout: is told what is written, up to FILLED_OPEN; NULL: nobody wants to know */
    void (*trace)(void *user, const char *text, size_t n); /* takes a trace, see trace.h; NULL: none is wanted */
    /* Called a few times a second from the caller's own thread; other than 0 stops the run with ERR_CANCELLED. May be
     * NULL. */
    int (*progress)(void *user, const struct run_progress *p);
    void *user;
};

struct item_result { /* of layout.item[i] */
    struct counters counters;
    uint64_t hash; /* of its bytes in the file, without padding: hash_tensor() */
};

struct device_result {     /* of a device of the run */
    uint64_t tiles, bytes; /* that it was given */
};

struct run_result {
    struct item_result *item; /* arena of the plan, as is `series` */
    uint64_t read, written;   /* bytes moved by I/O, rounding out included */
    double wall;              /* seconds, as are: */
    double busy[STAGES];      /* of all threads of the stage, */
    double waiting[STAGES];   /* for other stages or because nothing was left to do */
    enum stage limit;         /* that the others waited for; STAGES: none */
    struct sample *series;    /* how it went */
    size_t series_n;
    uint64_t buffers;                  /* bytes of buffers allocated: at most the plan's budget */
    const char *engine;                /* that was used for what is not mapped */
    struct err refused;                /* why not a better one; kind ERR_NONE: there is none */
    unsigned shards[IO_WAYS][IO_WHYS]; /* how they were read */

    bool direct_read, direct_write; /* for at least one file */
    bool made;                      /* the data files */
    struct device_result *device;   /* of run_options.gpu: devices_n of them */
    unsigned devices_n;
    uint64_t host_jobs; /* that no device could do */
};

/* Creates the layout's data files in directory `dir_fd` (`dir` is its name for
 * messages), fills and flushes them; where the journal has finished items, the
 * files are there, and the plan was made without these items.  On failure files may
 * be left incomplete: the caller discards the directory, or keeps it when the
 * journal has something that is finished.  The sources' identity is compared with
 * what ckpt_open saw; a changed or truncated source is an error. */
int pipeline_run(const struct plan *p, int dir_fd, const char *dir, const struct run_options *o, struct run_result *r,
                 struct err *e);

#endif
