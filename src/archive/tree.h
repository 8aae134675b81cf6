/* tree.h - a directory as entries and chunks, before a byte of it is packed. */
#ifndef ARCHIVE_TREE_H
#define ARCHIVE_TREE_H
#include "archive/archive.h"
#include "io/file.h"

struct tree_growing { /* a file that others are still writing */
    const char *name;
    uint64_t bytes; /* that it will have */
};

struct tree {
    const char *dir;
    struct archive a;   /* hashes, frames and planes are still to come */
    struct file_id *id; /* of each entry, as it was seen */
    size_t *growing;    /* of each entry: 0, or its place in tree_grow's list, counted from 1 */
};

/* Every file and directory below `dir`, sorted; a symbolic link or anything that is neither is refused by name, since
 * an archive cannot hold it. The mark of an output directory is no part of it. */
int tree_read(struct tree *t, const char *dir, struct arena *a, struct err *e);
/* These files of it will have other sizes and times; the tree has the sizes that they will have. */
int tree_grow(struct tree *t, const struct tree_growing *file, size_t n, struct err *e);
/* Cuts the files into chunks. A stretch of 16-bit floats begins a chunk and ends one, so that planes are made of
 * numbers only; where they lie comes from the tensors' own records: the external data of ONNX graphs, and safetensors
 * headers. A file that says nothing, or something wrong, is cut every 8 MiB; what graphs speak of is not looked into.
 * `planes` of a chunk: 2 where they may pay. */
void tree_cut(struct tree *t, struct arena *a);
/* A file was changed, added or removed since tree_read; or one that grew is not what it was to be. */
int tree_unchanged(const struct tree *t, struct err *e);

/* For reading, not through a link; an error where it is not the file any more that tree_read saw. Of a file that grows
 * no byte is fetched but those that are asked for: the cache might keep what others are about to write over. */
int tree_open(const struct tree *t, size_t entry, const char *shown, struct err *e);

#endif
