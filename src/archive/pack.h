/* pack.h - a directory into an archive, and back.
 *
 * Both are a crew (crew.h) over the archive's chunks. A thread has two buffers
 * of a chunk and what zstd needs, whatever the size of files: that times the
 * threads is all memory there is, beside the index. Frames depend on the chunk
 * alone, so the archive's bytes are the same for any number of threads. */
#ifndef ARCHIVE_PACK_H
#define ARCHIVE_PACK_H
#include "archive/archive.h"
#include "archive/outfile.h"

enum { PACK_MEMORY_MIN = 32 << 20 };

struct pack_options {
    uint64_t memory; /* at least PACK_MEMORY_MIN */
    unsigned threads;
    int (*progress)(void *user, uint64_t done, uint64_t bytes, double seconds); /* other than 0 stops */
    void *user;
};

struct pack_result {
    struct archive archive; /* in the arena */
    uint64_t split;         /* chunks in two planes */
    unsigned threads;       /* that the memory had room for */
};

/* All files below `dir`, whose name for messages is the same, into the open file. */
int pack(const char *dir, struct outfile *out, const struct pack_options *o, struct pack_result *r, struct arena *a,
         struct err *e);

/* Every file of the archive, opened as fd, into an open and empty directory: `dir` is its name for messages, `path` the
 * archive's. Files are flushed to disk. dir_fd -1: nothing is written, and every damaged chunk is found and named. */
int unpack(const struct archive *x, int fd, const char *path, int dir_fd, const char *dir, const struct pack_options *o,
           struct pack_result *r, struct arena *a, struct err *e);

#endif
