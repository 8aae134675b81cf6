/* pickle.h - reads the tensors of a pickle, and nothing else of Python.
 *
 * A pickle is a program for a stack machine that may call any function by its
 * name.  This one knows the instructions that torch.save writes (protocol 2) and
 * calls nothing: it keeps what three known functions were to be called with.
 * Every other name is refused, every length and index is checked, and memory is
 * bounded whatever the text says.  The weights are not in here: a tensor names a
 * storage, raw bytes that lie elsewhere (torch_zip.c). */
#ifndef CHECKPOINT_PICKLE_H
#define CHECKPOINT_PICKLE_H
#include "checkpoint/checkpoint.h"

enum { PICKLE_MOST = 32 << 20 /* bytes of text: some 140,000 tensors */ };

struct pickled_tensor {
    struct tensor t;     /* off: from the start of its storage, within it; file: 0 */
    const char *storage; /* its key */
    uint64_t storage_bytes;
};

struct pickled { /* sorted by name, no name twice */
    struct pickled_tensor *v;
    size_t n;
};

/* A dict of tensors by name, as model.state_dict() is.  Numbers and strings among them are no weights and are left
 * out.  All of `out` is in the arena.  Messages say the byte or the tensor; the caller puts the file in front. */
int pickle_read(struct pickled *out, const unsigned char *text, size_t n, struct arena *a, struct err *e);

#endif
