/* checkpoint.h - a directory becomes name -> {file, offset, dtype, shape}.
 *
 * Opening reads headers only, checks everything that they say against the
 * files' sizes, and reports all bad files of the directory in one message.
 * Model families are unknown here.  Formats: safetensors (8-byte little-endian
 * header length, JSON header, data; see docs of the safetensors project),
 * pytorch_model.bin as torch.save writes it (torch_zip.c), and for both an
 * index (model.safetensors.index.json, weight_map: tensor -> shard file). */
#ifndef CHECKPOINT_CHECKPOINT_H
#define CHECKPOINT_CHECKPOINT_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/notes.h"
#include "base/str.h"
#include "io/file.h"

enum { TENSOR_RANK_MAX = 8 };

struct tensor {
    const char *name;
    unsigned file; /* index into checkpoint.file */
    enum dtype dtype;
    const char *dtype_text; /* as the header spells it, for messages: shortened and printable */
    unsigned rank;
    uint64_t shape[TENSOR_RANK_MAX];
    uint64_t elements;
    uint64_t off;   /* of the first byte, from the start of the file */
    uint64_t bytes; /* elements * dtype size, checked; for DT_UNKNOWN what the header's range says */
};

struct ckpt_file {
    const char *name; /* as the directory or the index spells it */
    const char *path;
    struct file_id id;
};

struct checkpoint {
    const char *dir;
    const char *container; /* "safetensors", "safetensors (index)", "PyTorch zip", ... */
    json_t *config;        /* config.json; NULL when the directory has none */
    struct ckpt_file *file;
    size_t files_n;
    struct tensor *tensor; /* sorted by name */
    size_t tensors_n;
    uint64_t bytes; /* of all tensors */
};

/* Everything lives in the arena but config, which ckpt_close gives back.  No
 * file stays open.  Which files are taken: choose.c.  `notes` may get warnings:
 * an index beside a model.safetensors that it does not name, tensors that the
 * index does not name (they are kept: the files count, not the index).
 * Fails, with one line for each bad file, on: no file of a known format (names what is
 * there, e.g. model.gguf, and what to do; a LoRA adapter without config.json
 * is said to be one), several files without an index, Git LFS pointers, truncated
 * files ("truncated: N of M bytes"), header length beyond the file or above
 * 100,000,000, bad JSON, duplicate tensor names (within a file, by any spelling of
 * the key, or across shards), ranges that overlap, leave holes, or leave bytes at
 * the end, shape * dtype against range, 64-bit overflow, rank above 8, a shard that
 * the index names and is not there or leaves the directory by "..", a tensor that
 * the index puts into a shard that does not hold it. */
int ckpt_open(struct checkpoint *c, const char *dir, struct arena *a, struct notes *notes, struct err *e);
/* The same, but `file` holds the weights where the directory has one, whatever lies beside it: EAGLE3 drafts have
 * pytorch_model.bin win over model.safetensors. Its suffix says the format. */
int ckpt_open_preferring(struct checkpoint *c, const char *dir, const char *file, struct arena *a, struct notes *notes,
                         struct err *e);
/* One safetensors file, whatever its name and neighbours, as a checkpoint without config: an adapter, an export's
 * embedding, a vocabulary map. */
int ckpt_open_file(struct checkpoint *c, const char *path, struct arena *a, struct err *e);
void ckpt_close(struct checkpoint *c);

const struct tensor *ckpt_find(const struct checkpoint *c, const char *name); /* NULL: not there */
/* "[320, 80] BF16 in model-00001-of-00005.safetensors" */
const char *ckpt_describe(const struct checkpoint *c, const struct tensor *t, struct arena *a);
/* "[320, 80]" */
void shape_print(struct str *out, const struct tensor *t);
/* The file again, for reading; an error when it is not the file any more that ckpt_open saw. file_close gives it back.
 */
int ckpt_open_source(const struct ckpt_file *file, struct err *e);
/* Reads a whole tensor, for the small ones that stay inline. `buf` holds t->bytes. */
int ckpt_read(const struct checkpoint *c, const struct tensor *t, void *buf, struct err *e);
/* The same of n rows of a tensor [r, c], each below r, one behind the other. */
int ckpt_read_rows(const struct checkpoint *c, const struct tensor *t, const int32_t *rows, uint64_t n, void *buf,
                   struct err *e);

/* Adds a tensor of `from`, under a name that `c` does not have; `from` may be closed, its arena must live on. */
void ckpt_adopt(struct checkpoint *c, const struct checkpoint *from, const struct tensor *t, const char *name,
                struct arena *a);

#endif
