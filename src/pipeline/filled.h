/* filled.h - how far the data files are filled, for one who reads them meanwhile.
 *
 * The pipeline says it and waits for nobody; others wait here until the bytes that
 * they want are written. Either side may give up, which ends all waiting. What
 * stands between two tensors is zeros from the beginning. */
#ifndef PIPELINE_FILLED_H
#define PIPELINE_FILLED_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "emit/layout.h"

enum filled_stage {
    FILLED_NOT,
    FILLED_OPEN, /* the files are there, with their heads; longer than they will be */
    FILLED_WHOLE /* and now they are as they will stay */
};

struct filled {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const struct layout *layout;
    uint64_t *bytes; /* of layout.item: so many of its first ones are written */
    enum filled_stage stage;
    bool stopped;
};

/* Items that an earlier run has done count as written. */
void filled_init(struct filled *f, const struct layout *l, struct arena *a);
void filled_release(struct filled *f);

void filled_reach(struct filled *f, enum filled_stage stage);
void filled_item(struct filled *f, unsigned item, uint64_t bytes); /* fewer than before changes nothing */
void filled_stop(struct filled *f);
bool filled_stopped(struct filled *f);

/* Until the stage is reached, or these bytes of layout.file are written; false: it was stopped. */
bool filled_wait(struct filled *f, enum filled_stage stage);
bool filled_wait_bytes(struct filled *f, size_t file, uint64_t off, uint64_t bytes);

#endif
