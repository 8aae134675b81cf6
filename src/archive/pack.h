/* pack.h - a directory into an archive, and back.
 *
 * Both are a crew (crew.h) over the archive's chunks. A thread has two buffers
 * of a chunk and what zstd needs, whatever the size of files: that times the
 * threads is all memory there is, beside the index. Frames depend on the chunk
 * alone, so the archive's bytes are the same for any number of threads.
 *
 * A directory may be packed while others still write some of its files: a chunk
 * then waits until it is there. Chunks are taken in the order of the archive,
 * whatever the order in which they are written. */
#ifndef ARCHIVE_PACK_H
#define ARCHIVE_PACK_H
#include "archive/archive.h"
#include "archive/outfile.h"
#include "archive/tree.h"

enum { PACK_MEMORY_MIN = 32 << 20 };

/* The files that are still being written; the others are complete. All are there. */
struct pack_growth {
    const struct tree_growing *file;
    size_t files_n;
    /* Until these bytes of file[i] are written, or all files are as they will stay; false: they never will be. */
    bool (*wait)(void *user, size_t i, uint64_t off, uint64_t bytes);
    bool (*wait_whole)(void *user);
    void (*give_up)(void *user); /* packing fails: whoever waits shall come back */
    void *user;
};

struct pack_options {
    uint64_t memory; /* at least PACK_MEMORY_MIN */
    unsigned threads;
    const struct pack_growth *growth; /* of pack; NULL: nothing is being written */
    int (*progress)(void *user, uint64_t done, uint64_t bytes, double seconds); /* other than 0 stops */
    void *user;
};

struct pack_result {
    struct archive archive; /* in the arena */
    uint64_t split;         /* chunks in two planes */
    unsigned threads;       /* that the memory had room for */
};

/* Bytes that so many threads work in, or as many of them as `most` has room for; 0: not for one. */
uint64_t pack_memory(unsigned threads, uint64_t most);

/* All files below `dir`, whose name for messages is the same, into the open file. */
int pack(const char *dir, struct outfile *out, const struct pack_options *o, struct pack_result *r, struct arena *a,
         struct err *e);

/* Every file of the archive, opened as fd, into an open and empty directory: `dir` is its name for messages, `path` the
 * archive's. Files are flushed to disk. dir_fd -1: nothing is written, and every damaged chunk is found and named. */
int unpack(const struct archive *x, int fd, const char *path, int dir_fd, const char *dir, const struct pack_options *o,
           struct pack_result *r, struct arena *a, struct err *e);

#endif
