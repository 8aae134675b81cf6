/* outfile.h - one output file that appears whole or not at all, as outdir.h has it for a directory.
 *
 * Everything is written into FILE.partial, which is locked while we live; it
 * takes FILE's place in one step. What a killed run left there is written over. */
#ifndef ARCHIVE_OUTFILE_H
#define ARCHIVE_OUTFILE_H
#include <stdbool.h>
#include "base/arena.h"
#include "base/err.h"

struct outfile {
    const char *path, *partial;
    int fd; /* of FILE.partial, locked; -1: none */
    bool replaces;
};

/* Touches nothing. Refuses: a FILE that is or lies inside `dir` (NULL: none); a parent that is not there; a symlink;
 * what exists and is no archive, or is one and `overwrite` is off. `*exists`: there is one to replace. */
int outfile_check(const char *path, const char *dir, bool overwrite, bool *exists, struct arena *a, struct err *e);
/* A struct with fd -1 is what outfile_discard does nothing with. */
int outfile_create(struct outfile *o, const char *path, bool replaces, struct arena *a, struct err *e);
/* Flushes and renames. */
int outfile_publish(struct outfile *o, struct arena *a, struct err *e);
void outfile_discard(struct outfile *o); /* removes FILE.partial */

#endif
