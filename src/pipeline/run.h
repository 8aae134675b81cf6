/* run.h - one run of the pipeline: what its threads share. */
#ifndef PIPELINE_RUN_H
#define PIPELINE_RUN_H
#include <stdatomic.h>
#include "io/io.h"
#include "pipeline/filled.h"
#include "pipeline/pipeline.h"
#include "pipeline/ring.h"
#include "pipeline/trace.h"

enum { READ_DEPTH = 8, WRITE_DEPTH = 64 /* the runs of row panels are short */ }; /* ops in flight */

struct out_file {
    const char *shown;
    int fd;        /* buffered; -1: none */
    int direct_fd; /* the same file with O_DIRECT; -1: none, the file system refuses it */
    /* The same file again, for the recorder; -1: none. The kernel says once for each time that a file was opened that
     * pages of it did not come to the disk: what the writer has heard the recorder must hear, too. */
    int record_fd;
    bool buffered; /* something went through the page cache */
};

struct run {
    const struct plan *plan;
    struct run_result *result; /* reader and writer have fields of their own, workers' are under the lock */
    struct ring ring;
    struct devices *devices;     /* that do the work in place of workers; NULL: none */
    int adapter_fd;              /* -1: none */
    atomic_uint worker;          /* the next one's number */
    struct io in, out;           /* the reader's engine and the writer's */
    bool nowhere;                /* there are no data files */
    bool joint, again;           /* the data files are there */
    bool record_last;            /* there is more to come than publishing */
    bool hashes;                 /* of items are wanted */
    bool guarded, only_map;      /* pieces of sources may be mapped; must be, where they can */
    struct out_file *file;       /* of the layout */
    atomic_ullong read, written; /* bytes, for progress */
    pthread_mutex_t lock;
    pthread_cond_t left;   /* a thread has ended */
    unsigned running;      /* threads */
    struct filled *filled; /* NULL: nobody reads meanwhile */
    struct trace trace;
    struct meter meter; /* of the thread that called */
    /* For the recorder, under the lock too. */
    struct journal *journal; /* NULL: none is kept */
    struct finished *pending;
    size_t pending_n; /* at most as many as items */
    bool written_all; /* the writer has ended */
    pthread_cond_t wrote;
};

/* Thread functions; the argument is a struct run. */
void *reader_main(void *run);
void *worker_main(void *run);
void *device_main(void *run); /* in place of all workers */
void *writer_main(void *run);
void *recorder_main(void *run); /* journals only */

/* A file of the checkpoint; an error when it is not the file any more that was planned with, as `when` says. */
int source_open(const struct ckpt_file *f, struct err *e);
int source_check(int fd, const struct ckpt_file *f, const char *when, struct err *e);

/* The tensor that slab or tile number i is of, or the first that the tile is of: for traces. */
const char *run_slab_tensor(const struct run *r, uint64_t slab);
const char *run_tile_tensor(const struct run *r, uint64_t tile);

struct merger;
/* A job by the processor, to any place; and what it has lost, to the item that it is of. */
int run_job_on_host(struct merger *m, const struct job_plan *plan, const unsigned char *src, void *dst,
                    size_t dst_pitch, struct counters *c, struct err *e);
void run_count(struct run *r, const struct job_plan *plan, const struct counters *c);

/* The last that a thread does. */
void run_leave(struct run *r);

/* The writer's: an item is written whole, with what is known of it; and it writes no more. */
void recorder_take(struct run *r, unsigned item, bool hashed);
void recorder_end(struct run *r);

/* Creates the data files, or opens those of the run that is gone on with; writes their heads. */
int outputs_create(struct run *r, int dir_fd, const char *dir, struct err *e);
void outputs_close(struct run *r);

#endif
