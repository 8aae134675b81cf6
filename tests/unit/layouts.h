/* layouts.h - checkpoints and layouts made by hand, for tests of the pipeline.
 * Shards are only described here; write_shards() of test_pipeline.c makes files of them. */
#ifndef TESTS_LAYOUTS_H
#define TESTS_LAYOUTS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "checkpoint/checkpoint.h"
#include "emit/layout.h"

enum { MADE_MAX = 256 };

struct made {
    struct arena arena;
    struct checkpoint ckpt;
    struct layout layout;
    struct ckpt_file shard[MADE_MAX];
    struct tensor tensor[MADE_MAX];
    struct data_file file[2];
    struct placed item[MADE_MAX];
    uint64_t rng;
};

static inline uint64_t made_random(struct made *m)
{
    m->rng = m->rng * 6364136223846793005u + 1442695040888963407u;
    return m->rng >> 33;
}

static inline void made_init(struct made *m, uint64_t seed)
{
    unsigned char *head;

    memset(m, 0, sizeof *m);
    m->rng = seed * 2654435761u + 1;
    m->ckpt = (struct checkpoint){ .dir = "made", .file = m->shard, .tensor = m->tensor };
    m->layout = (struct layout){ .file = m->file, .item = m->item };
    head = arena_alloc(&m->arena, LAYOUT_ALIGN);
    memset(head, ' ', LAYOUT_ALIGN);
    m->file[0] = (struct data_file){ .name = "onnx_model.data" };
    m->file[1] = (struct data_file){
        .name = "embedding.safetensors", .bytes = LAYOUT_ALIGN, .head = head, .head_bytes = LAYOUT_ALIGN
    };
    m->layout.files_n = 2;
}

static inline void made_release(struct made *m) { arena_release(&m->arena); }

/* A tensor at the end of shard `shard`, `gap` bytes behind the one before it. */
static inline struct tensor *made_tensor(struct made *m, unsigned shard, enum dtype dtype, uint64_t rows, uint64_t cols,
                                         uint64_t gap)
{
    struct tensor *t = &m->tensor[m->ckpt.tensors_n++];
    struct ckpt_file *f = &m->shard[shard];

    while (m->ckpt.files_n <= shard) {
        char *name = arena_printf(&m->arena, "model-%05zu.safetensors", m->ckpt.files_n);

        m->shard[m->ckpt.files_n++] = (struct ckpt_file){ .name = name, .path = name };
    }
    *t = (struct tensor){ .name = arena_printf(&m->arena, "tensor.%zu", m->ckpt.tensors_n),
                          .file = shard,
                          .dtype = dtype,
                          .dtype_text = dtype_name(dtype),
                          .rank = 2,
                          .shape = { rows, cols },
                          .elements = rows * cols,
                          .off = f->id.bytes + gap,
                          .bytes = rows * cols * dtype_bytes(dtype) };
    f->id.bytes = t->off + t->bytes;
    return t;
}

