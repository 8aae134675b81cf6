/* outdir.h - the output appears whole or not at all.
 *
 * Everything is written into OUT.partial, beside OUT, which is locked while we
 * live and marked as ours.  Publishing is one rename: of a new directory to
 * OUT, or an exchange with the older export, which is then removed.  Whatever
 * fails before that leaves OUT as it was. */
#ifndef EMIT_OUTDIR_H
#define EMIT_OUTDIR_H
#include <stdbool.h>
#include "base/arena.h"
#include "base/err.h"

#define OUTDIR_MARK ".weighbridge-partial" /* a file in OUT.partial that says whose it is */

struct outdir {
    const char *path;    /* OUT without trailing slashes */
    const char *partial; /* OUT.partial */
    const char *aside;   /* OUT.old: where the older one stays for a moment, on file systems without exchange */
    int fd;              /* of OUT.partial, locked; -1: none */
    bool replaces;       /* there is an older OUT to exchange with */
    bool was_empty;      /* and nothing was in it */
};

/* Touches nothing. Refuses: OUT, or what it is called until it is published, equal to, inside or around `model`, a
 * directory or file that is read; a symlink; a parent that is not there; an existing OUT that is no directory, or is
 * not empty and either `overwrite` is off or it is not an export (model.onnx beside a config.json with
 * "edgellm_version", or with weighbridge.* metadata).
 * `*exists`: there is an OUT to replace. */
int outdir_check(const char *out, const char *model, bool overwrite, bool *exists, struct arena *a, struct err *e);

/* OUT without slashes behind it. */
char *outdir_path(struct arena *a, const char *out);
/* The directory that OUT stands in: its file system takes the bytes. */
const char *outdir_parent(const char *out, struct arena *a);

/* Makes and locks OUT.partial; what an earlier run left there is removed. A struct with fd -1 is what outdir_discard
 * does nothing with. */
int outdir_create(struct outdir *o, const char *out, bool replaces, struct arena *a, struct err *e);
/* Flushes the directory and renames. The files in it have been flushed by those who wrote them. Refuses to replace an
 * OUT that has since become something else than what outdir_check saw. */
int outdir_publish(struct outdir *o, struct err *e);
/* Removes OUT.partial and what is in it. */
void outdir_discard(struct outdir *o);

#endif
