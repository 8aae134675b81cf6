/* adopt.c - a tensor of one checkpoint stands in for one that another lacks. */
#include "checkpoint/checkpoint.h"
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

void ckpt_adopt(struct checkpoint *c, const struct checkpoint *from, const struct tensor *t, const char *name,
                struct arena *a)
{
    struct ckpt_file *file = arena_array(a, c->files_n + 1, sizeof *file);
    struct tensor *tensor = arena_array(a, c->tensors_n + 1, sizeof *tensor);

    memcpy(file, c->file, c->files_n * sizeof *file);
    memcpy(tensor, c->tensor, c->tensors_n * sizeof *tensor);
    file[c->files_n] = from->file[t->file];
    tensor[c->tensors_n] = *t;
    tensor[c->tensors_n].name = arena_strdup(a, name);
    tensor[c->tensors_n].file = (unsigned)c->files_n++;
    c->bytes += t->bytes;
    c->file = file;
    c->tensor = tensor;
    qsort(tensor, ++c->tensors_n, sizeof *tensor, by_name);
}
