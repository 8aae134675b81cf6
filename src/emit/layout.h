/* layout.h - where every byte of the streamed output files will stand.
 *
 * onnx_model.data: initializers of 991 bytes and more (contract of TensorRT
 * Edge-LLM 0.5.0), in the order of the graph, each at a multiple of 4096 with
 * zero padding before it; the file ends with the last tensor's last byte.
 * embedding.safetensors: its header is padded with spaces so that the data
 * begins at a multiple of 4096 too (the format allows it). So every tensor
 * can be written by direct I/O. */
#ifndef EMIT_LAYOUT_H
#define EMIT_LAYOUT_H
#include <stdbool.h>
#include "base/arena.h"
#include "graph/dialect.h"
#include "graph/graph.h"
#include "graph/recipe.h"

enum { LAYOUT_ALIGN = 4096 };

struct data_file {
    const char *name; /* in the output directory */
    uint64_t bytes;   /* exact size */
    const void *head; /* first bytes, written when the file is created; NULL: none */
    size_t head_bytes;
    bool packed; /* tensors stand one behind the other, without padding */
};

struct placed { /* one tensor of a data file */
    const char *name;
    const struct recipe *recipe;
    unsigned file; /* index into layout.file */
    uint64_t off;  /* a multiple of LAYOUT_ALIGN, but in a packed file */
    uint64_t bytes;
    bool done; /* an earlier run has written it, so it is not planned any more */
};

struct layout {
    struct data_file *file;
    size_t files_n;
    struct placed *item; /* by file, then offset */
    size_t items_n;
    uint64_t bytes; /* of all files */
    bool awaited;   /* somebody waits for the bytes, file by file in the order of their names */
};

/* Whether an initializer stands in the data file; else it is inline in model.onnx. */
bool layout_external(const struct dialect *d, const struct initializer *i);
/* `embedding`: [vocab, hidden] for embedding.safetensors, or NULL: none. Without external initializers there is no data
 * file. Fails on sizes that no file can have (sparse files may claim them). */
int layout_build(struct layout *l, const struct graph *g, const struct dialect *d, const struct recipe *embedding,
                 struct arena *a, struct err *e);
/* Puts the head of a safetensors file, padded so that the data begins at a multiple of LAYOUT_ALIGN, before what a data
 * file has so far. Returns its bytes. */
size_t layout_head(struct data_file *f, const char *json, struct arena *a);
const struct placed *layout_find(const struct layout *l, const char *file, const char *name); /* NULL: not there */

#endif
