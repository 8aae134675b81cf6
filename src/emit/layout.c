#include "emit/layout.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>

static uint64_t align_up(uint64_t v) { return (v + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN; }

bool layout_external(const struct dialect *d, const struct initializer *i)
{
    return recipe_bytes(i->recipe) >= d->external_from;
}

static void place(struct layout *l, unsigned file, const char *name, const struct recipe *r)
{
    struct data_file *f = &l->file[file];
    uint64_t off = align_up(f->bytes);

    l->item[l->items_n++] =
        (struct placed){ .name = name, .recipe = r, .file = file, .off = off, .bytes = recipe_bytes(r) };
    f->bytes = off + recipe_bytes(r);
}

/* 8-byte length and JSON, padded with spaces so that the data begins at LAYOUT_ALIGN. */
static void safetensors_head(struct data_file *f, const char *name, const struct recipe *r, struct arena *a)
{
    unsigned char *head = arena_alloc(a, LAYOUT_ALIGN);
    uint64_t n = LAYOUT_ALIGN - 8;
    const char *json = arena_printf(a, "{\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu,%llu],\"data_offsets\":[0,%llu]}}",
                                    name, dtype_name(r->dtype), (unsigned long long)r->shape[0],
                                    (unsigned long long)r->shape[1], (unsigned long long)recipe_bytes(r));

    memset(head, ' ', LAYOUT_ALIGN);
    for (unsigned i = 0; i < 8; i++)
        head[i] = (unsigned char)(n >> (8 * i));
    memcpy(head + 8, json, strlen(json));
    f->head = head;
    f->head_bytes = f->bytes = LAYOUT_ALIGN;
}

void layout_build(struct layout *l, const struct graph *g, const struct dialect *d, const struct recipe *embedding,
                  struct arena *a)
{
    *l = (struct layout){ .file = arena_array(a, 2, sizeof *l->file),
                          .item = arena_array(a, g->init_n + 1, sizeof *l->item) };
    for (size_t i = 0; i < g->init_n; i++) {
        if (!layout_external(d, &g->init[i]))
            continue;
        if (!l->files_n)
            l->file[l->files_n++].name = d->data_file;
        place(l, 0, g->init[i].name, g->init[i].recipe);
    }
    if (embedding) {
        unsigned file = (unsigned)l->files_n++;

        l->file[file].name = "embedding.safetensors";
        safetensors_head(&l->file[file], "embedding", embedding, a);
        place(l, file, "embedding", embedding);
    }
    for (size_t i = 0; i < l->files_n; i++)
        l->bytes += l->file[i].bytes;
}

const struct placed *layout_find(const struct layout *l, const char *file, const char *name)
{
    for (size_t i = 0; i < l->items_n; i++)
        if (!strcmp(l->item[i].name, name) && !strcmp(l->file[l->item[i].file].name, file))
            return &l->item[i];
    return NULL;
}
