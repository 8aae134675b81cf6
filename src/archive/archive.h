/* archive.h - .wbz: a directory as one seekable zstd file (docs/archive.md).
 *
 *   head   skippable frame: who wrote this, in which version
 *   frames one zstd frame for each chunk, end to end: at most 8 MiB of one file
 *   index  skippable frame: the entries (files and directories) and the chunks
 *   foot   skippable frame of fixed size: where the index is, and its checksum
 *
 * Only sizes are stored, never a place: a chunk's frame and its place in its
 * file follow from the sizes before it, and the sums must come out exactly. So
 * no two chunks can overlap, nothing is left unaccounted for, and what lies
 * where is known before a byte of it is read. */
#ifndef ARCHIVE_ARCHIVE_H
#define ARCHIVE_ARCHIVE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

enum {
    ARCHIVE_VERSION = 1,
    ARCHIVE_CHUNK = 8 << 20, /* bytes of a file in a chunk, at most */
    ARCHIVE_HEAD = 32,       /* bytes, with the frame's own 8 */
    ARCHIVE_FOOT = 40,
    ARCHIVE_FRAME = 8, /* the fixed part of a skippable frame: magic, length */
    ARCHIVE_NAME_MOST = 4095,
    ARCHIVE_PART_MOST = 255,      /* bytes of a name between slashes */
    ARCHIVE_INDEX_MOST = 64 << 20 /* some 25 TB */
};

struct archive_entry { /* sorted by name, bytewise; a directory stands before what is in it */
    const char *name;  /* relative, parts separated by '/', never "", "." or ".." */
    bool dir;
    unsigned mode;            /* permission bits, 0777 at most */
    uint64_t bytes, hash;     /* of a file: XXH3 64 of its contents */
    uint64_t chunk, chunks_n; /* its first one, and how many */
};

struct archive_chunk {
    uint32_t raw, frame; /* bytes of the file, bytes in the archive */
    uint32_t planes;     /* 1: as they are; 2: the even bytes, then the odd ones */
    uint64_t hash;       /* XXH3 64 of the frame */
    uint64_t frame_off;  /* in the archive, ... */
    uint64_t off;        /* ... and in the file: both follow from the sizes */
    uint32_t entry;
};

struct archive {
    struct archive_entry *entry;
    size_t entries_n;
    struct archive_chunk *chunk;
    uint64_t chunks_n;
    uint64_t bytes;   /* of all files */
    uint64_t index;   /* where the index begins: the end of the frames */
    uint64_t on_disk; /* bytes of the archive */
};

void archive_head(unsigned char out[ARCHIVE_HEAD]);
bool archive_is(const char *path); /* begins as an archive does */
/* Index and foot; frame_off and off are not looked at. */
int archive_print_index(const struct archive *x, struct str *out, struct err *e);

/* What the index frame holds, checked whole: `name` is for messages, `index` where it begins in the archive. Any bytes
 * may come in here; the fuzz target's way. */
int archive_parse_index(struct archive *x, const void *bytes, size_t n, uint64_t index, const char *name,
                        struct arena *a, struct err *e);
/* Reads head, foot and index of an open file; the contents of frames are for those who unpack them. */
int archive_read(struct archive *x, int fd, const char *name, struct arena *a, struct err *e);

/* By name; NULL: there is none. */
const struct archive_entry *archive_find(const struct archive *x, const char *name);
size_t archive_files(const struct archive *x); /* entries that are no directories */

#endif
