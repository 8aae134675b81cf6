/* listing.h - what a directory holds.
 * Apart from container.h because dirent.h and base/dtype.h both have a DT_UNKNOWN. */
#ifndef CHECKPOINT_LISTING_H
#define CHECKPOINT_LISTING_H
#include <stdbool.h>
#include <stddef.h>
#include "base/arena.h"
#include "base/err.h"

struct listing { /* sorted */
    const char **name;
    size_t n;
};

/* Hidden files are left out. */
int listing_read(struct listing *l, const char *dir, struct arena *a, struct err *e);
/* Sorts and takes `name` as it is, duplicates once. */
struct listing listing_of(const char **name, size_t n);
bool listing_has(const struct listing *l, const char *name);

#endif
