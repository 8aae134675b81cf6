/* batch.h - inside the front folder: the jobs of a batch, and what is remembered of them.
 *
 * JOBS.json says what to export where (batch_jobs.c).  Beside it JOBS.json.state
 * remembers of each OUT what it was made of and what its files look like
 * (batch_state.c): nothing in OUT itself names sources or times.  An OUT that the
 * state names is ours to replace. */
#ifndef FRONT_BATCH_H
#define FRONT_BATCH_H
#include <jansson.h>
#include <weighbridge.h>
#include "base/arena.h"
#include "base/err.h"

struct batch_job {
    const char *name;      /* OUT as JOBS.json has it, without slashes behind: in front of messages, and in the state */
    const char *model;     /* MODEL as JOBS.json has it: the output names it so */
    const char *archive;   /* likewise; NULL: none */
    json_t *given;         /* all its options; lives with the batch_jobs */
    struct wb_options opt; /* with paths that hold from here */
};

struct batch_jobs {
    struct batch_job *v;
    size_t n;
    json_t *document;
};

/* Refuses what is no list of jobs, keys that there are not, places that two jobs would write to, and a `report` (NULL:
 * none) in one of them, or in the place of JOBS.json or its state. */
int batch_jobs_read(struct batch_jobs *b, const char *path, const char *report, struct arena *a, struct err *e);
void batch_jobs_release(struct batch_jobs *b);
/* An export's message as JOBS.json has its options: "overwrite": true for --overwrite. Those of the batch stay. */
const char *batch_jobs_words(const char *message, struct arena *a);

struct batch_state {
    const char *dir, *name; /* of the file */
    json_t *outs;           /* name -> record; NULL: not open */
    int lock;               /* of JOBS.json */
};

/* Locks JOBS.json, so that one batch at a time keeps the state. Always ends with batch_state_close. */
int batch_state_open(struct batch_state *s, const char *jobs, struct arena *a, struct err *e);
void batch_state_close(struct batch_state *s);
/* NULL: not ours. Borrowed, until the next batch_state_set. */
const json_t *batch_state_of(const struct batch_state *s, const struct batch_job *job);
/* Takes the record; NULL forgets. The file is written. */
int batch_state_set(struct batch_state *s, const struct batch_job *job, json_t *record, struct err *e);

/* A record of an export that is about to begin where there was nothing, ... */
json_t *batch_record_begun(const struct batch_job *job);
/* ... and of one that is complete. Takes `manifest`. `now`: as the chat template was told. */
json_t *batch_record_done(const struct batch_job *job, json_t *manifest, int64_t now, struct err *e);
/* When it was made; 0: not known. */
int64_t batch_record_now(const json_t *record);
/* The job has the same options and manifest as the record, and the files are as they were left. */
bool batch_record_holds(const json_t *record, const struct batch_job *job, const json_t *manifest);
/* Its archive, too, is ours. */
bool batch_record_archive(const json_t *record, const struct batch_job *job);

#endif
