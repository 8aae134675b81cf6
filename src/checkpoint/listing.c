/* listing.c - what a directory holds. */
#include "checkpoint/listing.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The common wrong arguments, each with its remedy. */
static int not_listable(const char *dir, int code, struct err *e)
{
    if (code == ENOENT)
        return err_set(
            e, ERR_IO,
            "%s: no such directory: give a local directory that holds config.json and the weights (a model on a "
            "hub must be downloaded first)",
            dir);
    if (code == ENOTDIR)
        return err_set(e, ERR_IO, "%s: is not a directory: give the directory that holds config.json and the weights",
                       dir);
    return err_errno(e, code, "%s: cannot be listed", dir);
}

int listing_read(struct listing *l, const char *dir, struct arena *a, struct err *e)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    const char **name = NULL;
    size_t cap = 0;

    if (!d)
        return not_listable(dir, errno, e);
    while ((entry = readdir(d))) {
        if (entry->d_name[0] == '.') /* also "._model.safetensors", which macOS leaves on foreign disks */
            continue;
        if (l->n == cap)
            name = xrealloc(name, (cap = cap ? cap * 2 : 64) * sizeof *name);
        name[l->n++] = arena_strdup(a, entry->d_name);
    }
    closedir(d);
    l->name = arena_array(a, l->n, sizeof *name);
    for (size_t i = 0; i < l->n; i++)
        l->name[i] = name[i];
    free(name);
    *l = listing_of(l->name, l->n);
    return 0;
}

struct listing listing_of(const char **name, size_t n)
{
    struct listing l = { .name = name };

    if (n)
        qsort(name, n, sizeof *name, by_name);
    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(name[i], name[l.n - 1]))
            name[l.n++] = name[i];
    return l;
}

bool listing_has(const struct listing *l, const char *name)
{
    return l->n && bsearch(&name, l->name, l->n, sizeof *l->name, by_name);
}
