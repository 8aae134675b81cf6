/* cut.c - where 16-bit floats lie in the files of a tree, and chunks that follow them. */
#include "archive/tree.h"
#include "checkpoint/container.h"
#include "emit/onnx_read.h"
#include <stdlib.h>
#include <string.h>

enum {
    STRETCH_LEAST = 256 << 10, /* bytes: shorter ones are not worth a chunk of their own */
    GRAPH_MOST = 64 << 20      /* of an ONNX file that is read whole for its records */
};

struct numbers { /* 16-bit floats in one file */
    size_t entry;
    uint64_t off, end;
};

struct ranges {
    struct numbers *v;
    size_t n, cap;
    bool *told; /* of entries: a graph speaks of it */
    const struct tree *t;
};

static bool is_float16(enum dtype t) { return t == DT_F16 || t == DT_BF16; }

/* What a record says beyond the file's end is left out. */
static void add(struct ranges *r, size_t entry, uint64_t off, uint64_t bytes)
{
    uint64_t size = r->t->a.entry[entry].bytes, end;

    if (__builtin_add_overflow(off, bytes, &end) || end > size)
        end = size;
    if (off >= end)
        return;
    if (r->n == r->cap)
        r->v = xrealloc(r->v, (r->cap = r->cap ? r->cap * 2 : 64) * sizeof *r->v);
    r->v[r->n++] = (struct numbers){ entry, off, end };
}

static void of_safetensors(struct ranges *r, size_t entry, int fd, const char *path)
{
    struct tensors list = { 0 };
    struct arena a = { 0 };
    struct err ignored = { 0 };

    if (!safetensors_read(fd, path, r->t->a.entry[entry].bytes, &list, &a, &ignored))
        for (size_t i = 0; i < list.n; i++)
            if (is_float16(list.v[i].dtype))
                add(r, entry, list.v[i].off, list.v[i].bytes);
    free(list.v);
    arena_release(&a);
}

/* The records of a graph name files beside it. */
static void of_graph(struct ranges *r, const char *name, const Onnx__ModelProto *m, struct arena *a)
{
    const char *slash = strrchr(name, '/');
    int dir_n = slash ? (int)(slash + 1 - name) : 0;

    for (size_t i = 0; i < m->graph->n_initializer; i++) {
        const struct archive_entry *file;
        struct err ignored = { 0 };
        struct onnx_place p;

        if (onnx_place(m->graph->initializer[i], &p, &ignored) || !p.external)
            continue;
        file = archive_find(&r->t->a, arena_printf(a, "%.*s%s", dir_n, name, p.location));
        if (!file || file->dir)
            continue;
        r->told[file - r->t->a.entry] = true;
        if (is_float16(onnx_dtype(m->graph->initializer[i]->data_type)))
            add(r, (size_t)(file - r->t->a.entry), p.off, p.bytes);
    }
}

static bool may_be_graph(const struct archive_entry *f)
{
    return !f->dir && str_ends(f->name, ".onnx") && f->bytes <= GRAPH_MOST;
}

/* An ONNX file has no mark of its own. */
static void of_onnx(struct ranges *r, size_t entry, struct arena *a)
{
    const struct archive_entry *f = &r->t->a.entry[entry];
    struct err ignored = { 0 };
    Onnx__ModelProto *m;

    if (!may_be_graph(f))
        return;
    if ((m = onnx_load(arena_printf(a, "%s/%s", r->t->dir, f->name), &ignored)))
        of_graph(r, f->name, m, a);
    onnx_free(m);
}

/* By what a file holds, not by what it is called. A file that graphs speak of may be one that is still to be written.
 */
static void of_file(struct ranges *r, size_t entry, struct arena *a)
{
    const struct archive_entry *f = &r->t->a.entry[entry];
    const char *path = arena_printf(a, "%s/%s", r->t->dir, f->name);
    struct err ignored = { 0 };
    unsigned char first[9];
    int fd;

    if (f->dir || may_be_graph(f) || r->told[entry] || f->bytes < sizeof first ||
        (fd = tree_open(r->t, entry, path, &ignored)) < 0)
        return;
    if (!file_pread(fd, path, first, sizeof first, 0, &ignored) && first[8] == '{') {
        of_safetensors(r, entry, fd, path);
    }
    file_close(fd);
}

static int by_place(const void *pa, const void *pb)
{
    const struct numbers *a = pa, *b = pb;

    if (a->entry != b->entry)
        return a->entry < b->entry ? -1 : 1;
    return a->off < b->off ? -1 : a->off > b->off;
}

/* Neighbours become one stretch where what lies between is short and the numbers keep their step. */
static size_t join(struct numbers *v, size_t n)
{
    size_t out = 0;

    for (size_t i = 0; i < n; i++) {
        struct numbers *last = out ? &v[out - 1] : NULL;
        bool near = last && last->entry == v[i].entry && v[i].off <= last->end + STRETCH_LEAST;

        if (near && (v[i].off - last->off) % 2 == 0) {
            if (v[i].end > last->end)
                last->end = v[i].end;
        } else if (!last || last->entry != v[i].entry || v[i].off >= last->end) {
            v[out++] = v[i];
        }
    }
    return out;
}

struct cutter {
    struct archive *a;
    uint64_t cap;
};

static void cut(struct cutter *c, size_t entry, uint64_t off, uint64_t end, uint32_t planes)
{
    for (; off < end; off += ARCHIVE_CHUNK) {
        uint32_t raw = end - off < ARCHIVE_CHUNK ? (uint32_t)(end - off) : ARCHIVE_CHUNK;

        if (c->a->chunks_n == c->cap)
            c->a->chunk = xrealloc(c->a->chunk, (c->cap = c->cap ? c->cap * 2 : 64) * sizeof *c->a->chunk);
        c->a->chunk[c->a->chunks_n++] =
            (struct archive_chunk){ .raw = raw, .off = off, .planes = planes, .entry = (uint32_t)entry };
    }
}

void tree_cut(struct tree *t, struct arena *a)
{
    struct ranges r = { .t = t };
    struct cutter c = { .a = &t->a };
    struct arena scratch = { 0 };
    size_t next = 0;
    void *grown;

    r.told = arena_array(&scratch, t->a.entries_n, sizeof *r.told);
    for (size_t i = 0; i < t->a.entries_n; i++)
        of_onnx(&r, i, &scratch);
    for (size_t i = 0; i < t->a.entries_n; i++)
        of_file(&r, i, &scratch);
    if (r.n)
        qsort(r.v, r.n, sizeof *r.v, by_place);
    r.n = join(r.v, r.n);
    for (size_t i = 0; i < t->a.entries_n; i++) {
        uint64_t off = 0;

        for (; next < r.n && r.v[next].entry == i; next++) {
            if (r.v[next].end - r.v[next].off < STRETCH_LEAST)
                continue;
            cut(&c, i, off, r.v[next].off, 1);
            cut(&c, i, r.v[next].off, r.v[next].end, 2);
            off = r.v[next].end;
        }
        cut(&c, i, off, t->a.entry[i].bytes, 1);
    }
    grown = t->a.chunk;
    t->a.chunk = grown ? (void *)arena_memdup(a, grown, t->a.chunks_n * sizeof *t->a.chunk) : NULL;
    free(grown);
    free(r.v);
    arena_release(&scratch);
}