static inline struct placed *made_place(struct made *m, unsigned file, const struct tensor *t, const struct recipe *r,
                                        bool transposed)
{
    struct placed *it = &m->item[m->layout.items_n++];
    struct err e = { 0 };

    r = recipe_cast(&m->arena, r, DT_F16, &e);
    if (transposed)
        r = recipe_transpose(&m->arena, r, &e);
    *it = (struct placed){ .name = t->name,
                           .recipe = r,
                           .file = file,
                           .off = (m->file[file].bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN,
                           .bytes = recipe_bytes(r) };
    m->file[file].bytes = it->off + it->bytes;
    return it;
}

/* The tensor as fp16 in an output file: as it is, or transposed. */
static inline struct placed *made_item(struct made *m, unsigned file, const struct tensor *t, bool transposed)
{
    return made_place(m, file, t, recipe_source(&m->arena, t), transposed);
}

/* Rows of a tensor: neighbours mostly, or anyhow. */
static inline int32_t *made_map(struct made *m, uint64_t rows, uint64_t n)
{
    int32_t *map = arena_array(&m->arena, n + 1, sizeof *map);

    for (uint64_t i = 0, row = 0; i < n; i++, row++) {
        if (made_random(m) % 3 == 0 || row >= rows)
            row = made_random(m) % rows;
        map[i] = (int32_t)row;
    }
    return map;
}

/* The same of n of its rows. */
static inline struct placed *made_rows(struct made *m, unsigned file, const struct tensor *t, const int32_t *map,
                                       uint64_t n, bool transposed)
{
    struct err e = { 0 };

    return made_place(m, file, t, recipe_rows(&m->arena, recipe_source(&m->arena, t), map, n, &e), transposed);
}

static inline void made_size(struct made *m) { m->layout.bytes = m->file[0].bytes + m->file[1].bytes; }

/* Heads of large vocabularies, small otherwise: they leave in row panels of long runs where memory is little. Tied,
 * reduced, used twice; rows that are whole blocks and rows that are anything. */
static inline void made_heads(struct made *m, uint64_t seed)
{
    made_init(m, seed);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t rows = 9000 + made_random(m) % 50000, cols = 2 + made_random(m) % 9, how = made_random(m) % 5;
        struct tensor *t;

        if (how == 0)
            rows = rows / 2048 * 2048 + (made_random(m) % 2 ? 0 : 1 + made_random(m) % 5);
        t = made_tensor(m, i, i % 2 ? DT_F32 : DT_BF16, rows, cols, made_random(m) % 5000);
        made_item(m, 0, t, true);
        made_item(m, 0, made_tensor(m, i, DT_BF16, 40, 30, 0), true);
        if (how == 1)
            made_item(m, 1, t, false);
        if (how == 2)
            made_item(m, 1, t, true);
        if (how == 3)
            made_rows(m, 0, t, made_map(m, rows, rows * 3 / 4), rows * 3 / 4, true);
    }
    made_size(m);
}

/* Anything: shapes that fit nowhere, all dtypes, odd gaps, tied weights, rows taken in any order. */
static inline void made_anything(struct made *m, uint64_t seed, uint64_t elements_max)
{
    static const enum dtype dtypes[] = { DT_BF16, DT_F16, DT_F32 };
    static const uint64_t sides[] = {
        1, 2, 5, 31, 32, 33, 61, 64, 100, 257, 500, 1000, 1024, 2048, 3001, 20000, 70001
    };
    const uint64_t n = sizeof sides / sizeof *sides;
    unsigned tensors, shard = 0;

    made_init(m, seed);
    tensors = 1 + (unsigned)(made_random(m) % 9);
    while (m->ckpt.tensors_n < tensors) {
        uint64_t rows = sides[made_random(m) % n], cols = sides[made_random(m) % n];
        uint64_t how = made_random(m) % 11;
        struct tensor *t;

        if (rows * cols > elements_max)
            continue;
        t = made_tensor(m, shard, dtypes[made_random(m) % 3], rows, cols,
                        made_random(m) % 3 ? 0 : made_random(m) % 9000);
        shard += made_random(m) % 4 == 0;
        if (how == 0)
            continue; /* not used */
        if (how <= 3)
            made_item(m, 0, t, true);
        if (how == 4 || how == 5)
            made_item(m, 0, t, false);
        if (how == 6) { /* tied */
            made_item(m, 0, t, true);
            made_item(m, 1, t, false);
        }
        if (how == 7) { /* more than any model does */
            made_item(m, 0, t, false);
            made_item(m, 0, t, true);
            made_item(m, 1, t, true);
            made_item(m, 1, t, false);
        }
        if (how > 7) { /* a reduced vocabulary, tied or not, and more than any model does */
            uint64_t some = 1 + made_random(m) % rows;
            const int32_t *map = made_map(m, rows, some);

            if (how >= 9)
                made_item(m, 1, t, false);
            made_rows(m, 0, t, map, some, true);
            if (how == 10) {
                made_item(m, 0, t, true);
                made_rows(m, 1, t, map, some, false);
                made_rows(m, 1, t, made_map(m, rows, some), some, true);
            }
        }
    }
    made_size(m);
}

#endif
