/* along.h - inside the front folder: the archive of an export, packed while the export's files are written.
 *
 * pack() runs in a thread of its own and waits for chunks (pipeline/filled.h); the
 * pipeline waits for nothing here. Whoever fails stops the other. */
#ifndef FRONT_ALONG_H
#define FRONT_ALONG_H
#include <pthread.h>
#include "front/job.h"
#include "front/pack.h"
#include "pipeline/filled.h"

struct along {
    const struct export_job *job;
    struct packing *packing; /* NULL: none is on its way */
    const char *dir;
    struct filled filled;
    struct tree_growing *file; /* those of the layout; NULL: it was never begun */
    struct arena arena;        /* the thread's; the result is in it */
    pthread_t thread;
    bool blamed; /* it was packing that stopped the pipeline */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    uint64_t done, bytes;
    double seconds;
    bool over;
    struct err err;
};

/* Everything that will be in `dir`, into the file made by outfile_create. The files beside those of the layout are
 * there; for these it waits. `job` is set; as long as that is all, the calls below do nothing. */
int along_begin(struct along *a, struct packing *p, const char *dir, struct err *e);
/* front_progress, with the struct for its user; it also stops a run whose packing has failed. */
int along_progress(void *along, const struct run_progress *p);
/* All files are written: waits for the rest of the packing. */
int along_end(struct along *a, struct err *e);
/* After the document of the result was made; where packing is still on its way, it is stopped, as *e is why. */
void along_release(struct along *a, struct err *e);

#endif
