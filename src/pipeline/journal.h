/* journal.h - what of the data files is finished, so that another run can go on with them.
 *
 * One file in the directory that is being filled: a head, which is the caller's
 * text (what the run is made of), and behind it a record for each finished
 * tensor: its byte range, its hash and what its cast lost.  So a run that goes on
 * may cut the rest otherwise, by other threads and another budget, and reports
 * for each tensor what one run would have reported, without reading it again.
 * What is in work when a run dies is begun again; that is one tensor, rarely more.
 *
 * Records come after the bytes that they speak of are on the disk (recorder.c).
 * Each has a checksum that the head is part of; reading ends at the first one that
 * is torn. */
#ifndef PIPELINE_JOURNAL_H
#define PIPELINE_JOURNAL_H
#include "pipeline/pipeline.h"

struct finished {
    unsigned item; /* index into layout.item */
    bool hashed;   /* its hash is known */
    struct item_result result;
};

struct journal {
    const char *shown; /* its path, for messages */
    const struct layout *layout;
    int fd;        /* -1: none */
    uint64_t seed; /* of checksums: the hash of the head */
    uint64_t end;  /* where the next record goes */
    bool *done;    /* of layout.item */
    struct finished *finished;
    size_t finished_n; /* and recorded; none twice */
};

/* Opens the journal of directory `dir_fd`, which is there, perhaps empty. */
int journal_open(struct journal *j, const struct layout *l, int dir_fd, const char *name, const char *shown,
                 struct arena *a, struct err *e);
/* Its head, or NULL: there is none that is whole. */
int journal_head(struct journal *j, const char **head, struct arena *a, struct err *e);
/* Begins anew. */
int journal_begin(struct journal *j, const char *head, struct err *e);
/* Reads the records behind the head; what is torn at the end is cut off. */
int journal_resume(struct journal *j, struct err *e);
/* Adds records and flushes them. */
int journal_add(struct journal *j, const struct finished *f, size_t n, struct err *e);
/* The same of all that has no record yet, whoever made it; `result` is of layout.item. All of them are on the disk. */
int journal_add_rest(struct journal *j, const struct item_result *result, bool hashed, struct err *e);
void journal_close(struct journal *j);

#endif
