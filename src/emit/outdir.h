/* outdir.h - the output appears whole or not at all.
 *
 * Everything is written into OUT.partial, beside OUT, which is locked while we
 * live and marked as ours by a file in it, the journal of the run.  Publishing is
 * one rename: of a new directory to OUT, or an exchange with the older export,
 * which is then removed.  Whatever fails before that leaves OUT as it was.
 *
 * A run may be killed at any point; the next one finds out how far it came:
 *   OUT.partial is marked       not published: to be gone on with, or to be removed
 *   OUT is marked               published: the older export, under OUT.partial (or
 *                               OUT.old), is still to be removed, then the mark
 *   OUT.partial holds ASIDE     on file systems without exchange: the older export
 *     and there is no OUT       stands under OUT.old, and gets its name back */
#ifndef EMIT_OUTDIR_H
#define EMIT_OUTDIR_H
#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

#define OUTDIR_MARK ".weighbridge-partial" /* the journal: a file in OUT.partial that says whose it is */
enum { OUTDIR_KEEP_MOST = 8 };

struct outdir {
    const char *path;    /* OUT without trailing slashes */
    const char *partial; /* OUT.partial */
    const char *aside;   /* OUT.old: where the older one stays for a moment, on file systems without exchange */
    int fd;              /* of OUT.partial, locked; -1: none */
    bool replaces;       /* there is an older OUT to exchange with */
    bool was_empty;      /* and nothing was in it */
    bool resumed;        /* OUT.partial is that of an earlier run, with all that is in it */
};

/* Touches nothing. Refuses: OUT, or what it is called until it is published, equal to, inside or around `model`, a
 * directory or file that is read; a symlink; a parent that is not there; an existing OUT that is no directory, or is
 * not empty and either `overwrite` is off or it is not an export (model.onnx beside a config.json with
 * "edgellm_version", or with weighbridge.* metadata).
 * `*exists`: there is an OUT to replace. */
int outdir_check(const char *out, const char *model, bool overwrite, bool *exists, struct arena *a, struct err *e);

/* Refuses a directory that is not whole: OUT.partial of a run that lives or was interrupted, and an older export that
 * is on its way to be removed. An OUT is whole also where its publication was killed before the mark was taken away. */
int outdir_check_whole(const char *dir, struct arena *a, struct err *e);

/* Brings a publication that was killed on its way to its end; to be called before outdir_check. */
int outdir_recover(const char *out, struct arena *a, struct err *e);
/* Bytes on disk that an earlier run left in OUT.partial: room that this run may count on. */
uint64_t outdir_left(const char *out, struct arena *a);

/* Makes and locks OUT.partial, and in it an empty journal; what an earlier run left there is removed. A struct with
 * fd -1 is what the calls below do nothing with. */
int outdir_create(struct outdir *o, const char *out, bool replaces, struct arena *a, struct err *e);
/* Opens OUT.partial beside the process that made it: to write to, neither to lock nor to publish nor to remove. */
int outdir_join(struct outdir *o, const char *out, struct arena *a, struct err *e);
/* The same, but what an earlier run left there is kept. */
int outdir_go_on(struct outdir *o, const char *out, bool replaces, struct arena *a, struct err *e);
/* Names in OUT.partial that begin so; NULL ends them. */
const char *const *outdir_names(const struct outdir *o, const char *prefix, struct arena *a);
/* Removes what is in OUT.partial but the journal and the files `keep`, at most OUTDIR_KEEP_MOST; NULL ends them. */
int outdir_clear(const struct outdir *o, const char *const *keep, struct err *e);
/* Refuses where the name OUT.partial means something else by now, or nothing: then the struct lets go of the directory,
 * so that neither what was moved nor what has taken its name is published or removed. */
int outdir_still_there(struct outdir *o, struct err *e);
/* Flushes the directory and renames, if it is still there. The files in it have been flushed by those who wrote them.
 * Refuses to replace an OUT that has since become something else than what outdir_check saw. */
int outdir_publish(struct outdir *o, struct err *e);
/* Removes OUT.partial and what is in it. */
void outdir_discard(struct outdir *o);
/* Keeps it, for another run to go on with. */
void outdir_leave(struct outdir *o);

#endif
