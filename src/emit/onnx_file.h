/* onnx_file.h - a graph as the bytes of model.onnx.
 *
 * Initializers below the dialect's limit stand inside (raw_data), the others
 * point into the data file by location, offset and length.  The same graph and
 * metadata give the same bytes on every run and machine. */
#ifndef EMIT_ONNX_FILE_H
#define EMIT_ONNX_FILE_H
#include "base/str.h"
#include "emit/layout.h"

struct inline_tensor { /* of graph.init[i], where it is inline */
    const void *bytes; /* NULL: external */
    uint64_t n;
    struct counters counters;
};

/* The inline tensors' bytes, by the plain scalar path; one struct for each initializer.  With `read` false no file is
 * touched and the bytes are zeros: enough to know the size of model.onnx. */
int inline_tensors(const struct graph *g, const struct dialect *d, const struct checkpoint *c, bool read,
                   struct inline_tensor **tensor, struct arena *a, struct err *e);

struct metadata { /* metadata_props */
    const char *key, *value;
};

int onnx_file(const struct graph *g, const struct dialect *d, const struct layout *l,
              const struct inline_tensor *tensor, const struct metadata *meta, size_t meta_n, struct str *out,
              struct err *e);

#endif
