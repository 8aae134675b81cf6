/* state.h - what the files of the stand-in for cudart share.  All of it is used with the lock held (call.c). */
#ifndef SIMCUDA_STATE_H
#define SIMCUDA_STATE_H
#include "sim.h"

enum { STREAMS = 64 /* at a time */, PAGE = 4096, HOST = -1 /* in place of a device */ };

struct block {            /* of memory */
    uintptr_t at;         /* the program's address */
    unsigned char *alias; /* where the bytes can be touched at any time */
    size_t bytes, mapped;
    int device; /* HOST: pinned */
    bool live;
    int file;                  /* pinned: what backs it */
    unsigned short *copies[2]; /* pinned: copies in flight of each page; from it, into it */
    struct history *history;   /* of operations that touched it: order.c */
    struct touched *touched;   /* by the kernel that runs: order.c */
    struct block *next;
};

struct stream {
    int device;
    unsigned id; /* below STREAMS; used again */
    bool dead;
    struct sim_op *head, *tail;
    uint64_t clock[STREAMS]; /* of the last operation that was done */
    struct stream *next;
};

/* Operation n of a stream has n in its own clock, at the stream's place, and at the place of every other stream the
 * number of the last of that stream's operations that comes before it. */
struct sim_op {
    const char *name;
    uint64_t number; /* of all */
    uint64_t seq;    /* of its stream */
    uint64_t mark;   /* of the last search that met it */
    struct stream *stream;
    struct sim_op *next;
    unsigned refs;
    bool started, done;
    uint64_t clock[STREAMS]; /* complete when it has started */
    struct sim_op *after;    /* of another stream, that it waits for; or NULL */
    struct sim_work work;
    struct sim_range *range;
    size_t range_n;
    double time; /* when it was done, ms */
};

/* ---- settings.c ---- */
extern struct settings {
    int devices, slow /* -1: none */, deadlock_ms;
    size_t memory, small; /* of each device; of device 1 */
    enum { LAZY, EAGER, RANDOM } schedule;
    uint64_t seed;
} settings;
void settings_read(void);
int fault_now(const char *name, int device); /* counts it; a code if it is to fail, else 0 */
void fault_counts(void);                     /* writes SIMCUDA_COUNT */

/* ---- report.c ---- */
void report_init(void);
_Noreturn void report_end(int status); /* of the process, at once */

/* ---- memory.c ---- */
void memory_init(void);
struct block *memory_blocks(void);       /* all, dead ones too */
struct block *memory_at(const void *at); /* the live one that has this address, or NULL */
int memory_device(const void *at);       /* in whose range of addresses it is, or HOST */
void *memory_host(const void *at);       /* where to touch it; itself where it is no block's */
bool memory_has(const struct block *b, const struct sim_range *r);
void memory_add(struct block *b);
cudaError_t memory_alloc(int device, size_t bytes, void **at);
cudaError_t memory_free(void *at);
size_t memory_size(int device); /* all that it has */
size_t memory_used(int device);
void memory_leaks(void);
int memory_fault(const void *at, char *text, size_t size); /* what to say of a fault there: its length; 0: nothing */

/* ---- pinned.c ---- */
cudaError_t pinned_add(void *at, size_t bytes);
cudaError_t pinned_remove(void *at);
void pinned_copies(const struct sim_range *r, int change); /* in flight, if it is in pinned memory */

/* ---- order.c ---- */
uint64_t *order_host(void);   /* clock of this thread */
uint64_t *order_queues(void); /* the same, as it queues an operation */
void order_join(uint64_t *clock, const uint64_t *other);
void order_join_all(const uint64_t *clock); /* into those of all threads */
void order_ran(struct sim_op *o);           /* it has touched its ranges, and what order_touched was
                                              told; nothing if its device is broken */
void order_touched(struct block *b, size_t at, uint32_t bytes, enum sim_how how);
void order_forget(struct block *b);

/* ---- queue.c ---- */
extern const char *queue_running; /* name of the operation that runs; "": none */
void queue_init(void);
struct stream *queue_streams(void);                        /* all, dead ones too */
struct stream *queue_open(int device);                     /* NULL: too many */
struct stream *queue_of(cudaStream_t s, const char *call); /* NULL, reported: no stream */
struct sim_op *queue_push(struct stream *s, const char *name, const struct sim_work *w, const struct sim_range *r,
                          size_t n, struct sim_op *after);
struct sim_op *op_hold(struct sim_op *o);
void op_drop(struct sim_op *o);
void queue_progress(struct sim_op *o); /* one step towards it, for those who poll */
cudaError_t queue_wait(struct sim_op *o);
cudaError_t queue_wait_stream(struct stream *s);
cudaError_t queue_wait_device(int device);
void queue_some(void);                  /* what the schedule wants to be run now */
void queue_break(int device, int code); /* that device does nothing any more */
void queue_drain(void);                 /* ends what is queued for broken devices */
void queue_leaks(void);

/* ---- call.c ---- */
int call_begin(const char *name,
               int device);          /* takes the lock; a code if the call is to fail, or its device is broken */
cudaError_t call_end(cudaError_t e); /* gives it back, and keeps a failure for cudaGetLastError */
bool call_wait(int milliseconds);    /* for another thread's call; false: there was none */
void call_wake(void);
int call_device(void); /* current one of this thread */
void call_set_device(int device);
cudaError_t call_last(void); /* failure; forgets it */

#endif
