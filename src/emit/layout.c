#include "emit/layout.h"
#include "emit/safetensors_text.h"
#include <stdlib.h>
#include <string.h>

enum { FILE_LOG2 = 62 }; /* of the largest size that is left without a doubt to offsets of 63 bits */

static uint64_t align_up(uint64_t v) { return (v + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN; }

bool layout_external(const struct dialect *d, const struct initializer *i)
{
    return recipe_bytes(i->recipe) >= d->external_from;
}

static int place(struct layout *l, unsigned file, const char *name, const struct recipe *r, struct err *e)
{
    struct data_file *f = &l->file[file];
    uint64_t off = align_up(f->bytes), bytes = recipe_bytes(r);

    if (off >> FILE_LOG2 || bytes >> FILE_LOG2)
        return err_set(e, ERR_RANGE,
                       "%s: would have %llu bytes behind byte %llu of %s, which is more than any file holds", name,
                       (unsigned long long)bytes, (unsigned long long)off, f->name);
    l->item[l->items_n++] = (struct placed){ .name = name, .recipe = r, .file = file, .off = off, .bytes = bytes };
    f->bytes = off + bytes;
    return 0;
}

size_t layout_head(struct data_file *f, const char *json, struct arena *a)
{
    struct str head = { 0 };

    safetensors_head(&head, json, LAYOUT_ALIGN);
    f->head = arena_memdup(a, head.s, head.n);
    f->head_bytes = head.n;
    f->bytes += head.n;
    str_release(&head);
    return f->head_bytes;
}

static const char *one_tensor(const char *name, const struct recipe *r, struct arena *a)
{
    return arena_printf(a, "{\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu,%llu],\"data_offsets\":[0,%llu]}}", name,
                        dtype_name(r->dtype), (unsigned long long)r->shape[0], (unsigned long long)r->shape[1],
                        (unsigned long long)recipe_bytes(r));
}

int layout_build(struct layout *l, const struct graph *g, const struct dialect *d, const struct recipe *embedding,
                 struct arena *a, struct err *e)
{
    *l = (struct layout){ .file = arena_array(a, 2, sizeof *l->file),
                          .item = arena_array(a, g->init_n + 1, sizeof *l->item) };
    for (size_t i = 0; i < g->init_n; i++) {
        if (!layout_external(d, &g->init[i]))
            continue;
        if (!l->files_n)
            l->file[l->files_n++].name = d->data_file;
        if (place(l, 0, g->init[i].name, g->init[i].recipe, e))
            return -1;
    }
    if (embedding) {
        unsigned file = (unsigned)l->files_n++;

        l->file[file].name = "embedding.safetensors";
        layout_head(&l->file[file], one_tensor("embedding", embedding, a), a);
        if (place(l, file, "embedding", embedding, e))
            return -1;
    }
    for (size_t i = 0; i < l->files_n; i++)
        l->bytes += l->file[i].bytes;
    return 0;
}

const struct placed *layout_find(const struct layout *l, const char *file, const char *name)
{
    for (size_t i = 0; i < l->items_n; i++)
        if (!strcmp(l->item[i].name, name) && !strcmp(l->file[l->item[i].file].name, file))
            return &l->item[i];
    return NULL;
}
