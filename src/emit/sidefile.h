/* sidefile.h - the small files of an output directory, decided before any is written. */
#ifndef EMIT_SIDEFILE_H
#define EMIT_SIDEFILE_H
#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

struct sidefile {
    const char *name;      /* in the output directory */
    const char *copy_from; /* path of a file to copy byte for byte, or NULL: the bytes below */
    const char *bytes;
    size_t n;
    uint64_t size;      /* in either case */
    const char *origin; /* where it comes from, for people: "copied", "from tokenizer_config.json", ... */
};

struct sidefiles {
    struct sidefile *v;
    size_t n, cap;
    struct arena *arena; /* holds names and bytes */
};

/* Copies the strings; a second file of the same name is a fault of ours (ERR_INTERNAL). */
int sidefiles_add_bytes(struct sidefiles *s, const char *name, const void *bytes, size_t n, const char *origin,
                        struct err *e);
int sidefiles_add_copy(struct sidefiles *s, const char *name, const char *path, const char *origin, struct err *e);
const struct sidefile *sidefiles_find(const struct sidefiles *s, const char *name);
/* All of them into an open directory; `dir` is its name for messages. */
int sidefiles_write(const struct sidefiles *s, int dir_fd, const char *dir, struct err *e);

#endif
